"""What a field of the config says about itself, and the rules for its values."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from osed_jax.files.atomic import in_utf8


class Rule(NamedTuple):
    """A test of a value, and the allowed values in words."""

    valid: Callable[[Any], bool]
    allowed: str


class UsedWith(NamedTuple):
    """Another field, with some values of which a field is used; with the others it has no effect.

    Attributes:
      field: its full name, such as `oversampling.mode`.
      values: these values of it; (): all that are not empty, 0 or False.
    """

    field: str
    values: tuple[Any, ...] = ()

    def holds(self, value: Any) -> bool:
        """Whether the field is used with this value of the other one."""
        return value in self.values if self.values else bool(value)

    @property
    def words(self) -> str:
        """The condition in words."""
        values = " or ".join(str(value) for value in self.values)
        return f"config.{self.field}={values}" if values else f"config.{self.field}"


# What a field matters for:
#   step: the numbers of a run, and compiled into its training step
#   numbers: the numbers of a run (or of what another mode makes), in another way
#   place: where files are; what they contain is known by digests
#   display: what is shown of the numbers, and how often
#   speed: how fast it goes, and how much memory and disk it takes
Matter = Literal["step", "numbers", "place", "display", "speed"]
NUMBERS: tuple[Matter, ...] = ("step", "numbers")  # with another value it is another run


class Field(NamedTuple):
    """All that is known about a field; fork, resume, compare, tune and docs read it here.

    Attributes:
      default: its default, or a function of the number of epochs that returns it.
      about: what it means, with unit and source.
      rule: its allowed values, in addition to the type of the default.
      matters_for: see `Matter`.
      used_with: it is used with some values of another field only; None: always.
      unit: `epochs` if it counts epochs, so that shorter runs have less of it; else "".
      by_stage: whether `stages` compares it stage by stage: runs that differ in it may have their
        first epochs in common.
      chooses_images: of which images it says which they are: "training" (and those held out of
        them), "test".
      tells_method: whether a run's method is told by it.
    """

    default: Any
    about: str
    rule: Rule
    matters_for: Matter
    used_with: UsedWith | None
    unit: str
    by_stage: bool
    chooses_images: tuple[str, ...]
    tells_method: bool

    def default_at(self, num_epochs: Any) -> Any:
        """The default in a run of so many epochs."""
        return self.default(num_epochs) if callable(self.default) else self.default


class OfARun:
    """A section that makes up a run; `config.json` has it. The others are for other modes."""


_KEY, _EPOCHS = "field", 200  # the number of epochs that train.num_epochs has by default


def field(
    default: Any,
    about: str,
    rule: Rule,
    *,
    matters_for: Matter = "numbers",
    used_with: UsedWith | None = None,
    unit: str = "",
    by_stage: bool = False,
    chooses_images: tuple[str, ...] = (),
    tells_method: bool = False,
) -> Any:
    """A field of a section, which is a frozen dataclass; see `Field`."""
    said = Field(
        default,
        about,
        rule,
        matters_for,
        used_with,
        unit,
        by_stage,
        chooses_images,
        tells_method,
    )
    return dataclasses.field(default=said.default_at(_EPOCHS), metadata={_KEY: said})


def fields_of(section: type) -> dict[str, Field]:
    """The fields of a section, by name, in their order."""
    return {f.name: f.metadata[_KEY] for f in dataclasses.fields(section) if _KEY in f.metadata}


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
