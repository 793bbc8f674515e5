"""Residual nets whose batch norm has a road for each kind of row."""
