"""Distances between two sets of images, from their features; NumPy, SciPy, scikit-learn."""

from collections.abc import Iterator

import numpy as np
from scipy import linalg
from sklearn.neighbors import NearestNeighbors

_CHUNK = 2**24  # distances in memory at a time


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float | None:
    """Squared Fréchet distance between two Gaussians fitted to features.

    Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017, equation 6:
    |m_a - m_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2)), with unbiased covariances. It is never
    below 0. With few images it is biased upwards, so compare only distances of equally many images.

    Args:
      a: float64 [N, D].
      b: float64 [M, D].

    Returns:
      The distance in squared units of the features; None if N or M is below 2.
    """
    if min(len(a), len(b)) < 2:
        return None
    root_a, root_b = _root(a), _root(b)
    # With C = R^T R, the eigenvalues of C_a C_b other than 0 are the squared singular values of
    # R_a R_b^T. So no matrix root is needed, which would fail for singular covariances (N <= D).
    shared = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    apart = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    return float(max(apart + np.square(root_a).sum() + np.square(root_b).sum() - 2 * shared, 0))


def precision_recall(real: np.ndarray, generated: np.ndarray, k: int) -> tuple[float, float] | None:
    """Precision and recall of generated images.

    Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models",
    2019, equations 1 and 2. A set covers what lies within a ball around any of its points; a
    ball's radius is the distance to the point's k-th nearest neighbour in the set, not counting
    itself. Precision is the share of generated points that the real set covers, recall the share
    of real points that the generated set covers.

    Args:
      real: float64 [N, D].
      generated: float64 [M, D].
      k: number of neighbours, at least 1.

    Returns:
      (precision, recall) in [0, 1]; None if N or M is below k + 1.
    """
    if min(len(real), len(generated)) < k + 1:
        return None
    centre = real.mean(axis=0)  # subtracted, so that squared distances lose fewer digits near 0
    real, generated = real - centre, generated - centre
    return _covered(generated, real, k), _covered(real, generated, k)


def nearest(generated: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest real point of each generated one.

    Args:
      generated: float64 [M, D].
      real: float64 [N, D], N at least 1.

    Returns:
      Its row, int64 [M], and its Euclidean distance, float64 [M].
    """
    if not len(generated):
        return np.zeros(0, np.int64), np.zeros(0)
    neighbours = NearestNeighbors(n_neighbors=1).fit(real)
    index = neighbours.kneighbors(generated, return_distance=False)[:, 0].astype(np.int64)
    # Computed again: the distances of the search may lose digits and not be 0 for a copy.
    return index, np.linalg.norm(generated - real[index], axis=1)


def _root(features: np.ndarray) -> np.ndarray:
    """R [min(N, D), D] with R^T R the unbiased covariance."""
    centred = features - features.mean(axis=0)
    root: np.ndarray = linalg.qr(centred, mode="r")[0][: features.shape[1]]
    return root / np.sqrt(len(features) - 1)


def _covered(points: np.ndarray, by: np.ndarray, k: int) -> float:
    """Share of `points` within the ball of any point of `by`."""
    # A point is its own nearest neighbour, number 0: so number k is the k-th other one.
    radius = np.concatenate([np.partition(s, k, axis=1)[:, k] for s in _squared(by, by)])
    rounding = 1e-12 * max(np.square(by).sum(axis=1).max(), np.square(points).sum(axis=1).max())
    inside = [(s <= radius + rounding).any(axis=1) for s in _squared(points, by)]
    return float(np.concatenate(inside).mean())


def _squared(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """Squared distances, a few rows [n, M] of the whole [N, M] at a time."""
    lengths, step = np.square(b).sum(axis=1), max(1, _CHUNK // len(b))
    for first in range(0, len(a), step):
        part = a[first : first + step]
        squared = np.square(part).sum(axis=1)[:, None] + lengths - 2 * part @ b.T
        yield np.maximum(squared, 0)
