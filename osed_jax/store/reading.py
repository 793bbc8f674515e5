"""The generated images of mode `generated`: a folder CLASS/*.png|jpg|... made by any tool."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from osed_jax.data.folder import read_class_folders
from osed_jax.data.image_set import ImageSet
from osed_jax.data.listing import class_folders, files_of_classes
from osed_jax.errors import DamageError, UserError
from osed_jax.files.digests import FILE as DIGESTS
from osed_jax.files.digests import check_digests, file_sha256
from osed_jax.files.records import describe_damaged, read_json, read_lines
from osed_jax.runtime.console import progress, say

STORE_FILE = "store.json"  # in a folder that --mode=generate filled
_JSON = {list: "list", dict: "JSON object"}
METADATA = "metadata.jsonl"  # in such a folder, with one line for each image
_MEASURE_AGAIN = "make it again with --mode=gap"


def load_generated(
    generated_dir: str,
    *,
    class_names: Sequence[str],
    image_size: int,
    cache_dir: Path,
    max_decoded_gib: float,
) -> ImageSet:
    """Reads all generated images of a folder.

    Args:
      generated_dir: contains a folder for every class that has some.
      class_names: C names of the training set.
      image_size: side in pixels; images of another size are resized, with a message.
      cache_dir: where decoded images are kept.
      max_decoded_gib: see `images.read_files`.

    Raises:
      UserError: for a missing folder, one filled for other classes, a folder of an unknown class,
        an image that cannot be read.
    """
    if not generated_dir:
        raise UserError(
            "config.oversampling.generated_dir is empty; mode generated needs a folder of "
            "generated images, CLASS/*.png|jpg|..."
        )
    folder = Path(generated_dir)
    check_classes(folder, class_names)
    check_images(folder)
    return read_class_folders(
        folder,
        class_names,
        image_size=image_size,
        cache_dir=cache_dir,
        max_decoded_gib=max_decoded_gib,
        may_be_empty=True,
    )


def report_path(store: Path) -> Path:
    """STORE.report, beside the store: inside, it could be read as a class folder."""
    whole = store.absolute() if not store.name else store
    return whole.with_name(f"{whole.name}.report")


def classes_shown(
    store: Path, class_names: Sequence[str], *, only: Sequence[str], max_gap: float
) -> list[str]:
    """Names of the classes that may show generated images, in the order of the classes.

    Args:
      store: the folder of generated images; their distances are in STORE.report/gap.json.
      class_names: C names of the training set.
      only: names to choose from; () for all.
      max_gap: the largest Fréchet distance of a class, in multiples of the median class's; 0 for
        no limit. A class too small for a distance stays in, and is named.

    Raises:
      UserError: if a name is not a class, or the distances of these classes are missing.
    """
    if unknown := sorted(set(only) - set(class_names)):
        raise UserError(
            f"config.oversampling.generated_classes names {', '.join(map(repr, unknown))}; the "
            f"classes are {', '.join(class_names)}"
        )
    chosen = [name for name in class_names if not only or name in only]
    if not max_gap:
        return chosen
    path = report_path(store) / "gap.json"
    distance, _ = _measured(path)
    if list(distance) != list(class_names):
        raise UserError(
            f"{path} was measured for the classes {', '.join(distance)}, but the data set's "
            f"are {', '.join(class_names)}; {_MEASURE_AGAIN} for this data set"
        )
    known = [d for d in distance.values() if d is not None]
    limit = max_gap * float(np.median(known)) if known else np.inf
    near = [n for n in chosen if (d := distance[n]) is None or d <= limit]
    unmeasured = [n for n in near if distance[n] is None]
    say(
        f"generated images within {max_gap:g} times the median distance: {len(near)} of "
        f"{len(chosen)} classes ({', '.join(near) or 'none'})"
        + (f"; too few images to measure: {', '.join(unmeasured)}" if unmeasured else "")
    )
    return near


def _measured(path: Path) -> tuple[dict[str, float | None], str]:
    """Of `gap.json`: each class's Fréchet distance, and the digest of the generated images."""
    if not path.exists():
        raise UserError(
            f"config.oversampling.max_gap needs {path}; make it with --mode=gap, the work "
            "directory of a finished run and the same generated_dir"
        )
    content = read_json(path, _MEASURE_AGAIN)
    try:
        distance = {row["class"]: row["generated_frechet_distance"] for row in content["classes"]}
        return distance, content["content_sha256"]["generated"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} has not what it should say ({error}); {_MEASURE_AGAIN}") from error


def check_measured(store: Path, content_sha256: str | None) -> None:
    """Raises UserError if the distances in STORE.report/gap.json are of other images.

    Args:
      store: the folder of generated images.
      content_sha256: of the images that are there now, see `ImageSet.content_sha256`.
    """
    path = report_path(store) / "gap.json"
    if _measured(path)[1] != content_sha256:
        raise UserError(
            f"{path} was measured on other images than those in {store}; {_MEASURE_AGAIN}"
        )


def check_images(folder: Path) -> None:
    """Checks generated images by the digests that were saved when they were made, if any.

    Images without a digest are used, and their number is printed.

    Raises:
      UserError: naming the first image that has changed.
    """
    if not (folder / STORE_FILE).exists():
        _check_filtered(folder)
        return
    records, damaged = read_lines(folder / METADATA, ("file_name", "sha256"), growing=False)
    if damaged:
        say(f"note: {describe_damaged(folder / METADATA, damaged)}; --mode=generate repairs this")
    known = {record["file_name"]: record["sha256"] for record in records}
    folders = class_folders(folder)
    paths = [
        (f"{name}/{path.relative_to(folders[name])}", path)
        for name, files in files_of_classes(folders).items()
        for path in files.images
    ]
    changed, unknown = [], 0
    for file, path in progress(paths, total=len(paths), unit="image", label=f"checking {folder}"):
        expected = known.pop(file, None)
        unknown += expected is None
        if expected not in (None, file_sha256(path)):
            changed.append(path)
    if changed:
        raise UserError(
            f"{len(changed):,} images of {folder} have changed since they were made, by their "
            f"sha256 in {METADATA}; the first is {changed[0]}; run --mode=verify to see all, "
            "remove them, then run --mode=generate to make them again"
        )
    if unknown:
        say(
            f"note: {unknown:,} images of {folder} have no line in {METADATA}, so they are "
            "not checked"
        )
    if known:
        say(
            f"note: {len(known):,} images of {folder} are missing; --mode=generate makes them again"
        )


def _check_filtered(folder: Path) -> None:
    try:
        check_digests(folder)
    except DamageError as error:
        raise UserError(
            f"{error}; remove {folder} and make it again with --mode=filter, or remove "
            f"{folder / DIGESTS} to use the images unchecked"
        ) from error


def read_store_file(folder: Path) -> dict[str, Any]:
    """The content of a store's `store.json`: class_names, wanted, settings and others.

    Raises:
      UserError: if it is missing, damaged or changed by hand into something else.
    """
    path = folder / STORE_FILE
    remedy = "restore it, or remove it to use the images like those of another tool"
    content = read_json(path, remedy)
    for key, kind in {"class_names": list, "wanted": dict, "settings": dict}.items():
        if not isinstance(content.get(key), kind):
            raise UserError(f"{path} has no {key} as a {_JSON[kind]}; {remedy}")
    names = content["class_names"]
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} has class_names that are no texts; {remedy}")
    wanted = content["wanted"]
    if list(wanted) != names or not all(isinstance(n, int) and n >= 0 for n in wanted.values()):
        raise UserError(f"{path} must have in wanted a whole number for each class; {remedy}")
    return content


def check_classes(folder: Path, class_names: Sequence[str]) -> None:
    """Raises UserError if `folder` is not a folder, or has images of other classes than these."""
    unknown = sorted(set(class_folders(folder)) - set(class_names))
    if unknown:
        raise UserError(
            f"{folder} has generated images of class {', '.join(map(repr, unknown))}, which the "
            f"data set does not have; its classes are {', '.join(class_names)}"
        )
    if not (folder / STORE_FILE).exists():  # made by another tool
        return
    made_for = read_store_file(folder)["class_names"]
    if list(class_names) != made_for:
        raise UserError(
            f"{folder} was generated for the classes {', '.join(made_for)}, but the data set's are "
            f"{', '.join(class_names)}; generate images for this data set in a new folder"
        )


def check_need(
    generated_dir: str | Path,
    generated: ImageSet,
    class_counts: Sequence[int],
    *,
    shown: Sequence[str] = (),
    in_all_classes: bool = False,
    left_out: str = "",
) -> None:
    """Compares generated images with what the classes lack; prints a note if there are fewer.

    Args:
      generated_dir: their folder.
      generated: those that may be shown.
      class_counts: C counts of the natural images.
      shown: names of the classes that may show generated images; () for all.
      in_all_classes: whether the most frequent class shows generated images, too.
      left_out: why others of the folder may not be shown, in words; "" if all may.

    Raises:
      UserError: if there is none, or none of a class that must show some.
    """
    names, has = generated.class_names, np.asarray(generated.class_counts)
    why = f"; {left_out}" if left_out else ""
    if not has.any():
        raise UserError(f"{generated_dir} has no image that this run may show{why}")
    used = np.isin(names, shown) if len(shown) else np.ones(len(names), bool)
    counts = np.asarray(class_counts)
    lacks = np.where(used, counts.max() - counts, 0)
    empty = [n for n, h, m in zip(names, has, lacks) if m and not h]
    if empty:
        raise UserError(
            f"{generated_dir} has no generated images of class {', '.join(map(repr, empty))}, "
            f"which has fewer training images than the most frequent class; add some{why}"
        )
    if in_all_classes and not has[used].all():
        missing = ", ".join(repr(n) for n, h, u in zip(names, has, used) if u and not h)
        raise UserError(
            f"{generated_dir} has no generated images of class {missing}, but "
            "config.oversampling.replace_in=all shows some of every class; add some, or use "
            f"replace_in=tail{why}"
        )
    few = [f"{n} ({h:,} of {m:,})" for n, h, m in zip(names, has, lacks) if h < m]
    if few:
        say(
            f"note: {generated_dir} has fewer generated images than a full balance needs, so they "
            f"will repeat: {', '.join(few)}"
        )
