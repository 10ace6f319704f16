"""A training that is kept between its steps, stopped anywhere, goes on as if nothing had been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny import Log, Photos, job, toy, trainer, untimed

from jaxad.core import InputError
from jaxad.errors import Stopped
from jaxad.parallel import data_parallel
from jaxad.recipes.recipe import Phase
from jaxad.training.keeping import Standing, on_host, standing_of

ROOT = Path("photos")


class Memory:
    """Keeps every so many steps, in memory."""

    def __init__(self, every: int = 1, begin: Any = None) -> None:
        self.every, self.begin = every, begin
        self.kept: list[tuple[Standing, Any]] = []

    def due(self, steps: int) -> bool:
        return steps >= self.every

    def keep(self, standing: Standing, tree: Any) -> None:
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(tree))
        self.kept.append((standing, tree))

    def newest(self, like: Any) -> Any:
        if self.begin is None:
            return None
        standing, tree = self.begin
        want = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), like(standing))
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) == want
        return standing, jax.tree.map(jax.numpy.asarray, tree)

    def features(self, shapes: Any) -> Any:
        return None

    def keep_features(self) -> None:
        raise AssertionError


def observe(variables: Any, images: Any) -> Any:
    """What would show if it were done twice."""
    params = variables["params"]
    return {"params": {**params, "first": params["first"] + sum(1 for _ in images)}}


def two_phases(positions: int) -> dict[str, Any]:
    both = [toy("first", noise=0.2), toy("second", noise=0.1)]

    def init(rng: Any, features: Any) -> Any:
        keys = jax.random.split(rng)
        parts = [part.init(key, features)["params"] for part, key in zip(both, keys)]
        return {"params": {**parts[0], **parts[1]}}

    whole = toy("second")._replace(init=init)
    phases = [
        Phase("first", both[0], 5, positions, ("net/a",)),
        Phase("second", both[1], 4, 0, ("net/a",)),
    ]
    return {"method": whole, "phases": phases}


def made(place: str, positions: int = 6, *, observes: bool = False, **options: Any) -> Any:
    built = two_phases(positions)
    if observes:
        built["method"] = built["method"]._replace(observe=observe)
    return trainer(feature_cache=place, holdout=0.2, **built, **options)


def numbers(found: Any) -> Any:
    return jax.device_get(found.variables["params"])


@pytest.mark.parametrize(
    ("place", "observes", "augment"),
    [
        ("host", False, ()),
        ("device", False, ()),
        ("off", False, ()),
        ("host", True, ()),
        ("off", False, ("mirror", "flip")),
    ],
)
def test_it_goes_on_from_every_step_to_the_same_end(
    place: str, observes: bool, augment: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxad.training.phases.BLOCK", 2)
    build, log, memory = made(place, observes=observes, augment=augment), Log(), Memory()
    want = numbers(build.fit(job(7), ROOT, log, seed=3, keeper=memory))
    without = numbers(build.fit(job(7), ROOT, Log(), seed=3))
    jax.tree.map(np.testing.assert_array_equal, want, without)
    stood = [(standing.phase, standing.step) for standing, _ in memory.kept]
    first = [2, 4] if place == "device" else [1, 2, 3, 4]  # a block is one program
    second = [2] if place == "device" else [1, 2, 3]
    assert stood == [*((0, step) for step in first), (1, 0), *((1, step) for step in second)]
    for begin in memory.kept:
        again, photos = Log(), Photos()
        fresh = made(place, photos=photos, observes=observes, augment=augment)
        got = fresh.fit(job(7), ROOT, again, seed=3, keeper=Memory(begin=begin))
        jax.tree.map(np.testing.assert_array_equal, numbers(got), want)
        left = [untimed(line) for line in log if _comes_after(line, begin[0])]
        assert [untimed(line) for line in again if "step" in line] == left


def _comes_after(line: Any, standing: Standing) -> bool:
    if "step" not in line:
        return False
    phase = ["first", "second"].index(line["phase"])
    return (phase, line["step"]) > (standing.phase, standing.step)


@pytest.mark.parametrize("calls", [1, 3, 6, 9, 10])
def test_stopped_between_steps_it_is_kept_where_it_stands(calls: int) -> None:
    build = made("host")
    want = numbers(build.fit(job(7), ROOT, Log(), seed=3))
    kept: Any = None
    asked = iter(range(10**9))

    def check() -> None:
        if next(asked) >= calls:
            raise Stopped(15)

    stopped = made("host", check=check)
    memory = Memory(every=10**9)
    with pytest.raises(Stopped):
        stopped.fit(job(7), ROOT, Log(), seed=3, keeper=memory)
    kept = memory.kept[-1] if memory.kept else None
    got = build.fit(job(7), ROOT, Log(), seed=3, keeper=Memory(10**9, kept))
    jax.tree.map(np.testing.assert_array_equal, numbers(got), want)
    assert (kept is None) == (calls < 3), "kept as soon as there is a step"


def test_other_devices_are_named() -> None:
    memory = Memory()
    made("host").fit(job(7), ROOT, Log(), seed=3, keeper=memory)
    three = data_parallel("pmap", devices=jax.local_devices()[:3])
    other = made("host", parallel=three, score_batch=6)
    with pytest.raises(InputError, match="in batches of 4 so far, which 3 devices make 6"):
        other.fit(job(7), ROOT, Log(), seed=3, keeper=Memory(begin=memory.kept[0]))


def test_seconds_go_on() -> None:
    memory = Memory()
    made("host").fit(job(7), ROOT, Log(), seed=3, keeper=memory)
    standing, tree = memory.kept[0]
    before = standing._replace(seconds={"features": 100.0, "train": 1000.0})
    found = made("host").fit(job(7), ROOT, Log(), seed=3, keeper=Memory(begin=(before, tree)))
    assert found.seconds["features"] > 100
    assert found.seconds["train"] > 1000


def test_a_copy_on_the_host_is_a_copy() -> None:
    x = jax.numpy.arange(3.0)
    kept = on_host({"x": x})
    assert not np.shares_memory(kept["x"], np.asarray(x))
    jax.jit(lambda x: x + 1, donate_argnums=0)(x).block_until_ready()
    np.testing.assert_array_equal(kept["x"], [0, 1, 2])


@pytest.mark.parametrize(
    "change",
    [
        {"phase": -1},
        {"phase": "0"},
        {"step": 1.0},
        {"steps": None},
        {"batch": True},
        {"seconds": 3},
        {"seconds": {"train": "x"}},
    ],
)
def test_a_standing_that_is_none(change: Any) -> None:
    good = Standing(1, 2, 3, 4, {"train": 1.0})._asdict()
    assert standing_of(good) == Standing(1, 2, 3, 4, {"train": 1.0})
    with pytest.raises(InputError, match="damaged"):
        standing_of({**good, **change})
