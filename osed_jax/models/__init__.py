"""Residual nets whose batch norm depends on the kind of each row."""
