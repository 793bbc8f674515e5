"""Record what PyTorch's diffusers makes of the other formats that are read: see `tests/data`.

Run by hand where PyTorch is installed, from the repository's root:

    pip install torch==2.13.0 diffusers==0.42.1 transformers==5.24.0 peft==0.21.0
    python tests/make_formats_oracle.py

It writes `tests/data/formats.npz`: final latents and outputs of a tiny model with random weights.
As in `make_stable_diffusion_oracle`, weights and noise follow from names and seeds, so that the
tests write the very files that PyTorch read here.
"""

import itertools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests import make_stable_diffusion_oracle as oracle

FILE = oracle.DATA / "formats.npz"
CONSISTENCY = ("lcm", "tcd")
CONSISTENCY_STEPS = (1, 2, 4, 8)
TCD_ETA = 0.3
STEPS = 4  # of whole loops
CONFIGS = {
    **oracle.MODELS["epsilon"],
    "text_encoder": {**oracle.MODELS["epsilon"]["text_encoder"], "vocab_size": 82},
}


def write_model(folder: Path) -> None:
    """A model of two levels, whose tokenizer joins some letters."""
    shapes = oracle.manifest()["shapes"]["epsilon"]
    text = {**shapes["text_encoder"], "text_model.embeddings.token_embedding.weight": [82, 24]}
    oracle.write_model(folder, CONFIGS, {**shapes, "text_encoder": text}, oracle.bpe_files())


def fresh(shape: tuple[int, ...], step: int) -> np.ndarray:
    """The noise that a consistency sampler mixes in after a step, channels-first."""
    return oracle.noise(shape, 100 + step)


def consistency_configs() -> list[dict]:
    """Scheduler configurations that are tried with `lcm` and `tcd` on the closed-form model."""
    first = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return [
        {**first, "prediction_type": kind, "original_inference_steps": original}
        for kind, original in (
            ("epsilon", 50),
            ("v_prediction", 50),
            ("sample", 50),
            ("epsilon", 25),
        )
    ]


def main() -> None:
    """Write the file."""
    recorded = {}
    for name in CONSISTENCY:
        recorded[f"schedules/{name}"] = record_consistency(name)
        recorded[f"{name}/latents"] = record_loop(name)
    np.savez_compressed(FILE, **recorded)


def torch_scheduler(name: str, config: dict):
    """PyTorch's scheduler, whose noise is `fresh`."""
    import torch
    from diffusers import LCMScheduler, TCDScheduler

    cls = {"lcm": LCMScheduler, "tcd": TCDScheduler}[name]
    solver = cls.from_config({k: v for k, v in config.items() if k != "_class_name"})
    module = sys.modules[cls.__module__]
    module.randn_tensor = lambda shape, **_: torch.from_numpy(
        fresh(tuple(shape), solver._step_index)
    )
    return solver


def record_consistency(name: str) -> np.ndarray:
    """Results of all configurations and step counts on the closed-form model."""
    import torch

    eta = {"eta": TCD_ETA} if name == "tcd" else {}
    results = []
    for config, steps in itertools.product(consistency_configs(), CONSISTENCY_STEPS):
        solver = torch_scheduler(name, config)
        solver.set_timesteps(steps)
        latents = torch.from_numpy(oracle.noise((8,), 2))
        for timestep in solver.timesteps:
            prediction = oracle.closed_form_model(latents, timestep)
            latents = solver.step(prediction, timestep, latents, **eta).prev_sample
        results.append(latents.numpy())
    return np.stack(results).astype(np.float32)


def record_loop(name: str) -> np.ndarray:
    """Final latents of a whole guided loop, channels-first."""
    with tempfile.TemporaryDirectory() as temporary:
        write_model(Path(temporary) / "model")
        pipe = pipeline(Path(temporary) / "model")
    pipe.scheduler = torch_scheduler(name, CONFIGS["scheduler"])
    return final_latents(pipe, eta=TCD_ETA if name == "tcd" else 0.0)


def pipeline(folder: Path):
    """PyTorch's pipeline of a folder."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
    from diffusers import UNet2DConditionModel as Unet
    from transformers import CLIPTextModel, CLIPTokenizer

    pipe = StableDiffusionPipeline(
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder").float().eval(),
        unet=Unet.from_pretrained(folder / "unet").float().eval(),
        vae=AutoencoderKL.from_pretrained(folder / "vae").float().eval(),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def final_latents(pipe, prompts: Sequence[str] = oracle.PROMPTS, **more) -> np.ndarray:
    """Of a guided loop of `STEPS`, channels-first."""
    import torch

    made = pipe(
        list(prompts),
        num_inference_steps=STEPS,
        guidance_scale=oracle.GUIDANCE,
        negative_prompt=[oracle.NEGATIVE] * len(prompts),
        latents=torch.from_numpy(oracle.noise((len(prompts), 4, 8, 8), 0)),
        output_type="latent",
        **more,
    )
    return made.images.numpy()


if __name__ == "__main__":
    main()
