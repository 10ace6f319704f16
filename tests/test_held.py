"""Rows that devices hold together: where they are, and that a step takes the right ones."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.parallel import data_parallel

ROWS = 11
"""Which four devices can not share evenly."""


def rows(dtype: Any = np.float32) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {"a": draw.normal(size=(ROWS, 2, 3)).astype(dtype), "b": np.arange(ROWS, dtype=np.int32)}


def taken(backend: str, devices: int, data: Any, view: Any, index: np.ndarray) -> Any:
    """What a step takes of the data, after as many steps in one program as `index` has rows."""
    parallel = data_parallel(backend, devices=jax.local_devices()[:devices])
    pick = parallel.held.pick(view)

    def train_step(state: Any, frozen: Any, batch: Any, rng: Any) -> Any:
        del rng

        def one(state: Any, at: Any) -> Any:
            found, element = pick(frozen, at["at"]), at["element"]
            # By its place, so that what is summed over devices has all of the batch.
            whole = jax.tree.map(
                lambda x: jnp.zeros((len(index[0]), *x.shape[1:]), x.dtype).at[element].set(x),
                found,
            )
            return state + 1, whole

        return jax.lax.scan(one, state, jax.tree.map(jnp.transpose, batch))

    def step(state: Any, frozen: Any, batch: Any, rng: Any) -> Any:
        state, found = train_step(state, frozen, batch, rng)
        total = jax.lax.psum if parallel.axis_name else lambda x, axis: x
        return state, jax.tree.map(lambda x: total(x, parallel.axis_name), found)

    element = np.broadcast_to(np.arange(index.shape[1], dtype=np.int32)[:, None], index.T.shape)
    batch = parallel.shard({"at": index.T.astype(np.int32), "element": element})
    state, rng = parallel.replicate((jnp.int32(0), jnp.int32(0)))
    run = parallel.train_step(step, held=True)
    state, found = run(state, parallel.held.put(data), batch, rng)
    assert int(state) == len(index)
    return jax.device_get(found)


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("backend", ["pmap", "jit"])
def test_a_step_takes_the_rows_that_it_asks_for(backend: str, devices: int) -> None:
    index = np.asarray([[0, 10, 3, 3, 7, 2, 9, 5], [1, 1, 1, 1, 10, 10, 8, 0]])
    for dtype in (np.float32, np.float16, np.uint8):
        data = rows(dtype)
        found = taken(backend, devices, data, lambda tree: tree, index)
        for name, values in data.items():
            assert found[name].dtype == values.dtype
            np.testing.assert_array_equal(found[name], values[index])


@pytest.mark.parametrize("backend", ["pmap", "jit"])
def test_a_view_has_rows_of_its_own(backend: str) -> None:
    data = {"a": rows()["a"]}
    index = np.asarray([[0, 21, 3, 20, 7, 2, 19, 5]])
    found = taken(backend, 4, data, lambda tree: {"a": tree["a"].reshape(-1, 3)}, index)
    np.testing.assert_array_equal(found["a"], data["a"].reshape(-1, 3)[index])


@pytest.mark.parametrize("backend", ["pmap", "jit"])
@pytest.mark.parametrize("devices", [1, 4])
def test_a_row_of_fewer_belongs_to_several_of_the_others(backend: str, devices: int) -> None:
    data = {"map": rows()["a"], "whole": np.arange(ROWS, dtype=np.float32)[:, None]}
    own = data["map"].shape[1]

    def view(tree: Any) -> Any:
        return {"map": tree["map"].reshape(-1, 3), "whole": tree["whole"]}

    index = np.asarray([[0, 21, 3, 20, 7, 2, 19, 5]])
    found = taken(backend, devices, data, view, index)
    np.testing.assert_array_equal(found["map"], data["map"].reshape(-1, 3)[index])
    np.testing.assert_array_equal(found["whole"], data["whole"][index // own])


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("backend", ["pmap", "jit"])
def test_each_device_holds_its_share_and_single_rows_come_to_all(
    backend: str, devices: int
) -> None:
    parallel, data = data_parallel(backend, devices=jax.local_devices()[:devices]), rows()
    held = parallel.held.put(data)
    share = -(-ROWS // devices)
    for name, values in data.items():
        sizes = [shard.data.nbytes for shard in held[name].addressable_shards]
        assert sizes == [share * values[0].nbytes] * devices
    for number in range(ROWS):
        one = parallel.held.row(held, number)
        for name, values in data.items():
            assert len(one[name].sharding.device_set) == devices
            assert one[name].is_fully_replicated
            np.testing.assert_array_equal(one[name], values[number : number + 1])


@pytest.mark.parametrize("backend", ["pmap", "jit"])
def test_no_program_has_all_rows_on_a_device(backend: str) -> None:
    parallel = data_parallel(backend)
    pick = parallel.held.pick(lambda tree: tree)

    def train_step(state: Any, frozen: Any, batch: Any, rng: Any) -> Any:
        found = pick(frozen, batch)
        return state + parallel.mean(found["a"].sum()), rng

    many = {"a": np.zeros((4096, 3), np.float32)}
    state, rng = parallel.replicate((jnp.float32(0), jnp.int32(0)))
    step = parallel.train_step(train_step, held=True)
    batch = parallel.shard(np.zeros(8, np.int32))
    program = step.lower(state, parallel.held.put(many), batch, rng).compile().as_text()
    assert "f32[1024,3]" in program or "f32[1,1024,3]" in program
    assert "4096" not in program
