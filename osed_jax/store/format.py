"""What a store of generated images consists of: its files, their keys, and what must be in them.

    FOLDER/store.json         classes, how many images each should have, the settings of all images
    FOLDER/CLASS/000123.png   the image with index 123 of its class
    FOLDER/metadata.jsonl     one line an image, by class and index
    FOLDER/rejected.jsonl     the same for images that a filter rejected; their files are not kept
    FOLDER/README.md          dataset card
    FOLDER/.metadata-I-of-N.jsonl    the lines of process I of N, until they are merged
    FOLDER.full_size/CLASS/   images as the model drew them, where asked for
    FOLDER.unlisted/          whole images that a full store had no use for
    FOLDER.contact_sheet.png  the first images of every class
    FOLDER.report/gap.json    their distances from real images, by --mode=gap

What lies beside FOLDER would be read as a class inside it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict, get_type_hints

STORE_FILE = "store.json"
METADATA = "metadata.jsonl"
REJECTED = "rejected.jsonl"
CARD = "README.md"
LOCK = ".lock"  # held while the lines are merged
IMAGE = re.compile(r"(\d{6,})\.png")
_FILE_NAME = re.compile(r"[^/\0]+/\d{6,}\.png")
_SHARD = re.compile(r"\.metadata-(\d+)-of-(\d+)\.jsonl")


class Drawing(TypedDict):
    """How images are drawn: settings that each line has, too; the last four where they are used."""

    negative_prompt: str
    seed: int
    steps: int
    scheduler: str
    guidance_scale: float
    image_size: int
    size: int
    resize_method: str
    dtype: str
    model: str
    revision: str
    lora: NotRequired[str]
    lora_scale: NotRequired[float]
    embeddings: NotRequired[str]
    decoder: NotRequired[str]


IN_LINES = tuple(Drawing.__annotations__)


class StartFrom(TypedDict):
    """Of images that started from real ones: the digest of these, and how far they went."""

    images_sha256: str | None
    strength: list[float]
    strength_draw: str


class Settings(Drawing):
    """All that the images of a store follow from, beside class and index."""

    keep_full_size: bool
    prompts: dict[str, list[str]]
    filters: dict[str, Any]
    start_from_train: NotRequired[StartFrom]
    start_from_other_class: NotRequired[StartFrom]


# config.generation.start_from -> the key of the settings that says it; there is none for noise.
START_FROM = {"train": "start_from_train", "other_class": "start_from_other_class"}


class StoreFile(TypedDict):
    """The content of `store.json`."""

    class_names: list[str]
    wanted: dict[str, int]
    settings: Settings


class Started(TypedDict, total=False):
    """The real image that an image started from, if from one.

    Attributes:
      start_image: its position in the training split, or its path.
      strength: share of the denoising steps that were taken from there, in (0, 1].
      start_class: its class, if that may be another one than the image's own.
    """

    start_image: int | str
    strength: float | int
    start_class: str


class Verdict(TypedDict):
    """What the filters said of an image; the reason is None if it was kept."""

    verdict: str
    reason: str | None


_OfClass = TypedDict("_OfClass", {"class": str})  # in this form, as `class` is a word of Python


class Line(_OfClass, Verdict, Started):
    """The line of an image; it also has its prompt, its scores and the keys of `Drawing`."""

    file_name: str
    label: int
    index: int
    sha256: str
    full_size_sha256: str | None


_TYPES = get_type_hints(Line)


def is_line(record: Mapping[str, Any]) -> bool:
    """Whether a record has what a line must have; its image is inside the store."""
    there = _TYPES.keys() & record.keys()
    return (
        Line.__required_keys__ <= there
        and all(isinstance(record[key], _TYPES[key]) for key in there)
        and min(record["label"], record["index"]) >= 0
        and bool(_FILE_NAME.fullmatch(record["file_name"]))
        and not record["file_name"].startswith("../")
    )


def verdict(reason: str | None) -> Verdict:
    """Kept, or rejected for a reason."""
    return {"verdict": "rejected" if reason else "kept", "reason": reason}


def is_kept(line: Verdict) -> bool:
    """Whether no filter rejected an image."""
    return line["verdict"] == "kept"


def file_name(class_name: str, index: int) -> str:
    """Where an image is, below the store's folder."""
    return f"{class_name}/{index:06d}.png"


def shard_name(share: tuple[int, int]) -> str:
    """The file of the lines of process I of N."""
    return f".metadata-{share[0]}-of-{share[1]}.jsonl"


def share_of(name: str) -> tuple[int, int] | None:
    """The process whose lines a file has, I of N; None for another file."""
    match = _SHARD.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def full_size_folder(store: Path) -> Path:
    """Of the images as they were drawn."""
    return _beside(store, "full_size")


def unlisted_folder(store: Path) -> Path:
    """Of whole images that a full store has no line for."""
    return _beside(store, "unlisted")


def contact_sheet_path(store: Path) -> Path:
    """Of the first images of every class."""
    return _beside(store, "contact_sheet.png")


def report_folder(store: Path) -> Path:
    """Of the comparison with real images."""
    return _beside(store, "report")


def gap_path(store: Path) -> Path:
    """Of the distances from real images."""
    return report_folder(store) / "gap.json"


def _beside(store: Path, ending: str) -> Path:
    whole = store if store.name else store.absolute()  # "." has no name
    return whole.with_name(f"{whole.name}.{ending}")
