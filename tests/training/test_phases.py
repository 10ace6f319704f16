"""The loop over steps: what is sent, what is reported, what is measured of held-out images."""

from __future__ import annotations

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import toy

from jaxad.recipes.recipe import Phase
from jaxad.training import phases
from jaxad.training.state import TrainState

PHASE = Phase("all", toy(), 0, 0, ("net/a",))


@pytest.mark.parametrize("steps", [1, 49, 50, 103])
def test_blocks_hold_every_step_in_two_shapes(steps: int) -> None:
    stream = (np.asarray([n, -n, 2 * n]) for n in itertools.count())
    made = list(phases.blocks(stream, steps))
    at = np.concatenate([block["at"] for block in made], axis=1)
    np.testing.assert_array_equal(at, np.outer([1, -1, 2], np.arange(steps)))
    assert {block["at"].shape[1] for block in made} <= {phases.BLOCK, 1}
    for block in made:
        want = np.broadcast_to(np.arange(3)[:, None], block["at"].shape)
        np.testing.assert_array_equal(block["element"], want)
        assert block["element"].dtype == np.int32


def test_the_held_out_mean_weighs_every_image_alike() -> None:
    measured = {1: {"holdout": 1.0, "right": 0.0}, 3: {"holdout": 5.0, "right": 1.0}}
    stream = [({"net/a": np.zeros((n, 2, 3, 3))}, {}) for n in (3, 1, 3)]
    found = phases.holdout(lambda v, x, b: measured[len(x["net/a"])], {}, iter(stream))
    assert found == {"holdout": pytest.approx(31 / 7), "right": pytest.approx(6 / 7)}


def test_of_held_out_images_the_map_and_the_phase_s_check_are_measured() -> None:
    def check(variables: Any, features: Any, batch: Any) -> Any:
        return {"twos": (jnp.sum(batch["subclass"] == 2).astype(jnp.float32), jnp.float32(2))}

    measure = phases.holdout_program(PHASE._replace(check=check))
    x = np.random.default_rng(0).normal(size=(2, 2, 3, 3)).astype(np.float32)
    variables = {"params": {"all": jnp.ones(3)}}
    found = measure(variables, {"net/a": x}, {"subclass": np.asarray([2, 1], np.int32)})
    assert float(found["holdout"]) == pytest.approx(float(np.mean((x - 1) ** 2)), rel=1e-4)
    assert float(found["holdout_twos"]) == 0.5


@pytest.mark.parametrize("done", [0, 6])
def test_held_out_images_are_measured_now_and_then_and_at_the_end(done: int) -> None:
    measure = phases.now_and_then(lambda variables: {"holdout": variables}, 11, every=3, done=done)  # type: ignore[dict-item, return-value]
    found = {}
    for number in range(done + 1, 12):
        if more := measure(number, 1):  # type: ignore[arg-type]
            found[number] = more["holdout"]
    assert found == {n: n for n in (3, 6, 9, 11) if n > done}
    # Several steps in one program: at its end, if such a step was among them.
    measure = phases.now_and_then(lambda variables: {"holdout": variables}, 11, every=4)  # type: ignore[dict-item, return-value]
    assert [bool(measure({}, count)) for count in (3, 3, 1, 1, 2, 1)] == [
        *(False, True, False, True, False, True)
    ]


def test_two_steps_are_in_flight_and_all_are_reported() -> None:
    started, told = [], []

    def step(state: Any, frozen: Any, batch: int, rng: Any) -> tuple[Any, Any]:
        assert (frozen, rng) == ("frozen", "key")
        started.append(batch)
        variables = state.variables + batch
        return TrainState(None, variables, None), {"loss": (np.float32(batch), 1)}  # type: ignore[arg-type]

    def report(metrics: Any, more: Any) -> None:
        told.append((int(metrics["loss"][0]), len(started), dict(more)))

    def measure(variables: Any, count: int) -> Any:
        assert count == 1
        return {"holdout": variables} if variables == 3 else {}

    def run(*measure: Any) -> Any:
        start = TrainState(None, 0, None)  # type: ignore[arg-type]
        return phases.run(step, start, "frozen", [1, 2, 3], "key", report, *measure)  # type: ignore[arg-type]

    assert run().variables == 6
    assert told == [(1, 2, {}), (2, 3, {}), (3, 3, {})]
    told.clear(), started.clear()
    run(measure)
    assert told == [(1, 2, {}), (2, 3, {"holdout": 3}), (3, 3, {})]
