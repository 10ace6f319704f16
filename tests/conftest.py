"""Strict JAX settings for every test: 4 CPU devices, no silent dtype or rank promotion."""

import gc
import os
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

# Before the first import of jax. NPROC: with fewer worker threads than twice the devices, jax
# 0.10.2 can starve a collective on CPU and abort.
os.environ.setdefault("NPROC", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the suite's time is compiling: without LLVM's optimisation, and by jaxlib 0.10's older
# emitter of loops (later ones have the new one alone), it takes half of it. Flags that are given
# win: XLA_FLAGS="--xla_backend_optimization_level=3 --xla_cpu_use_fusion_emitters=true" runs the
# code that users run, as processes that tests start do, unless several of them share one run.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else "",
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=4",
        "--xla_cpu_collective_call_terminate_timeout_seconds=300",
    ]
)

import jax
import pytest

# Where tests import OpenVINO themselves: it forks to tell of it, which JAX's threads do not stand.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


LONGEST = ("runs", "benchmarks", "training", "export")
"""Folders whose files take longest, in this order."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no worker is left alone with it at the end."""
    place = {name: n for n, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.parent.name, len(place)))


@pytest.fixture(scope="session", autouse=True)
def _compile_a_program_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> None:
    """Tests of the jobs compile the same programs many times over, in both of their processes."""
    base = tmp_path_factory.getbasetemp()
    folder: str | Path = (base if worker_id == "master" else base.parent) / "compiled"
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or folder
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs() -> Iterator[None]:
    """Programs of a file are no use to the next one, and take gigabytes together."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def rng() -> jax.Array:
    return jax.random.key(0)
