"""From files to a labelled, long-tailed set of images."""
