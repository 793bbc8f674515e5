"""--mode=finetune: fine-tunes a generator on the training images."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from osed_jax.config.build import as_plain
from osed_jax.config.schema import Config
from osed_jax.data.image_set import ImageSet
from osed_jax.diffusion.finetune_step import (
    FinetuneState,
    create_state,
    make_finetune_step,
    make_optimizer,
    unet_params,
)
from osed_jax.diffusion.lora import init_lora
from osed_jax.diffusion.model_files.layout import INDEX, PARTS
from osed_jax.diffusion.model_files.saving import save, save_into
from osed_jax.diffusion.sampler import Sampler
from osed_jax.diffusion.stable_diffusion import StableDiffusion, load
from osed_jax.errors import UserError
from osed_jax.experiment import loading, loop, workdir
from osed_jax.experiment.checkpoint import Checkpoints
from osed_jax.generation import miniature
from osed_jax.generation.prompts import class_prompts, read_own
from osed_jax.runtime.console import progress, say
from osed_jax.runtime.sharding import (
    abstract,
    check_batch_size,
    make_mesh,
    replicate,
    replicated,
    split,
)

_STREAM = 0x41444150  # separates these draws from any other use of the same seed
_GRID_CLASSES = 10  # most classes in a grid of samples


def finetune(config: Config) -> Path:
    """Fine-tunes a generator and returns its folder, `config.finetune.output_dir`.

    Only training images are read. An interrupted run continues from its last checkpoint; a finished
    one is only reported.

    Raises:
      UserError: if the folder has a run with other settings, the images are missing or do not fit
        the model, or the loss is not finite.
    """
    if not config.finetune.output_dir:
        raise UserError("config.finetune.output_dir is empty; give a folder for the generator")
    directory = Path(config.finetune.output_dir)
    whole = as_plain(config)
    ours = {name: whole[name] for name in ("seed", "dataset", "finetune")}
    prompts = ("templates", "modifiers", "prompts_file")
    ours["generation"] = {name: whole["generation"][name] for name in prompts}
    also = (*PARTS, "scheduler", "tokenizer", "sha256.json", "samples")
    with workdir.claimed(directory, ours, setting="config.finetune.output_dir", also=also):
        if (directory / INDEX).exists():
            say(f"{directory} is finished already; use it as --config.generation.model")
        else:
            _finetune(config, directory, ours)
    return directory


def _finetune(config: Config, directory: Path, ours: dict[str, Any]) -> None:
    settings, mesh = config.finetune, make_mesh()
    check_batch_size("config.finetune.batch_size", settings.batch_size, mesh)
    images = choose_images(config, loading.open_cache(directory))
    say(f"fine-tuning on {len(images.label):,} training images ({settings.images})")
    facts = {
        "num_train_images": len(images.label),
        "content_sha256": {"training": images.content_sha256()},
    }
    workdir.keep_facts(directory, facts)
    tuning = _Finetuning(config, directory, mesh, images, _base(config, directory, images))
    about = {"config": ours, "dataset": facts}
    with Checkpoints.writing(directory, every=0, also=[0], about=about) as saved:
        state = tuning.train(saved)
    say(f"saving the generator in {directory}")
    save_into(tuning.adapted(state), directory)


def choose_images(config: Config, cache: Path) -> ImageSet:
    """The images of `config.finetune.images`, without validation images; opens no test image."""
    found = loading.load_train(config, cache)
    images = found.rest if config.finetune.images == "rest" else found.train
    if not len(images.label):
        raise UserError(
            "config.finetune.images is rest, but the long-tailed set leaves out no training "
            "image; use train"
        )
    return images


def _base(config: Config, directory: Path, images: ImageSet) -> StableDiffusion:
    """The model to start from; a miniature is made once and saved in the folder."""
    settings, folder = config.finetune, directory / "base"
    if settings.base == miniature.NAME:
        if not folder.exists():
            say("building a miniature Stable Diffusion and training its autoencoder")
            fresh = miniature.build(_drawn_size(config, images), config.seed)
            trained = miniature.train_autoencoder(
                fresh,
                images.images,
                num_steps=settings.autoencoder_steps,
                batch_size=settings.batch_size,
                seed=config.seed,
            )
            save(trained, str(folder))
        model, revision = str(folder), ""
    else:
        model, revision = settings.base, settings.revision
    dtype = jnp.dtype(settings.dtype)
    return load(model, revision, dtype=dtype, param_dtype=jnp.dtype(jnp.float32))


def _drawn_size(config: Config, images: ImageSet) -> int:
    """Side in pixels of the images that the model draws."""
    return config.finetune.image_size or images.images.image_size


class _Finetuning:
    """One fine-tuning: its compiled step, its prompts and its place on disk."""

    def __init__(
        self, config: Config, directory: Path, mesh: Mesh, images: ImageSet, model: StableDiffusion
    ):
        self._config, self._settings, self._directory = config, config.finetune, directory
        self._mesh, self._images, self._model = mesh, images, model
        self._image_size = _drawn_size(config, images)
        if self._image_size % model.size_multiple:
            raise UserError(
                f"the images to draw have {self._image_size} pixels (config.finetune.image_size), "
                f"but this model draws multiples of {model.size_multiple}; give one of these"
            )
        self._lora = self._settings.lora_rank > 0
        gen = config.generation
        own = read_own(gen.prompts_file, images.class_names)
        self._prompts = [
            class_prompts(name, templates=gen.templates, modifiers=gen.modifiers, own=own)
            for name in images.class_names
        ]
        self._tokens = np.stack([model.tokenize(of_class) for of_class in self._prompts])
        self._no_prompt = model.tokenize([""])[0]
        trained = () if self._lora else ("unet",)
        frozen = {part: p for part, p in model.params.items() if part not in trained}
        self._frozen = replicate(frozen, mesh)
        self._tx = make_optimizer(
            learning_rate=self._settings.learning_rate,
            warmup_steps=self._settings.warmup_steps,
            num_steps=self._settings.num_steps,
            weight_decay=self._settings.weight_decay,
        )
        whole = replicated(mesh)
        self._step = jax.jit(
            make_finetune_step(
                model=model,
                tx=self._tx,
                image_size=self._image_size,
                ema_decay=self._settings.ema_decay,
                lora=self._lora,
                seed=config.seed,
            ),
            in_shardings=(whole, split(mesh), whole),
            out_shardings=(whole, whole),
            donate_argnums=0,
        )
        self._sampler: Sampler | None = None

    def train(self, saved: Checkpoints) -> FinetuneState:
        """Makes all updates that are not yet in a checkpoint."""
        state, done = self._starting_point(saved)
        settings, began = self._settings, time.perf_counter()
        losses = np.zeros(0)  # since the last line of metrics.jsonl
        bar = progress(total=settings.num_steps, unit="step", label="finetune")
        bar.update(done)
        with bar, loop.log(self._directory, "step", done + 1) as write:
            while done < settings.num_steps:
                first, done = done + 1, self._next_stop(done)
                batches = ((self._batch(step), 1) for step in range(first, done + 1))
                state, measured = loop.run_steps(self._update, state, batches, bar)
                loop.check_finite(
                    measured["loss"],
                    first,
                    "config.finetune.learning_rate",
                    "nothing after the last checkpoint was saved",
                )
                losses = np.append(losses, measured["loss"])
                if self._is_due(done, settings.log_every_steps):
                    record = self._record(done, losses, time.perf_counter() - began)
                    write(record)
                    bar.set_postfix_str(f"loss {record['loss']:.4f}", refresh=False)
                    losses, began = np.zeros(0), time.perf_counter()
                if self._is_due(done, settings.checkpoint_every_steps):
                    saved.save(done, state)
                if done % settings.sample_every_steps == 0:
                    self._write_grid(done, state)
        return state

    def _update(
        self, state: FinetuneState, batch: dict[str, np.ndarray]
    ) -> tuple[FinetuneState, dict[str, jax.Array]]:
        on_devices = jax.device_put(batch, split(self._mesh))
        state, loss = self._step(state, on_devices, self._frozen)
        return state, {"loss": loss}

    def _next_stop(self, done: int) -> int:
        """The next step after which something is written."""
        settings = self._settings
        every = (
            settings.log_every_steps,
            settings.checkpoint_every_steps,
            settings.sample_every_steps,
        )
        return min(settings.num_steps, *((done // each + 1) * each for each in every))

    def _is_due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self._settings.num_steps

    def adapted(self, state: FinetuneState) -> StableDiffusion:
        """The model with the averaged weights; the LoRA factors are merged."""
        frozen = {**self._model.params, **self._frozen}
        unet = unet_params(frozen, state.ema, lora=self._lora)
        params = jax.device_get({**self._model.params, "unet": unet})
        return dataclasses.replace(self._model, params=params)

    def _starting_point(self, saved: Checkpoints) -> tuple[FinetuneState, int]:
        """The state to start from, and the number of its updates."""

        def begin() -> FinetuneState:
            params = self._model.params["unet"]
            if self._lora:
                params = init_lora(params, self._settings.lora_rank, self._config.seed)
            return create_state(params, self._tx)

        done = saved.epochs()
        if not done:
            return replicate(begin(), self._mesh), 0
        say(f"continuing from the checkpoint of step {done[-1]}")
        return saved.restore(done[-1], abstract(jax.eval_shape(begin), self._mesh)), done[-1]

    def _batch(self, step: int) -> dict[str, np.ndarray]:
        """Images drawn with replacement, each with one of its class's prompts or with none."""
        random = np.random.default_rng([self._config.seed, _STREAM, step])
        size = self._settings.batch_size
        rows = random.integers(len(self._images.label), size=size)
        template = random.integers(self._tokens.shape[1], size=size)
        dropped = random.random(size) < self._settings.text_dropout
        tokens = self._tokens[self._images.label[rows], template]
        tokens[dropped] = self._no_prompt
        return {"image": self._images.images.take(rows), "tokens": tokens}

    def _record(self, step: int, losses: np.ndarray, seconds: float) -> dict[str, Any]:
        """The line of `metrics.jsonl` for the updates since its last line, up to `step`."""
        return {
            "step": step,
            "loss": float(losses.mean()),
            "images_per_second": round(len(losses) * self._settings.batch_size / seconds, 2),
        }

    def _write_grid(self, step: int, state: FinetuneState) -> None:
        """Samples of the averaged weights: a row for each class, the same noise every time."""
        model = self.adapted(state)
        if self._sampler is None:
            self._sampler = Sampler(
                model,
                size=self._image_size,
                image_size=self._image_size,
                batch_size=self._settings.batch_size,
                devices=list(self._mesh.devices.flat),
            )
        self._sampler.use(model.params)
        classes = min(_GRID_CLASSES, len(self._prompts))
        columns = self._settings.samples_per_class
        labels = np.repeat(np.arange(classes), columns).tolist()
        indices = np.tile(np.arange(columns), classes).tolist()
        size = self._sampler.batch_size
        made = [
            self._sampler(
                [self._prompts[c][0] for c in labels[i : i + size]],
                seed=self._config.seed,
                labels=labels[i : i + size],
                indices=indices[i : i + size],
            ).image
            for i in range(0, len(labels), size)
        ]
        rows = np.concatenate(made).reshape(classes, columns, *made[0].shape[1:])
        grid = rows.transpose(0, 2, 1, 3, 4).reshape(-1, columns * self._image_size, 3)
        path = self._directory / "samples" / f"{step:08d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(grid).save(path)
