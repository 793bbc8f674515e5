"""Turns what a command raises into one line for a person and an exit status."""

import errno
import io
import os
import sys
import traceback
from collections.abc import Callable
from types import TracebackType

from osed_jax.errors import UserError
from osed_jax.runtime import cluster
from osed_jax.runtime.signals import Stopped

_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "give another folder, or allow writing there"
    ),
}
# Packages that the core does without, by the name under which they are imported.
_OPTIONAL = (
    "tensorflow",
    "tensorflow_datasets",
    "diffusers",
    "transformers",
    "tokenizers",
    "huggingface_hub",
    "safetensors",
)


def _of_the_machine(error: BaseException) -> str:
    """One line for a full disk, a missing device or package; "" for other errors."""
    text = str(error)
    if isinstance(error, ModuleNotFoundError) and error.name in _OPTIONAL:
        return (
            f"this needs the package {error.name}, which is not installed; install everything "
            f"with pip install -r requirements.txt"
        )
    if traceback.extract_tb(error.__traceback__)[-1].filename.endswith("jax/_src/xla_bridge.py"):
        asked = os.environ.get("JAX_PLATFORMS", "")
        return (
            f"JAX finds no device of JAX_PLATFORMS={asked!r} ({text[:200] or 'no reason given'}); "
            f"unset JAX_PLATFORMS, or install what that platform needs"
        )
    if "No space left on device" in text or "Disk quota exceeded" in text:
        line = next(s for s in text.splitlines() if "space" in s or "quota" in s)
        return f"{line.strip()[-300:]}; free some space, then start again"
    return ""


def _tell_unless_closed(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """`sys.excepthook`. Errors of a command are caught, so only native threads call it.

    When a checkpoint has failed, each of its writers finds the event loop closed: not reported.
    """
    if str(error) != "Event loop is closed":
        sys.__excepthook__(kind, error, trace)


def exit_status_of(command: Callable[[], None]) -> int:
    """Calls a command. Returns 0 if it succeeds, 2 after one line for an error of the user, else 1.

    A command that a signal stopped returns 128 + the number of the signal.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8
    sys.excepthook = _tell_unless_closed
    try:
        command()
        cluster.leave()
        return 0
    except (Exception, KeyboardInterrupt) as error:
        message, status = _told(error)
        if not message:
            traceback.print_exc()
        cluster.end_if_joined(error, message, status)
        if message:
            print(f"error: {message}", file=sys.stderr)
        return status


def _told(error: BaseException) -> tuple[str, int]:
    """One line for a person ("" if there is none), and the exit status."""
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, OSError):
        return f"{error}; {_ADVICE.get(error.errno or 0, 'repair this')}, then start again", 2
    if isinstance(error, KeyboardInterrupt):
        stopped = error if isinstance(error, Stopped) else Stopped()
        return str(stopped), stopped.status
    of_the_machine = _of_the_machine(error)
    return of_the_machine, 2 if of_the_machine else 1
