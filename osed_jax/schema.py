"""The schema: every field of an experiment once, with its default, rule, unit and source.

The files of configs/ only override fields of it. Runs that are older than a field get its default
(`config.completed`), so a new field's default must mean what they did without it.

Short names of sources:
Zada = Zada, Benou, Irani, "Pure Noise to the Rescue of Insufficient Data", ICML 2022;
MLRC = Lee & Lee, "[Re] Pure Noise to the Rescue of Insufficient Data", ReScience C 9(2), 2023;
Cao = Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", 2019.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from osed_jax.candidates import CANDIDATES
from osed_jax.choices import (
    CLASS_WEIGHTS,
    LOSSES,
    MIXES,
    PLACEHOLDER,
    POLICIES,
    RESIZES,
    SCHEDULERS,
)
from osed_jax.data import long_tail
from osed_jax.data.datasets import NAMES
from osed_jax.kinds import NORMS
from osed_jax.methods import METHODS
from osed_jax.models.nets import NETS
from osed_jax.rules import (
    BELOW_ONE,
    FLAG,
    PATH,
    POSITIVE,
    SEED,
    SHARE,
    TEXT,
    WHOLE,
    Rule,
    at_least,
    between,
    numbers,
    one_of,
    or_empty,
)

_DTYPES = ("float32", "bfloat16")
_SD = "CompVis/stable-diffusion-v1-4"


class Field(NamedTuple):
    """A field of the schema.

    Attributes:
      default: its value; a function of the number of epochs where it follows that number, also
        when a person overrides it.
      about: what it means, with unit and source.
      rule: what it may be, beside the type of the default.
    """

    default: Any
    about: str
    rule: Rule


Section = dict[str, Field]

_TRAIN: Section = {
    "num_epochs": Field(200, "epochs of as many images as the training set has", at_least(1)),
    "batch_size": Field(128, "images, over all devices together", at_least(1)),
    "feeder": Field(
        "auto",
        "resident: images stay on the device; tfdata: tf.data streams them; auto: whichever fits",
        one_of("auto", "resident", "tfdata"),
    ),
    "head_epochs": Field(
        0,
        "after num_epochs: the last layer alone is trained anew, on class-balanced draws of real "
        "images, with all else frozen (cRT; Kang et al. 2020)",
        at_least(0),
    ),
    "eval_every_epochs": Field(
        lambda epochs: epochs // 20, "accuracy for the curve; 0: only at the end", at_least(0)
    ),
    "checkpoint_every_epochs": Field(
        lambda epochs: epochs // 5, "kept for good, as is that of start_epoch", at_least(0)
    ),
}

_DATASET: Section = {
    "name": Field(
        "digits",
        "the data set; tfds:NAME is any image classification set of TensorFlow Datasets",
        Rule(
            lambda x: x in NAMES or (x.startswith("tfds:") and x != "tfds:"),
            f"one of {', '.join(NAMES)}",
        ),
    ),
    "data_dir": Field(
        "",
        "folder: holds train/ and test/; list: where its paths begin, '' for the folder of each "
        "list; TFDS: its data directory",
        PATH,
    ),
    "train_list": Field(
        "",
        "list: a text file of PATH LABEL lines, or CSV with the columns path and label; labels are "
        "whole numbers or names",
        PATH,
    ),
    "validation_list": Field(
        "", "list: the same for images to choose on; '' for none of their own", PATH
    ),
    "test_list": Field("", "list: the same for test images", PATH),
    "image_size": Field(
        0, "pixels, square; 0: as the data set has it (folder and list need one)", between(0, 4096)
    ),
    "imbalance_profile": Field(
        "exp",
        "exp, step: the long tails of Cao; none: all images as they are",
        one_of(*long_tail.PROFILES),
    ),
    "imbalance_ratio": Field(100.0, "images of the most frequent / the rarest class", at_least(1)),
    "num_max": Field(
        0, "images of the most frequent class; 0: as many as every class has", at_least(0)
    ),
    "validation_fraction": Field(
        0.0,
        "share of each class's training images held out before the long tail is taken, to choose "
        "on; 0 keeps the published subset",
        BELOW_ONE,
    ),
    "validation_folds": Field(
        0,
        "instead of validation_fraction: parts of the long-tailed training images, one of which is "
        "held out; a class's only image is never held out; 0: none",
        Rule(lambda x: x >= 0 and x != 1, "0, or at least 2"),
    ),
    "validation_fold": Field(0, "which of them is held out, from 0 on", at_least(0)),
    "mean": Field(
        (), "of each channel; (): measured on the training subset", or_empty(numbers(3, 0, 1))
    ),
    "std": Field((), "of each channel, as mean", or_empty(numbers(3, 1e-3, 1))),
    "groups": Field(
        "five_equal",
        "five_equal: five groups by frequency, group_1 the rarest (MLRC); thresholds: many, "
        "medium, few",
        one_of(*long_tail.GROUPS),
    ),
    "many_above": Field(100, "thresholds: many has more training images than this", WHOLE),
    "few_below": Field(20, "thresholds: few has fewer; between the two is medium", at_least(0)),
    "max_decoded_gib": Field(
        4.0, "a larger folder or list is streamed from its files", at_least(0)
    ),
}

_OVERSAMPLING: Section = {
    "mode": Field(
        "none",
        "resample: class-balanced draws; noise, generated: some of them replaced",
        one_of("none", "resample", "noise", "generated"),
    ),
    "start_epoch": Field(
        lambda epochs: epochs * 4 // 5,
        "before it, plain ERM; 0: not deferred (Zada: 160 of 200)",
        at_least(0),
    ),
    "replace_ratio": Field(
        1 / 3, "the paper's delta: P(replace) = (1 - n_c / n_max) * delta (Zada, section 3)", SHARE
    ),
    "replace_in": Field(
        "tail", "tail: as above; all: P(replace) = delta in every class", one_of("tail", "all")
    ),
    "replace_schedule": Field(
        "constant",
        "linear: replace_ratio falls to 0 by the end (after Liang et al., Diffusion Curriculum, "
        "2024)",
        one_of("constant", "linear"),
    ),
    "generated_classes": Field(
        (),
        "mode generated: the only classes that show generated images; (): all that lack some",
        Rule(
            lambda x: all(isinstance(v, str) and v for v in x) and len(set(x)) == len(x),
            "different names of classes",
        ),
    ),
    "max_gap": Field(
        0.0,
        "mode generated: show generated images only in classes whose Fréchet distance, as "
        "--mode=gap measured it, is at most this many times the median class's; 0: in all",
        at_least(0),
    ),
    "real_only_epochs": Field(
        0, "at the end, without replacement: balanced draws of real images", at_least(0)
    ),
    "noise_share": Field(0.0, "mode generated: share of replaced draws that is noise", SHARE),
    "noise_space": Field(
        "pixel",
        "pixel: noise is normalised like an image (Zada); normalised: it is not (MLRC)",
        one_of("pixel", "normalised"),
    ),
    "noise_norm": Field(
        "dar",
        "batch norm of noise rows; shared: that of real images; dar: DAR-BN (Zada, appendix E); "
        "dar_grad: the same with gradients; aux: a norm of their own (Xie et al. 2020)",
        one_of(*NORMS),
    ),
    "generated_norm": Field("dar", "batch norm of generated rows, as noise_norm", one_of(*NORMS)),
    "generated_dir": Field("", "mode generated: the images, CLASS/*.png|jpg|...", PATH),
}

_GENERATION: Section = {
    "model": Field(_SD, "hub id or local folder of Stable Diffusion 1.x or 2.x", TEXT),
    "revision": Field("", "branch, tag or commit on the hub; '' for its main branch", TEXT),
    "dtype": Field("float32", "of weights and computation", one_of(*_DTYPES)),
    "seed": Field(0, "of all images; each follows from seed, class and index alone", SEED),
    "count": Field(
        "balance",
        "images of each class; balance: what it lacks to the most frequent one; replace_ratio: "
        "what a run is expected to show, if that is fewer; or one number for all",
        Rule(
            lambda x: x in ("balance", "replace_ratio") or (x.isdecimal() and int(x) > 0),
            "balance, replace_ratio or a number of images, at least 1",
        ),
    ),
    "process_index": Field(
        0, "of process_count processes, also on several hosts, that fill one store", at_least(0)
    ),
    "process_count": Field(
        1, "each makes the images whose index is its own modulo this", at_least(1)
    ),
    "batch_size": Field(8, "images at a time, over all devices of this process", at_least(1)),
    "image_size": Field(
        0, "pixels that the model draws, square; 0: what it was trained on", at_least(0)
    ),
    "steps": Field(25, "of denoising", at_least(1)),
    "scheduler": Field("dpmsolver++", "of the denoising steps", one_of(*SCHEDULERS)),
    "guidance_scale": Field(
        2.0,
        "1: none, at half the cost; 7.5 makes prettier images that serve worse as training data "
        "(Yuan et al., Real-Fake, ICLR 2024, take 2.0)",
        at_least(1),
    ),
    "negative_prompt": Field("", "what to steer away from; needs guidance", TEXT),
    "templates": Field(
        (
            "a photo of a {class}",
            "a close-up photo of a {class}",
            "a photo of a {class} from a distance",
            "a photo of a {class} from the side",
        ),
        "prompts, {class} being the class's name; taken in turn by image index",
        Rule(
            lambda x: x and all(isinstance(v, str) and PLACEHOLDER in v for v in x),
            f"at least one text with {PLACEHOLDER} where the class's name goes",
        ),
    ),
    "modifiers": Field(
        ("",),
        "appended to a prompt after a comma; each takes its turn after all templates",
        Rule(lambda x: all(isinstance(v, str) for v in x), "texts"),
    ),
    "prompts_file": Field("", 'JSON: class -> "its name in prompts" or ["own prompts", ...]', PATH),
    "resize_method": Field("area", "to the size of the training images", one_of(*RESIZES)),
    "keep_full_size": Field(
        False, "keep the images as drawn, too, in GENERATED_DIR.full_size/", FLAG
    ),
    # Filters; a rejected image is replaced by the class's next one. 0 or False: off.
    "min_deviation": Field(
        0.02, "filter: of the pixels from their mean, in [0, 1]; drops constant images", SHARE
    ),
    "drop_duplicates": Field(True, "filter: pixel for pixel, within a class and a process", FLAG),
    "near_duplicate_bits": Field(
        0,
        "filter: images that differ in fewer of the 64 bits of a perceptual hash",
        between(0, 64),
    ),
    "safety_checker": Field(False, "filter: what the model's own checker flags", FLAG),
    "classifier_workdir": Field(
        "", "a finished run on the same classes, for the next two filters", PATH
    ),
    "classifier_top_k": Field(
        0, "filter: keep images whose class is among its k most probable ones", at_least(0)
    ),
    "max_feature_distance": Field(
        0.0, "filter: 1 is that of an ordinary real training image from its class", at_least(0)
    ),
    "filtered_dir": Field(
        "", "--mode=filter: new folder for what the filters keep of generated_dir", PATH
    ),
    "max_attempts": Field(
        4.0, "images drawn until a class is full, in multiples of its count", at_least(1)
    ),
}

_AUGMENT: Section = {
    "flip": Field(True, "left-right, probability 1/2", FLAG),
    "crop_padding": Field(
        4, "pixels of zeros on each side before a random crop; 0: no crop", at_least(0)
    ),
    "crop_size": Field(
        0,
        "pixels of what the net sees: in training a random part of the image, resized (Szegedy et "
        "al. 2015), in evaluation its middle; 0: the whole image, of image_size",
        between(0, 4096),
    ),
    "crop_scale": Field(
        (0.08, 1.0),
        "with crop_size: share of the image's area that a training image shows, uniform",
        Rule(
            lambda x: numbers(2, 0.001, 1).valid(x) and x[0] <= x[1],
            "2 ascending numbers between 0.001 and 1",
        ),
    ),
    "crop_ratio": Field(
        (3 / 4, 4 / 3),
        "with crop_size: width / height of that part, its logarithm uniform",
        Rule(
            lambda x: numbers(2, 0.1, 10).valid(x) and x[0] <= 1 <= x[1],
            "2 numbers between 0.1 and 10, the first at most 1, the second at least 1",
        ),
    ),
    "cutout": Field(16, "side of the square in pixels; 0: none", at_least(0)),
    "color_jitter": Field(
        (0.4, 0.4, 0.4, 0.1),
        "brightness, contrast, saturation, hue",
        Rule(
            lambda x: numbers(4, 0, 1).valid(x) and x[3] <= 0.5,
            "4 numbers between 0 and 1, the last (hue) at most 0.5",
        ),
    ),
    "color_jitter_prob": Field(0.8, "probability", SHARE),
    "grayscale_prob": Field(0.2, "probability", SHARE),
    "blur_prob": Field(0.5, "probability of a Gaussian blur, 3x3", SHARE),
    "blur_sigma": Field(
        (0.1, 2.0),
        "pixels, uniform between the two",
        Rule(
            lambda x: numbers(2, 0.01, 100).valid(x) and x[0] <= x[1],
            "2 ascending numbers from 0.01 on",
        ),
    ),
    "policy": Field(
        "none",
        "behind flip and crop: autoaugment: the policy of CIFAR-10 (Cubuk et al. 2019; OPeN's best "
        "row in Zada, without flip, crop and all else); randaugment (Cubuk et al. 2020); both as "
        "in torchvision",
        one_of(*POLICIES),
    ),
    "randaugment_count": Field(2, "operations on each image", at_least(1)),
    "randaugment_level": Field(9, "how strong all of them are, of 30", between(0, 30)),
    "mix": Field(
        "none",
        "mixup: weighted means of two images (Zhang et al. 2018); cutmix: a rectangle of another "
        "image (Yun et al. 2019); labels are mixed alike",
        one_of(*MIXES),
    ),
    "mix_alpha": Field(1.0, "of the shares, drawn from Beta(alpha, alpha) for each row", POSITIVE),
    "mix_prob": Field(1.0, "probability that a row is mixed", SHARE),
    "mix_partner": Field(
        "any",
        "any: with any real or generated row; natural: with a real one, also generated rows "
        "(SYNAuG; Ye-Bin et al. 2023)",
        one_of("any", "natural"),
    ),
}

_MODEL: Section = {
    "name": Field("wide_resnet", "the net", one_of(*NETS)),
    "depth": Field(28, "wide_resnet, resnet: layers; each has its rule", WHOLE),
    "widen_factor": Field(10, "wide_resnet only", at_least(1)),
    "dropout_rate": Field(
        0.3, "wide_resnet only, behind the first convolution of a block (MLRC)", BELOW_ONE
    ),
    "dtype": Field("float32", "of the computation; parameters stay float32", one_of(*_DTYPES)),
    "cosine_scale": Field(
        0.0,
        "0: a linear last layer; else its logits are this many times a cosine, without a bias "
        "(loss ldam needs it; Cao: 30)",
        at_least(0),
    ),
}

_OPTIMIZER: Section = {
    "learning_rate": Field(0.1, "of SGD without Nesterov", POSITIVE),
    "momentum": Field(0.9, "of SGD", BELOW_ONE),
    "weight_decay": Field(2e-4, "on all parameters, added to the gradient (L2)", at_least(0)),
    "warmup_epochs": Field(
        lambda epochs: epochs // 40, "linear, one value an epoch, as Cao's code does", at_least(0)
    ),
    "decay_at": Field(
        (0.8, 0.9),
        "fractions of num_epochs (Zada: epochs 160 and 180)",
        Rule(
            lambda x: all(isinstance(v, int | float) and 0 <= v <= 1 for v in x),
            "fractions of num_epochs between 0 and 1",
        ),
    ),
    "decay_factor": Field(0.01, "at each of them", POSITIVE),
    "pretrained_factor": Field(
        1.0,
        "with init.weights: learning rate of all but the last layer, in multiples of that layer's",
        POSITIVE,
    ),
    "head_learning_rate": Field(
        0.1,
        "of the first of train.head_epochs; then a cosine down to 0 (Kang et al. 2020)",
        POSITIVE,
    ),
}

_LOSS: Section = {
    "name": Field(
        "cross_entropy",
        "balanced_softmax: the log of the class counts joins the logits (Ren et al. 2020); "
        "logit_adjustment: tau times that log (Menon et al. 2021); ldam: a margin for each class "
        "(Cao)",
        one_of(*LOSSES),
    ),
    "tau": Field(1.0, "logit_adjustment: 0 is plain cross-entropy", at_least(0)),
    "max_margin": Field(0.5, "ldam: margin of the rarest class, as a cosine (Cao)", POSITIVE),
    "class_weights": Field(
        "none",
        "class_balanced: in proportion to 1 / (1 - beta^n) for a class of n images (Cui et al. "
        "2019); deferred: that from oversampling.start_epoch on, in every mode (DRW; Cao)",
        one_of(*CLASS_WEIGHTS),
    ),
    "beta": Field(0.9999, "of class_weights", BELOW_ONE),
    "generated_weight": Field(
        1.0,
        "of a generated row in the mean of the loss; a real row has 1 (Shao et al., DiffuLT, 2024)",
        at_least(0),
    ),
    "label_smoothing": Field(0.0, "share of the target that is spread over all classes", BELOW_ONE),
}

_FINETUNE: Section = {
    "base": Field(
        _SD,
        "folder, hub id, or miniature (a small model for tiny images, trained from nothing)",
        Rule(lambda x: x != "", "a folder, a hub id or miniature"),
    ),
    "revision": Field("", "branch, tag or commit on the hub; '' for its main branch", TEXT),
    "output_dir": Field("", "required; the fine-tuned generator and all of its making", PATH),
    "images": Field(
        "train",
        "train: the long-tailed set; rest: what it leaves out, for demonstrations",
        one_of("train", "rest"),
    ),
    "image_size": Field(
        512, "pixels that the model draws, square; 0: as the data set has it", between(0, 4096)
    ),
    "num_steps": Field(2000, "updates", at_least(1)),
    "batch_size": Field(16, "images, over all devices together", at_least(1)),
    "learning_rate": Field(1e-5, "of AdamW; after the warm-up a cosine down to 0", POSITIVE),
    "warmup_steps": Field(100, "updates", at_least(0)),
    "weight_decay": Field(1e-2, "of AdamW", at_least(0)),
    "ema_decay": Field(0.999, "of the weights that are sampled from and saved", BELOW_ONE),
    "lora_rank": Field(
        0, "0: all of the UNet; else low-rank updates of its attention (Hu 2021)", at_least(0)
    ),
    "text_dropout": Field(
        0.1, "share of empty prompts, for classifier-free guidance (Ho 2022)", SHARE
    ),
    "dtype": Field("float32", "of the computation; parameters stay float32", one_of(*_DTYPES)),
    "autoencoder_steps": Field(
        300, "base miniature: updates of its autoencoder, before the rest", at_least(1)
    ),
    "log_every_steps": Field(
        50, "a line in metrics.jsonl: the mean loss since the last one", at_least(1)
    ),
    "checkpoint_every_steps": Field(500, "a multiple of log_every_steps", at_least(1)),
    "sample_every_steps": Field(
        500, "a grid of samples in samples/: a row for each class, 10 at most", at_least(1)
    ),
    "samples_per_class": Field(4, "images of a row", at_least(1)),
}

SCHEMA: dict[str, Field | Section] = {
    "seed": Field(0, "of weights, plans and augmentation; not of the long-tailed subset", SEED),
    "train": _TRAIN,
    "dataset": _DATASET,
    "oversampling": _OVERSAMPLING,
    "generation": _GENERATION,
    "augment": _AUGMENT,
    "model": _MODEL,
    "optimizer": _OPTIMIZER,
    "loss": _LOSS,
    "init": {
        "fork_from": Field(
            "", "work directory whose checkpoint at start_epoch to start from", PATH
        ),
        "weights": Field(
            "",
            "resnet18, resnet50: pretrained weights to start from, a .safetensors file with "
            "torchvision's or timm's names, or a hub id (owner/name)",
            PATH,
        ),
    },
    "evaluate": {
        "batch_size": Field(
            500, "images over all devices, rounded up to share them evenly", at_least(1)
        )
    },
    "report": {
        "enabled": Field(True, "report/ of a run: figures and one page", FLAG),
        "map_images": Field(1500, "of the feature map, over all kinds; 0: no map", at_least(0)),
        "images_per_class": Field(8, "real and generated ones, shown side by side", at_least(1)),
    },
    "sweep": {
        "seeds": Field(
            (0, 1, 2),
            "--mode=sweep: every method with every seed",
            Rule(
                lambda x: (
                    x and len(set(x)) == len(x) and all(isinstance(v, int) and v >= 0 for v in x)
                ),
                "different whole numbers from 0 on, at least one",
            ),
        ),
        "methods": Field(
            "erm,ros,drs,open,osed,fill",
            "separated by commas",
            Rule(
                lambda x: (
                    len(set(x.split(","))) == x.count(",") + 1
                    and all(v in METHODS for v in x.split(","))
                ),
                f"different ones of {', '.join(METHODS)}, separated by commas",
            ),
        ),
    },
    "tune": {
        "candidates": Field(
            "",
            f"separated by commas; '': all of {', '.join(CANDIDATES)}, and those of the file",
            TEXT,
        ),
        "candidates_file": Field(
            "",
            'JSON of further ones: name -> {"method": "fill", "about": "...", "SECTION.FIELD": '
            "value, ...}",
            PATH,
        ),
        "folds": Field(3, "parts of the training images, held out in turn", at_least(2)),
        "budget": Field(
            5.0,
            "what all trainings may cost together, in multiples of one training run; their number "
            "of epochs follows from it",
            POSITIVE,
        ),
    },
    "diagnose": {
        "num_batches": Field(
            20, "of train.batch_size images: half natural, half of other kinds", at_least(1)
        )
    },
    "gap": {
        "num_neighbours": Field(
            3, "of precision and recall (Kynkaanniemi et al. 2019: 3)", at_least(1)
        ),
        "max_images": Field(
            2000, "of a class and a set (generated, training, test); more are sampled", at_least(2)
        ),
    },
    "finetune": _FINETUNE,
}


def fields() -> Iterator[tuple[str, Field]]:
    """Every field with its full name, such as `train.batch_size`."""
    for name, entry in SCHEMA.items():
        if isinstance(entry, Field):
            yield name, entry
        else:
            yield from ((f"{name}.{key}", field) for key, field in entry.items())
