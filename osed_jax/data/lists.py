"""Sets given as lists of images: `PATH LABEL` lines, or CSV with the columns path and label."""

import csv
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from osed_jax.data.folder import read_image_files
from osed_jax.data.image_set import ImageSet
from osed_jax.data.images import THREADS
from osed_jax.data.listing import first_few
from osed_jax.errors import UserError
from osed_jax.files.atomic import in_utf8
from osed_jax.runtime.console import say

_COLUMNS = ("path", "label")


class _Entry(NamedTuple):
    line: int
    path: str
    label: str


def load_list(
    lists: Mapping[str, str],
    split: str,
    *,
    root: str,
    image_size: int,
    cache_dir: Path,
    max_decoded_gib: float,
) -> ImageSet:
    """The images of a list, in the order of its lines.

    The classes are the labels of the training list: sorted as numbers if all are whole numbers,
    else sorted as names.

    Args:
      lists: split (`train`, `validation`, `test`) -> file.
      split: which of them.
      root: folder where the paths begin; "" for the folder of the list.
      image_size: side in pixels that all images get.
      cache_dir: where decoded images are kept.
      max_decoded_gib: decoded images that are larger than this are streamed from their files.

    Raises:
      UserError: naming every line that is not a path and a label, has a class that is not in the
        training list, or names a missing image; and every image that cannot be read.
    """
    names = _class_names(lists["train"])
    file = Path(lists[split])
    entries = _read(file)
    label = _labels(file, entries, names, lists["train"])
    paths = _paths(file, entries, root)
    if absent := sorted(set(range(len(names))) - set(label)):
        say(
            f"note: {file} has no images of {len(absent):,} of the {len(names):,} classes "
            f"({first_few([names[c] for c in absent])})"
        )
    images = read_image_files(
        paths,
        image_size,
        cache_dir=cache_dir,
        max_decoded_gib=max_decoded_gib,
        label=str(file),
    )
    return ImageSet(images, np.asarray(label, np.int64), names)


def check_lists(lists: Mapping[str, str], root: str) -> None:
    """Checks all lists, and that their images exist, before any is decoded.

    Raises:
      UserError: as `load_list`, for the lines of any list.
    """
    names = _class_names(lists["train"])
    for file in (Path(name) for name in lists.values() if name):
        entries = _read(file)
        _labels(file, entries, names, lists["train"])
        _paths(file, entries, root)


def _read(file: Path) -> list[_Entry]:
    """The entries of a list; raises UserError with all lines that cannot be used."""
    entries: list[_Entry] = []
    bad: list[str] = []
    line_of: dict[str, int] = {}
    for entry in _lines(file):
        if problem := _problem(entry, line_of):
            bad.append(f"line {entry.line} ({problem})")
        entries.append(entry)
        line_of.setdefault(entry.path, entry.line)
    if bad:
        raise UserError(
            f"{_lines_of(len(bad), file)} cannot be used: {first_few(bad)}; each line must "
            "be PATH LABEL, or, in a file that ends in .csv, PATH,LABEL below the header "
            "path,label"
        )
    if not entries:
        raise UserError(f"{file} names no images; give a line PATH LABEL for each image")
    return entries


def _lines(file: Path) -> Iterator[_Entry]:
    # Names of files may contain bytes that are not UTF-8.
    try:
        with open(file, newline="", encoding="utf-8-sig", errors="surrogateescape") as text:
            yield from _csv_rows(file, text) if file.suffix.lower() == ".csv" else _text_lines(text)
    except OSError as error:
        raise UserError(
            f"cannot read the list {file} ({error.strerror}); give a text file of PATH LABEL lines"
        ) from error
    except csv.Error as error:
        raise UserError(f"{file} is not a CSV file ({error}); save it again as CSV") from error


def _text_lines(text: Iterator[str]) -> Iterator[_Entry]:
    for line, content in enumerate(text, start=1):
        *path, label = content.rsplit(maxsplit=1) or [""]
        if path:
            yield _Entry(line, path[0].strip(), label)
        elif label:
            yield _Entry(line, label, "")


def _csv_rows(file: Path, text: Iterator[str]) -> Iterator[_Entry]:
    rows = csv.DictReader(text, restval="")
    columns = [name.strip() for name in rows.fieldnames or ()]
    if not set(_COLUMNS) <= set(columns):
        raise UserError(
            f"the header of {file} is {','.join(columns)}; it must name the columns path and label"
        )
    if others := [name for name in columns if name not in _COLUMNS]:
        say(f"note: only the columns path and label of {file} are used, not {', '.join(others)}")
    rows.fieldnames = columns
    for row in rows:
        yield _Entry(rows.line_num, row["path"].strip(), row["label"].strip())


def _problem(entry: _Entry, line_of: Mapping[str, int]) -> str:
    if not entry.path:
        return "no path"
    if not entry.label:
        return f"no label behind {entry.path}"
    if not in_utf8(entry.label):
        return "a label that is not in UTF-8"
    if "\0" in entry.path:
        return "a path with a zero byte"
    if entry.path in line_of:
        return f"the image of line {line_of[entry.path]}"
    return ""


def _class_names(train_list: str) -> tuple[str, ...]:
    labels = {entry.label for entry in _read(Path(train_list))}
    if all(map(_is_number, labels)):
        names = [str(number) for number in sorted(set(map(int, labels)))]
    else:
        names = sorted({_as_name(label) for label in labels})
    if len(names) < 2:
        raise UserError(f"{train_list} has only one class, {names[0]!r}; at least 2 are needed")
    return tuple(names)


def _labels(file: Path, entries: list[_Entry], names: Sequence[str], train_list: str) -> list[int]:
    numbered = all(map(_is_number, names))
    label_of = {name: label for label, name in enumerate(names)}

    def name(label: str) -> str:
        return str(int(label)) if numbered and _is_number(label) else _as_name(label)

    found = [label_of.get(name(entry.label)) for entry in entries]
    unknown = [f"line {e.line} ({e.label})" for e, label in zip(entries, found) if label is None]
    if unknown:
        raise UserError(
            f"labels of {_lines_of(len(unknown), file)} are not in {train_list}: "
            f"{first_few(unknown)}; every class needs training images"
        )
    return [label for label in found if label is not None]


def _paths(file: Path, entries: list[_Entry], root: str) -> list[Path]:
    """The paths of the images; raises UserError with all that do not exist."""
    folder = Path(root) if root else file.parent
    paths = [folder / entry.path for entry in entries]
    there = THREADS.map(Path.is_file, paths)
    missing = [f"line {e.line} ({p})" for e, p, found in zip(entries, paths, there) if not found]
    if missing:
        raise UserError(
            f"{len(missing):,} of {len(paths):,} images of {file} do not exist: "
            f"{first_few(missing)}; config.dataset.data_dir is {root!r} and must be the "
            "folder where the paths of the list begin"
        )
    return paths


def _lines_of(count: int, file: Path) -> str:
    return f"{count:,} {'line' if count == 1 else 'lines'} of {file}"


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdecimal()


def _as_name(label: str) -> str:
    return unicodedata.normalize("NFC", label)
