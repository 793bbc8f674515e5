"""Reads and writes the files of Stable Diffusion models."""
