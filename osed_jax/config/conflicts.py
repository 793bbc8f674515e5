"""Problems between fields of a config, each of which is valid by itself."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from osed_jax.config.choices import CLASS_WEIGHTS, MIXES
from osed_jax.models.nets import NETS


class _Serving(NamedTuple):
    """Fields that are used with some values of another field only.

    Attributes:
      fields: they must have their defaults with all other values.
      by: the other field.
      values: of `by`, with which the fields are used.
      words: the same condition in words, for messages.
    """

    fields: tuple[str, ...]
    by: str
    values: tuple[str, ...]
    words: str


_MODE = "oversampling.mode"
_LISTS = tuple(f"dataset.{split}_list" for split in ("train", "validation", "test"))
_SERVING = (
    _Serving(_LISTS, "dataset.name", ("list",), "with dataset.name=list"),
    _Serving(
        ("loss.tau",), "loss.name", ("logit_adjustment",), "with config.loss.name=logit_adjustment"
    ),
    _Serving(("loss.max_margin",), "loss.name", ("ldam",), "with config.loss.name=ldam"),
    _Serving(
        ("loss.beta",),
        "loss.class_weights",
        tuple(name for name in CLASS_WEIGHTS if name != "none"),
        "with config.loss.class_weights",
    ),
    _Serving(
        ("optimizer.decay_at", "optimizer.decay_factor"),
        "optimizer.schedule",
        ("steps",),
        "with config.optimizer.schedule=steps",
    ),
    _Serving(
        ("augment.mix_alpha", "augment.mix_prob", "augment.mix_partner"),
        "augment.mix",
        tuple(name for name in MIXES if name != "none"),
        "with config.augment.mix",
    ),
    _Serving(
        ("augment.randaugment_count", "augment.randaugment_level"),
        "augment.policy",
        ("randaugment",),
        "with config.augment.policy=randaugment",
    ),
    _Serving(
        (
            "oversampling.noise_share",
            "oversampling.generated_classes",
            "oversampling.max_gap",
            "oversampling.soft_label_exponent",
            "loss.generated_weight",
        ),
        _MODE,
        ("generated",),
        "in mode generated",
    ),
    _Serving(
        ("oversampling.replace_schedule", "oversampling.replace_in"),
        _MODE,
        ("noise", "generated"),
        "in modes noise and generated",
    ),
    _Serving(
        ("generation.strength", "generation.strength_draw"),
        "generation.start_from",
        ("train", "other_class"),
        "with config.generation.start_from=train or other_class",
    ),
)


def conflicts(f: Mapping[str, Any], usual: Mapping[str, Any]) -> Iterator[str]:
    """Problems between fields, each of which is valid by itself.

    Args:
      f: a config, `section.field` -> value.
      usual: the defaults of the same.
    """
    if problem := NETS[f["model.name"]].problem(_section(f, "model"), _section(usual, "model")):
        yield problem
    for serving in _SERVING:
        yield from _without_meaning(serving, f, usual)
    if f["init.weights"] and not NETS[f["model.name"]].pretrained:
        names = ", ".join(name for name, net in NETS.items() if net.pretrained)
        yield (
            f"config.init.weights needs config.model.name to be one of {names}; it is "
            f"{f['model.name']}"
        )
    if f["optimizer.pretrained_factor"] != 1 and not f["init.weights"]:
        yield (
            f"config.optimizer.pretrained_factor is {f['optimizer.pretrained_factor']:g}, which "
            f"is used with config.init.weights only; give weights, or set it to 1"
        )
    if f["generation.lora_scale"] != 1 and not f["generation.lora"]:
        yield (
            f"config.generation.lora_scale is {f['generation.lora_scale']:g}, which is used "
            f"with config.generation.lora only; give a file, or set it to 1"
        )
    if f["dataset.name"] in ("folder", "list") and not f["dataset.image_size"]:
        yield "config.dataset.image_size is 0; folders and lists need a size in pixels, such as 32"
    yield from _list_conflicts(f)
    crop, size = f["augment.crop_size"], f["dataset.image_size"]
    if crop and crop > size:
        yield (
            f"config.augment.crop_size is {crop}, more than config.dataset.image_size ({size}), "
            f"from which it is cut; set image_size to 8/7 of it, {-(-crop * 8 // 7)}"
        )
    if crop and f["augment.crop_padding"]:
        yield (
            f"config.augment.crop_size is {crop} and crop_padding {f['augment.crop_padding']}; "
            f"use one of the two, and set the other to 0"
        )
    folds, fold = f["dataset.validation_folds"], f["dataset.validation_fold"]
    if fold >= max(folds, 1):
        yield (
            f"config.dataset.validation_fold is {fold}; with validation_folds={folds} it must be "
            f"less than {max(folds, 1)}"
        )
    if folds and f["dataset.validation_fraction"]:
        yield (
            f"config.dataset.validation_folds is {folds} and validation_fraction is "
            f"{f['dataset.validation_fraction']:g}; use one of the two, and set the other to 0"
        )
    if bool(f["dataset.mean"]) != bool(f["dataset.std"]):
        yield "give both config.dataset.mean and config.dataset.std, or neither"
    if f["dataset.few_below"] > f["dataset.many_above"] + 1:
        yield (
            f"config.dataset.few_below is {f['dataset.few_below']}, above many_above "
            f"({f['dataset.many_above']}); a class would be in both groups"
        )
    yield from _loss_conflicts(f)
    yield from _deferral_conflicts(f)
    yield from _generation_conflicts(f)
    yield from _finetune_conflicts(f)


def _section(f: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key.partition(".")[2]: v for key, v in f.items() if key.startswith(f"{name}.")}


def _without_meaning(
    serving: _Serving, f: Mapping[str, Any], usual: Mapping[str, Any]
) -> Iterator[str]:
    value = f[serving.by]
    if value in serving.values:
        return
    for name in serving.fields:
        if f[name] != usual[name]:
            yield (
                f"config.{name} is {f[name]!r}, which is used {serving.words} only; "
                f"config.{serving.by} is {value}: change one of the two"
            )


def _list_conflicts(f: Mapping[str, Any]) -> Iterator[str]:
    if f["dataset.name"] != "list":
        return
    for name in ("dataset.train_list", "dataset.test_list"):
        if not f[name]:
            yield f"config.{name} is empty; dataset.name=list needs a file with lines PATH LABEL"
    for name in ("dataset.validation_fraction", "dataset.validation_folds"):
        if f["dataset.validation_list"] and f[name]:
            yield (
                f"config.{name} is {f[name]:g}, but config.dataset.validation_list names the "
                f"validation images; give one of the two only"
            )


def doubts(f: Mapping[str, Any]) -> Iterator[str]:
    """Settings that are valid but seldom wanted: a run prints one line for each, and trains."""
    corrections = []
    if f["loss.name"] == "balanced_softmax" or (
        f["loss.name"] == "logit_adjustment" and f["loss.tau"]
    ):
        corrections.append(f"loss.name={f['loss.name']}")
    if f["loss.class_weights"] != "none":
        corrections.append(f"loss.class_weights={f['loss.class_weights']}")
    if f["oversampling.mode"] != "none":
        corrections.append(
            f"the class-balanced draws of oversampling.mode={f['oversampling.mode']}"
        )
    elif f["train.head_epochs"]:
        corrections.append("the class-balanced draws of train.head_epochs")
    if len(corrections) > 1:
        yield (
            f"{' and '.join(corrections)} correct the same imbalance {len(corrections)} times, "
            f"which may favour rare classes too much; usually one of them is used"
        )


def _loss_conflicts(f: Mapping[str, Any]) -> Iterator[str]:
    if f["loss.name"] == "ldam" and not f["model.cosine_scale"]:
        yield (
            "config.loss.name is ldam, which needs a normalised last layer; give "
            "config.model.cosine_scale, such as 30"
        )
    if f["model.cosine_scale"] and "cosine_scale" not in NETS[f["model.name"]].settings:
        yield (
            f"config.model.cosine_scale is {f['model.cosine_scale']:g}, but the last layer of "
            f"{f['model.name']} is linear; use 0"
        )
    start, num_epochs = f["oversampling.start_epoch"], f["train.num_epochs"]
    if f["loss.class_weights"] == "deferred" and start >= num_epochs:
        yield (
            f"config.oversampling.start_epoch is {start}, but training ends after {num_epochs} "
            f"epochs, so class_weights=deferred would never start"
        )


def _deferral_conflicts(f: Mapping[str, Any]) -> Iterator[str]:
    mode, start = f["oversampling.mode"], f["oversampling.start_epoch"]
    if mode != "none" and start >= f["train.num_epochs"]:
        yield (
            f"config.oversampling.start_epoch is {start}, but training ends after "
            f"{f['train.num_epochs']} epochs, so mode {mode} would never start"
        )
    real_only, num_epochs = f["oversampling.real_only_epochs"], f["train.num_epochs"]
    if real_only and (mode not in ("noise", "generated") or start + real_only >= num_epochs):
        yield (
            f"config.oversampling.real_only_epochs is {real_only}; it is used in modes noise and "
            f"generated only, and start_epoch ({start}) + real_only_epochs must be less than "
            f"num_epochs ({num_epochs}); the mode is {mode}"
        )
    if f["oversampling.replace_in"] == "all" and f["oversampling.replace_ratio"] == 1:
        yield (
            "config.oversampling.replace_ratio is 1, which with replace_in=all shows no real "
            "image; give a number below 1, or replace_in=tail"
        )
    if f["init.fork_from"] and not f["train.head_epochs"] and (mode == "none" or not start):
        yield (
            "config.init.fork_from starts from the epochs that this run has in common with another "
            "one; it needs a mode other than none and start_epoch of at least 1, or "
            "train.head_epochs"
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
    strength, steps = f["generation.strength"], f["generation.steps"]
    if f["generation.start_from"] != "noise" and int(steps * min(strength)) < 1:
        yield (
            f"config.generation.strength is {min(strength):g}, which takes none of "
            f"config.generation.steps={steps} steps; it must be at least {1 / steps:.2g}"
        )
    if f["generation.strength_draw"] == "uniform" and (
        len(strength) != 2 or strength[0] >= strength[1]
    ):
        yield (
            f"config.generation.strength is {tuple(strength)}; with strength_draw=uniform it must "
            f"be two ascending numbers, such as 0.3,0.7"
        )
    asked = f["generation.classifier_top_k"] or f["generation.max_feature_distance"]
    if bool(asked) != bool(f["generation.classifier_workdir"]):
        yield (
            "config.generation.classifier_workdir is used by classifier_top_k and "
            "max_feature_distance; give it with at least one of the two, or none of the three"
        )


def _finetune_conflicts(f: Mapping[str, Any]) -> Iterator[str]:
    if f["finetune.base"] == "miniature" and f["finetune.lora_rank"]:
        yield (
            f"config.finetune.lora_rank is {f['finetune.lora_rank']}, but a miniature starts "
            f"from random weights, which must all be trained; use 0"
        )
    if f["finetune.base"] == "miniature" and f["finetune.image_size"]:
        yield (
            f"config.finetune.image_size is {f['finetune.image_size']}, but a miniature draws "
            f"images of the data set's size; use 0"
        )
    every, log = f["finetune.checkpoint_every_steps"], f["finetune.log_every_steps"]
    if every % log:
        yield (
            f"config.finetune.checkpoint_every_steps is {every}; it must be a multiple of "
            f"log_every_steps ({log})"
        )
    if f["finetune.warmup_steps"] >= f["finetune.num_steps"]:
        yield (
            f"config.finetune.warmup_steps is {f['finetune.warmup_steps']}; it must be less than "
            f"num_steps ({f['finetune.num_steps']})"
        )
