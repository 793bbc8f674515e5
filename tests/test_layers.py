"""A folder imports only from folders below it; heavy packages only where they are needed."""

import ast
import graphlib
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# From the ground up: folders and files of osed_jax/. Inside a folder, imports make no loop.
FLOORS = [
    {
        "errors",
        "kinds",
        "choices",
        "methods",
        "candidates",
        "stages",
        "rules",
        "stopping",
        "whole_files",
        "host_memory",
    },
    {"meeting", "digests", "sharding", "modes"},
    {"cluster"},
    {"console", "exit_status"},
    {"models", "data"},
    {"schema", "conflicts"},
    {"config", "schema_page"},
    {"renames", "candidate_runs"},
    {"workdir", "config_files"},
    {"training", "reporting"},
    {"loading"},
    {"experiment"},
    {"evaluation"},
    {"run"},
    {"generation"},
    {"commands"},
]
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names}
FILES = sorted(
    [*(ROOT / "osed_jax").rglob("*.py"), *(ROOT / "configs").glob("*.py"), ROOT / "main.py"]
)
MAY_IMPORT = {  # heavy packages: where they may be imported at all
    "tensorflow": {"osed_jax.data.tfdata_feeder", "osed_jax.data.tfds_images"},
    "tensorflow_datasets": {"osed_jax.data.tfds_images"},
    "diffusers": {"osed_jax.generation.stable_diffusion", "osed_jax.generation.exact"},
    "tokenizers": {"osed_jax.generation.tokenizer"},
    "transformers": set(),
    "matplotlib": {"osed_jax.reporting"},
    "ml_collections": {"configs", "osed_jax.config", "osed_jax.config_files", "main"},
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
            assert here == there or FLOOR[there] < FLOOR[here], f"{name} imports {other}"
    for other in imported(path):
        package = other.split(".")[0]
        assert not (name.startswith("osed_jax") and package == "configs"), f"{name} imports {other}"
        assert package not in MAY_IMPORT or any(
            name == allowed or name.startswith(f"{allowed}.") for allowed in MAY_IMPORT[package]
        ), f"{name} imports {package}"


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
