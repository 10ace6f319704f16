"""A batch in parts: which elements are in each, and what is made of them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import Log, job, toy, trainer

from jaxad.core import InputError
from jaxad.methods.routing import Router, embed, moved_centres, routing
from jaxad.methods.simplenet import simplenet
from jaxad.ops.layers import BatchNorm
from jaxad.parallel import data_parallel
from jaxad.recipes.recipe import Phase
from jaxad.training.parts import mean_of_parts
from jaxad.training.state import init_state
from jaxad.training.steps import make_train_step

KEY = jax.random.key(0)


def parts_of(count: int, *, parts: int, turn: int) -> list[list[int]]:
    seen: list[list[int]] = []

    def look(part: Any, rng: Any) -> Any:
        jax.debug.callback(lambda x: seen.append(x.tolist()), part["x"])
        return jnp.zeros(())

    mean_of_parts(look, {"x": jnp.arange(count)}, KEY, parts=parts, turn=turn)
    jax.effects_barrier()
    return seen


def test_a_part_is_every_nth_turn_through_the_subclasses() -> None:
    assert parts_of(8, parts=2, turn=1) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert parts_of(12, parts=2, turn=3) == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]
    assert parts_of(4, parts=4, turn=1) == [[0], [1], [2], [3]]
    assert parts_of(4, parts=1, turn=3) == [[0, 1, 2, 3]]  # as it is


def test_the_shares_of_devices_have_the_parts_of_the_whole() -> None:
    whole = parts_of(16, parts=2, turn=2)
    halves = [
        [[8 * device + x for x in part] for part in parts_of(8, parts=2, turn=2)]
        for device in range(2)
    ]
    assert [a + b for a, b in zip(*halves)] == whole


def test_floats_are_averaged_and_integers_kept() -> None:
    def function(part: Any, rng: Any) -> Any:
        drawn = jax.random.normal(jax.random.split(rng)[0], ())  # used up in every part
        x = part["x"]
        return {"mean": x.mean(), "drawn": drawn, "count": jnp.int32(3), "odd": x[0] > 5}

    batch = {"x": jnp.asarray([1.0, 9.0, 2.0, 8.0])}
    found = mean_of_parts(function, batch, KEY, parts=2, turn=1)
    whole = mean_of_parts(function, batch, jax.random.key(0), parts=1, turn=1)
    assert float(found["mean"]) == 5.0
    assert float(found["drawn"]) == float(whole["drawn"])  # the same key in each
    assert (int(found["count"]), found["count"].dtype) == (3, jnp.int32)
    assert (bool(found["odd"]), found["odd"].dtype) == (True, bool)


def test_a_batch_that_does_not_go_round_is_named() -> None:
    with pytest.raises(InputError, match="a batch of 8 can not go through 3 subclasses in 2 parts"):
        parts_of(8, parts=2, turn=3)


def test_batch_statistics_are_those_of_parts() -> None:
    """What the module says of BatchNorm, on SimpleNet."""
    method = simplenet("a", hidden=3, noise=0.5)
    x = jax.random.normal(jax.random.key(1), (12, 4))
    variables = jax.jit(method.init)(jax.random.key(2), {"a": x[:1, None, None]})
    batch = {"a": x, "element": jnp.arange(12, dtype=jnp.int32)}

    def loss(variables: Any, frozen: Any, batch: Any, rng: Any) -> Any:
        return method.loss(variables, {"a": batch["a"]}, {"element": batch["element"]}, rng)

    def after(parts: int, batch: Any = batch) -> Any:
        step = jax.jit(make_train_step(loss, optax.sgd(1.0), parts=parts))
        state, metrics = step(init_state(variables, optax.sgd(1.0)), {}, batch, KEY)
        return state.variables, metrics["loss"][0]

    found = after(3)
    alone = [after(1, jax.tree.map(lambda x, i=i: x[i::3], batch)) for i in range(3)]
    want = jax.tree.map(lambda *each: sum(each) / 3, *alone)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), found, want)
    stats, whole = (tree["batch_stats"]["norm"] for tree in (found[0], after(1)[0]))
    np.testing.assert_allclose(stats["mean"], whole["mean"], rtol=1e-5, atol=1e-6)
    assert np.abs(stats["var"] - whole["var"]).max() > 1e-4


def test_the_running_variance_is_the_mean_of_the_parts_own() -> None:
    x = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    module = BatchNorm(momentum=1.0)
    variables = module.init(KEY, x, train=True)

    def running(part: Any, rng: Any) -> Any:
        return module.apply(variables, part["x"], train=True, mutable=["batch_stats"])[1]

    found = mean_of_parts(running, {"x": x}, KEY, parts=2, turn=1)["batch_stats"]
    np.testing.assert_allclose(found["mean"], x.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        found["var"], (x[0::2].var(0, ddof=1) + x[1::2].var(0, ddof=1)) / 2, rtol=1e-5
    )


def test_centres_move_by_the_mean_of_what_parts_move_them() -> None:
    method = routing("a", Router(2, 2, True))
    x = jax.random.normal(jax.random.key(1), (8, 2, 3, 4))
    y = jnp.arange(8, dtype=jnp.int32) % 2
    variables = jax.jit(method.init)(jax.random.key(2), {"a": x[:1]})

    def loss(variables: Any, frozen: Any, batch: Any, rng: Any) -> Any:
        return method.loss(variables, {"a": batch["a"]}, {"subclass": batch["y"]}, rng)

    def after(parts: int) -> Any:
        step = jax.jit(make_train_step(loss, optax.sgd(1.0), parts=parts, turn=2))
        return step(init_state(variables, optax.sgd(1.0)), {}, {"a": x, "y": y}, KEY)

    (found, metrics), (whole, wanted) = after(2), after(1)
    # The loss is a mean, so all that is trained by gradient is as in one part.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        (found.variables["params"], metrics["loss"], metrics["gradient_norm"]),
        (whole.variables["params"], wanted["loss"], wanted["gradient_norm"]),
    )
    embedded, _ = embed(Router(2, 2, True), variables, x)
    start = variables["routing"]["centres"]
    each = [
        moved_centres(start, embedded[part], y[part], rate=0.5)
        for part in (np.asarray([0, 1, 4, 5]), np.asarray([2, 3, 6, 7]))
    ]
    centres = found.variables["routing"]["centres"]
    np.testing.assert_allclose(centres, (each[0] + each[1]) / 2, rtol=1e-5, atol=1e-6)
    assert np.abs(centres - whole.variables["routing"]["centres"]).max() > 1e-3


@pytest.mark.parametrize("place", ["host", "device", "off"])
@pytest.mark.parametrize("positions", [0, 24])
def test_accumulation_is_the_same_training_wherever_features_are(
    place: str, positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxad.training.phases.BLOCK", 2)
    found = []
    for parts, backend, devices in ((1, "jit", 1), (3, "jit", 1), (3, "pmap", 2), (3, "jit", 2)):
        made = trainer(
            toy(noise=0.5),
            phases=[Phase("all", toy(noise=0.5), 5, positions, ("net/a",))],
            feature_cache=place,
            batch_size=12,
            clusters=0,
            parts=parts,
            parallel=data_parallel(backend, devices=jax.local_devices()[:devices]),
        )
        log = Log()
        fit = made.fit(job(16, kinds=2), Path("photos"), log, seed=0)
        found.append(np.asarray(fit.variables["params"]["all"]))
        assert log[0].get("images_per_step", 12) == 12
        # The count is of the batch: each part has counted its own.
        shares = parts * (devices if backend == "pmap" else 1)
        assert log[1]["elements"] * shares == (positions or 12)
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-5, atol=1e-6)


def test_a_batch_is_rounded_up_to_what_parts_share(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log()
    made = trainer(toy(), batch_size=4, parts=3, clusters=0, epochs=3)
    made.fit(job(8, kinds=2), Path("photos"), log, seed=0)
    assert log[0]["images_per_step"] == 6
    assert "does not go round 2 subclasses on 1 devices in 3 parts" in capsys.readouterr().err
