"""Figures and pages: what a person looks at. Knows arrays and names, no config and no run."""
