"""The schema: every field of an experiment, once, with its unit, allowed values and source.

The other files in this folder only override fields of this one. Runs that are older than a field
get its default (`osed_jax.config.completed`), so a new one must mean what they did without it.

Short names of sources:
Zada = Zada, Benou, Irani, "Pure Noise to the Rescue of Insufficient Data", ICML 2022;
MLRC = Lee & Lee, "[Re] Pure Noise to the Rescue of Insufficient Data", ReScience C 9(2), 2023;
Cao = Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", 2019.
"""

from ml_collections import ConfigDict

from osed_jax.errors import UserError

# Fields that serve replacing alone, where nothing is replaced.
_REPLACES_NOTHING = {"replace_in": "tail", "real_only_epochs": 0, "noise_share": 0.0}
# What a method is: a few fields of `oversampling`, nothing else.
METHODS = {
    "erm": {"mode": "none", **_REPLACES_NOTHING},
    "ros": {"mode": "resample", "start_epoch": 0, **_REPLACES_NOTHING},
    "drs": {"mode": "resample", **_REPLACES_NOTHING},
    "open": {"mode": "noise", "noise_share": 0.0},
    "osed": {"mode": "diffusion"},
}


def get_config(method: str = "erm") -> ConfigDict:
    """Returns the CIFAR-10-LT recipe of Zada and MLRC on the data set that needs no download."""
    config = ConfigDict()
    config.seed = 0  # of weights, plans and augmentation; not of the long-tailed subset

    train = config.train = ConfigDict()
    train.num_epochs = 200  # epochs of as many images as the training set has
    train.batch_size = 128  # images, over all devices together
    train.feeder = "auto"  # auto | resident (images on the device) | tfdata
    epochs = train.get_ref("num_epochs")  # what follows from it moves along with an override
    train.eval_every_epochs = epochs // 20  # accuracy for the curve; 0: only at the end
    train.checkpoint_every_epochs = epochs // 5  # kept for good, as is that of start_epoch

    dataset = config.dataset = ConfigDict()
    dataset.name = "digits"  # digits | cifar10 | cifar100 | tfds:NAME | folder
    dataset.data_dir = ""  # folder: holds train/ and test/; TFDS: its data directory
    dataset.image_size = 0  # pixels, square; 0: as the data set has it (folder: required)
    dataset.imbalance_profile = "exp"  # exp | step (Cao) | none: all images as they are
    dataset.imbalance_ratio = 100.0  # most frequent class / rarest class, at least 1
    dataset.num_max = 0  # images of the most frequent class; 0: as many as every class has
    # Share of each class's training images held out before the long tail is taken: choices are made
    # on them, and the test set is used once. 0 keeps the published subset.
    dataset.validation_fraction = 0.0
    dataset.mean = ()  # of each channel, in [0, 1]; (): measured on the training subset
    dataset.std = ()
    dataset.groups = "five_equal"  # five_equal (MLRC, 1 the rarest) | thresholds
    dataset.many_above = 100  # thresholds: "many" has more training images than this
    dataset.few_below = 20  # thresholds: "few" has fewer; between the two is "medium"
    dataset.max_decoded_gib = 4.0  # a larger folder is streamed from its files

    over = config.oversampling = ConfigDict()
    over.mode = "none"  # none | resample | noise | diffusion
    over.start_epoch = epochs * 4 // 5  # deferral: before it, plain ERM (Zada: 160 of 200)
    over.noise_ratio = 1 / 3  # the paper's delta, in [0, 1]: P = (1 - n_c / n_max) * delta
    over.replace_in = "tail"  # tail: as above | all: P = delta in every class
    over.real_only_epochs = 0  # at the end, without replacement: balanced draws of real images
    over.noise_share = 0.0  # mode diffusion: the share of replaced images that is noise
    over.noise_space = "pixel"  # pixel (Zada) | normalised (MLRC: not normalised again)
    over.noise_road = "dar"  # batch norm's road: natural | dar | dar_grad | aux
    over.synthetic_road = "dar"  # the same for generated images; of docs/results.md, question 3
    over.generated_dir = ""  # mode diffusion: generated images, CLASS/*.png|jpg|...

    gen = config.generation = ConfigDict()  # --mode=generate fills oversampling.generated_dir
    gen.model = "CompVis/stable-diffusion-v1-4"  # hub id or local folder, Stable Diffusion 1.x, 2.x
    gen.revision = "flax"  # branch, tag or commit on the hub; a local folder has none: ""
    gen.dtype = "float32"  # float32 | bfloat16 of weights and computation
    gen.seed = 0  # of all images; each follows from seed, class and index alone
    # How many images each class gets. balance: what it lacks to the most frequent one; noise_ratio:
    # as many as a run is expected to show, if that is fewer; or a number, the same for each.
    gen.count = "balance"
    gen.process_index = 0  # processes, also on several hosts, fill one store side by side:
    gen.process_count = 1  # this one makes the images whose index is process_index modulo count
    gen.batch_size = 8  # images at a time, over all devices of this process together
    gen.image_size = 0  # pixels that the model draws, square; 0: as many as it was trained on
    gen.steps = 25  # of denoising
    gen.scheduler = "dpmsolver++"  # ddim | dpmsolver++ | euler
    # Low: 7.5 makes prettier images that look alike, and as training data they serve worse (Yuan
    # et al., "Real-Fake", ICLR 2024, take 2.0). 1: no guidance, at half the cost.
    gen.guidance_scale = 2.0
    gen.negative_prompt = ""  # what to steer away from; needs guidance
    # {class} is the class's name. Used in turn, by image index; then the next modifier's turn.
    gen.templates = (
        "a photo of a {class}",
        "a close-up photo of a {class}",
        "a photo of a {class} from a distance",
        "a photo of a {class} from the side",
    )
    gen.modifiers = ("",)  # appended after a comma
    gen.prompts_file = ""  # JSON, class -> "its name in prompts" or ["own prompts", ...]
    gen.resize_method = "area"  # to the size of the training images: area | bicubic | lanczos
    gen.keep_full_size = False  # keep the images as drawn, too, in GENERATED_DIR.full_size/
    # Filters; a rejected image is replaced by the class's next one. 0 or False: off.
    gen.min_deviation = 0.02  # of the pixels from their mean, in [0, 1]: black, constant images
    gen.drop_duplicates = True  # pixel for pixel, within a class and a process
    gen.near_duplicate_bits = 0  # images of which fewer of the 64 bits of a perceptual hash differ
    gen.safety_checker = False  # what the model's own checker flags; downloads 1.2 GB more
    gen.classifier_workdir = ""  # a trained run on the same classes, for the next two
    gen.classifier_top_k = 0  # keep images whose class is among its k most probable ones
    gen.max_feature_distance = 0.0  # 1: that of an ordinary real training image from its class
    gen.selected_dir = ""  # --mode=select: new folder for what the filters keep of generated_dir
    gen.max_attempts = 4.0  # images drawn until a class is full, in multiples of its count

    augment = config.augment = ConfigDict()  # MLRC; noise is never augmented
    augment.flip = True  # left-right, probability 1/2
    augment.crop_padding = 4  # pixels of zeros on each side before a random crop; 0: no crop
    augment.cutout = 16  # side of the square in pixels; 0: none
    augment.color_jitter = (0.4, 0.4, 0.4, 0.1)  # brightness, contrast, saturation, hue
    augment.color_jitter_prob = 0.8
    augment.grayscale_prob = 0.2
    augment.blur_prob = 0.5  # Gaussian, 3x3
    augment.blur_sigma = (0.1, 2.0)  # pixels, uniform between the two

    model = config.model = ConfigDict()
    model.name = "wide_resnet"  # wide_resnet (depth 6n+4) | resnet (CIFAR form, depth 6n+2)
    model.depth = 28
    model.widen_factor = 10  # wide_resnet only
    model.dropout_rate = 0.3  # wide_resnet only, between the two convolutions of a block
    model.dtype = "float32"  # float32 | bfloat16 of the computation; parameters stay float32

    optimizer = config.optimizer = ConfigDict()  # SGD without Nesterov
    optimizer.learning_rate = 0.1
    optimizer.momentum = 0.9
    optimizer.weight_decay = 2e-4  # on all parameters, added to the gradient (L2)
    optimizer.warmup_epochs = epochs // 40  # linear, one value an epoch, as Cao's code does
    optimizer.decay_at = (0.8, 0.9)  # fractions of num_epochs; Zada: epochs 160 and 180
    optimizer.decay_factor = 0.01  # at each of them

    loss = config.loss = ConfigDict()  # cross-entropy
    loss.label_smoothing = 0.0  # in [0, 1)
    loss.balanced_softmax = False  # Ren et al. 2020, with the natural class counts

    config.init = ConfigDict()
    config.init.fork_from = ""  # work directory whose checkpoint at start_epoch to start from

    config.evaluate = ConfigDict()
    config.evaluate.batch_size = 500  # images over all devices, rounded up to share them evenly

    report = config.report = ConfigDict()  # report/ of a run: figures and one page
    report.enabled = True
    report.map_images = 1500  # of the feature map, over all kinds; 0: no map
    report.images_per_class = 8  # real and generated ones that are shown side by side

    sweep = config.sweep = ConfigDict()  # --mode=sweep: every method with every seed
    sweep.seeds = (0, 1, 2)
    sweep.methods = "erm,drs,open,osed"  # separated by commas

    diagnose = config.diagnose = ConfigDict()  # --mode=diagnose: gradients by kind of row
    diagnose.num_batches = 20  # of train.batch_size images: half natural, half of other kinds

    gap = config.gap = ConfigDict()  # --mode=gap: generated against real images, in features
    gap.num_neighbours = 3  # of precision and recall (Kynkaanniemi et al. 2019: 3)
    gap.max_images = 2000  # of a class and a set (generated, training, test); more are sampled

    adapt = config.adapt = ConfigDict()  # --mode=adapt: fine-tunes the generator
    adapt.base = "CompVis/stable-diffusion-v1-4"  # folder | hub id | miniature (for tiny images)
    adapt.revision = "flax"  # branch, tag or commit on the hub; "": its main branch, or no hub id
    adapt.output_dir = ""  # required; the adapted generator and all that belongs to its making
    adapt.images = "train"  # train (the long-tailed set) | rest (what it leaves out; for demos)
    adapt.image_size = 512  # pixels that the model draws, square; 0: as the data set has it
    adapt.num_steps = 2000  # updates
    adapt.batch_size = 16  # images, over all devices together
    adapt.learning_rate = 1e-5  # AdamW; after the warm-up a cosine down to 0
    adapt.warmup_steps = 100
    adapt.weight_decay = 1e-2
    adapt.ema_decay = 0.999  # of the weights that are sampled from and saved, in [0, 1)
    adapt.lora_rank = 0  # 0: all of the UNet; else low-rank updates of its attention (Hu 2021)
    adapt.text_dropout = 0.1  # share of empty prompts, for classifier-free guidance (Ho 2022)
    adapt.dtype = "float32"  # float32 | bfloat16 of the computation; parameters stay float32
    adapt.autoencoder_steps = 300  # base miniature: updates of its autoencoder, before the rest
    adapt.log_every_steps = 50  # a line in metrics.jsonl: the mean loss since the last one
    adapt.checkpoint_every_steps = 500  # a multiple of log_every_steps
    adapt.sample_every_steps = (
        500  # a grid of samples in samples/: a row for each class, 10 at most
    )
    adapt.samples_per_class = 4  # images of a row

    return apply_method(config, method)


def apply_method(config: ConfigDict, method: str) -> ConfigDict:
    """Sets the fields of `config.oversampling` that make up `method`, the part after the colon."""
    if method not in METHODS:
        raise UserError(
            f"unknown method {method!r} after the colon of --config; "
            f"use one of {', '.join(METHODS)}"
        )
    config.oversampling.update(METHODS[method])
    return config
