"""Warns of images in two sets or two classes; they are compared by their pixels."""

from collections.abc import Iterator

from osed_jax.data.image_set import ImageSet
from osed_jax.errors import UserError
from osed_jax.runtime.console import say

_PAIRS = (  # pairs (a, b): no image of a may be in b
    ("test", "training"),
    ("test", "validation"),
    ("test", "generated"),
    ("validation", "training"),
    ("validation", "generated"),
)


def check_sets(sets: dict[str, ImageSet]) -> None:
    """Warns of test images that are also training images, and of images under two classes.

    It is a warning, not an error: published sets contain some of both, and figures are compared on
    them as they are. Sets of images with more than 8 bits must have the same white value.

    Args:
      sets: by name: `training`, `validation`, `test`, `generated`, or some of them.

    Raises:
      UserError: if the white values differ.
    """
    _check_one_white(sets)
    rows = {name: _rows(data) for name, data in sets.items()}
    for name, data in sets.items():
        if twice := list(_under_two_classes(data, rows[name])):
            first, second = (_describe(data, row) for row in twice[0])
            say(
                f"WARNING: {len(twice):,} of {len(data.label):,} {name} images are also under "
                f"another class (the first: {first} and {second}); one of the two is wrong: "
                "remove it"
            )
    for name, other in _PAIRS:
        if name in sets and other in sets:
            _warn_of_shared(sets, rows, name, other)


def _warn_of_shared(
    sets: dict[str, ImageSet], rows: dict[str, dict[bytes, int]], name: str, other: str
) -> None:
    data = sets[name]
    shared = [row for row, d in enumerate(data.images.digests) if d.tobytes() in rows[other]]
    if not shared:
        return
    twin = rows[other][data.images.digests[shared[0]].tobytes()]
    say(
        f"WARNING: {len(shared):,} of {len(data.label):,} {name} images "
        f"({len(shared) / len(data.label):.1%}) are also {other} images (the first: "
        f"{_describe(data, shared[0])} is the same image as "
        f"{_describe(sets[other], twin)}); they make the {name} figures too good: remove "
        "them from one of the two"
    )


def _rows(data: ImageSet) -> dict[bytes, int]:
    """Digest -> the first row that has it."""
    found: dict[bytes, int] = {}
    for row, digest in enumerate(data.images.digests):
        found.setdefault(digest.tobytes(), row)
    return found


def _under_two_classes(data: ImageSet, rows: dict[bytes, int]) -> Iterator[tuple[int, int]]:
    for row, digest in enumerate(data.images.digests):
        first = rows[digest.tobytes()]
        if data.label[first] != data.label[row]:
            yield first, row


def _describe(data: ImageSet, row: int) -> str:
    if data.images.paths:
        return str(data.images.paths[row])
    return f"image {row} of class {data.class_names[data.label[row]]!r}"


def _check_one_white(sets: dict[str, ImageSet]) -> None:
    white = {name: data.images.white for name, data in sets.items() if data.images.white}
    if len(set(white.values())) > 1:
        values = ", ".join(f"{name} {value:,.6g}" for name, value in white.items())
        raise UserError(
            f"images with more than 8 bits have different ranges (white: {values}), so they "
            "would be shown at different brightness; save all with 8 bits per value, scaled "
            "alike"
        )
