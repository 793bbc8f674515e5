"""A trained net from its work directory, and the subject of a report."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from osed_jax.batches.augment import Augmentation
from osed_jax.config.schema import Config
from osed_jax.config.stages import stage_of, stages
from osed_jax.data.image_set import ImageSet
from osed_jax.errors import UserError
from osed_jax.experiment import build, workdir
from osed_jax.experiment.checkpoint import Checkpoints
from osed_jax.runtime.sharding import abstract
from osed_jax.training.state import TrainState, create_state


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A net as it stood after its last checkpoint.

    Attributes:
      facts: facts of its data from `dataset.json`: class_names, image_size and others.
      epoch: number of epochs it was trained for.
      state: its weights and running statistics; no optimizer state.
      model: the net, with the shared norm alone, as at test time.
      augmentation: how its images are normalised.
    """

    facts: dict[str, Any]
    epoch: int
    state: TrainState
    model: nn.Module
    augmentation: Augmentation

    def weights_sha256(self) -> str:
        """Digest of the weights and running statistics: their names, shapes and values."""
        digest = hashlib.sha256()
        for part in (self.state.params, self.state.batch_stats):
            for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(part)):
                digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}".encode())
                digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()

    def check_same_images(self, given: str, train: ImageSet) -> None:
        """Raises UserError if its classes or image size are not those of a data set.

        Args:
          given: the setting that named it, and its folder, for the message.
          train: images of the configured data set.
        """
        for what, its, ours in (
            ("classes", self.facts["class_names"], list(train.class_names)),
            ("image size", self.facts["image_size"], train.images.image_size),
        ):
            if its != ours:
                raise UserError(
                    f"{given}, but its net was trained with other {what} ({its}) than "
                    f"the configured data set has ({ours}); give a run on this data set, or "
                    f"configure the data set of that run"
                )


def read_run(directory: Path) -> tuple[Config, dict[str, Any]]:
    """The config of the run in a work directory, and the facts of its data.

    Raises:
      UserError: if the folder is not a work directory.
    """
    return workdir.read_config(directory), workdir.read_facts(directory)


def load_classifier(directory: Path, mesh: Mesh) -> Classifier:
    """Restores the last checkpoint of a work directory, replicated on every device of the mesh.

    Raises:
      UserError: if there is no checkpoint, or it cannot be restored.
    """
    run, facts = read_run(directory)
    with Checkpoints.reading(directory) as saved:
        if not saved.epochs():
            raise UserError(f"{directory} has no checkpoint yet; train it first")
        epoch = saved.epochs()[-1]
        routed = stage_of(stages(run), epoch - 1).routed  # only then the net has auxiliary norms
        model = build.make_model(run, len(facts["class_names"]), routed=routed)
        tx = build.make_optimizer(run, steps_per_epoch=1)
        like = jax.eval_shape(
            lambda: create_state(model, tx, seed=0, image_size=facts["image_size"])
        )
        state = saved.restore(epoch, abstract(like, mesh))
    return trained_classifier(run, facts, epoch, state)


def trained_classifier(
    config: Config, facts: dict[str, Any], epoch: int, state: TrainState
) -> Classifier:
    """The classifier of a state that is at hand, after so many epochs of a run."""
    return Classifier(
        facts=facts,
        epoch=epoch,
        state=state.replace(opt_state=()),
        model=build.make_model(config, len(facts["class_names"]), routed=False),
        augmentation=build.make_augmentation(config, facts, noise=False),
    )
