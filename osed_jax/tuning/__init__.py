"""The candidates of --mode=tune, and the choice among them."""
