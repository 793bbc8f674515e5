"""Mixing two images of a batch, on the device, inside the jitted step.

Real and generated rows are mixed; noise and padding rows are neither mixed nor partners. A mixed
row is natural if both of its images are, else generated. So, if generated rows have another batch
norm than natural rows, no generated pixel enters the running statistics.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from osed_jax.batches.augment import Augmentation, named
from osed_jax.kinds import Kind


class Mixed(NamedTuple):
    """A batch of mixed rows.

    Attributes:
      image: float32 [N, H, W, 3].
      kind: of each row, for batch norm, [N].
      partner: the row whose image is mixed in, int32 [N]; the row itself if none is.
      share: share of the row's own image, in [0, 1], float32 [N]; the partner has the rest.
    """

    image: jax.Array
    kind: jax.Array
    partner: jax.Array
    share: jax.Array


def mix(image: jax.Array, kind: jax.Array, key: jax.Array, settings: Augmentation) -> Mixed:
    """Mixes each row, with probability `mix_prob`, with a randomly drawn partner.

    mixup (Zhang et al. 2018) takes a weighted mean of both images, CutMix (Yun et al. 2019) puts a
    rectangle of the other image into the row's own. The share is drawn from Beta(alpha, alpha) for
    each row; the code of both papers draws one for each batch. With `mix_partner` natural, all
    partners are real images, also those of generated images (SYNAuG; Ye-Bin et al. 2023).

    Args:
      image: augmented, float32 [N, H, W, 3].
      kind: `Kind` of each row, [N].
      key: all randomness comes from it.
      settings: its attributes `mix` and `mix_*`.
    """
    n = len(kind)
    mixable = (kind == Kind.NATURAL) | (kind == Kind.GENERATED)
    pool = mixable if settings.mix_partner == "any" else kind == Kind.NATURAL
    drawn = jax.random.categorical(
        named(key, "mix_partner"), jnp.where(pool, 0.0, -jnp.inf), shape=(n,)
    )
    chosen = jax.random.bernoulli(named(key, "mix_chosen"), settings.mix_prob, (n,))
    chosen &= mixable & pool.any()
    partner = jnp.where(chosen, drawn, jnp.arange(n))
    alpha = settings.mix_alpha
    share = jax.random.beta(named(key, "mix_share"), alpha, alpha, (n,))
    own = jnp.broadcast_to(share[:, None, None], image.shape[:3])
    if settings.mix == "cutmix":
        centre = jax.random.uniform(named(key, "mix_centre"), (n, 2))
        own = 1.0 - rectangle(centre, share, image.shape[1], image.shape[2])
    own = jnp.where(chosen[:, None, None], own, 1.0)
    generated = (kind == Kind.GENERATED) | (kind[partner] == Kind.GENERATED)
    return Mixed(
        image=own[..., None] * image + (1 - own[..., None]) * image[partner],
        kind=jnp.where(chosen & generated, Kind.GENERATED, kind),
        partner=partner,
        share=own.mean(axis=(1, 2)),
    )


def rectangle(centre: jax.Array, share: jax.Array, height: int, width: int) -> jax.Array:
    """1 inside a rectangle, 0 outside, float32 [N, height, width] (Yun et al. 2019, algorithm 1).

    Its sides are sqrt(1 - share) of those of the image, rounded down; it is cut off at the border.

    Args:
      centre: (y, x) of each, in [0, 1) of the image, [N, 2].
      share: of the image outside of it, if it is not cut off, [N].
      height: of the image in pixels.
      width: of the image in pixels.
    """
    inside = []
    for axis, size in enumerate((height, width)):
        length = jnp.floor(size * jnp.sqrt(1 - share))
        middle = jnp.floor(size * centre[:, axis])
        offset = jnp.arange(size)[None] - middle[:, None]
        half = jnp.floor(length / 2)[:, None]
        inside.append((offset >= -half) & (offset < half))
    return (inside[0][:, :, None] & inside[1][:, None, :]).astype(jnp.float32)
