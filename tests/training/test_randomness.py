"""Every step of a run draws anew: noise, augmentation and dropout."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from osed_jax.kinds import Kind
from osed_jax.models.layers import HEAD
from osed_jax.training.optimizer import sgd
from osed_jax.training.state import create_state
from osed_jax.training.step import make_train_step
from tests.augmentations import only

IMAGE = np.random.RandomState(0).randint(0, 256, (4, 8, 8, 3)).astype(np.uint8)
STATISTICS = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


class Linear(nn.Module):
    """A linear layer on all pixels, with dropout if that is asked for."""

    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, image, kind, train):  # noqa: D102
        pixels = image.reshape(len(image), -1)
        dropped = nn.Dropout(self.dropout_rate, deterministic=not train)(pixels)
        return nn.Dense(3, name=HEAD)(dropped)


@pytest.mark.parametrize(
    ("kind", "augmentation", "dropout_rate"),
    [
        (Kind.NOISE, {"noise_space": "pixel"}, 0.0),
        (Kind.NATURAL, {"crop_padding": 2}, 0.0),
        (Kind.NATURAL, {}, 0.5),
    ],
    ids=["noise", "augmentation", "dropout"],
)
def test_each_step_draws_anew_and_a_seed_repeats_it(kind, augmentation, dropout_rate):
    model, tx = Linear(dropout_rate), sgd(lambda step: 0.1, momentum=0.9, weight_decay=0)
    step = jax.jit(
        make_train_step(
            model=model,
            tx=tx,
            loss_fn=lambda logits, target, epoch: optax.softmax_cross_entropy(logits, target),
            augmentation=only(**STATISTICS, **augmentation),
            num_classes=3,
            steps_per_epoch=2,
        )
    )
    state = create_state(model, tx, seed=0, image_size=8)
    batch = {"image": IMAGE, "label": np.array([0, 1, 2, 0]), "kind": np.full(4, kind)}

    def losses(seed):
        """Of the same images and weights in four steps, which are two epochs."""
        states = [state.replace(step=jnp.int32(s)) for s in range(4)]
        return [float(step(s, batch, np.uint32(seed))[1]["loss"]) for s in states]

    assert len(set(losses(0))) == 4
    assert losses(0) == losses(0)
    assert not set(losses(0)) & set(losses(1))
