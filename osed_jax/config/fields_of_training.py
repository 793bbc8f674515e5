"""The fields of net, optimizer, loss and evaluation. Sources: see `fields_of_data`."""

import dataclasses

from osed_jax.config.choices import CLASS_WEIGHTS, DTYPES, LOSSES
from osed_jax.config.field import (
    BELOW_ONE,
    PATH,
    POSITIVE,
    WHOLE,
    OfARun,
    Rule,
    UsedWith,
    at_least,
    field,
    one_of,
)
from osed_jax.models.nets import NETS

_GENERATED = UsedWith("oversampling.mode", ("generated",))


@dataclasses.dataclass(frozen=True)
class Train(OfARun):
    """How long and in what batches."""

    num_epochs: int = field(
        200,
        "number of epochs; an epoch shows as many images as the training set has",
        at_least(1),
        matters_for="step",
        unit="epochs",
    )
    batch_size: int = field(128, "images in a batch, over all devices together", at_least(1))
    feeder: str = field(
        "auto",
        "how images reach the device, always in the same batches; resident: all stay in its "
        "memory; tfdata: through tf.data; auto: resident if they fit, else tfdata",
        one_of("auto", "resident", "tfdata"),
        matters_for="speed",
    )
    head_epochs: int = field(
        0,
        "further epochs after num_epochs in which only the last layer is trained, again from "
        "random weights, on class-balanced draws of real images (cRT; Kang et al. 2020); 0: "
        "none",
        at_least(0),
        matters_for="step",
        unit="epochs",
        by_stage=True,
    )
    eval_every_epochs: int = field(
        lambda epochs: epochs // 20,
        "epochs between two evaluations, for the accuracy curve; 0: evaluation at the end only",
        at_least(0),
        matters_for="display",
        unit="epochs",
    )
    checkpoint_every_epochs: int = field(
        lambda epochs: epochs // 5,
        "every checkpoint of such a multiple of epochs is kept, as are that of start_epoch and "
        "the last one; 0: only these two",
        at_least(0),
        matters_for="speed",
        unit="epochs",
    )


@dataclasses.dataclass(frozen=True)
class Model(OfARun):
    """The classifier."""

    name: str = field("wide_resnet", "the net", one_of(*NETS), matters_for="step")
    depth: int = field(
        28,
        "wide_resnet, resnet: number of layers; each net has its own rule",
        WHOLE,
        matters_for="step",
    )
    widen_factor: int = field(
        10, "wide_resnet only: factor of the number of channels", at_least(1), matters_for="step"
    )
    dropout_rate: float = field(
        0.3,
        "wide_resnet only: dropout after the first convolution of a block (MLRC)",
        BELOW_ONE,
        matters_for="step",
    )
    dtype: str = field(
        "float32",
        "number type of the computation; parameters stay float32",
        one_of(*DTYPES),
        matters_for="step",
    )
    cosine_scale: float = field(
        0.0,
        "0: the last layer is linear; else its logits are this many times a cosine, without a "
        "bias (the loss ldam needs it; Cao: 30)",
        at_least(0),
        matters_for="step",
    )


@dataclasses.dataclass(frozen=True)
class Optimizer(OfARun):
    """SGD and its learning rate."""

    learning_rate: float = field(
        0.1, "learning rate of SGD, without Nesterov momentum", POSITIVE, matters_for="step"
    )
    momentum: float = field(0.9, "momentum of SGD", BELOW_ONE, matters_for="step")
    weight_decay: float = field(
        2e-4,
        "weight decay of all parameters, added to the gradient (L2)",
        at_least(0),
        matters_for="step",
    )
    warmup_epochs: int = field(
        lambda epochs: epochs // 40,
        "epochs of linear warm-up, with one learning rate per epoch, as in Cao's code",
        at_least(0),
        matters_for="step",
        unit="epochs",
    )
    schedule: str = field(
        "steps",
        "steps: lowered by decay_factor at decay_at; cosine: half a cosine down to 0, with one "
        "learning rate per epoch (Kang et al. 2020)",
        one_of("steps", "cosine"),
        matters_for="step",
    )
    decay_at: tuple[float, ...] = field(
        (0.8, 0.9),
        "schedule steps: when the learning rate is lowered, in fractions of num_epochs (Zada: "
        "epochs 160 and 180)",
        Rule(
            lambda x: all(isinstance(v, int | float) and 0 <= v <= 1 for v in x),
            "fractions of num_epochs between 0 and 1",
        ),
        matters_for="step",
        used_with=UsedWith("optimizer.schedule", ("steps",)),
    )
    decay_factor: float = field(
        0.01,
        "factor of the learning rate at each of these times",
        POSITIVE,
        matters_for="step",
        used_with=UsedWith("optimizer.schedule", ("steps",)),
    )
    pretrained_factor: float = field(
        1.0,
        "with init.weights: learning rate of all layers but the last, in multiples of the last "
        "layer's",
        POSITIVE,
        matters_for="step",
        used_with=UsedWith("init.weights"),
    )
    head_learning_rate: float = field(
        0.1,
        "learning rate in the first of train.head_epochs; after it a cosine down to 0 (Kang et "
        "al. 2020)",
        POSITIVE,
        matters_for="step",
        by_stage=True,
    )


@dataclasses.dataclass(frozen=True)
class Loss(OfARun):
    """The loss that is minimised."""

    name: str = field(
        "cross_entropy",
        "balanced_softmax: the log of the class counts is added to the logits (Ren et al. "
        "2020); logit_adjustment: tau times that log is added (Menon et al. 2021); ldam: a "
        "margin for each class (Cao)",
        one_of(*LOSSES),
        matters_for="step",
        tells_method=True,
    )
    tau: float = field(
        1.0,
        "logit_adjustment: factor of the log of the class counts; 0 is plain cross-entropy",
        at_least(0),
        matters_for="step",
        used_with=UsedWith("loss.name", ("logit_adjustment",)),
    )
    max_margin: float = field(
        0.5,
        "ldam: margin of the rarest class, as a cosine (Cao)",
        POSITIVE,
        matters_for="step",
        used_with=UsedWith("loss.name", ("ldam",)),
    )
    class_weights: str = field(
        "none",
        "weights of the classes in the loss; class_balanced: proportional to 1 / (1 - beta^n) "
        "for a class of n images (Cui et al. 2019); deferred: the same from "
        "oversampling.start_epoch on, in every mode (DRW; Cao)",
        one_of(*CLASS_WEIGHTS),
        matters_for="step",
        tells_method=True,
    )
    beta: float = field(
        0.9999,
        "the beta of class_weights",
        BELOW_ONE,
        matters_for="step",
        used_with=UsedWith("loss.class_weights", ("class_balanced", "deferred")),
    )
    generated_weight: float = field(
        1.0,
        "weight of a generated row in the mean of the loss; a real row has weight 1 (Shao et "
        "al., DiffuLT, 2024)",
        at_least(0),
        matters_for="step",
        used_with=_GENERATED,
        by_stage=True,
    )
    label_smoothing: float = field(
        0.0,
        "share of the target that is spread evenly over all classes",
        BELOW_ONE,
        matters_for="step",
    )


@dataclasses.dataclass(frozen=True)
class Init(OfARun):
    """Weights from which a run starts."""

    fork_from: str = field(
        "",
        "work directory of a run that begins like this one; training starts from its "
        "checkpoint at the epoch where the two differ (start_epoch, if it is an ERM run)",
        PATH,
        matters_for="place",
    )
    weights: str = field(
        "",
        "resnet18, resnet50, efficientnet_lite0: pretrained weights to start from: one of these "
        "names, for its weights of ImageNet (those of efficientnet_lite0 are installed, others "
        "come from the hub); a file with torchvision's or timm's names (.safetensors, .pth, .pt, "
        ".bin, .ckpt), a folder of the hub, or a hub id (owner/name)",
        PATH,
        matters_for="place",
    )


@dataclasses.dataclass(frozen=True)
class Evaluate(OfARun):
    """Prediction of test and validation images."""

    batch_size: int = field(
        500,
        "images in a batch over all devices, rounded up so that they share it evenly",
        at_least(1),
        matters_for="speed",
    )
