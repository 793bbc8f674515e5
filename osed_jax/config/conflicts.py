"""Problems between fields of a config, each of which is valid by itself."""

import dataclasses
from collections.abc import Iterator

from osed_jax.config.fields_of_training import Model
from osed_jax.config.schema import FIELDS, Config, default_of, get
from osed_jax.models.nets import NETS


def conflicts(c: Config) -> Iterator[str]:
    """Problems between fields of a config, each of which is valid by itself."""
    model, usual = dataclasses.asdict(c.model), dataclasses.asdict(Model())
    if problem := NETS[c.model.name].problem(model, usual):
        yield problem
    yield from (_unused(c, name) for name in unused(c))
    if c.init.weights and not NETS[c.model.name].pretrained:
        names = ", ".join(name for name, net in NETS.items() if net.pretrained)
        yield (
            f"config.init.weights needs config.model.name to be one of {names}; it is "
            f"{c.model.name}"
        )
    if c.dataset.name in ("folder", "list") and not c.dataset.image_size:
        yield "config.dataset.image_size is 0; folders and lists need a size in pixels, such as 32"
    yield from _list_conflicts(c)
    crop, size = c.augment.crop_size, c.dataset.image_size
    if crop and crop > size:
        yield (
            f"config.augment.crop_size is {crop}, more than config.dataset.image_size ({size}), "
            f"from which it is cut; set image_size to 8/7 of it, {-(-crop * 8 // 7)}"
        )
    if crop and c.augment.crop_padding:
        yield (
            f"config.augment.crop_size is {crop} and crop_padding {c.augment.crop_padding}; "
            f"use one of the two, and set the other to 0"
        )
    folds, fold = c.dataset.validation_folds, c.dataset.validation_fold
    if fold >= max(folds, 1):
        yield (
            f"config.dataset.validation_fold is {fold}; with validation_folds={folds} it must be "
            f"less than {max(folds, 1)}"
        )
    if folds and c.dataset.validation_fraction:
        yield (
            f"config.dataset.validation_folds is {folds} and validation_fraction is "
            f"{c.dataset.validation_fraction:g}; use one of the two, and set the other to 0"
        )
    if bool(c.dataset.mean) != bool(c.dataset.std):
        yield "give both config.dataset.mean and config.dataset.std, or neither"
    if c.dataset.few_below > c.dataset.many_above + 1:
        yield (
            f"config.dataset.few_below is {c.dataset.few_below}, above many_above "
            f"({c.dataset.many_above}); a class would be in both groups"
        )
    yield from _loss_conflicts(c)
    yield from _deferral_conflicts(c)
    yield from _generation_conflicts(c)
    yield from _finetune_conflicts(c)


def without_effect(c: Config) -> list[str]:
    """Fields that have no effect in this config, as another field is."""
    return [
        name
        for name, field in FIELDS.items()
        if field.used_with and not field.used_with.holds(get(c, field.used_with.field))
    ]


def unused(c: Config) -> list[str]:
    """Those fields without effect that are not at their defaults."""
    return [name for name in without_effect(c) if get(c, name) != default_of(name, c)]


def _unused(c: Config, name: str) -> str:
    used = FIELDS[name].used_with
    assert used is not None  # see `without_effect`
    return (
        f"config.{name} is {get(c, name)!r}, which is used with {used.words} only; "
        f"config.{used.field} is {get(c, used.field)!r}: change one of the two"
    )


def _list_conflicts(c: Config) -> Iterator[str]:
    if c.dataset.name != "list":
        return
    for name in ("dataset.train_list", "dataset.test_list"):
        if not get(c, name):
            yield f"config.{name} is empty; dataset.name=list needs a file with lines PATH LABEL"
    for name in ("dataset.validation_fraction", "dataset.validation_folds"):
        if c.dataset.validation_list and get(c, name):
            yield (
                f"config.{name} is {get(c, name):g}, but config.dataset.validation_list names the "
                f"validation images; give one of the two only"
            )


def doubts(c: Config) -> Iterator[str]:
    """Settings that are valid but seldom wanted: a run prints one line for each, and trains."""
    corrections = []
    if c.loss.name == "balanced_softmax" or (c.loss.name == "logit_adjustment" and c.loss.tau):
        corrections.append(f"loss.name={c.loss.name}")
    if c.loss.class_weights != "none":
        corrections.append(f"loss.class_weights={c.loss.class_weights}")
    if c.oversampling.mode != "none":
        corrections.append(f"the class-balanced draws of oversampling.mode={c.oversampling.mode}")
    elif c.train.head_epochs:
        corrections.append("the class-balanced draws of train.head_epochs")
    if len(corrections) > 1:
        yield (
            f"{' and '.join(corrections)} correct the same imbalance {len(corrections)} times, "
            f"which may favour rare classes too much; usually one of them is used"
        )


def _loss_conflicts(c: Config) -> Iterator[str]:
    if c.loss.name == "ldam" and not c.model.cosine_scale:
        yield (
            "config.loss.name is ldam, which needs a normalised last layer; give "
            "config.model.cosine_scale, such as 30"
        )
    if c.model.cosine_scale and "cosine_scale" not in NETS[c.model.name].settings:
        yield (
            f"config.model.cosine_scale is {c.model.cosine_scale:g}, but the last layer of "
            f"{c.model.name} is linear; use 0"
        )
    start, num_epochs = c.oversampling.start_epoch, c.train.num_epochs
    if c.loss.class_weights == "deferred" and start >= num_epochs:
        yield (
            f"config.oversampling.start_epoch is {start}, but training ends after {num_epochs} "
            f"epochs, so class_weights=deferred would never start"
        )


def _deferral_conflicts(c: Config) -> Iterator[str]:
    mode, start = c.oversampling.mode, c.oversampling.start_epoch
    if mode != "none" and start >= c.train.num_epochs:
        yield (
            f"config.oversampling.start_epoch is {start}, but training ends after "
            f"{c.train.num_epochs} epochs, so mode {mode} would never start"
        )
    real_only, num_epochs = c.oversampling.real_only_epochs, c.train.num_epochs
    if real_only and start + real_only >= num_epochs:
        yield (
            f"config.oversampling.real_only_epochs is {real_only}; start_epoch ({start}) + "
            f"real_only_epochs must be less than num_epochs ({num_epochs})"
        )
    if c.oversampling.replace_in == "all" and c.oversampling.replace_ratio == 1:
        yield (
            "config.oversampling.replace_ratio is 1, which with replace_in=all shows no real "
            "image; give a number below 1, or replace_in=tail"
        )
    if c.init.fork_from and not c.train.head_epochs and (mode == "none" or not start):
        yield (
            "config.init.fork_from starts from the epochs that this run has in common with another "
            "one; it needs a mode other than none and start_epoch of at least 1, or "
            "train.head_epochs"
        )


def _generation_conflicts(c: Config) -> Iterator[str]:
    index, count = c.generation.process_index, c.generation.process_count
    if index >= count:
        yield (
            f"config.generation.process_index is {index}; with process_count={count} it must be "
            f"less than {count}"
        )
    if c.generation.negative_prompt and c.generation.guidance_scale == 1:
        yield (
            f"config.generation.negative_prompt is {c.generation.negative_prompt!r}, which has "
            f"no effect without guidance; leave it empty or set guidance_scale above 1"
        )
    strength, steps = c.generation.strength, c.generation.steps
    if c.generation.start_from != "noise" and int(steps * min(strength)) < 1:
        yield (
            f"config.generation.strength is {min(strength):g}, which takes none of "
            f"config.generation.steps={steps} steps; it must be at least {1 / steps:.2g}"
        )
    if c.generation.strength_draw == "uniform" and (
        len(strength) != 2 or strength[0] >= strength[1]
    ):
        yield (
            f"config.generation.strength is {tuple(strength)}; with strength_draw=uniform it must "
            f"be two ascending numbers, such as 0.3,0.7"
        )
    asked = c.generation.classifier_top_k or c.generation.max_feature_distance
    if bool(asked) != bool(c.generation.classifier_workdir):
        yield (
            "config.generation.classifier_workdir is used by classifier_top_k and "
            "max_feature_distance; give it with at least one of the two, or none of the three"
        )


def _finetune_conflicts(c: Config) -> Iterator[str]:
    if c.finetune.base == "miniature" and c.finetune.lora_rank:
        yield (
            f"config.finetune.lora_rank is {c.finetune.lora_rank}, but a miniature starts "
            f"from random weights, which must all be trained; use 0"
        )
    if c.finetune.base == "miniature" and c.finetune.image_size:
        yield (
            f"config.finetune.image_size is {c.finetune.image_size}, but a miniature draws "
            f"images of the data set's size; use 0"
        )
    every, log = c.finetune.checkpoint_every_steps, c.finetune.log_every_steps
    if every % log:
        yield (
            f"config.finetune.checkpoint_every_steps is {every}; it must be a multiple of "
            f"log_every_steps ({log})"
        )
    if c.finetune.warmup_steps >= c.finetune.num_steps:
        yield (
            f"config.finetune.warmup_steps is {c.finetune.warmup_steps}; it must be less than "
            f"num_steps ({c.finetune.num_steps})"
        )
