"""The plan of one epoch: what every slot of every batch shows.

A plan is made from (seed, epoch) alone, in NumPy. So training sees the same images with any feeder
and any number of devices, and a resumed run needs no sampler state.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from osed_jax.errors import UserError
from osed_jax.kinds import Kind

_STREAM = 0x504C414E  # keeps these draws apart from any other use of the same seed


@dataclasses.dataclass(frozen=True)
class Plan:
    """One epoch, every array int32 [num_steps, batch_size] but for `share`, which is float32.

    Attributes:
      label: the class of each slot.
      kind: its `Kind`.
      row: its image: natural images are counted from 0, generated ones follow them. 0 if no
        stored image is shown (noise, padding).
      other: the second class of each slot; None if each slot has one class alone.
      share: of the label that `label` has, in [0, 1]; `other` has the rest. None with `other`.
    """

    label: np.ndarray
    kind: np.ndarray
    row: np.ndarray
    other: np.ndarray | None = None
    share: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.label)

    def slots(self) -> dict[str, np.ndarray]:
        """The arrays that there are, by name."""
        return {name: array for name, array in vars(self).items() if array is not None}


def replace_probability(
    class_counts: Sequence[int], replace_ratio: float, *, in_all_classes: bool = False
) -> np.ndarray:
    """P(replace | class) = (1 - n_c / n_max) * replace_ratio, float64 [C] (Zada, section 3).

    With `in_all_classes` it is replace_ratio for each class, so that being generated says nothing
    about the class of a row.
    """
    counts = np.asarray(class_counts, dtype=np.float64)
    # With ratio 1 a class shows natural images in n_c / n_max of its draws, as many as it has.
    lacking = np.ones_like(counts) if in_all_classes else 1 - counts / counts.max()
    return lacking * replace_ratio


def natural_plan(*, seed: int, epoch: int, label: np.ndarray, batch_size: int) -> Plan:
    """Every training image once, in random order (ERM).

    Args:
      seed: of the experiment.
      epoch: counted from 0.
      label: [N] labels of the natural images.
      batch_size: slots of a batch.
    """
    row = _generator(seed, epoch).permutation(len(label))
    return _in_batches(label[row], np.full(len(row), Kind.NATURAL), row, batch_size)


def balanced_plan(
    *,
    seed: int,
    epoch: int,
    label: np.ndarray,
    replace_prob: np.ndarray,
    batch_size: int,
    generated_label: np.ndarray | None = None,
    noise_share: float = 0.0,
) -> Plan:
    """A class-balanced epoch in which some slots show noise or a generated image instead.

    N draws with replacement: a class uniformly, then one of its images uniformly (weight 1/n_c
    for each image). Each drawn slot is then replaced with its class's probability; its label stays
    (Zada, algorithm 1). Without generated images it shows noise; with them it shows noise with
    probability `noise_share`, else a generated image of its class, uniformly. The natural draws of
    a seed and epoch are the same whatever replaces them, so methods are compared on paired draws.

    Args:
      seed: of the experiment.
      epoch: counted from 0.
      label: [N] labels of the natural images.
      replace_prob: [C], see `replace_probability`; zeros give plain resampling.
      batch_size: slots of a batch.
      generated_label: [M] labels of the generated images; None if there are none.
      noise_share: of the replaced slots, in [0, 1], if there are generated images.

    Raises:
      UserError: if generated images of a class are to be shown, but it has none.
    """
    random = _generator(seed, epoch)
    num, num_classes = len(label), len(replace_prob)
    # Every number is drawn for every slot, used or not: so the natural draws are the same whatever
    # replaces some of them.
    drawn = random.integers(num_classes, size=num)
    row = _pick(label, num_classes, drawn, random.random(num))
    replaced = random.random(num) < replace_prob[drawn]
    noise = replaced & (random.random(num) < (1 if generated_label is None else noise_share))
    generated = replaced & ~noise
    which = random.random(num)
    if generated_label is not None:
        _check_images_of(np.unique(drawn[generated]), generated_label)
        image = _pick(generated_label, num_classes, drawn[generated], which[generated])
        row[generated] = num + image
    row[noise] = 0  # no image is shown; any row that there is would do
    kind = np.select([noise, generated], [Kind.NOISE, Kind.GENERATED], Kind.NATURAL)
    return _in_batches(drawn, kind, row, batch_size)


def with_soft_labels(plan: Plan, *, first: int, other: np.ndarray, share: np.ndarray) -> Plan:
    """The plan with the second class of generated images; other slots have one class alone.

    Args:
      plan: with one class for each slot.
      first: row of the first generated image.
      other: [M] second classes of the generated images.
      share: [M] share of the label that the image's own class has.
    """
    generated = plan.kind == Kind.GENERATED
    image = np.where(generated, plan.row - first, 0)
    return dataclasses.replace(
        plan,
        other=np.where(generated, other[image], plan.label).astype(np.int32),
        share=np.where(generated, share[image], 1).astype(np.float32),
    )


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng([seed, _STREAM, epoch])


def _check_images_of(classes: np.ndarray, generated_label: np.ndarray) -> None:
    if len(without := np.setdiff1d(classes, generated_label)):
        raise UserError(
            f"there are no generated images of class {', '.join(map(str, without))}, but some of "
            "its draws are to show them; give images of it, or set its replace_prob to 0"
        )


def _pick(label: np.ndarray, num_classes: int, drawn: np.ndarray, u: np.ndarray) -> np.ndarray:
    """For every drawn class, one position of that class in `label`; u in [0, 1) says which."""
    by_class = np.argsort(label, kind="stable")  # positions of class 0, then of class 1, ...
    count = np.bincount(label, minlength=num_classes)
    start = np.cumsum(count) - count
    return by_class[start[drawn] + (u * count[drawn]).astype(np.int64)]


def _in_batches(label: np.ndarray, kind: np.ndarray, row: np.ndarray, batch_size: int) -> Plan:
    """Folds slots into batches and fills up the last one."""
    lacking = -len(label) % batch_size  # every batch has one size, so one program runs them all
    fills = (0, Kind.PADDING, 0)
    padded = (np.pad(x, (0, lacking), constant_values=f) for x, f in zip((label, kind, row), fills))
    return Plan(*(p.astype(np.int32).reshape(-1, batch_size) for p in padded))
