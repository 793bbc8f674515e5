"""What is fast on a CPU."""
