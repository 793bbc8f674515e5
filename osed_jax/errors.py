"""The exception whose message is for the person at the command line."""

import contextlib
from collections.abc import Iterator


class UserError(ValueError):
    """Bad input. The message says what was given, what is allowed and what to do.

    `main.py` prints it as one `error:` line, without a traceback, and exits with status 2.
    """


@contextlib.contextmanager
def disk_problems_explained(cannot: str, remedy: str) -> Iterator[None]:
    """Turns the error of a full or read-only disk into one line.

    Args:
      cannot: what could not be done, and where.
      remedy: what to do.

    Raises:
      UserError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{cannot}: {error.strerror or error}; {remedy}") from error


class DamageError(UserError):
    """A file is not as it was written."""
