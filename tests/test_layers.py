"""A folder imports only from folders below it; heavy packages only where they are needed."""

import ast
import graphlib
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# From the ground up: the folders of osed_jax/ and the two files beside them; nothing else is there.
FLOORS = (
    "errors",
    "kinds",
    "runtime",
    "files",
    "models",
    "config",
    "data",
    "diffusion",
    "store",
    "batches",
    "training",
    "tuning",
    "experiment",
    "evaluation",
    "comparison",
    "generation",
    "reports",
    "commands",
)
FILES = sorted(
    [*(ROOT / "osed_jax").rglob("*.py"), *(ROOT / "configs").glob("*.py"), ROOT / "main.py"]
)
MAY_IMPORT = {  # heavy packages: where they may be imported at all
    "tensorflow": {"osed_jax.batches.feeders", "osed_jax.data.tfds_images"},
    "tensorflow_datasets": {"osed_jax.data.tfds_images"},
    "diffusers": {"osed_jax.diffusion.stable_diffusion", "osed_jax.diffusion.as_in_pytorch"},
    "tokenizers": {"osed_jax.diffusion.tokenizer"},
    "transformers": set(),
    "matplotlib": {"osed_jax.reports"},
    "ml_collections": {"configs", "osed_jax.config", "main"},
}


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path):
    """Modules a file imports anywhere, `from package import module` counted as the module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if (ROOT / (full.replace(".", "/") + ".py")).exists() else node.module


def own_imports(path):
    """The modules of osed_jax that a file imports."""
    return {name for name in imported(path) if name.startswith("osed_jax.")}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_between_folders_go_down(path):
    name = module_name(path)
    for other in own_imports(path):
        if name.startswith("osed_jax."):
            here, there = (n.split(".")[1] for n in (name, other))
            assert FLOORS.index(there) <= FLOORS.index(here), f"{name} imports {other}"
    for other in imported(path):
        package = other.split(".")[0]
        assert not (name.startswith("osed_jax") and package == "configs"), f"{name} imports {other}"
        assert package not in MAY_IMPORT or any(
            name == allowed or name.startswith(f"{allowed}.") for allowed in MAY_IMPORT[package]
        ), f"{name} imports {package}"


def test_every_folder_has_its_floor_and_no_file_stands_beside_them():
    here = {path.stem for path in (ROOT / "osed_jax").iterdir() if path.name[0] not in "._"}
    assert here - {"__init__"} == set(FLOORS)
    for path in (ROOT / "tests").iterdir():
        if path.is_dir() and path.name not in ("oracles", "__pycache__"):
            assert path.name in FLOORS, f"tests/{path.name} mirrors no folder of osed_jax"


def test_files_import_each_other_in_no_loop():
    graph = {module_name(path): own_imports(path) for path in FILES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError where there is one


def test_training_starts_without_tensorflow_and_help_without_jax():
    code = "import sys; {}; print(*[m for m in {} if m in sys.modules])"
    for statement, absent in (
        (
            "import osed_jax.commands.train",
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
