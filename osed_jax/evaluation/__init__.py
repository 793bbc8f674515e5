"""From a checkpoint to figures."""
