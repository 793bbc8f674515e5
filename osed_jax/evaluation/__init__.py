"""From a trained net to figures."""
