"""Reads a config from the command line; mistakes in a config file get file and line."""

import os
import traceback
from collections.abc import Iterable, Iterator

from absl import flags
from ml_collections import ConfigDict

from osed_jax.errors import UserError


def parsed(argv: list[str]) -> ConfigDict | None:
    """Parses the command line; returns the config with its overrides, None if none is given.

    Raises:
      UserError: if a flag, a field or a file is missing or wrong.
    """
    try:
        extra = flags.FLAGS(argv)[1:]
        config = flags.FLAGS.config
        if config is not None:
            config.keys()  # a missing file raises only when the config is used
    except Exception as error:  # an error of a config file comes wrapped in a traceback
        text = mistake_in(argv, error)
        text = text or " ".join(str(error.args[0] if error.args else error).split())
        raise UserError(f"{text.split('UserError: ')[-1]} (see python main.py --help)") from error
    if extra:
        raise UserError(f"unexpected argument {extra[0]!r}; flags are written --name=value")
    return config


def mistake_in(arguments: Iterable[str], error: BaseException) -> str:
    """File, line and text of an error in the file that `--config` names; "" if it is elsewhere.

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
    """The message if there is no config; `given` says whether `--config` names a file."""
    if given:
        return (
            "get_config in the file that --config names returns nothing; end it with: return config"
        )
    return "--config is missing; give one, for example --config=configs/digits.py:erm"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from, the innermost first."""
    if error is not None:
        yield from _chain(error.__cause__ or error.__context__)
        yield error
