"""What pmap and jit have in common, and batches that can not be split.

That training is the same by both is in tests/training/test_same_everywhere.py.
"""

from __future__ import annotations

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.core import InputError
from jaxad.parallel import data_parallel, device_memory_in_use, free_device_memory


def adding(mean: Any) -> Any:
    """A step that adds up the mean of a batch over devices, and has what is no float."""

    def train_step(state: Any, frozen: Any, batch: Any, rng: Any) -> Any:
        del rng
        found = mean(
            {
                "total": state["total"] + frozen["x"] * batch["x"].mean(),
                "steps": state["steps"] + 1,
                "odd": ~state["odd"],
            }
        )
        return found, {"loss": (found["total"], jnp.ones(()))}

    return train_step


@pytest.mark.parametrize("backend", ["pmap", "jit"])
@pytest.mark.parametrize("devices", [1, 4])
def test_only_the_state_is_donated_and_types_stay(backend: str, devices: int) -> None:
    parallel = data_parallel(backend, devices=jax.local_devices()[:devices])
    run = parallel.train_step(adding(parallel.mean))
    frozen = parallel.replicate({"x": jnp.float32(2)})
    first = {"total": jnp.float32(0), "steps": jnp.int32(0), "odd": jnp.asarray(False)}
    batch = {"x": np.arange(8, dtype=np.float32)}
    for _ in range(2):  # detector after detector
        state = parallel.replicate(jax.tree.map(jnp.copy, first))
        given = state
        for _ in range(3):
            state, _ = run(state, frozen, parallel.shard(batch), parallel.replicate(0))
        assert given["total"].is_deleted()
        assert not frozen["x"].is_deleted()
    assert float(state["total"]) == 21.0
    assert (state["steps"].dtype, int(state["steps"])) == (jnp.int32, 3)
    assert (state["odd"].dtype, bool(state["odd"])) == (bool, True)


@pytest.mark.parametrize("backend", ["pmap", "jit"])
def test_programs_have_the_names_of_what_they_do(backend: str) -> None:
    def train_step(state: Any, frozen: Any, batch: Any, rng: Any) -> Any:
        return state + jnp.sin(batch).sum(), rng

    def score_images(variables: Any, batch: Any) -> Any:
        return jnp.sin(batch)

    parallel = data_parallel(backend)
    batch = parallel.shard(np.zeros((4, 2), np.float32))
    zero = parallel.replicate(jnp.float32(0))
    steps = parallel.train_step(train_step).lower(zero, zero, batch, zero)
    assert "train_step" in steps.as_text(debug_info=True)
    maps = parallel.map(score_images).lower(zero, batch)
    assert "score_images" in maps.as_text(debug_info=True)


@pytest.mark.parametrize("backend", ["pmap", "jit"])
def test_map_keeps_the_order_of_the_batch(backend: str) -> None:
    parallel = data_parallel(backend)
    double = parallel.map(lambda v, x: {"y": x * v, "sum": x.sum(axis=1)})
    x = np.arange(24, dtype=np.float32).reshape(8, 3)
    out = parallel.gather(double(parallel.replicate(jnp.float32(2)), parallel.shard(x)))
    np.testing.assert_array_equal(out["y"], 2 * x)
    np.testing.assert_array_equal(out["sum"], x.sum(axis=1))


@pytest.mark.parametrize("backend", ["pmap", "jit"])
def test_a_batch_that_does_not_split_names_the_keys(backend: str) -> None:
    with pytest.raises(InputError, match=r"6 can not be split over 4 devices: use a multiple"):
        data_parallel(backend).shard(np.zeros((6, 2), np.float32))
    with pytest.raises(InputError, match="'pmap' or 'jit'"):
        data_parallel("threads")


def test_a_cpu_has_no_memory_of_its_own() -> None:
    assert free_device_memory() == 0
    assert device_memory_in_use() is None


def test_memory_in_use_is_that_of_all_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    def device(stats: Any) -> Any:
        return types.SimpleNamespace(platform="gpu", memory_stats=lambda: stats)

    for told, want in (
        ([{"bytes_in_use": 3, "bytes_limit": 9}, {"bytes_in_use": 4}], 7),
        ([{"bytes_in_use": 3}, None], 3),
        ([None, None], None),
    ):
        devices = [device(stats) for stats in told]
        monkeypatch.setattr(jax, "local_devices", lambda devices=devices: devices)
        assert device_memory_in_use() == want


def test_pmap_is_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match=r"several take --config\.train\.parallel=jit"):
        data_parallel("pmap")
