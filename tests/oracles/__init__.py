"""Scripts that write what tests compare with, from PyTorch, and what they wrote."""
