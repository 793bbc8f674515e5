"""Names that a config may choose; this module imports without JAX."""

PLACEHOLDER = "{class}"  # in a prompt template, where the class's name goes
SCHEDULERS = ("ddim", "dpmsolver++", "euler", "lcm", "tcd")
RESIZES = ("area", "bicubic", "lanczos")
STARTS = ("noise", "train", "other_class")  # what a generated image is made from
STRENGTH_DRAWS = ("in_turn", "uniform")
# training/losses.py makes them.
LOSSES = ("cross_entropy", "balanced_softmax", "logit_adjustment", "ldam")
POLICIES = ("none", "autoaugment", "randaugment")  # batches/policies.py makes them
MIXES = ("none", "mixup", "cutmix")  # batches/mixing.py makes them
CLASS_WEIGHTS = ("none", "class_balanced", "deferred")
DTYPES = ("float32", "bfloat16")
DATA_SETS = ("digits", "cifar10", "cifar100", "tfds:NAME", "folder", "list")  # data/datasets.py
PROFILES = ("exp", "step", "none")  # data/long_tail.py cuts them
GROUPS = ("five_equal", "thresholds")  # data/long_tail.py makes them
