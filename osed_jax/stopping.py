"""Ctrl-C and SIGTERM: one line, exit status 130 or 143, and a run that can go on later."""

import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

_NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}


class Stopped(KeyboardInterrupt):
    """A signal to stop; libraries treat it as they do Ctrl-C.

    Attributes:
      status: the exit status that it asks for.
    """

    def __init__(self, number: int = signal.SIGINT):
        name = _NAMES[signal.Signals(number)]
        super().__init__(f"{name}; the same command continues from what is saved")
        self.status = 128 + number


def at_once() -> None:
    """While nothing is to be put in order, as during imports, a signal ends the process itself.

    An exception could come out of a library's initialisation as any other, or not at all.
    """
    for number in _NAMES:
        signal.signal(number, _end)


def by_exception() -> None:
    """From here on a signal raises `Stopped` in the main thread; a second one ends the process."""
    for number in _NAMES:
        signal.signal(number, _raise)
    sys.unraisablehook = _tell_or_end


def end(status: int) -> NoReturn:
    """Ends the process now, without what libraries do at exit: that may fail as the command did.

    Writers of event files fail on a full disk, and JAX where another process of its job is gone.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _end(number: int, frame: FrameType | None) -> None:
    print(f"error: {Stopped(number)}", file=sys.stderr, flush=True)
    os._exit(128 + number)


def _raise(number: int, frame: FrameType | None) -> None:
    at_once()
    raise Stopped(number)


def _tell_or_end(unraisable: Any) -> None:
    """`sys.unraisablehook`: `Stopped` was raised in a callback, say of JAX, which swallows it."""
    if isinstance(unraisable.exc_value, Stopped):
        _end(unraisable.exc_value.status - 128, None)
    sys.__unraisablehook__(unraisable)
