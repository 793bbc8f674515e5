"""The schema: every field of an experiment once, with its default, rule, unit and source.

The files of configs/ only override its fields. Runs that are older than a field get its default
(`renames.completed`), so the default of a new field must not change what such a run did.

Short names of sources:
Zada = Zada, Benou, Irani, "Pure Noise to the Rescue of Insufficient Data", ICML 2022;
MLRC = Lee & Lee, "[Re] Pure Noise to the Rescue of Insufficient Data", ReScience C 9(2), 2023;
Cao = Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", 2019.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from osed_jax.config import choices
from osed_jax.config.candidates import CANDIDATES
from osed_jax.config.choices import (
    CLASS_WEIGHTS,
    LOSSES,
    MIXES,
    NAMES,
    PLACEHOLDER,
    POLICIES,
    RESIZES,
    SCHEDULERS,
    STARTS,
    STRENGTH_DRAWS,
)
from osed_jax.config.field import (
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
from osed_jax.config.methods import METHODS
from osed_jax.kinds import NORMS
from osed_jax.models.nets import NETS

_DTYPES = ("float32", "bfloat16")
_SD = "CompVis/stable-diffusion-v1-4"


class Field(NamedTuple):
    """A field of the schema.

    Attributes:
      default: its default, or a function of the number of epochs that returns it.
      about: what it means, with unit and source.
      rule: its allowed values, in addition to the type of the default.
    """

    default: Any
    about: str
    rule: Rule


Section = dict[str, Field]

_TRAIN: Section = {
    "num_epochs": Field(
        200, "number of epochs; an epoch shows as many images as the training set has", at_least(1)
    ),
    "batch_size": Field(128, "images in a batch, over all devices together", at_least(1)),
    "feeder": Field(
        "auto",
        "how images reach the device; resident: all stay in device memory; tfdata: tf.data "
        "streams them; auto: resident if they fit, else tfdata",
        one_of("auto", "resident", "tfdata"),
    ),
    "head_epochs": Field(
        0,
        "further epochs after num_epochs in which only the last layer is trained, again from "
        "random weights, on class-balanced draws of real images (cRT; Kang et al. 2020); 0: "
        "none",
        at_least(0),
    ),
    "eval_every_epochs": Field(
        lambda epochs: epochs // 20,
        "epochs between two evaluations, for the accuracy curve; 0: evaluation at the end only",
        at_least(0),
    ),
    "checkpoint_every_epochs": Field(
        lambda epochs: epochs // 5,
        "every checkpoint of such a multiple of epochs is kept, as are that of start_epoch and "
        "the last one; 0: only these two",
        at_least(0),
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
        "with folder: the folder that holds train/ and test/; with list: the folder where "
        "paths of the lists begin, '' for the folder of each list; with TFDS: its data "
        "directory",
        PATH,
    ),
    "train_list": Field(
        "",
        "with list: a text file with lines PATH LABEL, or a CSV file with the columns path and "
        "label; labels are whole numbers or names",
        PATH,
    ),
    "validation_list": Field(
        "", "with list: the same for validation images; '': no list of validation images", PATH
    ),
    "test_list": Field("", "with list: the same for test images", PATH),
    "image_size": Field(
        0,
        "side of the square images in pixels; 0: as in the data set (folder and list need a size)",
        between(0, 4096),
    ),
    "imbalance_profile": Field(
        "exp",
        "how a long tail is cut out of the training images; exp, step: the profiles of Cao; "
        "none: all images are used",
        one_of(*choices.PROFILES),
    ),
    "imbalance_ratio": Field(
        100.0,
        "number of images of the most frequent class / number of images of the rarest class",
        at_least(1),
    ),
    "num_max": Field(
        0,
        "number of images of the most frequent class; 0: that of the smallest class, or with "
        "imbalance_profile=none no limit",
        at_least(0),
    ),
    "validation_fraction": Field(
        0.0,
        "share of each class's training images that is held out for validation, before the "
        "long tail is cut; 0: none, as in the published subset",
        BELOW_ONE,
    ),
    "validation_folds": Field(
        0,
        "instead of validation_fraction: number of parts of the long-tailed training images, "
        "one of which is held out for validation; a class's only image is never held out; 0: "
        "none",
        Rule(lambda x: x >= 0 and x != 1, "0, or at least 2"),
    ),
    "validation_fold": Field(
        0, "with validation_folds: number of the part that is held out, counted from 0", at_least(0)
    ),
    "mean": Field(
        (),
        "mean of each channel, for normalisation; (): measured on the training subset",
        or_empty(numbers(3, 0, 1)),
    ),
    "std": Field(
        (),
        "standard deviation of each channel; (): measured on the training subset",
        or_empty(numbers(3, 1e-3, 1)),
    ),
    "groups": Field(
        "five_equal",
        "groups of classes in results; five_equal: five groups by frequency, group_1 the "
        "rarest (MLRC); thresholds: many, medium, few",
        one_of(*choices.GROUPS),
    ),
    "many_above": Field(
        100, "with thresholds: classes with more training images than this are many", WHOLE
    ),
    "few_below": Field(
        20,
        "with thresholds: classes with fewer training images than this are few; the others are "
        "medium",
        at_least(0),
    ),
    "max_decoded_gib": Field(
        4.0,
        "size of the decoded images in GiB above which a folder or list is streamed from its files",
        at_least(0),
    ),
}

_OVERSAMPLING: Section = {
    "mode": Field(
        "none",
        "what epochs show from start_epoch on; none: every training image once; resample: "
        "class-balanced draws; noise, generated: class-balanced draws, some of them replaced "
        "by noise or generated images",
        one_of("none", "resample", "noise", "generated"),
    ),
    "start_epoch": Field(
        lambda epochs: epochs * 4 // 5,
        "first epoch of the mode, after plain ERM; 0: not deferred (Zada: 160 of 200)",
        at_least(0),
    ),
    "replace_ratio": Field(
        1 / 3,
        "the paper's delta: P(replace) = (1 - n_c / n_max) * delta for a draw of class c (Zada, "
        "section 3); the method fill sets 2/3, in a sweep only where this is 1/3",
        SHARE,
    ),
    "replace_in": Field(
        "tail",
        "tail: P(replace) as in replace_ratio; all: P(replace) = delta in every class",
        one_of("tail", "all"),
    ),
    "replace_schedule": Field(
        "constant",
        "constant: always replace_ratio; linear: replace_ratio falls to 0 by the end (after "
        "Liang et al., Diffusion Curriculum, 2024)",
        one_of("constant", "linear"),
    ),
    "generated_classes": Field(
        (),
        "mode generated: the only classes that show generated images; (): all classes with "
        "fewer images than the most frequent one",
        Rule(
            lambda x: all(isinstance(v, str) and v for v in x) and len(set(x)) == len(x),
            "different names of classes",
        ),
    ),
    "max_gap": Field(
        0.0,
        "mode generated: show generated images only in classes whose Fréchet distance, as "
        "--mode=gap measured it, is at most this many times the median class's; 0: in all "
        "classes",
        at_least(0),
    ),
    "soft_label_exponent": Field(
        0.5,
        "mode generated: images that started from one of another class "
        "(generation.start_from=other_class) count as their own class by strength to this power, "
        "as the other class by the rest (Diff-Mix; Wang et al., CVPR 2024); 0: as their own class "
        "alone",
        at_least(0),
    ),
    "real_only_epochs": Field(
        0,
        "last epochs in which nothing is replaced: class-balanced draws of real images",
        at_least(0),
    ),
    "noise_share": Field(
        0.0,
        "mode generated: share of the replaced draws that shows noise instead of generated images",
        SHARE,
    ),
    "noise_space": Field(
        "pixel",
        "pixel: noise is normalised like an image (Zada); normalised: noise is drawn after the "
        "normalisation (MLRC)",
        one_of("pixel", "normalised"),
    ),
    "noise_norm": Field(
        "dar",
        "batch norm of noise rows; shared: that of real images; dar: DAR-BN (Zada, appendix "
        "E): statistics of its own, scale and bias of real images, no gradient below the last "
        "layer; dar_grad: dar with this gradient; aux: a batch norm of its own (Xie et al. "
        "2020)",
        one_of(*NORMS),
    ),
    "generated_norm": Field(
        "dar", "batch norm of generated rows; values as for noise_norm", one_of(*NORMS)
    ),
    "generated_dir": Field(
        "", "mode generated: folder of the generated images, CLASS/*.png|jpg|...", PATH
    ),
}

_GENERATION: Section = {
    "model": Field(
        _SD,
        "the generator: hub id, local folder or single file of Stable Diffusion 1.x or 2.x",
        TEXT,
    ),
    "revision": Field(
        "", "branch, tag or commit of the model on the hub; '': its main branch", TEXT
    ),
    "decoder": Field(
        "",
        "tiny decoder (TAESD, such as madebyollin/taesd) instead of the model's: hub id or local "
        "folder of an AutoencoderTiny",
        TEXT,
    ),
    "embeddings": Field(
        "",
        "textual-inversion file (.safetensors), whose words may be used in prompts",
        PATH,
    ),
    "lora": Field(
        "", "LoRA file (.safetensors of diffusers, peft or kohya) to merge into the model", PATH
    ),
    "lora_scale": Field(
        1.0, "with lora: strength of the LoRA; 1: as it was trained", between(-10, 10)
    ),
    "dtype": Field("float32", "number type of weights and computation", one_of(*_DTYPES)),
    "seed": Field(0, "random seed; each image follows from seed, class and index alone", SEED),
    "count": Field(
        "balance",
        "number of images of each class; balance: what it lacks to the most frequent class; "
        "replace_ratio: the number that a run is expected to show, if that is smaller; or one "
        "number for all classes",
        Rule(
            lambda x: x in ("balance", "replace_ratio") or (x.isdecimal() and int(x) > 0),
            "balance, replace_ratio or a number of images, at least 1",
        ),
    ),
    "process_index": Field(
        0,
        "number of this process, from 0, among process_count processes that fill one store, "
        "also on several hosts",
        at_least(0),
    ),
    "process_count": Field(
        1,
        "number of these processes; each makes the images whose index modulo process_count is "
        "its process_index",
        at_least(1),
    ),
    "batch_size": Field(
        8, "images generated at a time, over all devices of this process", at_least(1)
    ),
    "image_size": Field(
        0,
        "side in pixels of the images that the model draws; 0: the size that it was trained on",
        at_least(0),
    ),
    "steps": Field(25, "number of denoising steps", at_least(1)),
    "start_from": Field(
        "noise",
        "what an image is made from; train: from a real training image of its class, which is "
        "noised and denoised again (SDEdit; Meng et al. 2022); other_class: from one of another "
        "class, so that its label is soft (Diff-Mix; Wang et al. 2024)",
        one_of(*STARTS),
    ),
    "strength": Field(
        (0.5,),
        "start_from=train or other_class: share of the denoising steps that are taken; small "
        "numbers stay near the real image, 1 keeps hardly anything of it; several are taken in "
        "turn by image index",
        Rule(
            lambda x: x and all(isinstance(v, int | float) and 0 < v <= 1 for v in x),
            "numbers greater than 0 and at most 1, at least one",
        ),
    ),
    "strength_draw": Field(
        "in_turn",
        "uniform: the strength of each image is drawn between the two numbers of strength",
        one_of(*STRENGTH_DRAWS),
    ),
    "scheduler": Field("dpmsolver++", "scheduler of the denoising steps", one_of(*SCHEDULERS)),
    "guidance_scale": Field(
        2.0,
        "strength of classifier-free guidance; 1: none, at half the cost; 7.5 makes prettier "
        "images that are worse training data (Yuan et al., Real-Fake, ICLR 2024, take 2.0)",
        at_least(1),
    ),
    "negative_prompt": Field("", "what images should not show; needs guidance_scale above 1", TEXT),
    "templates": Field(
        (
            "a photo of a {class}",
            "a close-up photo of a {class}",
            "a photo of a {class} from a distance",
            "a photo of a {class} from the side",
        ),
        "prompts, in which {class} is replaced by the class's name; images of a class take "
        "them in turn",
        Rule(
            lambda x: x and all(isinstance(v, str) and PLACEHOLDER in v for v in x),
            f"at least one text with {PLACEHOLDER} where the class's name goes",
        ),
    ),
    "modifiers": Field(
        ("",),
        "texts appended to a prompt after a comma; the next one is taken each time all "
        "templates have been used",
        Rule(lambda x: all(isinstance(v, str) for v in x), "texts"),
    ),
    "prompts_file": Field(
        "", 'JSON file: class -> "its name in prompts" or ["own prompts", ...]', PATH
    ),
    "resize_method": Field(
        "area", "how images are resized to the size of the training images", one_of(*RESIZES)
    ),
    "keep_full_size": Field(
        False, "also keep the images at the size drawn, in GENERATED_DIR.full_size/", FLAG
    ),
    # Filters: a rejected image is replaced by the next one of its class. 0 or False: off.
    "min_deviation": Field(
        0.02,
        "filter: drop images whose pixels' standard deviation, in [0, 1], is below this: "
        "constant images",
        SHARE,
    ),
    "drop_duplicates": Field(
        True,
        "filter: drop images that equal another pixel for pixel, within a class and a process",
        FLAG,
    ),
    "near_duplicate_bits": Field(
        0,
        "filter: drop images that differ from another of their class in fewer than this many "
        "of the 64 bits of a perceptual hash",
        between(0, 64),
    ),
    "safety_checker": Field(
        False, "filter: drop images that the model's own safety checker flags", FLAG
    ),
    "classifier_workdir": Field(
        "", "work directory of a finished run on the same classes, for the next two filters", PATH
    ),
    "classifier_top_k": Field(
        0,
        "filter: keep images whose class is among the k most probable ones of that run's net",
        at_least(0),
    ),
    "max_feature_distance": Field(
        0.0,
        "filter: drop images farther from their class in that net's features; 1 is the "
        "distance of an ordinary real training image",
        at_least(0),
    ),
    "filtered_dir": Field(
        "", "--mode=filter: new folder for the images of generated_dir that the filters keep", PATH
    ),
    "max_attempts": Field(
        4.0, "most images drawn to fill a class, in multiples of its count", at_least(1)
    ),
}

_AUGMENT: Section = {
    "flip": Field(True, "left-right flip with probability 1/2", FLAG),
    "crop_padding": Field(
        4, "pixels of zeros added on each side before a random crop; 0: no crop", at_least(0)
    ),
    "crop_size": Field(
        0,
        "side in pixels of what the net sees: in training a random part of the image, resized "
        "(Szegedy et al. 2015), in evaluation its middle; 0: the whole image, of image_size",
        between(0, 4096),
    ),
    "crop_scale": Field(
        (0.08, 1.0),
        "with crop_size: share of the image's area that the random part covers, uniform "
        "between the two",
        Rule(
            lambda x: numbers(2, 0.001, 1).valid(x) and x[0] <= x[1],
            "2 ascending numbers between 0.001 and 1",
        ),
    ),
    "crop_ratio": Field(
        (3 / 4, 4 / 3),
        "with crop_size: width / height of the random part; its logarithm is uniform between "
        "the two",
        Rule(
            lambda x: numbers(2, 0.1, 10).valid(x) and x[0] <= 1 <= x[1],
            "2 numbers between 0.1 and 10, the first at most 1, the second at least 1",
        ),
    ),
    "cutout": Field(16, "side in pixels of the square that Cutout blackens; 0: none", at_least(0)),
    "color_jitter": Field(
        (0.4, 0.4, 0.4, 0.1),
        "strength of the jitter of brightness, contrast, saturation, hue",
        Rule(
            lambda x: numbers(4, 0, 1).valid(x) and x[3] <= 0.5,
            "4 numbers between 0 and 1, the last (hue) at most 0.5",
        ),
    ),
    "color_jitter_prob": Field(0.8, "probability of the colour jitter", SHARE),
    "grayscale_prob": Field(0.2, "probability of greyscale", SHARE),
    "blur_prob": Field(0.5, "probability of a Gaussian blur, 3x3", SHARE),
    "blur_sigma": Field(
        (0.1, 2.0),
        "standard deviation of the blur in pixels, uniform between the two",
        Rule(
            lambda x: numbers(2, 0.01, 100).valid(x) and x[0] <= x[1],
            "2 ascending numbers from 0.01 on",
        ),
    ),
    "policy": Field(
        "none",
        "operations after flip and crop; autoaugment: the policy for CIFAR-10 (Cubuk et al. "
        "2019; OPeN's best row in Zada, without flip, crop and all else); randaugment (Cubuk "
        "et al. 2020); both as in torchvision",
        one_of(*POLICIES),
    ),
    "randaugment_count": Field(2, "randaugment: number of operations on each image", at_least(1)),
    "randaugment_level": Field(
        9, "randaugment: strength of all operations, 30 the strongest", between(0, 30)
    ),
    "mix": Field(
        "none",
        "mixup: weighted means of two images (Zhang et al. 2018); cutmix: a rectangle of "
        "another image (Yun et al. 2019); labels are mixed alike",
        one_of(*MIXES),
    ),
    "mix_alpha": Field(
        1.0, "shares of the two images are drawn from Beta(alpha, alpha), for each row", POSITIVE
    ),
    "mix_prob": Field(1.0, "probability that a row is mixed", SHARE),
    "mix_partner": Field(
        "any",
        "any: a row is mixed with any real or generated row; natural: every row, also a "
        "generated one, is mixed with a real row (SYNAuG; Ye-Bin et al. 2023)",
        one_of("any", "natural"),
    ),
}

_MODEL: Section = {
    "name": Field("wide_resnet", "the net", one_of(*NETS)),
    "depth": Field(28, "wide_resnet, resnet: number of layers; each net has its own rule", WHOLE),
    "widen_factor": Field(10, "wide_resnet only: factor of the number of channels", at_least(1)),
    "dropout_rate": Field(
        0.3, "wide_resnet only: dropout after the first convolution of a block (MLRC)", BELOW_ONE
    ),
    "dtype": Field(
        "float32", "number type of the computation; parameters stay float32", one_of(*_DTYPES)
    ),
    "cosine_scale": Field(
        0.0,
        "0: the last layer is linear; else its logits are this many times a cosine, without a "
        "bias (the loss ldam needs it; Cao: 30)",
        at_least(0),
    ),
}

_OPTIMIZER: Section = {
    "learning_rate": Field(0.1, "learning rate of SGD, without Nesterov momentum", POSITIVE),
    "momentum": Field(0.9, "momentum of SGD", BELOW_ONE),
    "weight_decay": Field(
        2e-4, "weight decay of all parameters, added to the gradient (L2)", at_least(0)
    ),
    "warmup_epochs": Field(
        lambda epochs: epochs // 40,
        "epochs of linear warm-up, with one learning rate per epoch, as in Cao's code",
        at_least(0),
    ),
    "schedule": Field(
        "steps",
        "steps: lowered by decay_factor at decay_at; cosine: half a cosine down to 0, with one "
        "learning rate per epoch (Kang et al. 2020)",
        one_of("steps", "cosine"),
    ),
    "decay_at": Field(
        (0.8, 0.9),
        "schedule steps: when the learning rate is lowered, in fractions of num_epochs (Zada: "
        "epochs 160 and 180)",
        Rule(
            lambda x: all(isinstance(v, int | float) and 0 <= v <= 1 for v in x),
            "fractions of num_epochs between 0 and 1",
        ),
    ),
    "decay_factor": Field(0.01, "factor of the learning rate at each of these times", POSITIVE),
    "pretrained_factor": Field(
        1.0,
        "with init.weights: learning rate of all layers but the last, in multiples of the last "
        "layer's",
        POSITIVE,
    ),
    "head_learning_rate": Field(
        0.1,
        "learning rate in the first of train.head_epochs; after it a cosine down to 0 (Kang et "
        "al. 2020)",
        POSITIVE,
    ),
}

_LOSS: Section = {
    "name": Field(
        "cross_entropy",
        "balanced_softmax: the log of the class counts is added to the logits (Ren et al. "
        "2020); logit_adjustment: tau times that log is added (Menon et al. 2021); ldam: a "
        "margin for each class (Cao)",
        one_of(*LOSSES),
    ),
    "tau": Field(
        1.0,
        "logit_adjustment: factor of the log of the class counts; 0 is plain cross-entropy",
        at_least(0),
    ),
    "max_margin": Field(0.5, "ldam: margin of the rarest class, as a cosine (Cao)", POSITIVE),
    "class_weights": Field(
        "none",
        "weights of the classes in the loss; class_balanced: proportional to 1 / (1 - beta^n) "
        "for a class of n images (Cui et al. 2019); deferred: the same from "
        "oversampling.start_epoch on, in every mode (DRW; Cao)",
        one_of(*CLASS_WEIGHTS),
    ),
    "beta": Field(0.9999, "the beta of class_weights", BELOW_ONE),
    "generated_weight": Field(
        1.0,
        "weight of a generated row in the mean of the loss; a real row has weight 1 (Shao et "
        "al., DiffuLT, 2024)",
        at_least(0),
    ),
    "label_smoothing": Field(
        0.0, "share of the target that is spread evenly over all classes", BELOW_ONE
    ),
}

_FINETUNE: Section = {
    "base": Field(
        _SD,
        "generator to start from: a folder, a hub id, or miniature (a small model for tiny "
        "images, with random weights)",
        Rule(lambda x: x != "", "a folder, a hub id or miniature"),
    ),
    "revision": Field("", "branch, tag or commit of base on the hub; '': its main branch", TEXT),
    "output_dir": Field(
        "", "required: folder for the fine-tuned generator and the files of its training", PATH
    ),
    "images": Field(
        "train",
        "images to train on; train: the long-tailed set; rest: the images that it leaves out, "
        "for demonstrations",
        one_of("train", "rest"),
    ),
    "image_size": Field(
        512,
        "side in pixels of the images that the model draws; 0: as in the data set",
        between(0, 4096),
    ),
    "num_steps": Field(2000, "number of updates", at_least(1)),
    "batch_size": Field(16, "images in a batch, over all devices together", at_least(1)),
    "learning_rate": Field(
        1e-5, "learning rate of AdamW; after the warm-up it falls to 0 as a cosine", POSITIVE
    ),
    "warmup_steps": Field(100, "updates of linear warm-up", at_least(0)),
    "weight_decay": Field(1e-2, "weight decay of AdamW", at_least(0)),
    "ema_decay": Field(
        0.999,
        "decay of the moving average of the weights, which is sampled from and saved",
        BELOW_ONE,
    ),
    "lora_rank": Field(
        0,
        "0: the whole UNet is trained; else low-rank updates of its attention, of this rank "
        "(Hu 2021)",
        at_least(0),
    ),
    "text_dropout": Field(
        0.1, "share of prompts that are left empty, for classifier-free guidance (Ho 2022)", SHARE
    ),
    "dtype": Field(
        "float32", "number type of the computation; parameters stay float32", one_of(*_DTYPES)
    ),
    "autoencoder_steps": Field(
        300, "base miniature: updates of its autoencoder, before num_steps", at_least(1)
    ),
    "log_every_steps": Field(
        50,
        "updates between two lines of metrics.jsonl; each has the mean loss since the last one",
        at_least(1),
    ),
    "checkpoint_every_steps": Field(
        500, "updates between two checkpoints, a multiple of log_every_steps", at_least(1)
    ),
    "sample_every_steps": Field(
        500,
        "updates between two grids of samples in samples/, with a row for each class, 10 at most",
        at_least(1),
    ),
    "samples_per_class": Field(4, "images in a row of a grid", at_least(1)),
}

SCHEMA: dict[str, Field | Section] = {
    "seed": Field(
        0, "random seed of weights, draws and augmentation; not of the long-tailed subset", SEED
    ),
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
            "",
            "work directory of a run that begins like this one; training starts from its "
            "checkpoint at the epoch where the two differ (start_epoch, if it is an ERM run)",
            PATH,
        ),
        "weights": Field(
            "",
            "resnet18, resnet50, efficientnet_lite0: pretrained weights to start from: one of "
            "these names, for its weights of ImageNet (those of efficientnet_lite0 are installed, "
            "others come from the hub); a file with torchvision's or timm's names (.safetensors, "
            ".pth, .pt, .bin, .ckpt), a folder of the hub, or a hub id (owner/name)",
            PATH,
        ),
    },
    "evaluate": {
        "batch_size": Field(
            500,
            "images in a batch over all devices, rounded up so that they share it evenly",
            at_least(1),
        )
    },
    "report": {
        "enabled": Field(True, "whether a run gets report/: figures and one page", FLAG),
        "map_images": Field(
            1500, "images in the feature map, over all kinds; 0: no map", at_least(0)
        ),
        "images_per_class": Field(
            8, "real and generated images of a class, shown side by side", at_least(1)
        ),
    },
    "sweep": {
        "seeds": Field(
            (0, 1, 2),
            "--mode=sweep: every method is trained with every seed",
            Rule(
                lambda x: (
                    x and len(set(x)) == len(x) and all(isinstance(v, int) and v >= 0 for v in x)
                ),
                "different whole numbers from 0 on, at least one",
            ),
        ),
        "methods": Field(
            "erm,ros,drs,open,osed,fill",
            "--mode=sweep: the methods, separated by commas",
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
            f"candidates, separated by commas; '': all of {', '.join(CANDIDATES)}, and those of "
            "candidates_file",
            TEXT,
        ),
        "candidates_file": Field(
            "",
            'JSON file of further candidates: name -> {"method": "fill", "about": "...", '
            '"SECTION.FIELD": value, ...}',
            PATH,
        ),
        "folds": Field(
            3, "number of parts of the training images; one at a time is held out", at_least(2)
        ),
        "budget": Field(
            5.0,
            "cost of all training together, at most, in multiples of one training run; the number "
            "of epochs of each run follows from it",
            POSITIVE,
        ),
    },
    "diagnose": {
        "num_batches": Field(
            20,
            "number of batches of train.batch_size images; half of the images are natural, half of "
            "other kinds",
            at_least(1),
        )
    },
    "gap": {
        "num_neighbours": Field(
            3,
            "number of neighbours for precision and recall (Kynkaanniemi et al. 2019: 3)",
            at_least(1),
        ),
        "max_images": Field(
            2000,
            "images of each class in each set (generated, training, test); larger sets are sampled",
            at_least(2),
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
