"""One run on disk: loading, training loop, checkpoints, work directory."""
