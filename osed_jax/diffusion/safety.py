"""The safety checker of a Stable Diffusion model: which images it would have blackened.

Its CLIP features are compared with those of unwanted concepts (Rando et al. 2022, "Red-Teaming the
Stable Diffusion Safety Filter", section 2). Here a flag is a reason to reject an image, and no
black square ever takes its place.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from osed_jax.diffusion.clip import ImageConfig, ImageTower
from osed_jax.diffusion.model_files.hub import locate
from osed_jax.diffusion.model_files.weights import Params, read_weights
from osed_jax.diffusion.resize import resize
from osed_jax.errors import UserError

FOLDER = "safety_checker"
_PREPROCESSOR = "feature_extractor/preprocessor_config.json"
_CONCEPTS, _SPECIAL = 17, 3  # of all published checkers
_STRICTER = 0.01  # how much lower the thresholds are for an image with a special concept


@dataclasses.dataclass(frozen=True)
class SafetyChecker:
    """A checker and how its images are prepared.

    Attributes:
      module: Flax module.
      params: its parameters, float32.
      image_size: side of its images in pixels.
      mean: of each channel, in [0, 1]; taken off.
      std: of each channel; divided by.
    """

    module: nn.Module
    params: Params
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def margin(self, params: Params, image: jax.Array) -> jax.Array:
        """By how much images [N, H, W, 3] in [0, 1] exceed a threshold, [N]; flagged above 0."""
        small = jnp.clip(resize(image.astype(jnp.float32), self.image_size, "bicubic"), 0, 1)
        mean, std = (jnp.asarray(v).reshape(1, 1, 1, 3) for v in (self.mean, self.std))
        margins = self.module.apply({"params": params}, (small - mean) / std)
        assert isinstance(margins, jax.Array)
        return margins


def load_safety_checker(model: str, revision: str) -> SafetyChecker:
    """Loads the checker that lies beside a model.

    Args:
      model: a local folder, or the id of a model on the Hugging Face hub.
      revision: branch, tag or commit on the hub; empty for its main branch.

    Raises:
      UserError: the model has none, or it cannot be had or read.
    """
    folder, _ = locate(model, revision, safety_checker=True)
    files = folder / FOLDER / "config.json", folder / _PREPROCESSOR
    if not all(file.is_file() for file in files):
        raise UserError(
            f"config.generation.safety_checker is True, but {model} has no safety checker "
            f"({FOLDER}/ and {_PREPROCESSOR}); set it to False"
        )
    config, preprocessor = (json.loads(file.read_text()) for file in files)
    module, image = checker_module(config)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    return SafetyChecker(
        module=module,
        params=read_weights(folder / FOLDER, shapes, jnp.dtype(jnp.float32)),
        image_size=image.shape[1],
        mean=tuple(preprocessor["image_mean"]),
        std=tuple(preprocessor["image_std"]),
    )


def checker_module(config: Mapping[str, Any]) -> tuple[nn.Module, jax.ShapeDtypeStruct]:
    """The module of a checker's `config.json`, and the shape [1, H, W, 3] of an image for it."""
    tower = ImageConfig.from_json(config["vision_config"])
    image = jax.ShapeDtypeStruct((1, tower.image_size, tower.image_size, 3), jnp.float32)
    return _Module(ImageTower(tower), config["projection_dim"]), image


class _Module(nn.Module):
    """Named as in the published files.

    Attributes:
      vision_model: CLIP's image tower.
      projection_dim: of the features that are compared.
    """

    vision_model: ImageTower
    projection_dim: int

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        project = nn.Dense(self.projection_dim, use_bias=False, name="visual_projection")
        features = project(self.vision_model(image))
        special = self._excess(features, "special_care_embeds", _SPECIAL)
        stricter = jnp.where((special > 0).any(axis=1, keepdims=True), _STRICTER, 0.0)
        concepts = self._excess(features, "concept_embeds", _CONCEPTS, stricter)
        return concepts.max(axis=1)

    def _excess(
        self, features: jax.Array, name: str, count: int, adjustment: jax.Array | float = 0.0
    ) -> jax.Array:
        """Cosine similarity to each concept, less its threshold, [N, count]."""
        ones = nn.initializers.ones
        concepts = self.param(name, ones, (count, self.projection_dim))
        threshold = self.param(f"{name}_weights", ones, (count,))
        return jnp.round(_unit(features) @ _unit(concepts).T - threshold[None] + adjustment, 3)


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)
