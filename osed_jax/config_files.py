"""Mistakes in a person's own config file: said with the file and the line."""

import os
import traceback
from collections.abc import Iterable, Iterator


def mistake_in(arguments: Iterable[str], error: BaseException) -> str:
    """Where in the file that `--config` names an error arose, and what it is; empty for elsewhere.

    Args:
      arguments: of the command line.
      error: what reading the file raised.
    """
    named = [a.partition("=")[2] for a in arguments if a.lstrip("-").startswith("config=")]
    path = os.path.realpath(named[-1].rpartition(":")[0] or named[-1]) if named else ""
    for each in _chain(error):
        if isinstance(each, SyntaxError) and os.path.realpath(each.filename or "") == path:
            return f"{each.filename}, line {each.lineno}: {each.msg}"
        for frame in reversed(traceback.extract_tb(each.__traceback__)):
            if os.path.realpath(frame.filename) == path:
                return f"{frame.filename}, line {frame.lineno}: {each}"
    return ""


def missing_config(given: bool) -> str:
    """What to say where there is no config, with or without a file given by `--config`."""
    if given:
        return "get_config of the file that --config names returns nothing; end it with a return"
    return "--config is missing; give for example --config=configs/digits.py:erm"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from, the innermost first."""
    if error is not None:
        yield from _chain(error.__cause__ or error.__context__)
        yield error
