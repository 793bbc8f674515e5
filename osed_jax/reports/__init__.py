"""Figures and pages, from arrays and plain records."""
