"""One of each kind of part, added to a copy of the program as docs/reference/extending.md says."""

import json
import shutil
import subprocess
import sys

from PIL import Image

from tests.command_line import environment
from tests.conftest import ROOT

LOSS = '''

def squared_error(settings, facts):
    """Squared error, weighted by the class counts."""
    weight = jnp.asarray(facts.class_counts.max() / facts.class_counts, jnp.float32)

    def loss(logits, target, epoch):
        return (weight[None] * jnp.square(logits - target)).sum(axis=1)

    return loss


LOSSES["squared_error"] = squared_error
'''
AUGMENTATION = '''

def darken(x, share):
    """Darkens images by a share, [N]."""
    return x * (1 - share[:, None, None, None])
'''
NET = '''
import flax.linen as nn
from osed_jax.models.layers import HEAD


class Averages(nn.Module):
    """A linear layer on the mean colour; it keeps no statistics."""

    num_classes: int
    generated_norm: str = "shared"
    noise_norm: str = "shared"
    dtype: object = None
    depth: int = 1

    @nn.compact
    def __call__(self, image, kind, train):
        x = image.mean(axis=(1, 2))
        self.sow("intermediates", "features", x)
        return nn.Dense(self.num_classes, name=HEAD)(x)
'''
DATA_SET = '''

def load_shades(split):
    """Three shades of grey."""
    label = np.repeat(np.arange(3), 8)
    noise = np.random.default_rng(len(split)).integers(40, size=(24, 8, 8, 3))
    image = (noise + 80 * label[:, None, None, None]).astype(np.uint8)
    return ImageSet(ArrayImages(image), label, ("dark", "grey", "light"))
'''


def changed(path, *edits):
    """Changes a file: (text, what stands there instead), or what is added at its end."""
    content = path.read_text()
    for edit in edits:
        if isinstance(edit, str):
            content += edit
        else:
            assert edit[0] in content, f"{path.name} has no {edit[0]!r}"
            content = content.replace(*edit, 1)
    path.write_text(content)


def test_parts_that_are_added_as_the_page_says_train_together(tmp_path):
    program = tmp_path / "program"
    for name in ("osed_jax", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, program / name, ignore=ignored)
    shutil.copy(ROOT / "main.py", program)
    package = program / "osed_jax"

    changed(package / "training" / "losses.py", LOSS)
    changed(
        package / "config" / "choices.py",
        ('("cross_entropy",', '("squared_error", "cross_entropy",'),
    )
    changed(
        package / "batches" / "augment.py",
        (
            "    if settings.flip:\n",
            '    share = jax.random.uniform(named(key, "darken"), (n,), maxval=settings.darken)\n'
            "    x = darken(x, share)\n    if settings.flip:\n",
        ),
        AUGMENTATION,
    )
    changed(
        package / "config" / "fields_of_data.py",
        (
            "    flip: bool = field(",
            '    darken: float = field(0.0, "largest share", SHARE, matters_for="step")\n'
            "    flip: bool = field(",
        ),
    )
    (package / "models" / "averages.py").write_text(NET)
    changed(
        package / "models" / "nets.py",
        (
            "NETS = {\n",
            'NETS = {\n    "averages": Net("averages", "Averages", ("depth",), (1, 0)),\n',
        ),
    )
    changed(
        package / "data" / "datasets.py",
        (
            '    if name == "digits":\n',
            '    if name == "shades":\n        return load_shades(split)\n'
            '    if name == "digits":\n',
        ),
        DATA_SET,
    )
    for name in ("grey", "light"):  # a generator is any tool that writes CLASS/*.png
        (tmp_path / "made" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (120, 120, 120)).save(tmp_path / "made" / name / "0.png")

    flags = {
        "loss.name": "squared_error",
        "augment.darken": 0.1,
        "model.name": "averages",
        "dataset.name": "shades",
        "dataset.num_max": 8,
        "dataset.imbalance_ratio": 4,
        "oversampling.generated_dir": tmp_path / "made",
        "train.num_epochs": 30,
        "train.batch_size": 8,
        "optimizer.learning_rate": 0.02,
        "report.enabled": False,
    }
    command = [sys.executable, "main.py", "--config=configs/digits.py:fill"]
    command += [f"--workdir={tmp_path / 'run'}", *(f"--config.{k}={v}" for k, v in flags.items())]
    done = subprocess.run(command, cwd=program, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["class_counts"] == [8, 4, 2] and summary["generated_counts"] == [0, 1, 1]
    assert summary["num_parameters"] == 3 * 3 + 3 and summary["num_batch_stats"] == 0
    assert summary["config"]["augment"]["darken"] == 0.1
    assert summary["top1"] > 0.6, "the net, the loss and the images fit each other"
