"""What a training step gets: plans of epochs, feeders, augmentation."""
