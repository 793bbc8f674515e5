"""Residual nets whose batch norm looks at the kind of each row."""
