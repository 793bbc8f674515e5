"""Ctrl-C and SIGTERM: one line, exit status 130 or 143; the run can be continued later."""

import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

_NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}


class Stopped(KeyboardInterrupt):
    """Raised by a signal to stop; libraries treat it like Ctrl-C.

    Attributes:
      status: the exit status of the process.
    """

    def __init__(self, number: int = signal.SIGINT):
        name = _NAMES[signal.Signals(number)]
        super().__init__(f"{name}; the same command continues from what is saved")
        self.status = 128 + number


def at_once() -> None:
    """From here on a signal ends the process at once, for times without anything to clean up.

    During imports an exception could be changed or lost in the initialisation of a library.
    """
    for number in _NAMES:
        signal.signal(number, _end)


def by_exception() -> None:
    """From here on a signal raises `Stopped` in the main thread; a second one ends at once."""
    for number in _NAMES:
        signal.signal(number, _raise)
    sys.unraisablehook = _tell_or_end


def end(status: int) -> NoReturn:
    """Ends the process at once, without the exit handlers of libraries, which may fail.

    Writers of event files fail on a full disk, and JAX fails if another process of its job is gone.
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
    """`sys.unraisablehook`: ends the process if a callback, such as JAX's, swallowed `Stopped`."""
    if isinstance(unraisable.exc_value, Stopped):
        _end(unraisable.exc_value.status - 128, None)
    sys.__unraisablehook__(unraisable)
