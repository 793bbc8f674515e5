"""The loop that fills a store: draw, judge, write, replace what was rejected."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

from osed_jax.diffusion.samples import Samples
from osed_jax.errors import UserError
from osed_jax.generation.filters import Filters
from osed_jax.runtime.console import progress, say
from osed_jax.store.format import Line, file_name, is_kept, verdict
from osed_jax.store.records import Name, encode, sha256
from osed_jax.store.writing import Store


def fill(
    store: Store,
    draw: Callable[[Sequence[Name]], Samples],
    describe: Callable[[int, int], dict[str, Any]],
    filters: Filters,
    *,
    batch_size: int,
    max_attempts: float,
) -> int:
    """Makes what this process's share of a store misses; returns how many images were drawn.

    Args:
      store: opened by `filling`.
      draw: makes the images of batch_size (label, index); each must follow from these two, and
        from its row in the batch.
      describe: the keys of a line that are known beforehand, from label and index.
      filters: judge the images; they are told of those that the store has already.
      batch_size: images.
      max_attempts: indices to try, in multiples of the wanted number of a class.

    Raises:
      UserError: where a class is not full after max_attempts; its images stay.
    """
    for line in _own_kept(store):
        filters.remember(line)
    started, drawn = time.monotonic(), 0
    with progress(total=sum(store.missing()), unit="image", label="generating") as bar:
        while names := store.next_names(max_attempts):
            num_unlisted = 0
            for name in names:  # one at a time: there may be more than fit into memory
                if one := _unlisted(store, name, filters):
                    bar.update(_add(store, {0: name}, one, describe, filters))
                    num_unlisted += 1
            if num_unlisted:
                say(f"{num_unlisted:,} images existed without a line; they are not drawn again")
                continue
            for batch in arranged(names, store.position, batch_size):
                bar.update(_add(store, batch, _draw(batch, draw, batch_size), describe, filters))
                drawn += len(batch)
    seconds = time.monotonic() - started
    if drawn:
        say(f"drew {drawn:,} images in {seconds:,.0f} s, {drawn / seconds:,.2f} images/s")
    _check_full(store, max_attempts)
    return drawn


def arranged(
    names: Sequence[Name], position: Callable[[Name], int], batch_size: int
) -> Iterator[dict[int, Name]]:
    """Batches, row -> (label, index), in which an image always has the row position % batch_size.

    Programs round differently in different rows of a batch, so an image that is drawn again, or
    after an interruption, must have the row it would have had. Each class keeps its order, in which
    duplicates are told from originals.
    """
    waiting: dict[int, deque[Name]] = {}
    for name in names:
        waiting.setdefault(name[0], deque()).append(name)
    while waiting:
        batch: dict[int, Name] = {}
        for label, queue in list(waiting.items()):
            while queue and (row := position(queue[0]) % batch_size) not in batch:
                batch[row] = queue.popleft()
            if not queue:
                del waiting[label]
        yield batch


def rates(class_names: Sequence[str], lines: Sequence[Line]) -> list[str]:
    """A line for every class: how many images were kept, and why others were rejected."""
    told = []
    for name in class_names:
        of_class = [line for line in lines if line["class"] == name]
        reasons = Counter(line["reason"] for line in of_class if not is_kept(line))
        if not of_class:
            continue
        text = f"{name}: {len(of_class) - reasons.total():,} images"
        if reasons:
            share = reasons.total() / len(of_class)
            why = ", ".join(f"{n:,} {reason}" for reason, n in sorted(reasons.items()))
            text += f"; {reasons.total():,} of {len(of_class):,} rejected ({share:.1%}): {why}"
        told.append(text)
    return told


def _unlisted(store: Store, name: Name, filters: Filters) -> Samples | None:
    """An image that is there already; None for none, and where judging needs the drawing."""
    if filters.needs_drawing or (there := store.unlisted(name)) is None:
        return None
    image, full_size = there
    return Samples(image[None], None if full_size is None else full_size[None])


def _draw(
    batch: Mapping[int, Name], draw: Callable[[Sequence[Name]], Samples], batch_size: int
) -> Samples:
    """The images of a batch, in its order; rows that it leaves free repeat one of its images."""
    anything = next(iter(batch.values()))
    drawn = draw([batch.get(row, anything) for row in range(batch_size)])
    rows = list(batch)
    image, *others = (None if part is None else part[rows] for part in drawn)
    assert image is not None
    return Samples(image, *others)


def _add(
    store: Store,
    batch: Mapping[int, Name],
    drawn: Samples,
    describe: Callable[[int, int], dict[str, Any]],
    filters: Filters,
) -> int:
    """Judges and writes a batch; returns how many images were kept."""
    files = [encode(image) for image in drawn.image]
    labels = np.asarray([label for label, _ in batch.values()])
    scores = filters.score(drawn.image, labels, drawn.safety_margin)
    kept = 0
    for i, (label, index) in enumerate(batch.values()):
        full_size = None if drawn.full_size is None else encode(drawn.full_size[i])
        known = {
            "file_name": file_name(store.class_names[label], index),
            "class": store.class_names[label],
            "label": label,
            "index": index,
            **describe(label, index),
            "sha256": sha256(files[i]),
            "full_size_sha256": None if full_size is None else sha256(full_size),
            **scores[i],
        }
        line = cast(Line, {**known, **verdict(filters.reason(known))})
        store.add(line, files[i], full_size)
        if is_kept(line):
            filters.remember(line)
            kept += 1
    return kept


def _own_kept(store: Store) -> list[Line]:
    first, step = store.share
    return [line for (_, i), line in store.lines.items() if is_kept(line) and i % step == first]


def _check_full(store: Store, max_attempts: float) -> None:
    short = [f"{n} ({m:,})" for n, m in zip(store.class_names, store.missing()) if m]
    if short:
        raise UserError(
            f"{store.folder}: after {max_attempts:g} times as many images as wanted, the "
            f"filters left too few images of these classes: {', '.join(short)}. Images that "
            "were kept stay. Raise config.generation.max_attempts, or make the filters less "
            "strict in a new store"
        )
