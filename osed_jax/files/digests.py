"""Digests (sha256) of files and folders, to find damage when they are read."""

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

from osed_jax.errors import DamageError
from osed_jax.files.atomic import free_name
from osed_jax.files.records import unsealed, write_json
from osed_jax.runtime.console import say

FILE = "sha256.json"  # of a folder: path -> sha256 of its content


def write_digests(folder: Path) -> None:
    """Writes `sha256.json` with the digests of all files of a folder."""
    write_json(folder / FILE, {name: file_sha256(folder / name) for name in _files(folder)})


def check_digests(folder: Path) -> bool:
    """Checks the files that `sha256.json` names; returns False if the folder has no such file.

    Raises:
      DamageError: naming the first file that is missing or changed.
    """
    if not (folder / FILE).exists():
        return False
    for name, expected in _listed(folder).items():
        if not (folder / name).is_file():
            raise DamageError(f"{folder / name} is missing")
        if file_sha256(folder / name) != expected:
            raise DamageError(f"{folder / name} has changed since it was written")
    return True


def make_way(folder: Path) -> None:
    """Frees the name of a folder that was written with digests.

    It is removed if it has those files and no others, else renamed, with a message: then somebody
    has put or changed something there.
    """
    if not folder.exists():
        return
    if _is_as_written(folder):
        shutil.rmtree(folder)
        return
    aside = folder.rename(free_name(folder))
    say(f"note: {folder} had files of somebody else or changed ones, so it was moved to {aside}")


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_sha256(folder: Path, files: Iterable[Path]) -> str:
    """Of files below a folder: their names and contents, in this order."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(bytes.fromhex(file_sha256(path)))
    return digest.hexdigest()


def _files(folder: Path) -> list[str]:
    """Paths of all files below a folder, without that of the digests; links count as files."""
    paths = (p for p in sorted(folder.rglob("*")) if p.is_symlink() or not p.is_dir())
    return [str(p.relative_to(folder)) for p in paths if p != folder / FILE]


def _listed(folder: Path) -> dict[str, str]:
    try:
        return unsealed((folder / FILE).read_bytes())
    except DamageError as error:
        raise DamageError(f"{folder / FILE} is damaged: {error}") from error


def _is_as_written(folder: Path) -> bool:
    try:
        return check_digests(folder) and set(_files(folder)) == _listed(folder).keys()
    except DamageError:
        return False
