"""`store.json`: what all images of a store share, written once and compared ever after."""

from pathlib import Path
from typing import cast

from osed_jax.config.compare import differences
from osed_jax.errors import UserError
from osed_jax.files.lock import is_locked
from osed_jax.files.records import read_json, write_json
from osed_jax.store.format import REJECTED, STORE_FILE, StoreFile, is_kept
from osed_jax.store.records import read_all_lines, shards


def is_store(folder: Path) -> bool:
    """Whether a folder was filled by --mode=generate; else its images are of another tool."""
    return (folder / STORE_FILE).exists()


def read_store_file(folder: Path) -> StoreFile:
    """The content of a store's `store.json`.

    Raises:
      UserError: if it is missing, damaged or changed by hand into something else.
    """
    path = folder / STORE_FILE
    remedy = "restore it, or remove it to use the images like those of another tool"
    content = read_json(path, remedy)
    for key, kind, said in (
        ("class_names", list, "list"),
        ("wanted", dict, "JSON object"),
        ("settings", dict, "JSON object"),
    ):
        if key not in content or not isinstance(content[key], kind):
            raise UserError(f"{path} has no {key} as a {said}; {remedy}")
    names, wanted = content["class_names"], content["wanted"]
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} has class_names that are no texts; {remedy}")
    if list(wanted) != names or not all(isinstance(n, int) and n >= 0 for n in wanted.values()):
        raise UserError(f"{path} must have in wanted a whole number for each class; {remedy}")
    return cast(StoreFile, content)


def write_store_file(folder: Path, content: StoreFile) -> None:
    """Writes `store.json`, or checks that it has the same settings already.

    A store without images takes new settings; lines of images that a filter rejected under the
    old settings are removed then.

    Args:
      folder: of the store, which exists.
      content: of the file.

    Raises:
      UserError: for a folder of other images, and for images of other settings.
    """
    path = folder / STORE_FILE
    if not is_store(folder):
        foreign = sorted(p.name for p in folder.iterdir() if p.name[0] != ".")
        if foreign:
            raise UserError(
                f"{folder} contains {foreign[0]!r} but no {STORE_FILE}, so it is not a store of "
                "generated images; give a new folder in config.oversampling.generated_dir"
            )
        write_json(path, content)
    before = read_store_file(folder)
    changed = differences(_fixed(before), _fixed(content))
    if changed and not _is_empty(folder):
        raise UserError(
            f"{folder} has images made with other settings ({'; '.join(changed)}); give "
            "another config.oversampling.generated_dir, or the old values to continue with "
            "this store"
        )
    if changed:
        for leftover in (folder / REJECTED, *shards(folder)):
            leftover.unlink(missing_ok=True)
    if before != content:  # another number of images, or no image yet
        write_json(path, content)


def _fixed(content: StoreFile) -> dict[str, object]:
    """What never changes while a store has images."""
    return {"class_names": content["class_names"], "settings": content["settings"]}


def _is_empty(folder: Path) -> bool:
    """Whether a store has no images yet, so that its settings bind nobody."""
    at_work = any(map(is_locked, shards(folder)))
    has_lines = any(map(is_kept, read_all_lines(folder).values()))
    return not (at_work or has_lines or any(folder.glob("*/*.png")))
