"""OSeD-JAX: long-tailed image classification, rescued by generated images."""

__version__ = "0.1.0"
