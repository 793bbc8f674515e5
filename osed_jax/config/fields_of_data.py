"""The fields of images, draws and augmentation.

Short names of sources:
Zada = Zada, Benou, Irani, "Pure Noise to the Rescue of Insufficient Data", ICML 2022;
MLRC = Lee & Lee, "[Re] Pure Noise to the Rescue of Insufficient Data", ReScience C 9(2), 2023;
Cao = Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", 2019.
"""

import dataclasses

from osed_jax.config import choices
from osed_jax.config.choices import DATA_SETS, MIXES, POLICIES
from osed_jax.config.field import (
    BELOW_ONE,
    FLAG,
    PATH,
    POSITIVE,
    SHARE,
    WHOLE,
    OfARun,
    Rule,
    UsedWith,
    at_least,
    between,
    field,
    numbers,
    one_of,
    or_empty,
)
from osed_jax.kinds import NORMS

_GENERATED = UsedWith("oversampling.mode", ("generated",))
_REPLACING = UsedWith("oversampling.mode", ("noise", "generated"))


@dataclasses.dataclass(frozen=True)
class Dataset(OfARun):
    """The images, and how a long tail is cut out of them."""

    name: str = field(
        "digits",
        "the data set; tfds:NAME is any image classification set of TensorFlow Datasets",
        Rule(
            lambda x: x in DATA_SETS or (x.startswith("tfds:") and x != "tfds:"),
            f"one of {', '.join(DATA_SETS)}",
        ),
        chooses_images=("training", "test"),
    )
    data_dir: str = field(
        "",
        "with folder: the folder that holds train/ and test/; with list: the folder where "
        "paths of the lists begin, '' for the folder of each list; with TFDS: its data "
        "directory",
        PATH,
        matters_for="place",
        chooses_images=("training", "test"),
    )
    train_list: str = field(
        "",
        "with list: a text file with lines PATH LABEL, or a CSV file with the columns path and "
        "label; labels are whole numbers or names",
        PATH,
        matters_for="place",
        chooses_images=("training",),
        used_with=UsedWith("dataset.name", ("list",)),
    )
    validation_list: str = field(
        "",
        "with list: the same for validation images; '': no list of validation images",
        PATH,
        matters_for="place",
        chooses_images=("training",),
        used_with=UsedWith("dataset.name", ("list",)),
    )
    test_list: str = field(
        "",
        "with list: the same for test images",
        PATH,
        matters_for="place",
        chooses_images=("test",),
        used_with=UsedWith("dataset.name", ("list",)),
    )
    image_size: int = field(
        0,
        "side of the square images in pixels; 0: as in the data set (folder and list need a size)",
        between(0, 4096),
        chooses_images=("training", "test"),
    )
    imbalance_profile: str = field(
        "exp",
        "how a long tail is cut out of the training images; exp, step: the profiles of Cao; "
        "none: all images are used",
        one_of(*choices.PROFILES),
        chooses_images=("training",),
    )
    imbalance_ratio: float = field(
        100.0,
        "number of images of the most frequent class / number of images of the rarest class",
        at_least(1),
        chooses_images=("training",),
    )
    num_max: int = field(
        0,
        "number of images of the most frequent class; 0: that of the smallest class, or with "
        "imbalance_profile=none no limit",
        at_least(0),
        chooses_images=("training",),
    )
    validation_fraction: float = field(
        0.0,
        "share of each class's training images that is held out for validation, before the "
        "long tail is cut; 0: none, as in the published subset",
        BELOW_ONE,
        chooses_images=("training",),
    )
    validation_folds: int = field(
        0,
        "instead of validation_fraction: number of parts of the long-tailed training images, "
        "one of which is held out for validation; a class's only image is never held out; 0: "
        "none",
        Rule(lambda x: x >= 0 and x != 1, "0, or at least 2"),
        chooses_images=("training",),
    )
    validation_fold: int = field(
        0,
        "with validation_folds: number of the part that is held out, counted from 0",
        at_least(0),
        chooses_images=("training",),
    )
    mean: tuple[float, ...] = field(
        (),
        "mean of each channel, for normalisation; (): measured on the training subset",
        or_empty(numbers(3, 0, 1)),
    )
    std: tuple[float, ...] = field(
        (),
        "standard deviation of each channel; (): measured on the training subset",
        or_empty(numbers(3, 1e-3, 1)),
    )
    groups: str = field(
        "five_equal",
        "groups of classes in results; five_equal: five groups by frequency, group_1 the "
        "rarest (MLRC); thresholds: many, medium, few",
        one_of(*choices.GROUPS),
        matters_for="display",
    )
    many_above: int = field(
        100,
        "with thresholds: classes with more training images than this are many",
        WHOLE,
        matters_for="display",
        used_with=UsedWith("dataset.groups", ("thresholds",)),
    )
    few_below: int = field(
        20,
        "with thresholds: classes with fewer training images than this are few; the others are "
        "medium",
        at_least(0),
        matters_for="display",
        used_with=UsedWith("dataset.groups", ("thresholds",)),
    )
    max_decoded_gib: float = field(
        4.0,
        "size of the decoded images in GiB above which a folder or list is streamed from its files",
        at_least(0),
        matters_for="speed",
    )


@dataclasses.dataclass(frozen=True)
class Oversampling(OfARun):
    """Resampling, and what replaces some draws. A method sets these fields."""

    mode: str = field(
        "none",
        "what epochs show from start_epoch on; none: every training image once; resample: "
        "class-balanced draws; noise, generated: class-balanced draws, some of them replaced "
        "by noise or generated images",
        one_of("none", "resample", "noise", "generated"),
        by_stage=True,
        matters_for="step",
        tells_method=True,
    )
    start_epoch: int = field(
        lambda epochs: epochs * 4 // 5,
        "first epoch of the mode, after plain ERM; 0: not deferred (Zada: 160 of 200)",
        at_least(0),
        by_stage=True,
        matters_for="step",
        unit="epochs",
        tells_method=True,
    )
    replace_ratio: float = field(
        1 / 3,
        "the paper's delta: P(replace) = (1 - n_c / n_max) * delta for a draw of class c (Zada, "
        "section 3); the method fill sets 2/3, in a sweep only where this is 1/3",
        SHARE,
        by_stage=True,
        used_with=_REPLACING,
    )
    replace_in: str = field(
        "tail",
        "tail: P(replace) as in replace_ratio; all: P(replace) = delta in every class",
        one_of("tail", "all"),
        by_stage=True,
        used_with=_REPLACING,
    )
    replace_schedule: str = field(
        "constant",
        "constant: always replace_ratio; linear: replace_ratio falls to 0 by the end (after "
        "Liang et al., Diffusion Curriculum, 2024)",
        one_of("constant", "linear"),
        by_stage=True,
        used_with=_REPLACING,
    )
    generated_classes: tuple[str, ...] = field(
        (),
        "mode generated: the only classes that show generated images; (): all classes with "
        "fewer images than the most frequent one",
        Rule(
            lambda x: all(isinstance(v, str) and v for v in x) and len(set(x)) == len(x),
            "different names of classes",
        ),
        by_stage=True,
        used_with=_GENERATED,
    )
    max_gap: float = field(
        0.0,
        "mode generated: show generated images only in classes whose Fréchet distance, as "
        "--mode=gap measured it, is at most this many times the median class's; 0: in all "
        "classes",
        at_least(0),
        by_stage=True,
        used_with=_GENERATED,
    )
    soft_label_exponent: float = field(
        0.5,
        "mode generated: images that started from one of another class "
        "(generation.start_from=other_class) count as their own class by strength to this power, "
        "as the other class by the rest (Diff-Mix; Wang et al., CVPR 2024); 0: as their own class "
        "alone",
        at_least(0),
        by_stage=True,
        used_with=_GENERATED,
    )
    real_only_epochs: int = field(
        0,
        "last epochs in which nothing is replaced: class-balanced draws of real images",
        at_least(0),
        by_stage=True,
        unit="epochs",
        used_with=_REPLACING,
    )
    noise_share: float = field(
        0.0,
        "mode generated: share of the replaced draws that shows noise instead of generated images",
        SHARE,
        by_stage=True,
        matters_for="step",
        used_with=_GENERATED,
    )
    noise_space: str = field(
        "pixel",
        "pixel: noise is normalised like an image (Zada); normalised: noise is drawn after the "
        "normalisation (MLRC)",
        one_of("pixel", "normalised"),
        by_stage=True,
        matters_for="step",
        used_with=_REPLACING,
    )
    noise_norm: str = field(
        "dar",
        "batch norm of noise rows; shared: that of real images; dar: DAR-BN (Zada, appendix "
        "E): statistics of its own, scale and bias of real images, no gradient below the last "
        "layer; dar_grad: dar with this gradient; aux: a batch norm of its own (Xie et al. "
        "2020)",
        one_of(*NORMS),
        by_stage=True,
        matters_for="step",
        used_with=_REPLACING,
    )
    generated_norm: str = field(
        "dar",
        "batch norm of generated rows; values as for noise_norm",
        one_of(*NORMS),
        by_stage=True,
        matters_for="step",
        used_with=_GENERATED,
    )
    generated_dir: str = field(
        "",
        "mode generated: folder of the generated images, CLASS/*.png|jpg|...",
        PATH,
        by_stage=True,
        matters_for="place",
    )


@dataclasses.dataclass(frozen=True)
class Augment(OfARun):
    """Augmentation of training images (MLRC's recipe). Noise is never augmented."""

    flip: bool = field(True, "left-right flip with probability 1/2", FLAG, matters_for="step")
    crop_padding: int = field(
        4,
        "pixels of zeros added on each side before a random crop; 0: no crop",
        at_least(0),
        matters_for="step",
    )
    crop_size: int = field(
        0,
        "side in pixels of what the net sees: in training a random part of the image, resized "
        "(Szegedy et al. 2015), in evaluation its middle; 0: the whole image, of image_size",
        between(0, 4096),
        matters_for="step",
    )
    crop_scale: tuple[float, float] = field(
        (0.08, 1.0),
        "with crop_size: share of the image's area that the random part covers, uniform "
        "between the two",
        Rule(
            lambda x: numbers(2, 0.001, 1).valid(x) and x[0] <= x[1],
            "2 ascending numbers between 0.001 and 1",
        ),
        matters_for="step",
        used_with=UsedWith("augment.crop_size"),
    )
    crop_ratio: tuple[float, float] = field(
        (3 / 4, 4 / 3),
        "with crop_size: width / height of the random part; its logarithm is uniform between "
        "the two",
        Rule(
            lambda x: numbers(2, 0.1, 10).valid(x) and x[0] <= 1 <= x[1],
            "2 numbers between 0.1 and 10, the first at most 1, the second at least 1",
        ),
        matters_for="step",
        used_with=UsedWith("augment.crop_size"),
    )
    cutout: int = field(
        16,
        "side in pixels of the square that Cutout blackens; 0: none",
        at_least(0),
        matters_for="step",
    )
    color_jitter: tuple[float, float, float, float] = field(
        (0.4, 0.4, 0.4, 0.1),
        "strength of the jitter of brightness, contrast, saturation, hue",
        Rule(
            lambda x: numbers(4, 0, 1).valid(x) and x[3] <= 0.5,
            "4 numbers between 0 and 1, the last (hue) at most 0.5",
        ),
        matters_for="step",
    )
    color_jitter_prob: float = field(
        0.8, "probability of the colour jitter", SHARE, matters_for="step"
    )
    grayscale_prob: float = field(0.2, "probability of greyscale", SHARE, matters_for="step")
    blur_prob: float = field(0.5, "probability of a Gaussian blur, 3x3", SHARE, matters_for="step")
    blur_sigma: tuple[float, float] = field(
        (0.1, 2.0),
        "standard deviation of the blur in pixels, uniform between the two",
        Rule(
            lambda x: numbers(2, 0.01, 100).valid(x) and x[0] <= x[1],
            "2 ascending numbers from 0.01 on",
        ),
        matters_for="step",
    )
    policy: str = field(
        "none",
        "operations after flip and crop; autoaugment: the policy for CIFAR-10 (Cubuk et al. "
        "2019; OPeN's best row in Zada, without flip, crop and all else); randaugment (Cubuk "
        "et al. 2020); both as in torchvision",
        one_of(*POLICIES),
        matters_for="step",
    )
    randaugment_count: int = field(
        2,
        "randaugment: number of operations on each image",
        at_least(1),
        matters_for="step",
        used_with=UsedWith("augment.policy", ("randaugment",)),
    )
    randaugment_level: int = field(
        9,
        "randaugment: strength of all operations, 30 the strongest",
        between(0, 30),
        matters_for="step",
        used_with=UsedWith("augment.policy", ("randaugment",)),
    )
    mix: str = field(
        "none",
        "mixup: weighted means of two images (Zhang et al. 2018); cutmix: a rectangle of "
        "another image (Yun et al. 2019); labels are mixed alike",
        one_of(*MIXES),
        matters_for="step",
        tells_method=True,
    )
    mix_alpha: float = field(
        1.0,
        "shares of the two images are drawn from Beta(alpha, alpha), for each row",
        POSITIVE,
        matters_for="step",
        used_with=UsedWith("augment.mix", ("mixup", "cutmix")),
    )
    mix_prob: float = field(
        1.0,
        "probability that a row is mixed",
        SHARE,
        matters_for="step",
        used_with=UsedWith("augment.mix", ("mixup", "cutmix")),
    )
    mix_partner: str = field(
        "any",
        "any: a row is mixed with any real or generated row; natural: every row, also a "
        "generated one, is mixed with a real row (SYNAuG; Ye-Bin et al. 2023)",
        one_of("any", "natural"),
        matters_for="step",
        used_with=UsedWith("augment.mix", ("mixup", "cutmix")),
    )
