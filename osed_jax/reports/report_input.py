"""What the report of a run is made from."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from osed_jax.config.schema import Config
from osed_jax.data.image_set import ImageSet
from osed_jax.evaluation.classifier import Classifier
from osed_jax.experiment.loading import Data


@dataclasses.dataclass(frozen=True)
class ReportInput:
    """A trained net and what it was tested on.

    Attributes:
      directory: its work directory.
      config: config of the run, from its `config.json`.
      figures: content of `summary.json` or `evaluation.json`.
      logits: float32 [N, K] of the test images.
      test: N images.
      classifier: the net.
      data: what it was trained on; None if that is not available.
      other_test_set: names the images in `test` if they are not those of the run; else "".
    """

    directory: Path
    config: Config
    figures: dict[str, Any]
    logits: np.ndarray
    test: ImageSet
    classifier: Classifier
    data: Data | None
    other_test_set: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """Facts of the training data, from `dataset.json`."""
        return self.classifier.facts

    @property
    def class_names(self) -> list[str]:
        """K names."""
        return self.facts["class_names"]
