"""Digests (sha256) of records and of a folder's files, to find damage when they are read."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from osed_jax.errors import UserError

KEY = "digest"  # of a record: the sha256 of all its other fields
FILE = "sha256.json"  # of a folder: path -> sha256 of its content


class DamageError(UserError):
    """A file is not as it was written."""


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with a digest of its content, as JSON gives it back."""
    content = {name: value for name, value in record.items() if name != KEY}
    return {**content, KEY: _of_record(content)}


def unsealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record without its digest; records of earlier versions have none.

    Raises:
      DamageError: if the content does not match the digest.
    """
    content = {name: value for name, value in record.items() if name != KEY}
    if KEY in record and record[KEY] != _of_record(content):
        raise DamageError(f'its content does not match its "{KEY}"')
    return content


def read_lines(
    path: Path,
    needed: Sequence[str] = (),
    *,
    growing: bool = True,
    allowed: Callable[[dict[str, Any]], bool] = lambda record: True,
) -> tuple[list[dict[str, Any]], list[int]]:
    """The records of a file of JSON lines, and the numbers of its damaged lines, from 1.

    Args:
      path: of the file; a missing file has no lines.
      needed: fields that a record must have.
      allowed: a further test of a record; if it fails, the line counts as damaged.
      growing: whether lines are appended to the file. Then a last line without a newline was being
        written by a killed process; it is left out and does not count as damaged.
    """
    records, damaged = [], []
    *lines, rest = path.read_bytes().split(b"\n") if path.exists() else [b""]
    if rest and not growing:
        lines.append(rest)
    for number, line in enumerate(lines, start=1):
        try:
            record = unsealed(json.loads(line))
        except (ValueError, AttributeError, DamageError):
            damaged.append(number)
            continue
        if all(name in record for name in needed) and allowed(record):
            records.append(record)
        else:
            damaged.append(number)
    return records, damaged


def describe_damaged(path: Path, lines: Sequence[int]) -> str:
    """Which lines of a file are damaged, in words."""
    some = ", ".join(map(str, lines[:5])) + (", ..." if len(lines) > 5 else "")
    return f"{len(lines):,} damaged lines of {path} are left out (line {some})"


def write_digests(folder: Path, files: Sequence[Path] | None = None) -> None:
    """Writes `sha256.json` with the digests of a folder's files, by default all of them."""
    found = [p for p in folder.rglob("*") if p.is_file()] if files is None else files
    lines = {str(p.relative_to(folder)): file_sha256(p) for p in sorted(found) if p.name != FILE}
    (folder / FILE).write_text(json.dumps(sealed(lines), indent=2) + "\n")


def check_digests(folder: Path) -> bool:
    """Checks the files that `sha256.json` names; returns False if the folder has no such file.

    Raises:
      DamageError: naming the first file that is missing or changed.
    """
    path = folder / FILE
    if not path.exists():
        return False
    try:
        known = unsealed(json.loads(path.read_text()))
    except (ValueError, AttributeError, DamageError) as error:
        raise DamageError(f"{path} is damaged ({error})") from error
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


def _of_record(content: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(content))  # JSON turns keys that are numbers into text
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
