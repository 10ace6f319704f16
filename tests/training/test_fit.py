"""A trainer: what its steps see and say, where features are kept, what is compiled."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from tiny import Log, Photos, job, toy, trainer

from jaxad.data.manifest import Manifest
from jaxad.methods.adapted_moe import adapted_moe, experts
from jaxad.methods.routing import Router, routing
from jaxad.methods.simplenet import Expert
from jaxad.parallel import data_parallel
from jaxad.recipes.recipe import Phase, named_key
from jaxad.runs.programs import counted_programs
from jaxad.training import feature_cache
from jaxad.training.fit import training_key

ROOT = Path("photos")


def fit(made: Any, work: Any, *, seed: int = 0, log: Any = None, **options: Any) -> Any:
    return made.fit(work, ROOT, Log() if log is None else log, seed=seed, **options)


def numbers(found: Any) -> dict[str, np.ndarray]:
    return jax.device_get(found.variables["params"])


def test_photos_anew_train_detector_after_detector_as_kept_features_do() -> None:
    kept = trainer(toy(noise=0.1))
    anew = trainer(toy(noise=0.1), feature_cache="off")
    held = trainer(toy(noise=0.1), feature_cache="device")
    for work in (job(5), job(9, start=7)):
        for seed in (0, 1):  # replicates
            want = numbers(fit(kept, work, seed=seed))["all"]
            for other in (anew, held):
                np.testing.assert_allclose(numbers(fit(other, work, seed=seed))["all"], want, 1e-5)
    assert fit(anew, job(5)).cache is None


def test_features_that_are_there_already_are_not_computed_again() -> None:
    photos = Photos()
    made = trainer(toy(), photos=photos)
    first = fit(made, job(5))
    assert photos.read == [0, 1, 2, 3, 4]
    again = fit(made, job(5), cache=first.cache)
    assert len(photos.read) == 5
    np.testing.assert_array_equal(numbers(again)["all"], numbers(first)["all"])


@pytest.mark.parametrize("place", ["host", "device", "off"])
def test_a_second_detector_compiles_nothing(place: str) -> None:
    # Twice as many photos, and a schedule that does not look at the number of steps.
    finalized: list[Any] = []
    made = trainer(
        toy(finalized=finalized),
        feature_cache=place,
        holdout=0.3,
        clusters=2,
        parallel=data_parallel("pmap", devices=jax.local_devices()[:2]),
    )
    fit(made, job(7))
    with counted_programs() as programs:
        found = fit(made, job(14))
    assert not programs.names
    assert len(found.subclasses) == 2


def test_a_second_mixture_of_experts_compiles_nothing() -> None:
    expert, router = Expert(2), Router(2, 2, True)
    parts = {"experts": experts("net/a", expert, count=2), "router": routing("net/a", router)}
    whole = adapted_moe("net/a", parts, expert, router, count=2)
    made = trainer(
        whole,
        phases=[Phase(name, part, 1, 0, ("net/a",)) for name, part in parts.items()],
        clusters=0,
    )
    fit(made, job(5, kinds=2))
    with counted_programs() as programs:
        found = fit(made, job(12, kinds=2))
    assert not programs.names
    assert np.ptp(found.variables["patches"]["mean"], axis=0).max() > 0


def test_a_schedule_is_over_the_steps_of_its_own_detector() -> None:
    def optimizer(steps: int) -> Any:
        return optax.sgd(optax.piecewise_constant_schedule(0.1, {steps // 2: 0.0}))

    def make() -> Any:
        return trainer(toy()._replace(optimizer=optimizer), batch_size=1, epochs=2)

    both = make()
    for count in (3, 9):
        one, other = fit(make(), job(count)), fit(both, job(count))
        np.testing.assert_array_equal(numbers(one)["all"], numbers(other)["all"])
    # Where no schedule looks at them, one program serves any number of steps.
    for made, same in ((both, False), (trainer(toy()), True)):
        asked = [made.programs.optimizer(0, 0, steps) for steps in (10**6, 10**6 + 2, 10**6)]
        assert asked[0] == asked[2]
        assert (asked[0] == asked[1]) == same


@pytest.mark.parametrize(("devices", "seen"), [(1, 10), (4, 40)])
def test_epochs_are_epochs_whatever_subclasses_and_devices_share(
    devices: int, seen: int, capsys: pytest.CaptureFixture[str]
) -> None:
    log, photos = Log(), Photos()
    made = trainer(
        toy(),
        epochs=160,
        batch_size=8,
        clusters=0,
        capacity=20,
        feature_cache="off",
        photos=photos,
        parallel=data_parallel("pmap", devices=jax.local_devices()[:devices]),
    )
    fit(made, job(20, kinds=10), log=log)
    steps = 160 * math.ceil(20 / seen)
    assert log[0] == {
        "phase": "all",
        "steps": steps,
        "images_per_step": seen,
        "epochs": steps * seen / 20,
    }
    assert len(photos.read) == steps * seen
    assert f"{steps} steps of {seen} images" in capsys.readouterr().err
    assert log[-1]["step"] == steps


@pytest.mark.parametrize("place", ["host", "device", "off"])
def test_positions_of_a_step_are_counted(place: str) -> None:
    log = Log()
    made = trainer(
        toy(),
        phases=[Phase("all", toy(), 3, 10, ("net/a",))],
        feature_cache=place,
        batch_size=4,
    )
    fit(made, job(5), log=log)
    assert log[0]["positions_per_step"] == log[1]["elements"]
    assert log[0]["positions_per_step"] == (12 if place == "off" else 10)


def test_held_out_images_are_neither_trained_on_nor_in_the_last_pass() -> None:
    finalized: list[Any] = []
    photos, log = Photos(), Log()
    made = trainer(
        toy(finalized=finalized),
        feature_cache="off",
        holdout=0.25,
        epochs=3,
        photos=photos,
        log_every=10**6,  # measured at the end alone
    )
    fit(made, job(8), log=log)
    steps = log[0]["steps"] * log[0]["images_per_step"]
    trained, held, last = photos.read[:steps], photos.read[steps:-6], photos.read[-6:]
    assert sorted(held + last) == list(range(8))
    assert set(trained) == set(last)
    assert len(finalized) == 6
    assert "holdout" in log[-1]
    kept = made.extract(Manifest(ROOT, tuple(job(8).train[n] for n in last)), "c")
    np.testing.assert_allclose(np.concatenate([x for x, _ in finalized]), kept["net/a"][:6], 1e-5)


def test_last_pass_and_held_out_loss_know_each_image_s_subclass() -> None:
    finalized: list[Any] = []
    made = trainer(toy(finalized=finalized), clusters=0)
    fit(made, job(6, kinds=3))
    assert [int(y[0]) for _, y in finalized] == [0, 1, 2, 0, 1, 2]
    assert all(len(x) == len(y) == 1 for x, y in finalized)


def test_statistics_are_observed_of_what_is_trained_on_before_the_first_step() -> None:
    seen: list[Any] = []

    def observe(variables: Any, images: Any) -> Any:
        seen.extend((found["net/a"], batch["subclass"]) for found, batch in images)
        return {"params": {"all": jax.numpy.full(3, 100.0)}}

    photos = Photos()
    plain = toy()
    # Where `observe` has put it, less ten steps of Adam at .1.
    made = trainer(
        plain._replace(observe=observe),
        phases=[Phase("all", plain, 10, 0, ("net/a",))],
        holdout=0.25,
        clusters=0,
        photos=photos,
    )
    found = fit(made, job(8, kinds=2))
    np.testing.assert_allclose(numbers(found)["all"], 99.0, atol=0.1)
    assert len(seen) == 6
    assert all(x.shape[0] == 1 for x, _ in seen)
    assert {int(y[0]) for _, y in seen} == {0, 1}


def test_element_j_of_a_batch_is_of_subclass_j_in_turn() -> None:
    photos, told = Photos(), []
    plain = toy()

    def loss(variables: Any, features: Any, batch: Any, rng: Any) -> Any:
        jax.debug.callback(lambda *x: told.append(np.stack(x)), batch["subclass"], batch["element"])
        return plain.loss(variables, features, batch, rng)

    method = plain._replace(loss=loss)
    made = trainer(method, clusters=0, batch_size=3, epochs=1, photos=photos, feature_cache="off")
    fit(made, job(6, kinds=3))
    jax.effects_barrier()
    assert [n % 3 for n in photos.read] == [0, 1, 2] * 2
    np.testing.assert_array_equal(told, [[[0, 1, 2]] * 2] * 2)


@pytest.mark.parametrize("balanced", [True, False])
def test_balanced_epochs_see_every_category_equally_often(balanced: bool) -> None:
    photos = Photos()
    made = trainer(
        toy(), balanced=balanced, feature_cache="off", photos=photos, epochs=4, batch_size=2
    )
    work = job(8, categories=("a", "b", "b", "b"))  # 2 and 6
    fit(made, work)
    seen = [work.train[n].category for n in photos.read]
    assert seen.count("a") == (24 if balanced else 8)
    assert seen.count("b") == 24


@pytest.mark.parametrize("place", ["host", "off"])
def test_each_phase_has_its_own_steps_positions_and_schedule(place: str) -> None:
    asked: list[tuple[str, int]] = []

    def part(name: str) -> Any:
        def optimizer(steps: int) -> Any:
            asked.append((name, steps))
            return optax.adam(0.1)

        return toy(name)._replace(optimizer=optimizer)

    both = toy()._replace(
        init=lambda rng, x: {
            "params": {n: toy(n).init(rng, x)["params"][n] for n in ("first", "second", "third")}
        }
    )
    log = Log()
    made = trainer(
        both,
        phases=[
            Phase("first", part("first"), 3, 0, ("net/a",)),
            Phase("second", part("second"), 0, 5, ("net/a",)),
        ],
        feature_cache=place,
        epochs=4,
    )
    with jax.debug_key_reuse(False):  # three parts are drawn from one key
        initial = made.programs.init(0)(jax.random.key(0))
        found = fit(made, job(6), log=log)
    assert set(asked) == {("first", 3), ("second", 8)}
    steps = [(line["phase"], line["step"]) for line in log if "step" in line]
    assert steps == [("first", n + 1) for n in range(3)] + [("second", n + 1) for n in range(8)]
    for name in ("first", "second"):
        assert np.abs(numbers(found)[name] - initial["params"][name]).max() > 0.1
    np.testing.assert_array_equal(numbers(found)["third"], initial["params"]["third"])


def test_half_precision_features_are_computed_with_in_float32() -> None:
    seen = []
    plain = toy()

    def loss(variables: Any, features: Any, batch: Any, rng: Any) -> Any:
        seen.append(features["net/a"].dtype)
        return plain.loss(variables, features, batch, rng)

    made = trainer(plain._replace(loss=loss), cache_dtype="float16", holdout=0.3)
    assert fit(made, job(5)).cache["net/a"].dtype == np.float16
    assert set(seen) == {np.dtype(np.float32)}


def test_no_two_draws_of_a_run_share_a_key() -> None:
    keys = [named_key(888, f"network/{n}") for n in range(2)]
    keys += [training_key(888, name) for name in ("all", "router", "experts", "layer1", "layer2")]
    keys += [training_key(889, "all"), jax.random.key(888), jax.random.key(889)]
    # What methods make of the key of initialisation.
    keys += list(jax.random.split(jax.random.key(888), 4))
    data = {tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in keys}
    assert len(data) == len(keys)


def test_noise_differs_from_step_to_step_phase_to_phase_and_seed_to_seed() -> None:
    drawn = []
    plain = toy(noise=1.0)

    def loss(variables: Any, features: Any, batch: Any, rng: Any) -> Any:
        jax.debug.callback(lambda x: drawn.append(tuple(x.tolist())), jax.random.key_data(rng))
        return plain.loss(variables, features, batch, rng)

    method = plain._replace(loss=loss)
    parts = [Phase(name, method, 2, 0, ("net/a",)) for name in ("one", "two")]
    made = trainer(method, phases=parts)
    for seed in (0, 1):
        fit(made, job(4), seed=seed)
    jax.effects_barrier()
    assert len(drawn) == len(set(drawn)) == 8


def test_the_place_of_features_is_chosen_once_for_all_detectors() -> None:
    made = trainer(toy(), feature_cache="auto", capacity=3)
    assert made.place == "host"
    huge = dataclasses.replace(made.budget, feature_cache="auto")
    assert huge == made.budget
    assert trainer(toy(), feature_cache="auto", capacity=10**12).place == "off"


def test_networks_of_a_run_compute_in_half_precision() -> None:
    seen = set()
    plain = toy()

    def loss(variables: Any, features: Any, batch: Any, rng: Any) -> Any:
        seen.add((variables["params"]["all"].dtype.name, features["net/a"].dtype.name))
        full = {"params": {"all": variables["params"]["all"].astype(np.float32)}}
        return plain.loss(full, features, batch, rng)

    found = {}
    for dtype in ("float32", "bfloat16"):
        made = trainer(plain._replace(loss=loss), dtype=dtype)
        found[dtype] = fit(made, job(5))
    assert seen == {("float32", "float32"), ("bfloat16", "float32")}
    half, full = (found[name] for name in ("bfloat16", "float32"))
    # Features are those of networks in half precision, kept in float32.
    assert half.cache["net/a"].dtype == np.float32
    difference = np.abs(half.cache["net/a"][:5] - full.cache["net/a"][:5])
    assert 0 < difference.max() < 0.05 * np.abs(full.cache["net/a"][:5]).max()
    assert numbers(half)["all"].dtype == np.float32
    np.testing.assert_allclose(numbers(half)["all"], numbers(full)["all"], atol=0.02)


@pytest.mark.parametrize(("devices", "place"), [(1, "host"), (2, "device")])
def test_a_cache_may_take_the_memory_of_all_devices(
    devices: int, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bytes_of_cache = 16 * 4 * 6 * (3 + 2)  # photos, bytes of a number, positions, channels
    each = int(bytes_of_cache / feature_cache.SHARE * 0.6)
    monkeypatch.setattr("jaxad.training.fit.free_device_memory", lambda: each)
    parallel = data_parallel("pmap", devices=jax.local_devices()[:devices])
    made = trainer(toy(), parallel=parallel, capacity=16, feature_cache="auto")
    assert made.place == place
