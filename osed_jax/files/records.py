"""Records with a digest of their content: files of JSON, and of lines of JSON."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from osed_jax.errors import DamageError, UserError
from osed_jax.files.atomic import write_atomically
from osed_jax.runtime.console import say

KEY = "digest"  # of a record: the sha256 of all its other fields


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with a digest of its content."""
    content = {name: value for name, value in record.items() if name != KEY}
    return {**content, KEY: _digest(content)}


def unsealed(text: str | bytes) -> dict[str, Any]:
    """The record that a text of JSON contains, without its digest.

    Raises:
      DamageError: if it is no JSON object, has no digest or not that of its content.
    """
    record = _parsed(text)
    content = {name: value for name, value in record.items() if name != KEY}
    if KEY not in record:
        raise DamageError(f'it has no "{KEY}"')
    if record[KEY] != _digest(content):
        raise DamageError(f'its content does not match its "{KEY}"')
    return content


def as_line(record: Mapping[str, Any]) -> str:
    """The record, sealed, as a line of a file of JSON lines."""
    return json.dumps(sealed(record)) + "\n"


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
            record = unsealed(line)
        except DamageError:
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


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON with a digest of its content, indented, with a final newline."""
    write_atomically(path, json.dumps(sealed(content), indent=2) + "\n")


def read_json(path: Path, remedy: str = "restore it from a copy") -> dict[str, Any]:
    """Reads JSON that `write_json` wrote.

    A person who changes such a file on purpose removes the line with the digest; then its content
    is taken as it is, with a note.

    Args:
      path: of the file.
      remedy: what to do if it is damaged.

    Raises:
      UserError: if the file is missing or damaged.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}; is {path.parent} a work directory?") from error
    try:
        record = _parsed(text)
    except DamageError as error:
        raise DamageError(f"{path} is damaged: {error}; {remedy}") from error
    if KEY not in record:
        say(f'note: {path} has no line with a "{KEY}", so its content is not checked')
        return record
    try:
        return unsealed(text)
    except DamageError as error:
        raise DamageError(
            f"{path} is damaged or was changed by hand: {error}; {remedy}, or remove the line "
            "with the digest if you changed it on purpose"
        ) from error


def keep_lines_before(metrics: Path, unit: str, end: int) -> None:
    """Drops the lines of `metrics.jsonl` that a resumed run will write again.

    Damaged lines are dropped too, with a message; the lines after them stay.

    Args:
      metrics: the file.
      unit: the field that counts its lines, `epoch` or `step`.
      end: lines from this count on are dropped.
    """
    if not metrics.exists():
        return
    records, damaged = read_lines(metrics, (unit,))
    if damaged:
        say(f"note: {describe_damaged(metrics, damaged)}; the figures in them are lost")
    write_atomically(metrics, "".join(as_line(r) for r in records if r[unit] < end))


def _parsed(text: str | bytes) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise DamageError(f"it is not valid JSON ({error})") from error
    if not isinstance(record, dict):
        raise DamageError("it contains no JSON object")
    return record


def _digest(content: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(content))  # JSON turns keys that are numbers into text
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
