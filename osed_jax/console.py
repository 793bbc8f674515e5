"""What a run says while it works: lines that do not tear the progress bar apart."""

import contextlib
import contextvars
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from osed_jax import cluster

_MUTED = contextvars.ContextVar("muted", default=False)


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Leaves out what is said inside: the lines of many small runs that are told together."""
    token = _MUTED.set(True)
    try:
        yield
    finally:
        _MUTED.reset(token)


def say(message: str) -> None:
    """Prints one line to standard output, above a progress bar that may be running.

    Of several processes that do one job, the first alone says it.
    """
    if _MUTED.get() or not cluster.is_first():
        return
    with tqdm.external_write_mode():
        print(message, flush=True)


def progress(items: Iterable | None = None, *, total: int, unit: str, label: str) -> tqdm:
    """A progress bar on standard error; silent where that is not a terminal, as `say` is."""
    return tqdm(
        items,
        total=total,
        unit=unit,
        unit_scale=True,
        desc=label,
        disable=None if cluster.is_first() and not _MUTED.get() else True,
        leave=False,
    )
