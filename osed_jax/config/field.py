"""Rules for fields of the schema: a test of the value, and the allowed values in words."""

from collections.abc import Callable
from typing import Any, NamedTuple

from osed_jax.files.atomic import in_utf8


class Rule(NamedTuple):
    """A test of a value, and the allowed values in words."""

    valid: Callable[[Any], bool]
    allowed: str


def one_of(*allowed: str) -> Rule:
    """One of these texts."""
    return Rule(lambda x: x in allowed, f"one of {', '.join(allowed)}")


def between(low: float, high: float) -> Rule:
    """A number from low to high, both included."""
    return Rule(lambda x: low <= x <= high, f"between {low:g} and {high:g}")


def at_least(low: float) -> Rule:
    """A number that is not below low."""
    return Rule(lambda x: x >= low, f"at least {low:g}")


def numbers(count: int, low: float, high: float) -> Rule:
    """A tuple of `count` numbers, each from low to high."""

    def valid(x: Any) -> bool:
        return len(x) == count and all(isinstance(v, int | float) and low <= v <= high for v in x)

    return Rule(valid, f"{count} numbers between {low:g} and {high:g}")


def or_empty(rule: Rule) -> Rule:
    """As `rule`, or empty: then the value is measured."""
    return Rule(lambda x: not x or rule.valid(x), f"{rule.allowed}, or empty to measure it")


TEXT = Rule(in_utf8, "a text in UTF-8")
PATH = Rule(in_utf8, "a path in UTF-8")
FLAG = Rule(lambda x: True, "True or False")
WHOLE = Rule(lambda x: True, "a whole number")
POSITIVE = Rule(lambda x: x > 0, "greater than 0")
SHARE = between(0, 1)
BELOW_ONE = Rule(lambda x: 0 <= x < 1, "at least 0 and less than 1")
SEED = Rule(lambda x: 0 <= x < 2**32, f"between 0 and {2**32 - 1}")
