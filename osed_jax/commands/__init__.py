"""The modes: one file with one function for each `--mode`."""
