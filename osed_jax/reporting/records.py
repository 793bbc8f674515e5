"""Plain records that pages are made of."""

from typing import NamedTuple


class LayerGradient(NamedTuple):
    """The gradient of the rows of one kind in one layer, over all batches with such rows.

    Means and standard deviations (n - 1; None for a single batch) are over batches. A cosine is
    None if no batch has one, because a norm is 0; so is a ratio to a norm of 0.

    Attributes:
      batch_norm: of batch norm, for generated and noise rows alike; one of `kinds.NORMS`.
      kind: natural, generated or noise.
      layer: the module's path; its parameters (kernel and bias, scale and bias) count as one
        vector. The own scales and biases of auxiliary norms belong to the norm's layer.
      num_batches: number of batches with rows of this kind.
      norm_mean: of the gradient of these rows' mean loss.
      norm_std: its standard deviation.
      ratio_mean: of that norm to the natural rows' in the same batch, with the same batch norm.
      ratio_std: its standard deviation.
      cosine_mean: of the angle between that gradient and the natural rows'.
      cosine_std: its standard deviation.
    """

    batch_norm: str
    kind: str
    layer: str
    num_batches: int
    norm_mean: float
    norm_std: float | None
    ratio_mean: float | None
    ratio_std: float | None
    cosine_mean: float | None
    cosine_std: float | None
