"""Every test: four host devices, no silent broadcasting between ranks, warnings are errors."""

import os
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Tests compile much and compute little: programs are left unoptimised.
UNOPTIMISED = "--xla_backend_optimization_level=0"
if version("jaxlib").startswith("0.10."):  # a third of the time to compile; later ones lack it
    UNOPTIMISED += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{UNOPTIMISED} --xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"
# Programs compiled by one test, or one run of the command line, serve the next.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "programs"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# JAX sets it to 1 when imported, and what is started here inherits that; osed_jax says why 3.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Not needed; where it is installed nonetheless, whoever imports it gets ModuleNotFoundError.
sys.modules["transformers"] = None  # type: ignore[assignment]

import jax  # noqa: E402 - reads the environment above
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

# They start first, so that the two processes of `make test` end at about the same time.
LONGEST = (
    "test_cluster",
    "test_finetune",
    "test_tune",
    "test_cli",
    "test_photographs",
    "test_sampler",
    "test_generate",
    "test_stable_diffusion",
    "test_report",
    "test_digests",
    "test_kept_runs",
    "test_bad_input",
    "test_diagnose",
    "test_models",
)


def pytest_configure(config: pytest.Config) -> None:
    """Unpacks the generated images of the demo, before the processes that share the tests start."""
    if not hasattr(config, "workerinput") and not (ROOT / "demo" / "generated").exists():
        with zipfile.ZipFile(ROOT / "demo" / "generated.zip") as packed:
            packed.extractall(ROOT / "demo")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real CIFAR-10 and generated images, kept beside the repository where there are any."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data, which is not here")
    return folder
