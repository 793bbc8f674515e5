"""The package as a wheel, installed away from the checkout."""

import subprocess
import sys

from tests.conftest import ROOT

IMPORT_ALL = """
import importlib, pkgutil, sys
import osed_jax
assert osed_jax.__file__.startswith(sys.argv[1]), osed_jax.__file__
for module in pkgutil.walk_packages(osed_jax.__path__, "osed_jax."):
    importlib.import_module(module.name)
    print(module.name)
"""


def quietly(*command, cwd):
    done = subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_module_of_an_installed_wheel_can_be_imported(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "osed_jax"):
        (source / name).symlink_to(ROOT / name)  # building leaves folders beside the sources
    build = ("-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"))
    quietly(*build, str(source), cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("osed_jax-*.whl")
    install = ("-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target")
    quietly(*install, str(tmp_path / "site"), str(wheel), cwd=tmp_path)
    program = f"import sys; sys.path.insert(0, sys.argv[1])\n{IMPORT_ALL}"
    imported = quietly("-c", program, str(tmp_path / "site"), cwd=tmp_path).split()
    packages = {p.parent.name for p in (ROOT / "osed_jax").glob("*/__init__.py")}
    assert {name.split(".")[1] for name in imported} >= packages | {"kinds", "errors"}
    modules = [p for p in (ROOT / "osed_jax").rglob("*.py") if "__pycache__" not in p.parts]
    assert len(imported) == len(modules) - 1, "all but the package itself"
