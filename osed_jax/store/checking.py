"""What is wrong in a store: hashes, counts and files."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from osed_jax.files.lock import is_locked
from osed_jax.runtime.console import progress
from osed_jax.store.format import METADATA, REJECTED, Line, file_name, full_size_folder, is_kept
from osed_jax.store.records import Name, read_lines, sha256, shards
from osed_jax.store.settings import read_store_file


def problems(folder: Path) -> list[str]:
    """The problems of a store, one text each; [] for a complete store."""
    content = read_store_file(folder)
    lines, wrong = _read(folder)
    names = content["class_names"]
    wrong += _wrong_files(folder, lines)
    listed = {Path(line["file_name"]) for line in lines.values() if is_kept(line)}
    for root in (folder, full_size_folder(folder)):
        for path in sorted(p for name in names for p in (root / name).glob("*")):
            if path.relative_to(root) not in listed:
                wrong.append(f"unlisted: {path.relative_to(folder.parent)}")
    num_kept = Counter(line["class"] for line in lines.values() if is_kept(line))
    for name, wanted in content["wanted"].items():
        if num_kept[name] < wanted:
            wrong.append(f"count: class {name!r} has {num_kept[name]:,} of {wanted:,} images")
    return wrong


def _read(folder: Path) -> tuple[dict[Name, Line], list[str]]:
    """Lines by name, and the problems of their files."""
    lines: dict[Name, Line] = {}
    wrong = []
    for path in shards(folder):
        state = "is at work" if is_locked(path) else "was stopped"
        wrong.append(f"unfinished: the process that writes {path.name} {state}")
    for path in (folder / METADATA, folder / REJECTED, *shards(folder)):
        whole, broken = read_lines(path)
        wrong += [f"broken line: {path.name}, line {number}" for number in broken]
        for line in whole:
            name = line["label"], line["index"]
            if name in lines:
                wrong.append(f"listed twice: {line['file_name']} in {path.name}")
            lines[name] = line
    return lines, wrong


def _wrong_files(folder: Path, lines: Mapping[Name, Line]) -> list[str]:
    wrong = []
    with progress(lines.values(), total=len(lines), unit="image", label="verifying") as bar:
        for line in bar:
            if line["file_name"] != file_name(line["class"], line["index"]):
                wrong.append(f"wrong name: {line['file_name']}")
            if not is_kept(line):
                continue
            wrong += _wrong_file(folder, line["file_name"], line["sha256"])
            if line["full_size_sha256"]:
                drawn = full_size_folder(folder)
                wrong += _wrong_file(drawn, line["file_name"], line["full_size_sha256"])
    return wrong


def _wrong_file(folder: Path, name: str, expected: str) -> list[str]:
    try:
        if (folder / name).exists() and not (folder / name).is_file():
            return [f"no regular file: {folder.name}/{name}"]
        content = (folder / name).read_bytes()
    except OSError:
        return [f"missing: {folder.name}/{name}"]
    return [] if sha256(content) == expected else [f"changed: {folder.name}/{name}"]
