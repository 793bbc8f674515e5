"""Lines that a run prints while it works, above its progress bar."""

import contextlib
import contextvars
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from osed_jax.runtime import cluster

_MUTED = contextvars.ContextVar("muted", default=False)


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Prints nothing inside the block: many small runs are reported together afterwards."""
    token = _MUTED.set(True)
    try:
        yield
    finally:
        _MUTED.reset(token)


def say(message: str) -> None:
    """Prints one line to standard output, above a progress bar that may be running.

    If several processes do one job, only the first one prints it.
    """
    if _MUTED.get() or not cluster.is_first():
        return
    with tqdm.external_write_mode():
        print(message, flush=True)


def progress(items: Iterable | None = None, *, total: int, unit: str, label: str) -> tqdm:
    """A progress bar on standard error; none if that is not a terminal or `say` prints nothing."""
    return tqdm(
        items,
        total=total,
        unit=unit,
        unit_scale=True,
        desc=label,
        disable=None if cluster.is_first() and not _MUTED.get() else True,
        leave=False,
    )
