"""Training as pure functions: state, step, losses, optimizer, prediction."""
