"""What a config may choose from; importable without JAX."""

PLACEHOLDER = "{class}"  # in a prompt template, where the class's name goes
SCHEDULERS = ("ddim", "dpmsolver++", "euler")
RESIZES = ("area", "bicubic", "lanczos")
LOSSES = ("cross_entropy", "balanced_softmax")  # training/losses.py makes them
