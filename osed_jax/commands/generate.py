"""--mode=generate: fills a store of generated images."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from osed_jax.batches.plan import replace_probability
from osed_jax.config.build import as_plain
from osed_jax.config.compare import differences, plain
from osed_jax.config.fields_of_generation import Generation
from osed_jax.config.schema import Config, with_values
from osed_jax.config.stages import replaced_share, stages
from osed_jax.data.image_set import ImageSet
from osed_jax.diffusion import stable_diffusion
from osed_jax.diffusion.model_files.layout import PARTS
from osed_jax.diffusion.safety import load_safety_checker
from osed_jax.diffusion.sampler import Sampler
from osed_jax.diffusion.samples import Samples
from osed_jax.diffusion.schedulers import few_steps_warning
from osed_jax.errors import UserError
from osed_jax.experiment import loading, workdir
from osed_jax.files.digests import files_sha256
from osed_jax.generation.add_ons import ADDITIONS, additions, check_words, with_additions
from osed_jax.generation.classifier_filter import (
    filter_settings,
    load_judge,
    make_filters,
    only_subset,
)
from osed_jax.generation.filling import fill, rates
from osed_jax.generation.prompts import class_prompts, read_own
from osed_jax.generation.starts import Starts
from osed_jax.runtime.console import say
from osed_jax.store.card import contact_sheet_path, write_card, write_contact_sheet
from osed_jax.store.records import Name, Record, is_kept
from osed_jax.store.writing import Store, filling

# Settings of all images that each one's record has, too.
_RECORDED = (
    "negative_prompt",
    "seed",
    "steps",
    "scheduler",
    "guidance_scale",
    "image_size",
    "size",
    "resize_method",
    "dtype",
    "model",
    "revision",
    *ADDITIONS,
)


def generate(config: Config) -> None:
    """Fills `config.oversampling.generated_dir` with images of the classes that lack them.

    Raises:
      UserError: for a bad config, a model that cannot be had, a store of other settings, a full
        disk, too little device memory, filters that leave too few images. What was made stays.
    """
    folder = loading.generated_dir(config)
    gen = config.generation
    found = loading.load_train(config, loading.open_cache(folder))
    train = found.train
    if len(found.held_out):
        _check_saw_no_validation_images(gen.model, config, train)
    wanted = wanted_counts(config, train.class_counts)
    own = read_own(gen.prompts_file, train.class_names)
    model = stable_diffusion.load(gen.model, gen.revision, dtype=jnp.dtype(gen.dtype))
    model = with_additions(model, gen)
    starts = _starts(gen, found)
    judge = load_judge(gen)
    settings = _settings(gen, model, train, own) | {"filters": filter_settings(gen, judge)}
    texts = [text for prompts in settings["prompts"].values() for text in prompts]
    check_words(model.tokenizer.words, [*texts, settings["negative_prompt"]])
    sampler = _sampler(settings, model, gen)
    # The sampler has made its batch size a multiple of the devices' number.
    only = only_subset(found.rows, found.held_out)
    filters = make_filters(gen, judge, train, sampler.batch_size, only)
    with filling(
        folder,
        settings=settings,
        class_names=train.class_names,
        wanted=wanted,
        process_index=gen.process_index,
        process_count=gen.process_count,
        repeated=filters.repeated,
        finish=functools.partial(_overview, folder, settings, train.class_names),
    ) as store:
        _say_what_is_there(store)
        fill(
            store,
            _drawing(sampler, settings, train.class_names, starts),
            lambda label, index: (
                _describe(settings, train.class_names[label], index)
                | (starts.describe(label, index) if starts else {})
            ),
            filters,
            batch_size=sampler.batch_size,
            max_attempts=gen.max_attempts,
        )


def wanted_counts(config: Config, class_counts: Sequence[int]) -> list[int]:
    """How many generated images each class is to have, by `config.generation.count`.

    `balance`: n_max - n_c. `replace_ratio`: the slots that a run is expected to fill with generated
    images of the class, epochs * N / C * P(replace | c) * (1 - noise_share), so that on average
    none is shown twice, but no more than `balance` (n_max where all classes show some). A number:
    as it is.

    Raises:
      UserError: for `balance` where all classes show some.
    """
    count, over = config.generation.count, config.oversampling
    counts = np.asarray(class_counts)
    lacks = counts.max() - counts
    in_all_classes = over.replace_in == "all"
    if count == "balance":
        if in_all_classes:
            raise UserError(
                "config.generation.count is balance, which makes no image of the most frequent "
                "class, but config.oversampling.replace_in=all shows some; use replace_ratio or "
                "a number"
            )
        return lacks.tolist()
    if count != "replace_ratio":
        return [int(count)] * len(counts)
    shown_by = with_values(config, {"oversampling.mode": "generated"})  # the run that they are for
    # Of each epoch's draws, added up over all epochs.
    share = sum(replaced_share(s, e) for s in stages(shown_by) for e in range(s.first, s.end))
    replaced = replace_probability(class_counts, share, in_all_classes=in_all_classes) * (
        1 - over.noise_share
    )
    slots = counts.sum() / len(counts) * replaced
    most = counts.max() if in_all_classes else lacks
    return np.minimum(np.ceil(slots), most).astype(int).tolist()


def _check_saw_no_validation_images(model: str, config: Config, train: ImageSet) -> None:
    """Raises UserError if the generator was adapted to images that are held out here.

    What it draws would carry them into training. It is certain that it was not if it was adapted to
    these very training images, or to a data set that is cut and split in the same way.
    """
    folder, ours = Path(model), {"dataset": as_plain(config)["dataset"]}
    # A generator may have been adapted to one thing after the other.
    while (folder / "config.json").is_file():
        theirs = workdir.read_kept_config(folder)
        if "finetune" not in theirs:
            return  # not made by --mode=finetune
        digests = workdir.read_facts(folder)["content_sha256"]
        changed = differences(
            {"dataset": theirs["dataset"]}, ours, lambda field: "training" in field.chooses_images
        )
        if changed and digests["training"] != train.content_sha256():
            raise UserError(
                f"{folder} is a generator that was fine-tuned with other images held out "
                f"({'; '.join(changed)}) and may have seen the validation images; fine-tune one "
                "with the same config.dataset, or hold out no images"
            )
        folder = Path(theirs["finetune"]["base"])


def _settings(
    gen: Generation, model: stable_diffusion.StableDiffusion, train: ImageSet, own: Any
) -> dict[str, Any]:
    """All that the images follow from, so that a store never holds two kinds."""
    sample_size = model.configs["unet"].get("sample_size", 64)
    start_from = gen.start_from
    start = {
        "images_sha256": train.content_sha256(),
        "strength": plain(gen.strength),
        "strength_draw": gen.strength_draw,
    }
    return {
        **({f"start_from_{start_from}": start} if start_from != "noise" else {}),
        "model": gen.model,
        "revision": model.revision or _fingerprint(Path(gen.model)),
        "dtype": gen.dtype,
        "seed": gen.seed,
        "steps": gen.steps,
        "scheduler": gen.scheduler,
        "guidance_scale": gen.guidance_scale,
        "negative_prompt": gen.negative_prompt,
        "image_size": gen.image_size or sample_size * model.downscale,
        "size": train.images.image_size,
        "resize_method": gen.resize_method,
        "keep_full_size": gen.keep_full_size,
        "prompts": {
            name: list(
                class_prompts(name, templates=gen.templates, modifiers=gen.modifiers, own=own)
            )
            for name in train.class_names
        },
        **additions(gen),
    }


def _fingerprint(folder: Path) -> str:
    """Names the content of a model's folder: another adaptation may lie at the same path."""
    parts = (folder / part for part in (*PARTS, "scheduler", "tokenizer"))
    files = [path for part in parts for path in sorted(part.iterdir()) if path.is_file()]
    return f"sha256:{files_sha256(folder, files)}"


def _sampler(
    settings: dict[str, Any], model: stable_diffusion.StableDiffusion, gen: Generation
) -> Sampler:
    names = (
        "image_size",
        "size",
        "resize_method",
        "scheduler",
        "steps",
        "guidance_scale",
        "keep_full_size",
    )
    steps = settings["scheduler"], settings["steps"]
    if warning := few_steps_warning(model.schedule.config, *steps):
        say(warning)
    return Sampler(
        model,
        batch_size=gen.batch_size,
        safety_checker=load_safety_checker(gen.model, gen.revision) if gen.safety_checker else None,
        **{name: settings[name] for name in names},
    )


def _starts(gen: Generation, found: loading.TrainSplit) -> Starts | None:
    """What images start from; None for noise. Only long-tailed training images are known to it."""
    if gen.start_from == "noise":
        return None
    return Starts(
        found.train,
        found.rows,
        seed=gen.seed,
        strength=gen.strength,
        uniform=gen.strength_draw == "uniform",
        other_class=gen.start_from == "other_class",
    )


def _drawing(
    sampler: Sampler, settings: dict[str, Any], class_names: Sequence[str], starts: Starts | None
) -> Any:
    def draw(names: Sequence[Name]) -> Samples:
        made = sampler(
            [_prompt(settings, class_names[label], index) for label, index in names],
            seed=settings["seed"],
            labels=[label for label, _ in names],
            indices=[index for _, index in names],
            negative_prompt=settings["negative_prompt"],
            start=starts.batch(names) if starts else None,
        )
        return Samples(*(None if part is None else np.asarray(part) for part in made))

    return draw


def _prompt(settings: dict[str, Any], class_name: str, index: int) -> str:
    prompts = settings["prompts"][class_name]
    return prompts[index % len(prompts)]


def _describe(settings: dict[str, Any], class_name: str, index: int) -> Record:
    prompt = {"prompt": _prompt(settings, class_name, index)}
    return prompt | {name: settings[name] for name in _RECORDED if name in settings}


def _say_what_is_there(store: Store) -> None:
    there = sum(map(is_kept, store.records.values()))
    index, count = store.share
    share = f", as process {index} of {count}" if count > 1 else ""
    say(
        f"{store.folder}: {there:,} of {sum(store.wanted):,} images are there; "
        f"{sum(store.missing()):,} to make{share} on {jax.local_device_count()} x "
        f"{jax.local_devices()[0].device_kind}"
    )


def _overview(
    folder: Path, settings: dict[str, Any], class_names: Sequence[str], records: list[Record]
) -> None:
    """Card, contact sheet and a line a class."""
    write_card(folder, class_names, settings, records)
    write_contact_sheet(folder, class_names, records)
    for line in rates(class_names, records):
        say(line)
    say(f"the images are in {folder}, a contact sheet is {contact_sheet_path(folder)}")
