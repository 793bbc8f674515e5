"""Names that a config may choose; this module imports without JAX."""

PLACEHOLDER = "{class}"  # in a prompt template, where the class's name goes
SCHEDULERS = ("ddim", "dpmsolver++", "euler", "lcm", "tcd")
RESIZES = ("area", "bicubic", "lanczos")
STARTS = ("noise", "train", "other_class")  # what a generated image is made from
STRENGTH_DRAWS = ("in_turn", "uniform")
# training/losses.py makes them.
LOSSES = ("cross_entropy", "balanced_softmax", "logit_adjustment", "ldam")
POLICIES = ("none", "autoaugment", "randaugment")  # data/policies.py makes them
MIXES = ("none", "mixup", "cutmix")  # data/mixing.py makes them
CLASS_WEIGHTS = ("none", "class_balanced", "deferred")


PROFILES = ("exp", "step", "none")


GROUPS = ("five_equal", "thresholds")


NAMES = ("digits", "cifar10", "cifar100", "tfds:NAME", "folder", "list")
