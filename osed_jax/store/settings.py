"""What all images of a store share: `store.json`, written once and compared ever after."""

from pathlib import Path
from typing import Any

from osed_jax.config.compare import differences
from osed_jax.errors import UserError
from osed_jax.files.records import write_json
from osed_jax.store.reading import STORE_FILE, read_store_file
from osed_jax.store.records import REJECTED, is_kept, lives, read_records, shards


def write_settings(folder: Path, content: dict[str, Any]) -> None:
    """Writes `store.json`, or checks that it has the same settings already.

    A store without images takes new settings; lines of images that a filter rejected under the
    old settings are removed then.

    Args:
      folder: of the store, which exists.
      content: `class_names`, `wanted` (class -> number) and `settings`.

    Raises:
      UserError: for a folder of other images, and for images of other settings.
    """
    path = folder / STORE_FILE
    if not path.exists():
        foreign = sorted(p.name for p in folder.iterdir() if p.name[0] != ".")
        if foreign:
            raise UserError(
                f"{folder} contains {foreign[0]!r} but no {STORE_FILE}, so it is not a store of "
                "generated images; give a new folder in config.oversampling.generated_dir"
            )
        write_json(path, content)
    before = read_store_file(folder)
    empty = _is_empty(folder)
    fixed = ("class_names", "settings")
    old, new = ({name: c[name] for name in fixed} for c in (before, content))
    changed = differences(old, new)
    if changed and not empty:
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


def _is_empty(folder: Path) -> bool:
    """Whether a store has no images yet, so that its settings bind nobody."""
    at_work = any(map(lives, shards(folder)))
    kept = any(map(is_kept, read_records(folder).values()))
    return not (at_work or kept or any(folder.glob("*/*.png")))
