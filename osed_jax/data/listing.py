"""Finds class folders and their image files, and reports all other files."""

import os
import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from osed_jax.data.decoding import is_image
from osed_jax.errors import UserError
from osed_jax.files.atomic import in_utf8
from osed_jax.runtime.console import say

# Files with these endings are images; one that cannot be read is an error. Files with another
# ending, or none, are images if their first bytes say so.
ENDINGS = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c"),
        *(".png", ".apng", ".gif", ".bmp", ".dib", ".webp", ".avif", ".tif", ".tiff", ".qoi"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
    }
)
# Images that Pillow does not read (from raw files it would read the small preview).
UNREADABLE = frozenset(
    {
        *(".heic", ".heif", ".hif", ".jxl", ".svg", ".psd", ".dcm", ".exr", ".hdr"),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
    }
)
# Files that operating systems and file servers leave in any folder.
_SYSTEM_FOLDERS = frozenset(
    {
        *("__MACOSX", "@eaDir", "@Recycle", "@Recently-Snapshot", "#recycle", "#snapshot"),
        *("$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__"),
    }
)
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db"})
_NAMED = 20  # files that one error names


class ClassFiles(NamedTuple):
    """The files of a class.

    Attributes:
      images: sorted by their paths.
      nested: number of them that are in subfolders of the class folder.
      left_out: files that are not images.
      unusable: files that should be images but cannot be read: path and reason.
    """

    images: list[Path]
    nested: int
    left_out: list[Path]
    unusable: list[str]


def class_folders(folder: Path) -> dict[str, Path]:
    """The classes in `folder`: name, in the composed form of Unicode, -> its folder; sorted.

    Hidden folders and folders made by operating systems are not classes.

    Raises:
      UserError: if there is no such folder or no class in it, a link leads nowhere, a name is
        not in UTF-8, or two names are the same.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; it must contain one folder for each class")
    entries = sorted(p for p in folder.iterdir() if not _is_of_the_system(p.name))
    if dead := [p for p in entries if _is_dead_link(p)]:
        raise UserError(
            f"{first_few([_dead(p) for p in dead])}; mount what the links lead to, or remove them"
        )
    folders = [p for p in entries if p.is_dir()]
    if foreign := [str(p) for p in folders if not in_utf8(p.name)]:
        raise UserError(
            f"{first_few(foreign)}: class names must be in UTF-8; rename the folders (convmv "
            "does this)"
        )
    found: dict[str, Path] = {}
    for path in folders:
        name = unicodedata.normalize("NFC", path.name)
        if name in found:
            raise UserError(
                f"{folder} has two folders named {name!r}, in two forms of Unicode; move the "
                "images of one into the other"
            )
        found[name] = path
    if not found:
        raise UserError(f"{folder} contains no class folders; put images at {folder}/CLASS/*.jpg")
    return dict(sorted(found.items()))


def files_of_classes(folders: Mapping[str, Path]) -> dict[str, ClassFiles]:
    """The files of each class, in folders of any depth; links are followed.

    Args:
      folders: class name -> its folder; one that does not exist has no files.

    Raises:
      UserError: naming every file that should be an image but cannot be read.
    """
    found = {name: _files_in(folder) for name, folder in folders.items()}
    if unusable := [line for files in found.values() for line in files.unusable]:
        raise UserError(
            f"{len(unusable):,} files cannot be read: {first_few(unusable)}; save images as "
            "PNG or JPEG, mount what links lead to, or remove the files"
        )
    return found


def say_what_is_left_out(folder: Path, found: Mapping[str, ClassFiles]) -> None:
    """Prints which files in subfolders count for a class, and which files are left out."""
    nested = Counter({name: files.nested for name, files in found.items() if files.nested})
    if nested:
        say(
            f"note: {nested.total():,} images of {folder} are in subfolders of a class folder "
            f"and count for that class ({_counts(nested)})"
        )
    left_out = Counter({name: len(files.left_out) for name, files in found.items()})
    if left_out.total():
        endings = Counter(p.suffix or "no ending" for f in found.values() for p in f.left_out)
        say(
            f"note: {left_out.total():,} files of {folder} are not images and are left out "
            f"({_counts(+left_out)}; {_counts(endings)})"
        )
    beside = [p for p in folder.iterdir() if p.suffix.lower() in ENDINGS | UNREADABLE]
    if beside := [p for p in beside if not _is_of_the_system(p.name) and p.is_file()]:
        say(
            f"note: {len(beside):,} images are directly in {folder}, not in a class folder, "
            f"and are left out (the first: {min(beside).name})"
        )


def _files_in(folder: Path) -> ClassFiles:
    images, left_out, unusable, seen = [], [], [], set()

    def refuse(error: OSError) -> None:
        unusable.append(f"{error.filename} ({error.strerror})")

    if not folder.is_dir():
        return ClassFiles([], 0, [], [])
    for where, inner, names in os.walk(folder, followlinks=True, onerror=refuse):
        place = os.stat(where)
        if (place.st_dev, place.st_ino) in seen:  # a link to a folder above
            inner.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        inner[:] = [name for name in inner if not _is_of_the_system(name)]
        for path in (Path(where, name) for name in names if not _is_of_the_system(name)):
            ending = path.suffix.lower()
            if _is_dead_link(path):
                unusable.append(_dead(path))
            elif not path.is_file():
                unusable.append(f"{path} (no regular file)")
            elif ending in UNREADABLE:
                unusable.append(f"{path} ({ending} is not read)")
            elif ending in ENDINGS or is_image(path):
                images.append(path)
            else:
                left_out.append(path)
    nested = sum(path.parent != folder for path in images)
    return ClassFiles(sorted(images), nested, sorted(left_out), sorted(unusable))


def _is_of_the_system(name: str) -> bool:
    return name[0] == "." or name in _SYSTEM_FOLDERS or name.lower() in _SYSTEM_FILES


def _is_dead_link(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _dead(path: Path) -> str:
    return f"{path} (a link to {os.readlink(path)}, which is not there)"


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def first_few(lines: list[str]) -> str:
    """The first lines of many, and the number of the others."""
    more = f" and {len(lines) - _NAMED:,} more" if len(lines) > _NAMED else ""
    return ", ".join(lines[:_NAMED]) + more
