"""The nets that `config.model.name` names; this module imports without JAX."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

_SIZES = ("depth", "widen_factor", "dropout_rate")  # fields of the size of a net


class Net(NamedTuple):
    """A net that can be chosen.

    Attributes:
      module: of the class, in osed_jax/models/.
      name: of the class, a linen module that takes `num_classes`, `generated_norm`, `noise_norm`,
        `dtype` and `settings`.
      settings: further fields of `config.model` that it takes.
      depth: (a, b): its depth must be a * n + b, n at least 1; None if the name says it.
      pretrained: its weights of ImageNet on the Hugging Face hub; empty if its layers are not named
        so that `init.weights` can be read into it.
    """

    module: str
    name: str
    settings: tuple[str, ...]
    depth: tuple[int, int] | None
    pretrained: str = ""

    def load(self) -> Callable[..., Any]:
        """The class."""
        return getattr(importlib.import_module(f"osed_jax.models.{self.module}"), self.name)

    def problem(self, settings: Mapping[str, Any], usual: Mapping[str, Any]) -> str | None:
        """What is wrong with a section `model` for this net; None for nothing.

        `usual` has the defaults of that section.
        """
        if not self.depth:
            return self._problem_of_one_size(settings, usual)
        (each, rest), depth = self.depth, settings["depth"]
        if depth < each + rest or (depth - rest) % each:
            return f"config.model.depth is {depth}; for this net it must be {each}n+{rest}, n >= 1"
        return None

    def _problem_of_one_size(
        self, settings: Mapping[str, Any], usual: Mapping[str, Any]
    ) -> str | None:
        unused = [name for name in _SIZES if name not in self.settings]
        given = [f"{n} {settings[n]}" for n in unused if settings[n] != usual[n]]
        if not given:
            return None
        flags = " ".join(f"--config.model.{name}={usual[name]}" for name in unused)
        return (
            f"config.model has {', '.join(given)}, but {self.name} has one size; take that out of "
            f"the config file, or give {flags}"
        )


NETS = {
    "wide_resnet": Net(
        "wide_resnet",
        "WideResNet",
        ("depth", "widen_factor", "dropout_rate", "cosine_scale"),
        (6, 4),
    ),
    "resnet": Net("resnet", "ResNet", ("depth", "cosine_scale"), (6, 2)),
    "resnet18": Net(
        "imagenet_resnet", "ResNet18", ("cosine_scale",), None, "timm/resnet18.tv_in1k"
    ),
    "resnet50": Net(
        "imagenet_resnet", "ResNet50", ("cosine_scale",), None, "timm/resnet50.tv_in1k"
    ),
    "efficientnet_lite0": Net(
        "efficientnet",
        "EfficientNetLite0",
        ("cosine_scale",),
        None,
        "timm/tf_efficientnet_lite0.in1k",
    ),
}
