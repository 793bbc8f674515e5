"""--mode=filter: applies the filters to generated images that any tool made."""

import hashlib
import os
import shutil
from collections import Counter
from pathlib import Path

import jax
import numpy as np

from osed_jax.config.fields_of_generation import Generation
from osed_jax.config.schema import Config
from osed_jax.data.image_set import ImageSet
from osed_jax.data.images import FileImages
from osed_jax.data.listing import class_folders, files_of_classes, say_what_is_left_out
from osed_jax.errors import UserError
from osed_jax.experiment import loading
from osed_jax.files import records
from osed_jax.files.atomic import whole_folder
from osed_jax.files.digests import write_digests
from osed_jax.generation.classifier_filter import (
    FILTERS,
    filter_settings,
    load_judge,
    make_filters,
    only_subset,
)
from osed_jax.generation.filters import Filters
from osed_jax.runtime.console import progress, say
from osed_jax.store.origins import starts_from_real
from osed_jax.store.reading import METADATA, check_classes, check_images
from osed_jax.store.started_from import starts_elsewhere

FILE = "filter.json"
_BATCH = 256  # images at a time; the result does not depend on it


def filter(config: Config) -> dict[str, dict[str, int]]:
    """Fills `config.generation.filtered_dir` with the images of `generated_dir` that pass.

    Files are hard-linked, or copied if that is not possible. The folder is renamed to its name once
    complete. Its `filter.json` has the filters and the number of images per class and verdict.

    Returns:
      Class -> verdict -> number of images; the verdict `kept`, or the reason against it.

    Raises:
      UserError: if no filter is on, the new folder exists or is inside the other, there is no
        image, a class loses all images, or an image or the classifier cannot be used.
    """
    gen, source = config.generation, loading.generated_dir(config)
    target = _target(gen, source)
    split_set = loading.load_train(config, loading.open_cache(target))
    train = split_set.train
    check_classes(source, train.class_names)
    if starts_from_real(source):
        lost = "their soft labels" if starts_elsewhere(source) else "which of them are held out"
        raise UserError(
            f"the images of {source} started from real images, and without their lines in "
            f"{METADATA} {lost} would be lost; set the filters in --mode=generate, for a new store"
        )
    check_images(source)
    folders = class_folders(source)
    found = files_of_classes(folders)
    say_what_is_left_out(source, found)
    batch_size = _BATCH * jax.local_device_count()
    judge, only = load_judge(gen), only_subset(split_set.rows, split_set.held_out)
    filters = make_filters(gen, judge, train, batch_size, only)
    with whole_folder(target.absolute()) as unfinished:
        verdicts: dict[str, dict[str, int]] = {name: {} for name in train.class_names}
        for name, folder in folders.items():
            verdicts[name] = _select_class(
                folder, found[name].images, unfinished / name, train, filters, batch_size
            )
        if not any(verdicts.values()):
            raise UserError(
                f"there is no image in {source}; config.oversampling.generated_dir must contain a "
                f"folder for each class: {', '.join(train.class_names)}"
            )
        settings = {"generated_dir": str(source), **{name: getattr(gen, name) for name in FILTERS}}
        judged = {"classifier": filter_settings(gen, judge)["classifier"]}
        records.write_json(unfinished / FILE, {"settings": settings, **judged, "images": verdicts})
        write_digests(unfinished)
    for name, judged in verdicts.items():
        parts = (f"{count:,} {verdict}" for verdict, count in judged.items())
        say(f"{name}: {', '.join(parts) or 'no images'}")
    say(f"the selected images are in {target}")
    return verdicts


def _target(gen: Generation, source: Path) -> Path:
    target = Path(gen.filtered_dir)
    if not gen.filtered_dir:
        raise UserError(
            "config.generation.filtered_dir is empty; give a new folder for the selected images"
        )
    if target.exists():
        raise UserError(
            f"config.generation.filtered_dir is {target}, which exists already; give a new folder, "
            f"or remove it first"
        )
    if source.resolve() in target.resolve().parents:
        raise UserError(
            f"config.generation.filtered_dir is {target}, which is inside {source}, where "
            "each folder is a class; give a folder beside it"
        )
    if gen.safety_checker:
        raise UserError(
            "config.generation.safety_checker belongs to the generator, so it works in "
            "--mode=generate only; set it to False"
        )
    if not any(getattr(gen, name) for name in FILTERS):
        raise UserError(
            "all filters are off, so every image would be kept; set some of config.generation."
            f"{', '.join(FILTERS)}"
        )
    return target


def _select_class(
    source: Path,
    paths: list[Path],
    target: Path,
    train: ImageSet,
    filters: Filters,
    batch_size: int,
) -> dict[str, int]:
    label = train.class_names.index(target.name)
    verdicts: Counter[str] = Counter()
    images = FileImages(paths, train.images.image_size)
    with progress(total=len(paths), unit="image", label=f"judging {source}") as bar:
        for start in range(0, len(paths), batch_size):
            part = np.arange(start, min(start + batch_size, len(paths)))
            pixels, labels = images.take(part), np.full(len(part), label)
            for row, image, scores in zip(part, pixels, filters.score(pixels, labels)):
                # The digest of the pixels: other tools may write equal images as different files.
                digest = hashlib.sha256(image.tobytes()).hexdigest()
                record = {"label": label, "sha256": digest, **scores}
                reason = filters.reason(record)
                verdicts[reason or "kept"] += 1
                if reason is None:
                    filters.remember(record)
                    kept = target / paths[row].relative_to(source)
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    _link(paths[row], kept)
            bar.update(len(part))
    if paths and not verdicts["kept"]:
        told = ", ".join(f"{count:,} {reason}" for reason, count in verdicts.items())
        raise UserError(
            f"the filters leave no image of class {train.class_names[label]!r} ({told}); make "
            "them less strict"
        )
    return dict(verdicts.most_common())


def _link(source: Path, target: Path) -> None:
    whole = source.resolve()  # a hard link to a relative symbolic link would be broken
    try:
        os.link(whole, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(whole, target)
