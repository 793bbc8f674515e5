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


def _of_record(content: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(content))  # JSON turns keys that are numbers into text
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON with a digest of its content, indented, with a final newline."""
    write_atomically(path, json.dumps(sealed(content), indent=2) + "\n")


def read_json(path: Path, remedy: str = "restore it from a copy") -> dict[str, Any]:
    """Reads JSON, as `write_json` or an earlier version wrote it.

    Args:
      path: of the file.
      remedy: what to do if it is damaged.

    Raises:
      UserError: if the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}; is {path.parent} a work directory?") from error
    except ValueError as error:
        raise DamageError(f"{path} is not valid JSON ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise DamageError(f"{path} contains no JSON object; {remedy}")
    try:
        return unsealed(content)
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
    records, damaged = read_lines(metrics)
    if damaged:
        say(f"note: {describe_damaged(metrics, damaged)}; the figures in them are lost")
    kept = [json.dumps(sealed(r)) + "\n" for r in records if r.get(unit, end) < end]
    write_atomically(metrics, "".join(kept))
