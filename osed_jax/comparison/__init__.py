"""Many finished runs: statistics, tests, tables."""
