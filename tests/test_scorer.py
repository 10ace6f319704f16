"""The compiled scorer gives what `Detector.score` gives, by whichever way it is compiled."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_detectors import SETTINGS, SIZE, detector_of, network, photos, trained

from jaxad.compiling import has_depthwise
from jaxad.core import InputError, Scores
from jaxad.detector import Detector
from jaxad.methods.patchcore import patchcore
from jaxad.parallel import data_parallel
from jaxad.runs.programs import counted_programs
from jaxad.scorer import ahead, constants_pay, make_scorer, stream


@pytest.mark.parametrize("name", SETTINGS)
def test_scores_equal_those_of_the_variables_as_trained(name: str) -> None:
    detector, frozen = detector_of(name)
    variables, images = trained(detector, frozen), photos(4)
    plain = jax.jit(detector.score)(variables, images)
    exact, half = (
        make_scorer(detector, variables, batch_size=4, size=SIZE, dtype=dtype).score(images)
        for dtype in ("float32", "bfloat16")
    )
    for ours, theirs, rough in zip(exact, plain, half, strict=True):
        assert ours.dtype == rough.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * float(jnp.abs(theirs).max()))
    same = np.corrcoef(np.ravel(half.map), np.ravel(plain.map))[0, 1]
    assert same > 0.97
    assert not np.array_equal(half.map, exact.map)


@pytest.fixture(scope="module")
def simplenet() -> Any:
    """Detector, two sets of its variables, 11 photos and their scores by each of the two."""
    detector, frozen = detector_of("simplenet")
    both = [trained(detector, frozen, seed) for seed in (1, 2)]
    images = photos(11)
    score = jax.jit(detector.score)
    return detector, both, images, [jax.device_get(score(v, images)) for v in both]


WAYS = {
    "constants": {"constants": True},
    "arguments": {"constants": False},
    "pmap": {"parallel": ("pmap", 4)},
    "jit": {"parallel": ("jit", 4)},
    "pmap of one": {"parallel": ("pmap", 1)},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_same_scores_of_any_number_of_images(way: str, simplenet: Any) -> None:
    detector, (first, second), images, want = simplenet
    options: dict[str, Any] = dict(WAYS[way])
    if "parallel" in options:
        backend, count = options["parallel"]
        options["parallel"] = data_parallel(backend, devices=jax.local_devices()[:count])
    with counted_programs() as programs:
        scorer = make_scorer(detector, first, batch_size=4, size=SIZE, **options)
    assert way.startswith("pmap") or "jit(score_images)" in programs.names
    assert scorer.compile_seconds > 0

    def check(scorer: Any, want: Any) -> None:
        found = list(stream(scorer, (images[i : i + 4] for i in (0, 4, 8))))  # the last of 3
        assert [len(scores.image) for scores in found] == [4, 4, 3]
        assert all(isinstance(x, np.ndarray) for scores in found for x in scores)
        for ours, theirs in zip(zip(*found), want):
            np.testing.assert_allclose(np.concatenate(ours), theirs, atol=1e-4)
        alone = scorer.score(jnp.asarray(images[:1]))  # one that is on a device already
        assert alone.map.shape == (1, *SIZE)
        np.testing.assert_allclose(alone.image, want.image[:1], atol=1e-4)

    check(scorer, want[0])
    with counted_programs() as programs:
        renewed = scorer.renew(second)
        check(renewed, want[1])
    # Another detector's scores, by the same program where weights are not constants of it.
    assert np.abs(want[0].image - want[1].image).min() > 1e-3
    # (A jit of a bound method may lose its cache when an equal one, of another test, goes.)
    compiled = bool(programs.names.keys() - {"jit(fold)"})
    assert compiled == (way in ("constants", "pmap of one"))
    check(scorer, want[0])


def test_weights_that_a_program_can_not_hold_are_arguments(
    simplenet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, both, images, want = simplenet
    monkeypatch.setattr("jaxad.compiling.MOST_CONSTANTS", 1000)
    scorer = make_scorer(detector, both[0], batch_size=4, size=SIZE, constants=True)
    with counted_programs() as programs:
        renewed = scorer.renew(both[1])
    assert not programs.names.keys() - {"jit(fold)"}
    np.testing.assert_allclose(renewed.score(images[:4]).image, want[1].image[:4], atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_what_images_are_taken_for_is_told_where_it_is_asked_for(way: str, routes: Any) -> None:
    detector, variables, images, want = routes
    options: dict[str, Any] = dict(WAYS[way])
    if "parallel" in options:
        backend, count = options["parallel"]
        options["parallel"] = data_parallel(backend, devices=jax.local_devices()[:count])
    given: dict[str, Any] = {"batch_size": 4, "size": SIZE, **options}
    scorer = make_scorer(detector, variables, routed=True, **given)
    found = list(stream(scorer, (images[i : i + 4] for i in (0, 4, 8))))
    subclass = np.concatenate([scores.subclass for scores in found])
    assert subclass.dtype == np.int32
    np.testing.assert_array_equal(subclass, want.subclass)
    maps = np.concatenate([scores.map for scores in found])
    np.testing.assert_allclose(maps, want.map, atol=1e-4 * float(np.ptp(want.map)))
    if way == "arguments":
        assert make_scorer(detector, variables, **given).score(images[:1])._fields == Scores._fields


@pytest.fixture(scope="module")
def routes() -> Any:
    """A detector, its variables, photos of both subclasses, and what is to come of them."""
    detector, frozen = detector_of("adapted_moe")
    variables, images = trained(detector, frozen, seed=8), photos(11)
    images[::2] //= 4  # which this seed's router tells apart
    want = jax.device_get(jax.jit(detector.routed)(variables, images))
    assert set(want.subclass) == {0, 1}
    np.testing.assert_allclose(want.map, jax.jit(detector.score)(variables, images).map, rtol=1e-4)
    return detector, variables, images, want


def test_a_method_that_knows_no_subclasses_takes_images_for_none(simplenet: Any) -> None:
    detector, (variables, _), images, _ = simplenet
    with pytest.raises(InputError, match=r"use Detector\.score"):
        detector.routed(variables, images)
    found = make_scorer(detector, variables, batch_size=4, size=SIZE, routed=True).score(images[:1])
    assert found._fields == Scores._fields


@pytest.mark.parametrize("way", ["constants", "arguments", "jit"])
def test_another_detector_may_have_a_larger_bank(way: str) -> None:
    backbone, frozen = network(1, 0)
    detector = Detector({"net": backbone}, patchcore("net/layer1"))
    options: dict[str, Any] = dict(WAYS[way])
    if "parallel" in options:
        options["parallel"] = data_parallel("jit")
    draw, images = np.random.default_rng(0), photos(4)
    banks = [draw.uniform(size=(count, 5)).astype(np.float32) for count in (3, 30, 3)]
    scorer = None
    for members in banks:
        method = {"bank": {"members": members}, "drawn": {"seed": np.int32(0)}}
        variables = {"backbones": {"net": frozen}, "method": method}
        if scorer is None:
            scorer = make_scorer(detector, variables, batch_size=4, size=SIZE, **options)
        else:
            scorer = scorer.renew(variables)
        want = jax.jit(detector.score)(variables, images)
        np.testing.assert_allclose(scorer.score(images).map, want.map, rtol=1e-4, atol=1e-6)


def test_nothing_to_score_is_no_scores(simplenet: Any) -> None:
    detector, (variables, _), *_ = simplenet
    scorer = make_scorer(detector, variables, batch_size=4, size=SIZE)
    assert list(stream(scorer, iter([]))) == []
    for images, told in (
        (photos(5), "this scorer takes 1 to 4 images"),
        (photos(0), "this scorer takes 1 to 4 images"),
        (photos(1)[0], "this scorer takes 1 to 4 images"),
        (photos(1)[:, :16], "images of .32, 48, 3."),
        (photos(1).astype(np.float32) / 255, "images are float32: give one array of uint8"),
        (photos(1).tolist(), "images are list: give one array of uint8"),
    ):
        with pytest.raises(InputError, match=told):
            scorer.score(images)


def test_a_batch_that_devices_can_not_share_is_refused(simplenet: Any) -> None:
    detector, (variables, _), *_ = simplenet
    with pytest.raises(InputError, match=r"score\.batch_size is 6, which 4 devices can not share"):
        make_scorer(detector, variables, batch_size=6, size=SIZE, parallel=data_parallel())


@pytest.mark.parametrize(
    ("gflop", "images", "detectors", "pay"),
    [
        (1.0, 10, 1, True),  # one program in any case
        (None, 10, 1, True),
        (None, 10**9, 2, False),  # nobody knows
        (1.0, 100, 15, False),
        (100.0, 100, 15, True),
        (1.0, 10**5, 15, True),
    ],
)
def test_constants_pay_where_they_save_more_than_compiling(
    gflop: float | None, images: int, detectors: int, pay: bool
) -> None:
    assert constants_pay(gflop=gflop, images=images, detectors=detectors) is pay


def test_the_next_batch_is_started_before_one_is_waited_for() -> None:
    started: list[int] = []
    seen = [
        (item, x, len(started))
        for item, x in ahead(iter(range(3)), lambda n: started.append(n) or 10 * n)
    ]
    assert seen == [(0, 0, 2), (1, 10, 3), (2, 20, 3)]
    assert list(ahead([], lambda _: 0)) == []


def test_depthwise_kernels_are_recognised() -> None:
    kernels = {"1x1": (1, 1, 1, 8), "3x3": (3, 3, 8, 8), "linear": (8, 8)}
    variables = {name: {"kernel": np.zeros(shape)} for name, shape in kernels.items()}
    assert not has_depthwise(variables)
    assert has_depthwise({**variables, "depthwise": {"kernel": np.zeros((3, 3, 1, 8))}})
