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


@pytest.mark.parametrize(
    ("steps", "done"), [(1, 0), (49, 0), (50, 0), (103, 0), (103, 50), (103, 102), (50, 50)]
)
def test_blocks_hold_every_step_in_two_shapes(steps: int, done: int) -> None:
    stream = (np.asarray([n, -n, 2 * n]) for n in itertools.count(done))
    made = list(phases.blocks(stream, steps, done=done))
    whole = list(phases.blocks(stream, steps))
    assert [len(b["at"].T) for b in made] == [len(b["at"].T) for b in whole][-len(made) or 999 :]
    at = np.concatenate([np.empty((3, 0), int), *(block["at"] for block in made)], axis=1)
    np.testing.assert_array_equal(at, np.outer([1, -1, 2], np.arange(done, steps)))
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

    def step(state: int, frozen: Any, batch: int, rng: Any) -> tuple[int, Any]:
        assert (frozen, rng) == ("frozen", "key")
        started.append(batch)
        return state + batch, {"loss": (np.full(2, batch), np.ones(2))}

    def report(metrics: Any, more: Any) -> None:
        assert more == {}
        told.append((metrics["loss"][0][0], len(started)))

    assert phases.run(step, 0, "frozen", [1, 2, 3], "key", report) == 6  # type: ignore[arg-type]
    assert told == [(1, 2), (2, 3), (3, 3)]
    asked, paused = [], []

    def due(steps: int) -> bool:
        asked.append(steps)
        return steps == 4

    started.clear()
    told.clear()
    end = phases.run(
        step,
        0,  # type: ignore[arg-type]
        "frozen",
        [1, 2, 3, 4, 5],
        "key",
        report,
        due=due,
        pause=lambda state: paused.append((state, len(told))),
    )
    assert end == 15
    assert asked == [0, 2, 4, 2, 4]
    assert paused == [(3, 2), (10, 4)]  # all steps before it are reported
    assert [told[n][0] for n in range(5)] == [1, 2, 3, 4, 5]


def test_what_is_measured_after_a_call_is_reported_with_its_steps() -> None:
    told = []

    def step(state: Any, frozen: Any, batch: int, rng: Any) -> tuple[Any, Any]:
        new = state._replace(variables={"x": state.variables["x"] + batch})
        return new, {"loss": (np.full(2, batch), np.ones(2))}

    def measure(variables: Any, count: int) -> Any:
        assert count == 2
        return {"holdout": variables["x"]} if variables["x"] == 3 else {}

    def report(metrics: Any, more: Any) -> None:
        told.append((int(metrics["loss"][0][0]), dict(more)))

    state = TrainState(np.int32(0), {"x": 0}, None)  # type: ignore[arg-type]
    end = phases.run(step, state, {}, [1, 2, 3], "key", report, measure=measure)  # type: ignore[arg-type]
    assert end.variables == {"x": 6}
    assert told == [(1, {}), (2, {"holdout": 3}), (3, {})]
