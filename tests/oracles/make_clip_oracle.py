"""Record what PyTorch's CLIP makes of small random towers.

Run by hand where PyTorch is installed, from the repository's root:

    pip install torch==2.13.0 transformers==5.24.0 safetensors==0.8.0
    python -m tests.oracles.make_clip_oracle

It writes `tests/oracles/clip.npz`: outputs, and digests of the weights. These follow from their
names (`make_stable_diffusion_oracle.weight`), so that they need not be stored.
"""

import hashlib

import numpy as np

from tests.oracles.make_stable_diffusion_oracle import DATA, noise, weight

FILE = DATA / "clip.npz"
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
TEXT = {**SMALL, "vocab_size": 40, "max_position_embeddings": 8}
IMAGE = {**SMALL, "image_size": 16, "patch_size": 4}
# Text towers as deep, and with the activations, as in Stable Diffusion 1.x (CLIP ViT-L/14) and 2.x
# (OpenCLIP ViT-H/14 up to the layer before its last).
TOWERS = {
    "text_1": {**TEXT, "num_hidden_layers": 12, "hidden_act": "quick_gelu"},
    "text_2": {**TEXT, "num_hidden_layers": 23, "hidden_act": "gelu"},
    "image_1": {**IMAGE, "num_hidden_layers": 2, "hidden_act": "quick_gelu"},
    "image_2": {**IMAGE, "num_hidden_layers": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-3},
}
TOKENS = np.random.RandomState(0).randint(40, size=(2, 8))
IMAGES = noise((2, 16, 16, 3), 0)


def digest(weights: dict[str, np.ndarray]) -> str:
    """Of names and values."""
    sha = hashlib.sha256()
    for name in sorted(weights):
        sha.update(name.encode() + weights[name].tobytes())
    return sha.hexdigest()


def main() -> None:
    """Write the file."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

    recorded = {}
    for name, config in TOWERS.items():
        if name.startswith("text"):
            tower = CLIPTextModel(CLIPTextConfig(**config)).eval()
        else:
            tower = CLIPVisionModel(CLIPVisionConfig(**config)).eval()
        weights = {key: weight(key, list(v.shape)) for key, v in tower.state_dict().items()}
        tower.load_state_dict({key: torch.from_numpy(v).float() for key, v in weights.items()})
        with torch.no_grad():
            if name.startswith("text"):
                output = tower(torch.from_numpy(TOKENS)).last_hidden_state
            else:
                output = tower(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2))).pooler_output
        recorded |= {name: output.numpy(), f"{name}/sha256": digest(weights)}
    np.savez_compressed(FILE, **recorded)


if __name__ == "__main__":
    main()
