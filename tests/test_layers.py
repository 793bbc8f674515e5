"""A file imports only from floors below its own; heavy packages only where they are needed."""

import ast
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# From the ground up. A module belongs to the longest prefix that is listed.
FLOORS = [
    ["osed_jax.errors", "osed_jax"],
    ["osed_jax.cluster", "osed_jax.host_memory"],
    ["osed_jax.console"],
    ["osed_jax.data.long_tail", "osed_jax.data.sampling", "osed_jax.data.images"],
    ["osed_jax.data.placing"],
    ["osed_jax.data.augment", "osed_jax.data.pipeline", "osed_jax.data.resident"],
    ["osed_jax.data.image_set"],
    ["osed_jax.data.folder", "osed_jax.data.tfds_images"],
    ["osed_jax.data.datasets", "osed_jax.data.generated"],
    ["osed_jax.models.batch_norm", "osed_jax.models.winograd"],
    ["osed_jax.models.convolution"],
    ["osed_jax.models.layers"],
    ["osed_jax.models.wide_resnet", "osed_jax.models.resnet"],
    ["osed_jax.training.state", "osed_jax.training.optimizer", "osed_jax.training.mesh"],
    ["osed_jax.training.step", "osed_jax.training.checkpoint"],
    ["osed_jax.evaluation.metrics", "osed_jax.evaluation.predict"],
    ["configs", "osed_jax.generation.choices"],
    ["osed_jax.generation.prompts", "osed_jax.generation.hub", "osed_jax.generation.weights"],
    ["osed_jax.generation.schedulers", "osed_jax.generation.resize"],
    ["osed_jax.generation.stable_diffusion"],
    ["osed_jax.generation.saving", "osed_jax.generation.safety"],
    ["osed_jax.generation.sampling", "osed_jax.generation.tiny_tokenizer"],
    ["osed_jax.generation.lora", "osed_jax.generation.miniature"],
    ["osed_jax.generation.finetune"],
    ["osed_jax.config"],
    ["osed_jax.workdir", "osed_jax.experiment"],
    ["osed_jax.evaluation.summary", "osed_jax.training.fork", "osed_jax.evaluation.classifier"],
    ["osed_jax.evaluation.features", "osed_jax.reporting.page", "osed_jax.reporting.style"],
    ["osed_jax.evaluation.statistics", "osed_jax.evaluation.command"],
    ["osed_jax.reporting.curves", "osed_jax.reporting.mosaics", "osed_jax.reporting.feature_map"],
    ["osed_jax.evaluation.subject"],
    ["osed_jax.evaluation.report_numbers", "osed_jax.evaluation.report_images"],
    ["osed_jax.evaluation.report", "osed_jax.evaluation.runs", "osed_jax.reporting.bars"],
    ["osed_jax.evaluation.pairs"],
    ["osed_jax.evaluation.tables"],
    ["osed_jax.generation.records"],
    ["osed_jax.generation.store", "osed_jax.generation.filters", "osed_jax.generation.card"],
    ["osed_jax.generation.opinions", "osed_jax.generation.fill"],
    ["osed_jax.evaluation.gradients", "osed_jax.evaluation.distances"],
    ["osed_jax.reporting.gradients", "osed_jax.reporting.pairs"],
    [
        "osed_jax.evaluation.diagnose",
        "osed_jax.evaluation.gap",
        "osed_jax.training.train",
        "osed_jax.evaluation.evaluate",
        "osed_jax.evaluation.compare",
        "osed_jax.generation.adapt",
        "osed_jax.generation.generate",
        "osed_jax.generation.verify",
        "osed_jax.generation.select",
    ],
    ["osed_jax.training.sweep"],
    ["main"],
]
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names}
FILES = sorted(
    [*(ROOT / "osed_jax").rglob("*.py"), *(ROOT / "configs").glob("*.py"), ROOT / "main.py"]
)
MAY_IMPORT = {
    "tensorflow": {"osed_jax.data.pipeline", "osed_jax.data.tfds_images"},
    "tensorflow_datasets": {"osed_jax.data.tfds_images"},
    "diffusers": {"osed_jax.generation.stable_diffusion"},
    "transformers": {"osed_jax.generation.stable_diffusion"},
    "matplotlib": {"osed_jax.reporting"},
    "ml_collections": {"configs", "osed_jax.config", "main"},
}


def module_name(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    name = name.removesuffix(".__init__")
    return "configs" if name.startswith("configs.") else name


def imported(path):
    """Modules a file imports anywhere, `from package import module` counted as the module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if (ROOT / (full.replace(".", "/") + ".py")).exists() else node.module


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    name = module_name(path)
    if path.name == "__init__.py":
        assert not [m for m in imported(path) if m.startswith("osed_jax")]
        return
    assert name in FLOOR, f"give {name} a floor"
    for other in imported(path):
        other = "configs" if other.startswith("configs.") else other
        if other in FLOOR and other != name and other != "osed_jax":
            assert FLOOR[other] < FLOOR[name], f"{name} imports {other}"
        package = other.split(".")[0]
        assert package not in MAY_IMPORT or any(
            name == allowed or name.startswith(f"{allowed}.") for allowed in MAY_IMPORT[package]
        ), f"{name} imports {package}"


def test_training_starts_without_tensorflow_and_help_without_jax():
    code = "import sys; {}; print(*[m for m in {} if m in sys.modules])"
    for statement, absent in (
        (
            "import osed_jax.training.train",
            ["tensorflow", "diffusers", "sklearn", "scipy.stats", "matplotlib"],
        ),
        ("import main, osed_jax.config", ["jax", "flax", "orbax", "tensorflow"]),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code.format(statement, absent)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == ""
