"""Figures and pages. They are made from arrays and names, without a config or a run."""
