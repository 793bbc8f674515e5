"""Digests (sha256) of records and of a folder's files, to find damage when they are read."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from osed_jax.errors import DamageError
from osed_jax.files.records import unsealed, write_json

FILE = "sha256.json"  # of a folder: path -> sha256 of its content


def write_digests(folder: Path, files: Sequence[Path] | None = None) -> None:
    """Writes `sha256.json` with the digests of a folder's files, by default all of them."""
    found = [p for p in folder.rglob("*") if p.is_file()] if files is None else files
    lines = {str(p.relative_to(folder)): file_sha256(p) for p in sorted(found) if p.name != FILE}
    write_json(folder / FILE, lines)


def check_digests(folder: Path) -> bool:
    """Checks the files that `sha256.json` names; returns False if the folder has no such file.

    Raises:
      DamageError: naming the first file that is missing or changed.
    """
    path = folder / FILE
    if not path.exists():
        return False
    try:
        known = unsealed(path.read_bytes())
    except DamageError as error:
        raise DamageError(f"{path} is damaged: {error}") from error
    for name, expected in known.items():
        if not (folder / name).is_file():
            raise DamageError(f"{folder / name} is missing")
        if file_sha256(folder / name) != expected:
            raise DamageError(f"{folder / name} has changed since it was written")
    return True


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
