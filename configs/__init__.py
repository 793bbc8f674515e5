"""Experiment configurations for `main.py --config=configs/NAME.py:METHOD`."""
