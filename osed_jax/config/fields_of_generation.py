"""The fields of the generator: --mode=generate, filter and finetune."""

import dataclasses

from osed_jax.config.choices import DTYPES, PLACEHOLDER, RESIZES, SCHEDULERS, STARTS, STRENGTH_DRAWS
from osed_jax.config.field import (
    BELOW_ONE,
    FLAG,
    PATH,
    POSITIVE,
    SEED,
    SHARE,
    TEXT,
    Rule,
    UsedWith,
    at_least,
    between,
    field,
    one_of,
)

_SD = "CompVis/stable-diffusion-v1-4"


@dataclasses.dataclass(frozen=True)
class Generation:
    """`--mode=generate` and `--mode=filter`: the generator, prompts and filters."""

    model: str = field(
        _SD,
        "the generator: hub id, local folder or single file of Stable Diffusion 1.x or 2.x",
        TEXT,
    )
    revision: str = field(
        "", "branch, tag or commit of the model on the hub; '': its main branch", TEXT
    )
    decoder: str = field(
        "",
        "tiny decoder (TAESD, such as madebyollin/taesd) instead of the model's: hub id or local "
        "folder of an AutoencoderTiny",
        TEXT,
    )
    embeddings: str = field(
        "",
        "textual-inversion file (.safetensors), whose words may be used in prompts",
        PATH,
        matters_for="place",
    )
    lora: str = field(
        "",
        "LoRA file (.safetensors of diffusers, peft or kohya) to merge into the model",
        PATH,
        matters_for="place",
    )
    lora_scale: float = field(
        1.0,
        "with lora: strength of the LoRA; 1: as it was trained",
        between(-10, 10),
        used_with=UsedWith("generation.lora"),
    )
    dtype: str = field("float32", "number type of weights and computation", one_of(*DTYPES))
    seed: int = field(0, "random seed; each image follows from seed, class and index alone", SEED)
    count: str = field(
        "balance",
        "number of images of each class; balance: what it lacks to the most frequent class; "
        "replace_ratio: the number that a run is expected to show, if that is smaller; or one "
        "number for all classes",
        Rule(
            lambda x: x in ("balance", "replace_ratio") or (x.isdecimal() and int(x) > 0),
            "balance, replace_ratio or a number of images, at least 1",
        ),
    )
    process_index: int = field(
        0,
        "number of this process, from 0, among process_count processes that fill one store, "
        "also on several hosts",
        at_least(0),
        matters_for="speed",
    )
    process_count: int = field(
        1,
        "number of these processes; each makes the images whose index modulo process_count is "
        "its process_index",
        at_least(1),
        matters_for="speed",
    )
    batch_size: int = field(
        8,
        "images generated at a time, over all devices of this process",
        at_least(1),
        matters_for="speed",
    )
    image_size: int = field(
        0,
        "side in pixels of the images that the model draws; 0: the size that it was trained on",
        at_least(0),
    )
    steps: int = field(25, "number of denoising steps", at_least(1))
    start_from: str = field(
        "noise",
        "what an image is made from; train: from a real training image of its class, which is "
        "noised and denoised again (SDEdit; Meng et al. 2022); other_class: from one of another "
        "class, so that its label is soft (Diff-Mix; Wang et al. 2024)",
        one_of(*STARTS),
    )
    strength: tuple[float, ...] = field(
        (0.5,),
        "start_from=train or other_class: share of the denoising steps that are taken; small "
        "numbers stay near the real image, 1 keeps hardly anything of it; several are taken in "
        "turn by image index",
        Rule(
            lambda x: x and all(isinstance(v, int | float) and 0 < v <= 1 for v in x),
            "numbers greater than 0 and at most 1, at least one",
        ),
        used_with=UsedWith("generation.start_from", ("train", "other_class")),
    )
    strength_draw: str = field(
        "in_turn",
        "uniform: the strength of each image is drawn between the two numbers of strength",
        one_of(*STRENGTH_DRAWS),
        used_with=UsedWith("generation.start_from", ("train", "other_class")),
    )
    scheduler: str = field("dpmsolver++", "scheduler of the denoising steps", one_of(*SCHEDULERS))
    guidance_scale: float = field(
        2.0,
        "strength of classifier-free guidance; 1: none, at half the cost; 7.5 makes prettier "
        "images that are worse training data (Yuan et al., Real-Fake, ICLR 2024, take 2.0)",
        at_least(1),
    )
    negative_prompt: str = field(
        "", "what images should not show; needs guidance_scale above 1", TEXT
    )
    templates: tuple[str, ...] = field(
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
    )
    modifiers: tuple[str, ...] = field(
        ("",),
        "texts appended to a prompt after a comma; the next one is taken each time all "
        "templates have been used",
        Rule(lambda x: all(isinstance(v, str) for v in x), "texts"),
    )
    prompts_file: str = field(
        "",
        'JSON file: class -> "its name in prompts" or ["own prompts", ...]',
        PATH,
        matters_for="place",
    )
    resize_method: str = field(
        "area", "how images are resized to the size of the training images", one_of(*RESIZES)
    )
    keep_full_size: bool = field(
        False, "also keep the images at the size drawn, in GENERATED_DIR.full_size/", FLAG
    )
    min_deviation: float = field(
        0.02,
        "filter: drop images whose pixels' standard deviation, in [0, 1], is below this: "
        "constant images",
        SHARE,
    )
    drop_duplicates: bool = field(
        True,
        "filter: drop images that equal another pixel for pixel, within a class and a process",
        FLAG,
    )
    near_duplicate_bits: int = field(
        0,
        "filter: drop images that differ from another of their class in fewer than this many "
        "of the 64 bits of a perceptual hash",
        between(0, 64),
    )
    safety_checker: bool = field(
        False, "filter: drop images that the model's own safety checker flags", FLAG
    )
    classifier_workdir: str = field(
        "",
        "work directory of a finished run on the same classes, for the next two filters",
        PATH,
        matters_for="place",
    )
    classifier_top_k: int = field(
        0,
        "filter: keep images whose class is among the k most probable ones of that run's net",
        at_least(0),
    )
    max_feature_distance: float = field(
        0.0,
        "filter: drop images farther from their class in that net's features; 1 is the "
        "distance of an ordinary real training image",
        at_least(0),
    )
    filtered_dir: str = field(
        "",
        "--mode=filter: new folder for the images of generated_dir that the filters keep",
        PATH,
        matters_for="place",
    )
    max_attempts: float = field(
        4.0, "most images drawn to fill a class, in multiples of its count", at_least(1)
    )


@dataclasses.dataclass(frozen=True)
class Finetune:
    """`--mode=finetune` trains the generator on the training images."""

    base: str = field(
        _SD,
        "generator to start from: a folder, a hub id, or miniature (a small model for tiny "
        "images, with random weights)",
        Rule(lambda x: x != "", "a folder, a hub id or miniature"),
    )
    revision: str = field("", "branch, tag or commit of base on the hub; '': its main branch", TEXT)
    output_dir: str = field(
        "",
        "required: folder for the fine-tuned generator and the files of its training",
        PATH,
        matters_for="place",
    )
    images: str = field(
        "train",
        "images to train on; train: the long-tailed set; rest: the images that it leaves out, "
        "for demonstrations",
        one_of("train", "rest"),
    )
    image_size: int = field(
        512,
        "side in pixels of the images that the model draws; 0: as in the data set",
        between(0, 4096),
    )
    num_steps: int = field(2000, "number of updates", at_least(1))
    batch_size: int = field(16, "images in a batch, over all devices together", at_least(1))
    learning_rate: float = field(
        1e-5, "learning rate of AdamW; after the warm-up it falls to 0 as a cosine", POSITIVE
    )
    warmup_steps: int = field(100, "updates of linear warm-up", at_least(0))
    weight_decay: float = field(1e-2, "weight decay of AdamW", at_least(0))
    ema_decay: float = field(
        0.999,
        "decay of the moving average of the weights, which is sampled from and saved",
        BELOW_ONE,
    )
    lora_rank: int = field(
        0,
        "0: the whole UNet is trained; else low-rank updates of its attention, of this rank "
        "(Hu 2021)",
        at_least(0),
    )
    text_dropout: float = field(
        0.1, "share of prompts that are left empty, for classifier-free guidance (Ho 2022)", SHARE
    )
    dtype: str = field(
        "float32", "number type of the computation; parameters stay float32", one_of(*DTYPES)
    )
    autoencoder_steps: int = field(
        300, "base miniature: updates of its autoencoder, before num_steps", at_least(1)
    )
    log_every_steps: int = field(
        50,
        "updates between two lines of metrics.jsonl; each has the mean loss since the last one",
        at_least(1),
    )
    checkpoint_every_steps: int = field(
        500, "updates between two checkpoints, a multiple of log_every_steps", at_least(1)
    )
    sample_every_steps: int = field(
        500,
        "updates between two grids of samples in samples/, with a row for each class, 10 at most",
        at_least(1),
    )
    samples_per_class: int = field(4, "images in a row of a grid", at_least(1))
