"""From a class's name to images in a store: prompts, starting images, filters."""
