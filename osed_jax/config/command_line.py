"""Reads a config from the command line; mistakes in a config file get file and line."""

import inspect
import os
import runpy
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from osed_jax.config import build
from osed_jax.config.by_method import MethodConfigs, overridden
from osed_jax.config.methods import METHODS
from osed_jax.config.schema import Config
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
        text = mistake_in(argv, error) or " ".join(
            str(error.args[0] if error.args else error).split()
        )
        raise UserError(f"{text.split('UserError: ')[-1]} (see python main.py --help)") from error
    if extra:
        raise UserError(f"unexpected argument {extra[0]!r}; flags are written --name=value")
    return config


def of_one(config: ConfigDict, argv: Sequence[str]) -> Config:
    """The checked config, after `parsed`; prints which fields of its method are given otherwise.

    Args:
      config: as `parsed` returns it.
      argv: the command line.

    Raises:
      UserError: if a field is unknown, missing or out of range.
    """
    from osed_jax.runtime.console import say

    known = build.check(config)
    if (method := _method(argv)) in METHODS:
        for line in overridden(known, _given(), method):
            say(f"note: {line}")
    return known


def of_methods(mode: str, argv: Sequence[str]) -> MethodConfigs:
    """What --config and its overrides say for any method, after `parsed`.

    Args:
      mode: the mode that asks, for messages.
      argv: the command line.

    Raises:
      UserError: if the config file takes no method.
    """
    from osed_jax.runtime.console import say

    path = config_flags.get_config_filename(flags.FLAGS["config"])
    get_config = runpy.run_path(path)["get_config"]
    if not inspect.signature(get_config).parameters:
        raise UserError(
            f"get_config in {path} takes no method; --mode={mode} needs one that does, "
            "get_config(method), as in the files of configs/"
        )
    if method := _method(argv):
        say(f"note: --mode={mode} has methods of its own; {method!r} after the colon is not used")
    return MethodConfigs(get_config, _given())


def _given() -> dict[str, Any]:
    """The fields that the command line sets, by their full names."""
    return dict(config_flags.get_override_values(flags.FLAGS["config"]))


def _method(argv: Sequence[str]) -> str:
    """What stands after the colon of --config; "" for nothing."""
    written = [a for a in argv if a.lstrip("-").startswith("config=")]
    return written[-1].partition("=")[2].partition(":")[2] if written else ""


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
