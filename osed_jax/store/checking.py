"""What is wrong in a store: hashes, counts and files."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from osed_jax.runtime.console import progress
from osed_jax.store.reading import read_store_file
from osed_jax.store.records import (
    METADATA,
    REJECTED,
    Name,
    Record,
    file_name,
    full_size_folder,
    is_kept,
    lives,
    read_lines,
    sha256,
    shards,
)


def problems(folder: Path) -> list[str]:
    """The problems of a store, one text each; [] for a complete store."""
    content = read_store_file(folder)
    records, found = _read(folder)
    names = content["class_names"]
    found += _wrong_files(folder, records)
    listed = {Path(r["file_name"]) for r in records.values() if is_kept(r)}
    for root in (folder, full_size_folder(folder)):
        for path in sorted(p for name in names for p in (root / name).glob("*")):
            if path.relative_to(root) not in listed:
                found.append(f"unlisted: {path.relative_to(folder.parent)}")
    kept = Counter(r["class"] for r in records.values() if is_kept(r))
    for name, wanted in content["wanted"].items():
        if kept[name] < wanted:
            found.append(f"count: class {name!r} has {kept[name]:,} of {wanted:,} images")
    return found


def _read(folder: Path) -> tuple[dict[Name, Record], list[str]]:
    """Records by name, and the problems of their files."""
    records: dict[Name, Record] = {}
    found = []
    for path in shards(folder):
        state = "is at work" if lives(path) else "was stopped"
        found.append(f"unfinished: the process that writes {path.name} {state}")
    for path in (folder / METADATA, folder / REJECTED, *shards(folder)):
        lines, broken = read_lines(path)
        found += [f"broken line: {path.name}, line {number}" for number in broken]
        for record in lines:
            name = record["label"], record["index"]
            if name in records:
                found.append(f"listed twice: {record['file_name']} in {path.name}")
            records[name] = record
    return records, found


def _wrong_files(folder: Path, records: Mapping[Name, Record]) -> list[str]:
    found = []
    with progress(records.values(), total=len(records), unit="image", label="verifying") as bar:
        for record in bar:
            if record["file_name"] != file_name(record["class"], record["index"]):
                found.append(f"wrong name: {record['file_name']}")
            if not is_kept(record):
                continue
            found += _wrong_file(folder, record["file_name"], record["sha256"])
            if record["full_size_sha256"]:
                drawn = full_size_folder(folder)
                found += _wrong_file(drawn, record["file_name"], record["full_size_sha256"])
    return found


def _wrong_file(folder: Path, name: str, expected: str) -> list[str]:
    try:
        if (folder / name).exists() and not (folder / name).is_file():
            return [f"no regular file: {folder.name}/{name}"]
        content = (folder / name).read_bytes()
    except OSError:
        return [f"missing: {folder.name}/{name}"]
    return [] if sha256(content) == expected else [f"changed: {folder.name}/{name}"]
