"""The same training in PyTorch: nets with DAR-BN, their augmentation and their step.

For benchmarks/training.py. `eager` is written as the public reproductions are: every batch norm
splits the rows by a mask. `compiled` is the fastest form found: `torch.compile` on channels-last
tensors, DAR-BN as masked moments so that no shape depends on the data, bfloat16 autocast on a GPU.
Both augment whole batches on the device, which the reproductions leave to worker processes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

EPSILON = 1e-5
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
NOISE = 2  # the kind of noise rows in a plan
Batch = dict[str, torch.Tensor]


class SplitDarBatchNorm(nn.BatchNorm2d):
    """DAR-BN by splitting the batch (Zada et al. 2022, appendix E)."""

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Normalises [N, C, H, W]; noise, bool [N], tells which rows are noise."""
        out = torch.empty_like(x)
        out[~noise] = super().forward(x[~noise])
        if noise.any():
            with torch.no_grad():
                out[noise] = F.batch_norm(
                    x[noise], None, None, self.weight, self.bias, training=True, eps=EPSILON
                )
        return out


class MaskedDarBatchNorm(nn.BatchNorm2d):
    """The same as masked moments of images: no shape depends on the mask."""

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """As `SplitDarBatchNorm`."""
        first, second = x.float().mean((2, 3)), x.float().square().mean((2, 3))
        mean, var = self._moments(first, second, ~noise)
        with torch.no_grad():
            own_mean, own_var = self._moments(first, second, noise)
            self.running_mean.lerp_(mean, 0.1)
            self.running_var.lerp_(var, 0.1)
        factor = self.weight * (var + EPSILON).rsqrt()
        offset = self.bias - mean * factor
        own_factor = self.weight * (own_var + EPSILON).rsqrt()
        own_offset = self.bias - own_mean * own_factor
        rows = noise[:, None]
        factor = torch.where(rows, own_factor, factor)[..., None, None]
        offset = torch.where(rows, own_offset, offset)[..., None, None]
        y = (x * factor + offset).to(x.dtype)
        return torch.where(noise[:, None, None, None], y.detach(), y)

    @staticmethod
    def _moments(
        first: torch.Tensor, second: torch.Tensor, member: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        weight = member.float()[:, None] / member.sum().clamp(min=1)
        mean = (weight * first).sum(0)
        return mean, ((weight * second).sum(0) - mean.square()).clamp(min=0)


class Block(nn.Module):
    """Pre-activation block with dropout between its convolutions."""

    def __init__(self, norm: type, inputs: int, outputs: int, stride: int, dropout: float):
        super().__init__()
        self.norms = nn.ModuleList([norm(inputs), norm(outputs)])
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)
        change = inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if change else None

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """x [N, C, H, W]."""
        y = self.first(F.relu(self.norms[0](x, noise)))
        y = self.second(self.dropout(F.relu(self.norms[1](y, noise))))
        return y + (x if self.shortcut is None else self.shortcut(x))


class WideResNet(nn.Module):
    """WideResNet for 32x32 images."""

    def __init__(self, norm: type, depth: int, widen_factor: int, num_classes: int, dropout: float):
        super().__init__()
        widths = [16, *(16 * widen_factor * 2**g for g in range(3))]
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        blocks = []
        for group in range(3):
            for block in range((depth - 4) // 6):
                inputs = widths[group] if block == 0 else widths[group + 1]
                stride = 2 if group and not block else 1
                blocks.append(Block(norm, inputs, widths[group + 1], stride, dropout))
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.head = norm(widths[3]), nn.Linear(widths[3], num_classes)
        _initialise(self, "fan_out")

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Logits [N, K] of images [N, 3, H, W]."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, noise)
        return self.head(F.relu(self.norm(x, noise)).mean((2, 3)))


class ResNetBlock(nn.Module):
    """Block with a shortcut without parameters (option A)."""

    def __init__(self, norm: type, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.norms = nn.ModuleList([norm(outputs), norm(outputs)])
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.stride, self.new = stride, (outputs - inputs) // 2

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """x [N, C, H, W]."""
        y = F.relu(self.norms[0](self.first(x), noise))
        y = self.norms[1](self.second(y), noise)
        if self.new:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], [0, 0, 0, 0, self.new, self.new])
        return F.relu(x + y)


class ResNet(nn.Module):
    """ResNet for 32x32 images, as Cao et al. have it."""

    def __init__(self, norm: type, depth: int, num_classes: int):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), norm(16)
        blocks = []
        for group, width in enumerate((16, 32, 64)):
            for block in range((depth - 2) // 6):
                new = group and not block
                blocks.append(
                    ResNetBlock(norm, width // 2 if new else width, width, 2 if new else 1)
                )
        self.blocks, self.head = nn.ModuleList(blocks), nn.Linear(64, num_classes)
        _initialise(self, "fan_in")

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Logits [N, K] of images [N, 3, H, W]."""
        x = F.relu(self.norm(self.stem(x), noise))
        for block in self.blocks:
            x = block(x, noise)
        return self.head(x.mean((2, 3)))


def _initialise(net: nn.Module, fan: str) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=fan, nonlinearity="relu")


def make_net(model: dict[str, Any], norm: type, num_classes: int) -> nn.Module:
    """The net of a config's section `model`."""
    if model.name == "resnet":
        return ResNet(norm, model.depth, num_classes)
    return WideResNet(norm, model.depth, model.widen_factor, num_classes, dropout=0.3)


def make_step(
    form: str, model: dict[str, Any], *, num_classes: int, recipe: bool, device: str
) -> Callable[[Batch], torch.Tensor]:
    """The function batch -> loss of one update.

    A batch is image, uint8 [N, H, W, 3], label and kind, int64 [N], on the device.

    Args:
      form: eager or compiled.
      model: section of the config, see `make_net`.
      num_classes: K.
      recipe: whether images get the recipe's whole augmentation, not flip and crop alone.
      device: cpu or cuda.
    """
    torch.manual_seed(0)
    compiled = form == "compiled"
    norm = MaskedDarBatchNorm if compiled else SplitDarBatchNorm
    net = make_net(model, norm, num_classes).to(device).train()
    if compiled:
        net = net.to(memory_format=torch.channels_last)
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
    half = compiled and device == "cuda"

    def loss_of(batch: Batch) -> torch.Tensor:
        noise = batch["kind"] == NOISE
        image = augment(batch["image"], noise, recipe)
        if compiled:
            image = image.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16, enabled=half):
            logits = net(image, noise)
        return F.cross_entropy(logits.float(), batch["label"])

    loss_fn = torch.compile(loss_of) if compiled else loss_of

    def step(batch: Batch) -> torch.Tensor:
        loss = loss_fn(batch)
        sgd.zero_grad(set_to_none=True)
        loss.backward()
        sgd.step()
        return loss.detach()

    return step


def to_batch(image: np.ndarray, label: np.ndarray, kind: np.ndarray, device: str) -> Batch:
    """Arrays of a plan's batch as tensors on the device."""
    tensors = {"image": image, "label": label.astype(np.int64), "kind": kind.astype(np.int64)}
    return {name: torch.from_numpy(array).to(device) for name, array in tensors.items()}


def augment(image: torch.Tensor, noise: torch.Tensor, recipe: bool) -> torch.Tensor:
    """Augmentation, of the recipe or flip and crop alone, of uint8 [N, H, W, 3]: [N, 3, H, W]."""
    x = image.permute(0, 3, 1, 2).float() / 255
    n, device = len(x), x.device
    x = torch.where(_some(x, 0.5), x.flip(3), x)
    x = _crop(x, torch.randint(0, 9, (2, n), device=device), 4)
    x = _beyond_flip_and_crop(x) if recipe else x
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (MEAN, STD))
    drawn = (torch.randn_like(x) * std + mean).clamp(0, 1)
    return (torch.where(noise[:, None, None, None], drawn, x) - mean) / std


def _some(x: torch.Tensor, probability: float) -> torch.Tensor:
    return (torch.rand(len(x), device=x.device) < probability)[:, None, None, None]


def _beyond_flip_and_crop(x: torch.Tensor) -> torch.Tensor:
    n, size, device = len(x), x.shape[-1], x.device
    centre = torch.randint(0, size, (2, n, 1), device=device)
    inside = (torch.arange(size, device=device) - centre + 8) // 16 == 0
    x = x.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0)
    x = torch.where(_some(x, 0.8), _jitter(x), x)
    x = torch.where(_some(x, 0.2), _grey(x).expand_as(x), x)
    sigma = torch.empty(n, 1, 1, 1, device=device).uniform_(0.1, 2)
    return torch.where(_some(x, 0.5), _blur(x, sigma), x)


def _crop(x: torch.Tensor, corner: torch.Tensor, padding: int) -> torch.Tensor:
    padded = F.pad(x, [padding] * 4)
    n, size = len(x), x.shape[-1]
    rows, columns = corner[:, :, None] + torch.arange(size, device=x.device)
    which = torch.arange(n, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def _grey(x: torch.Tensor) -> torch.Tensor:
    return 0.2989 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]


def _jitter(x: torch.Tensor) -> torch.Tensor:
    """Brightness, contrast, saturation, hue, in this order (a random one costs more)."""
    n, device = len(x), x.device
    factor = torch.empty(3, n, 1, 1, 1, device=device).uniform_(0.6, 1.4)
    x = (factor[0] * x).clamp(0, 1)
    x = (factor[1] * x + (1 - factor[1]) * _grey(x).mean((2, 3), keepdim=True)).clamp(0, 1)
    x = (factor[2] * x + (1 - factor[2]) * _grey(x)).clamp(0, 1)
    turn = torch.empty(n, 1, 1, device=device).uniform_(-0.1, 0.1)
    red, green, blue = x.unbind(1)
    value = x.amax(1)
    chroma = value - x.amin(1)
    per = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    other = torch.where(value == green, 2 + (blue - red) / per, 4 + (red - green) / per)
    sector = torch.where(value == red, (green - blue) / per, other) + 6 * turn
    phase = (torch.tensor([5.0, 3.0, 1.0], device=device)[:, None, None] + sector[:, None]) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(phase, 4 - phase).clamp(0, 1)


def _blur(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    side = torch.exp(-0.5 / sigma.square())
    for axis, pad in ((3, [1, 1, 0, 0]), (2, [0, 0, 1, 1])):
        wide = F.pad(x, pad, mode="reflect")
        ends = wide.narrow(axis, 0, x.shape[axis]) + wide.narrow(axis, 2, x.shape[axis])
        x = (x + side * ends) / (1 + 2 * side)
    return x
