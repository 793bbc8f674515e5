"""Generated digits for the demo: samples of Gaussian mixtures, one a class.

The mixtures (5 components in the space of 24 principal components) learn from the training digits
that the long-tailed set leaves out; neither its images nor the test set's are seen. The store gets
what each class lacks to the most frequent one.

Command: python demo/generate_digits.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from configs import digits
from osed_jax.config import check
from osed_jax.experiment import load_data, load_split


def generate(folder: Path, seed: int = 0) -> int:
    """Writes FOLDER/CLASS/000000.png, ... and returns their number."""
    config = check(digits.get_config())
    data = load_data(config, cache_dir=folder)
    source = load_split(config, "train", cache_dir=folder).select(data.rest)
    pixels = source.images.take(np.arange(len(source.label)))[..., 0].reshape(-1, 64) / 255
    counts = np.asarray(data.train.class_counts)
    written = 0
    for c, lacks in enumerate(counts.max() - counts):
        if not lacks:
            continue
        of_class = pixels[source.label == c]
        pca = PCA(24, random_state=seed).fit(of_class)
        mixture = GaussianMixture(5, covariance_type="diag", random_state=seed + c)
        samples, _ = mixture.fit(pca.transform(of_class)).sample(lacks)
        images = np.clip(pca.inverse_transform(samples), 0, 1).reshape(-1, 8, 8)
        target = folder / source.class_names[c]
        target.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(np.round(255 * images).astype(np.uint8)):
            Image.fromarray(image).save(target / f"{i:06d}.png")
        written += len(images)
    return written


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python demo/generate_digits.py FOLDER")
    print(f"{generate(Path(sys.argv[1]))} generated digits in {sys.argv[1]}")
