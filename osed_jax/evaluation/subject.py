"""What a report is about."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from osed_jax.data.image_set import ImageSet
from osed_jax.data.sampling import Kind
from osed_jax.evaluation.classifier import Classifier
from osed_jax.experiment import Config, Data

# What a reader calls the kinds of rows.
KINDS = {Kind.NATURAL: "natural", Kind.SYNTHETIC: "generated", Kind.NOISE: "noise"}


@dataclasses.dataclass(frozen=True)
class Subject:
    """A trained net and what it was tested on.

    Attributes:
      directory: its work directory.
      config: of the run, as its `config.json` has it.
      figures: as `summary.json` or `evaluation.json` has them.
      logits: float32 [N, K] of the test images.
      test: N images.
      classifier: the net.
      data: what it was trained on; None where that cannot be had here.
    """

    directory: Path
    config: Config
    figures: dict[str, Any]
    logits: np.ndarray
    test: ImageSet
    classifier: Classifier
    data: Data | None

    @property
    def facts(self) -> dict[str, Any]:
        """Of the training data, as `dataset.json` has them."""
        return self.classifier.facts

    @property
    def class_names(self) -> list[str]:
        """K names."""
        return self.facts["class_names"]
