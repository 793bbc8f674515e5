"""OPeN, OSeD and `fill` on long-tailed digits, from top to bottom.

    python -m examples.open_and_osed        # in the project's folder; about a minute on one core

In a long tail a few classes have most of the images. Drawing every class equally often (resampling)
shows the same few images of rare classes over and over. So some of these draws are replaced; their
label stays:

- OPeN shows pure noise (Zada, Benou & Irani, "Pure Noise to the Rescue of Insufficient Data", ICML
  2022, arXiv 2112.08810; the sections and equations below are of this paper);
- OSeD shows an image of that class that a generative model made (Barboni, Pecile & Redaelli, "OSeD:
  Oversampling with Stable Diffusion"; here the model is a small one that learned digits);
- fill shows generated images too, but from the first epoch on, and treats them as real ones.

The functions are those of the program. It adds augmentation, evaluation, checkpoints and reports.
"""

import functools
import zipfile
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from osed_jax.batches.augment import crop
from osed_jax.batches.plan import Plan, balanced_plan, natural_plan, replace_probability
from osed_jax.data.datasets import load_digits
from osed_jax.data.images import channel_statistics
from osed_jax.data.long_tail import canonical_subset, class_counts
from osed_jax.kinds import Kind
from osed_jax.models.batch_norm import RoutedBatchNorm
from osed_jax.models.layers import Conv

# Any folder CLASS/*.png does as well: Path("runs/digits/generated").
GENERATED = zipfile.Path(Path(__file__).parents[1] / "demo" / "generated.zip", "generated/")
NUM_EPOCHS, BATCH_SIZE = 40, 32
DEFERRED = NUM_EPOCHS * 160 // 200  # the papers' epoch 160 of 200, where the learning rate falls


class Method(NamedTuple):
    """What the epochs from `start_epoch` on show; osed_jax/config/methods.py has them all."""

    start_epoch: int = 0  # the epochs before show every training image once, whatever the method
    replace_ratio: float = 0.0  # delta of section 3: how many draws of a very rare class
    shows: Kind = Kind.NOISE  # what replaced draws show
    generated_norm: str = "shared"  # batch norm of generated rows, see models/batch_norm.py


METHODS = {
    "erm": Method(start_epoch=NUM_EPOCHS),  # never class-balanced
    "ros": Method(),  # class-balanced, nothing is replaced
    "open": Method(DEFERRED, 1 / 3),
    "osed": Method(DEFERRED, 1 / 3, Kind.GENERATED, "dar"),
    "fill": Method(0, 2 / 3, Kind.GENERATED, "shared"),
}

# 1. The long tail: n_c = 100 * 100^(-c / 9) images of class c, 100 of the digit 0 and 1 of 9. Which
# ones is settled by a fixed shuffle (Cao et al. 2019), so that all methods see the same images.
whole, test = load_digits("train"), load_digits("test")
counts = class_counts(num_max=100, num_classes=10, imbalance_ratio=100)
train = whole.select(canonical_subset(whole.label, counts))
mean, std = map(jnp.float32, channel_statistics(train.images))  # of these images, not of `whole`

# 2. The generated images, uint8 [M, 8, 8, 3] as the others. A slot of a plan names its image by
# its row: natural images are counted from 0, generated ones follow them.
files = sorted(
    (train.class_names.index(folder.name), file.name, file)
    for folder in GENERATED.iterdir()
    if folder.name in train.class_names
    for file in folder.iterdir()
)
generated_label = np.array([label for label, _, _ in files])
generated = np.stack([Image.open(file.open("rb")).convert("RGB") for _, _, file in files])
images = jnp.asarray(np.concatenate([train.images.take(np.arange(len(train.label))), generated]))


def plan_of_epoch(method: Method, seed: int, epoch: int) -> Plan:
    """3. What every slot of every batch shows: label, kind and row, each [num_steps, batch_size].

    Deferral: before start_epoch an epoch shows every image once, so frequent classes rule it (ERM).
    From then on each class is drawn equally often, and a draw of class c is replaced with
    probability (1 - n_c / n_max) * delta (section 3): never in the largest class, in almost delta
    of the draws of the rarest. The epoch does not get longer.
    """
    draws = {"seed": seed, "epoch": epoch, "label": train.label, "batch_size": BATCH_SIZE}
    if epoch < method.start_epoch:
        return natural_plan(**draws)
    return balanced_plan(
        **draws,
        replace_prob=replace_probability(counts, method.replace_ratio),
        generated_label=generated_label if method.shows == Kind.GENERATED else None,
    )


class Net(nn.Module):
    """4. Two residual blocks, pre-activation (Zagoruyko & Komodakis 2016), with routed batch norm.

    A batch of noise has another mean and variance than one of images. In an ordinary batch norm it
    would shift the statistics that are used at test time. DAR-BN (appendix E) gives noise rows
    statistics of their own, with the same scale and bias, and passes no gradient through them: from
    noise only the last layer learns. An image that shows its class can teach all layers, so in
    `fill` generated rows are normalised together with natural ones.
    """

    generated_norm: str

    @nn.compact
    def __call__(self, x: jax.Array, kind: jax.Array, train: bool) -> jax.Array:  # noqa: D102
        def norm_relu(x: jax.Array) -> jax.Array:
            norm = RoutedBatchNorm(generated_norm=self.generated_norm, noise_norm="dar")
            return nn.relu(norm(x, kind, train=train))

        x = Conv(16)(x)
        for features, stride in ((16, 1), (32, 2)):
            y = Conv(features, stride=stride)(norm_relu(x))
            y = Conv(features)(norm_relu(y))
            x = y + Conv(features, size=1, stride=stride)(x)
        return nn.Dense(len(counts))(norm_relu(x).mean(axis=(1, 2)))


# 5. The recipe of the paper, with crops as the only augmentation and without warm-up.
steps_per_epoch = -(-len(train.label) // BATCH_SIZE)
falls = {round(share * NUM_EPOCHS) * steps_per_epoch: 0.01 for share in (0.8, 0.9)}
tx = optax.chain(
    optax.add_decayed_weights(2e-4),
    optax.sgd(optax.piecewise_constant_schedule(0.1, falls), momentum=0.9),
)


def normalise(image: jax.Array) -> jax.Array:
    """What the net sees of images in [0, 1]."""
    return (image - mean) / std


@functools.partial(jax.jit, static_argnames="net")
def train_step(net: Net, state: dict, slot: dict, key: jax.Array) -> dict:
    """6. One update. Everything about a method is in `slot`; no line asks which method it is."""
    kind = slot["kind"]
    noise_key, crop_key = jax.random.split(key)
    corner = jax.random.randint(crop_key, (len(kind), 2), 0, 3)
    image = crop(images[slot["row"]] / 255.0, corner, padding=1)
    # Pure noise, drawn anew in every step: N(mean, std) of the data, clipped (equation 2).
    noise = jnp.clip(mean + std * jax.random.normal(noise_key, image.shape), 0, 1)
    image = jnp.where((kind == Kind.NOISE)[:, None, None, None], noise, image)
    weight = (kind != Kind.PADDING).astype(jnp.float32)  # the last batch is filled up with padding

    def mean_loss(params: dict) -> tuple[jax.Array, dict]:
        variables = {"params": params, "batch_stats": state["batch_stats"]}
        logits, updated = net.apply(
            variables, normalise(image), kind, train=True, mutable=["batch_stats"]
        )
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, slot["label"])
        return (loss * weight).sum() / weight.sum(), updated["batch_stats"]

    grads, batch_stats = jax.grad(mean_loss, has_aux=True)(state["params"])
    updates, opt_state = tx.update(grads, state["opt_state"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    return {"params": params, "batch_stats": batch_stats, "opt_state": opt_state}


def accuracy_by_class(method: Method, seed: int) -> np.ndarray:
    """Trains a net; returns its accuracy on the 50 test images of each class, [10]."""
    net, key = Net(method.generated_norm), jax.random.key(seed)
    natural = jnp.full(len(test.label), Kind.NATURAL)
    test_image = normalise(jnp.asarray(test.images.take(np.arange(len(test.label)))) / 255.0)
    state = dict(jax.jit(net.init, static_argnames="train")(key, test_image, natural, train=False))
    state["opt_state"] = tx.init(state["params"])
    for epoch in range(NUM_EPOCHS):
        plan = plan_of_epoch(method, seed, epoch)
        for step in range(len(plan)):
            slot = {name: array[step] for name, array in plan.slots().items()}
            step_key = jax.random.fold_in(key, epoch * len(plan) + step)
            state = train_step(net, state, slot, step_key)
    # At test time there is one kind of row, and batch norm uses the running statistics.
    variables = {"params": state["params"], "batch_stats": state["batch_stats"]}
    correct = net.apply(variables, test_image, natural, train=False).argmax(-1) == test.label
    return np.array([correct[test.label == c].mean() for c in range(len(counts))])


def main() -> None:
    """Trains every method from the same weights and prints its accuracy."""
    print(f"training images of the digits 0 to 9: {' '.join(map(str, counts))}")
    print("method    all classes (%)    two rarest (%)")
    for name, method in METHODS.items():
        accuracy = 100 * accuracy_by_class(method, seed=0)
        print(f"{name:10}{accuracy.mean():15.1f}{accuracy[-2:].mean():18.1f}", flush=True)


if __name__ == "__main__":
    main()
