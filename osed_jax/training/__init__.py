"""State, step, checkpoints and the driver that trains."""
