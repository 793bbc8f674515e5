"""What makes an experiment valid: every problem in one error, each with what is allowed."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from configs import default
from osed_jax.data import long_tail
from osed_jax.data.datasets import NAMES
from osed_jax.data.sampling import ROADS
from osed_jax.errors import UserError
from osed_jax.generation.choices import PLACEHOLDER, RESIZES, SCHEDULERS

Rule = tuple[Callable[[Any], bool], str]


def check(config: ConfigDict) -> dict[str, Any]:
    """Returns the config as a plain nested dict, as `config.json` has it.

    Raises:
      UserError: naming every field that is unknown, missing or out of range.
    """
    resolved = _plain(config.to_dict())
    check_fields(resolved)
    return resolved


def check_fields(resolved: Mapping[str, Any]) -> None:
    """The same for a config that is a plain nested dict already."""
    fields, known = dict(_flat(resolved)), dict(_flat(_plain(default.get_config().to_dict())))
    problems = [
        f"config.{f} is no field of the schema (configs/default.py)"
        for f in fields
        if f not in known
    ]
    problems += [f"config.{f} is missing; see configs/default.py" for f in known if f not in fields]
    if not problems:
        problems = [
            f"config.{field} is {fields[field]!r}; it must be {allowed}"
            for field, (valid, allowed) in _RULES.items()
            if not valid(fields[field])
        ]
    if not problems:
        problems = list(_conflicts(fields))
    if problems:
        raise UserError("; ".join(problems))


def completed(kept: Mapping[str, Any]) -> dict[str, Any]:
    """A config that an earlier version kept, with the fields that its sections have got since.

    They have their defaults, which change nothing; sections that it does not have stay absent.
    """
    defaults = _plain(default.get_config().to_dict())
    return {
        name: {**defaults.get(name, {}), **value} if isinstance(value, Mapping) else value
        for name, value in kept.items()
    }


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fields in which two plain configs differ: name -> (old value, new value)."""
    before, after = dict(_flat(old)), dict(_flat(new))
    pairs = {
        field: (before.get(field, "absent"), after.get(field, "absent"))
        for field in sorted(before.keys() | after.keys())
    }
    return {field: (a, b) for field, (a, b) in pairs.items() if a != b}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The same for people: `field: old -> new` each."""
    changed = changed_fields(old, new).items()
    return [f"{field}: {before!r} -> {after!r}" for field, (before, after) in changed]


def method_name(config: Mapping[str, Any]) -> str:
    """The method that a plain config describes: `erm`, `ros`, `drs`, `open` or `osed`."""
    over = config["oversampling"]
    if over["mode"] == "resample":
        return "drs" if over["start_epoch"] else "ros"
    return {"none": "erm", "noise": "open", "diffusion": "osed"}[over["mode"]]


def _one_of(*allowed: str) -> Rule:
    return lambda x: x in allowed, f"one of {', '.join(allowed)}"


def _within(low: float, high: float) -> Rule:
    return lambda x: low <= x <= high, f"between {low:g} and {high:g}"


def _at_least(low: float) -> Rule:
    return lambda x: x >= low, f"at least {low:g}"


def _numbers(count: int, low: float, high: float) -> Rule:
    def valid(x: Any) -> bool:
        return len(x) == count and all(isinstance(v, int | float) and low <= v <= high for v in x)

    return valid, f"{count} numbers between {low:g} and {high:g}"


def _or_empty(rule: Rule) -> Rule:
    return lambda x: not x or rule[0](x), f"{rule[1]}, or empty to measure it"


_POSITIVE: Rule = (lambda x: x > 0, "greater than 0")
_SHARE = _within(0, 1)

_RULES: dict[str, Rule] = {
    "seed": _within(0, 2**32 - 1),
    "train.num_epochs": _at_least(1),
    "train.batch_size": _at_least(1),
    "train.feeder": _one_of("auto", "resident", "tfdata"),
    "train.eval_every_epochs": _at_least(0),
    "train.checkpoint_every_epochs": _at_least(0),
    "dataset.name": (
        lambda x: x in NAMES or (x.startswith("tfds:") and x != "tfds:"),
        f"one of {', '.join(NAMES)}",
    ),
    "dataset.image_size": _within(0, 4096),
    "dataset.imbalance_profile": _one_of(*long_tail.PROFILES),
    "dataset.imbalance_ratio": _at_least(1),
    "dataset.num_max": _at_least(0),
    "dataset.validation_fraction": (lambda x: 0 <= x < 1, "at least 0 and less than 1"),
    "dataset.mean": _or_empty(_numbers(3, 0, 1)),
    "dataset.std": _or_empty(_numbers(3, 1e-3, 1)),
    "dataset.groups": _one_of(*long_tail.GROUPS),
    "dataset.few_below": _at_least(0),
    "dataset.max_decoded_gib": _at_least(0),
    "oversampling.mode": _one_of("none", "resample", "noise", "diffusion"),
    "oversampling.start_epoch": _at_least(0),
    "oversampling.noise_ratio": _SHARE,
    "oversampling.replace_in": _one_of("tail", "all"),
    "oversampling.real_only_epochs": _at_least(0),
    "oversampling.noise_share": _SHARE,
    "oversampling.noise_space": _one_of("pixel", "normalised"),
    "oversampling.noise_road": _one_of(*ROADS),
    "oversampling.synthetic_road": _one_of(*ROADS),
    "generation.dtype": _one_of("float32", "bfloat16"),
    "generation.seed": _within(0, 2**32 - 1),
    "generation.count": (
        lambda x: x in ("balance", "noise_ratio") or (x.isdecimal() and int(x) > 0),
        "balance, noise_ratio or a number of images, at least 1",
    ),
    "generation.process_index": _at_least(0),
    "generation.process_count": _at_least(1),
    "generation.batch_size": _at_least(1),
    "generation.image_size": _at_least(0),
    "generation.steps": _at_least(1),
    "generation.scheduler": _one_of(*SCHEDULERS),
    "generation.guidance_scale": _at_least(1),
    "generation.templates": (
        lambda x: x and all(isinstance(v, str) and PLACEHOLDER in v for v in x),
        f"at least one text with {PLACEHOLDER} where the class's name goes",
    ),
    "generation.modifiers": (lambda x: all(isinstance(v, str) for v in x), "texts"),
    "generation.resize_method": _one_of(*RESIZES),
    "generation.min_deviation": _SHARE,
    "generation.near_duplicate_bits": _within(0, 64),
    "generation.classifier_top_k": _at_least(0),
    "generation.max_feature_distance": _at_least(0),
    "generation.max_attempts": _at_least(1),
    "augment.crop_padding": _at_least(0),
    "augment.cutout": _at_least(0),
    "augment.color_jitter": (
        lambda x: _numbers(4, 0, 1)[0](x) and x[3] <= 0.5,
        "4 numbers between 0 and 1, the last (hue) at most 0.5",
    ),
    "augment.color_jitter_prob": _SHARE,
    "augment.grayscale_prob": _SHARE,
    "augment.blur_prob": _SHARE,
    "augment.blur_sigma": (
        lambda x: _numbers(2, 0.01, 100)[0](x) and x[0] <= x[1],
        "2 ascending numbers from 0.01 on",
    ),
    "model.name": _one_of("wide_resnet", "resnet"),
    "model.widen_factor": _at_least(1),
    "model.dropout_rate": (lambda x: 0 <= x < 1, "at least 0 and less than 1"),
    "model.dtype": _one_of("float32", "bfloat16"),
    "optimizer.learning_rate": _POSITIVE,
    "optimizer.momentum": (lambda x: 0 <= x < 1, "at least 0 and less than 1"),
    "optimizer.weight_decay": _at_least(0),
    "optimizer.warmup_epochs": _at_least(0),
    "optimizer.decay_at": (
        lambda x: all(isinstance(v, int | float) and 0 <= v <= 1 for v in x),
        "fractions of num_epochs between 0 and 1",
    ),
    "optimizer.decay_factor": _POSITIVE,
    "loss.label_smoothing": (lambda x: 0 <= x < 1, "at least 0 and less than 1"),
    "evaluate.batch_size": _at_least(1),
    "diagnose.num_batches": _at_least(1),
    "gap.num_neighbours": _at_least(1),
    "gap.max_images": _at_least(2),
    "report.map_images": _at_least(0),
    "report.images_per_class": _at_least(1),
    "sweep.seeds": (
        lambda x: x and len(set(x)) == len(x) and all(isinstance(v, int) and v >= 0 for v in x),
        "different whole numbers from 0 on, at least one",
    ),
    "sweep.methods": (
        lambda x: (
            len(set(x.split(","))) == x.count(",") + 1
            and all(v in default.METHODS for v in x.split(","))
        ),
        f"different ones of {', '.join(default.METHODS)}, separated by commas",
    ),
    "adapt.base": (lambda x: x != "", "a folder, a hub id or miniature"),
    "adapt.images": _one_of("train", "rest"),
    "adapt.image_size": _within(0, 4096),
    "adapt.num_steps": _at_least(1),
    "adapt.batch_size": _at_least(1),
    "adapt.learning_rate": _POSITIVE,
    "adapt.warmup_steps": _at_least(0),
    "adapt.weight_decay": _at_least(0),
    "adapt.ema_decay": (lambda x: 0 <= x < 1, "at least 0 and less than 1"),
    "adapt.lora_rank": _at_least(0),
    "adapt.text_dropout": _SHARE,
    "adapt.dtype": _one_of("float32", "bfloat16"),
    "adapt.autoencoder_steps": _at_least(1),
    "adapt.log_every_steps": _at_least(1),
    "adapt.checkpoint_every_steps": _at_least(1),
    "adapt.sample_every_steps": _at_least(1),
    "adapt.samples_per_class": _at_least(1),
}


def _conflicts(f: Mapping[str, Any]) -> Iterator[str]:
    """Problems between fields that are valid each on its own."""
    blocks, rest = (6, 4) if f["model.name"] == "wide_resnet" else (6, 2)
    depth = f["model.depth"]
    if depth < blocks + rest or (depth - rest) % blocks:
        yield f"config.model.depth is {depth}; for {f['model.name']} it must be 6n+{rest}, n >= 1"
    if f["dataset.name"] == "folder" and not f["dataset.image_size"]:
        yield "config.dataset.image_size is 0; a folder's images need a size in pixels"
    if bool(f["dataset.mean"]) != bool(f["dataset.std"]):
        yield "give both config.dataset.mean and config.dataset.std, or neither"
    if f["dataset.few_below"] > f["dataset.many_above"] + 1:
        yield (
            f"config.dataset.few_below is {f['dataset.few_below']}, above many_above "
            f"({f['dataset.many_above']}); a class would be in both groups"
        )
    yield from _deferral_conflicts(f)
    yield from _generation_conflicts(f)
    yield from _adapt_conflicts(f)


def _deferral_conflicts(f: Mapping[str, Any]) -> Iterator[str]:
    mode, start = f["oversampling.mode"], f["oversampling.start_epoch"]
    if mode != "none" and start >= f["train.num_epochs"]:
        yield (
            f"config.oversampling.start_epoch is {start}, but training ends after "
            f"{f['train.num_epochs']} epochs, so mode {mode} would never start"
        )
    real_only, num_epochs = f["oversampling.real_only_epochs"], f["train.num_epochs"]
    if real_only and (mode not in ("noise", "diffusion") or start + real_only >= num_epochs):
        yield (
            f"config.oversampling.real_only_epochs is {real_only}; it ends what modes noise and "
            f"diffusion do, and must leave them an epoch between start_epoch ({start}) and "
            f"num_epochs ({num_epochs}); the mode is {mode}"
        )
    if f["oversampling.noise_share"] and mode != "diffusion":
        yield (
            f"config.oversampling.noise_share is {f['oversampling.noise_share']:g}, which has a "
            f"meaning in mode diffusion only; the mode is {mode}"
        )
    if f["oversampling.replace_in"] == "all":
        yield from _replace_in_all_conflicts(mode, f["oversampling.noise_ratio"])
    if f["init.fork_from"] and (mode == "none" or not start):
        yield (
            "config.init.fork_from starts a deferred method from another run; it needs a mode "
            "other than none and start_epoch of at least 1"
        )


def _replace_in_all_conflicts(mode: str, noise_ratio: float) -> Iterator[str]:
    if mode not in ("noise", "diffusion"):
        yield (
            f"config.oversampling.replace_in is all, which has a meaning in modes noise and "
            f"diffusion only; the mode is {mode}"
        )
    elif noise_ratio == 1:
        yield (
            "config.oversampling.noise_ratio is 1, which with replace_in=all shows no real image; "
            "give a number below 1, or replace_in=tail"
        )


def _generation_conflicts(f: Mapping[str, Any]) -> Iterator[str]:
    index, count = f["generation.process_index"], f["generation.process_count"]
    if index >= count:
        yield (
            f"config.generation.process_index is {index}; with process_count={count} it must be "
            f"less than {count}"
        )
    if f["generation.negative_prompt"] and f["generation.guidance_scale"] == 1:
        yield (
            f"config.generation.negative_prompt is {f['generation.negative_prompt']!r}, which has "
            f"no effect without guidance; leave it empty or set guidance_scale above 1"
        )
    asked = f["generation.classifier_top_k"] or f["generation.max_feature_distance"]
    if bool(asked) != bool(f["generation.classifier_workdir"]):
        yield (
            "config.generation.classifier_workdir serves classifier_top_k and "
            "max_feature_distance; give it with at least one of the two, or none of the three"
        )


def _adapt_conflicts(f: Mapping[str, Any]) -> Iterator[str]:
    if f["adapt.base"] == "miniature" and f["adapt.lora_rank"]:
        yield (
            f"config.adapt.lora_rank is {f['adapt.lora_rank']}, but a miniature begins with "
            f"random weights, which must all be trained; use 0"
        )
    if f["adapt.base"] == "miniature" and f["adapt.image_size"]:
        yield (
            f"config.adapt.image_size is {f['adapt.image_size']}, but a miniature draws images of "
            f"the data set's size; use 0"
        )
    every, log = f["adapt.checkpoint_every_steps"], f["adapt.log_every_steps"]
    if every % log:
        yield (
            f"config.adapt.checkpoint_every_steps is {every}; it must be a multiple of "
            f"log_every_steps ({log})"
        )
    if f["adapt.warmup_steps"] >= f["adapt.num_steps"]:
        yield (
            f"config.adapt.warmup_steps is {f['adapt.warmup_steps']}; it must be less than "
            f"num_steps ({f['adapt.num_steps']})"
        )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON gives them back."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
