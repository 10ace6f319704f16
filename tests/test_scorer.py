"""The compiled scorer gives what `Detector.score` gives, by whichever way it is compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.compiling import has_depthwise
from jaxad.config import parse_config
from jaxad.core import Backbone, InputError, Level, Preprocess
from jaxad.parallel import data_parallel
from jaxad.recipes.build import models
from jaxad.recipes.recipe import Backbones
from jaxad.recipes.simplenet import patched
from jaxad.runs.programs import counted_programs
from jaxad.scorer import ahead, constants_pay, make_scorer, stream

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SIZE = (32, 48)
LEVELS = {f"layer{n}": Level(4 + n, 2**n) for n in (1, 2, 3, 4)}
AFRAD = ("method.width=(4,4,4,4)", "method.decoder_width=8", "method.pooling=4")
SETTINGS = {
    "pfm": ("mb_pfm_fast.py", ("method.latent=(8,8,8)",), 3),
    "afrad": (
        "afrad_fast.py:small",
        (
            *AFRAD,
            "method.hidden=((1,2,3),(4,))",
            "method.map_length=0.5",
            "method.image_stages=(3,4)",
        ),
        4,
    ),
    "simplenet": ("simplenet_fast.py", ("method.embedding=32", "method.hidden=16"), 2),
    "adapted_moe": (
        "adapted_moe.py:magnetic_tile",
        ("method.embedding=32", "method.hidden=16", "method.router_width=8"),
        2,
    ),
}
"""File, changes, and how many levels of the network it reads."""


class Net(nn.Module):
    """A few strided convolutions."""

    levels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        found = {}
        for name, level in list(LEVELS.items())[: self.levels]:
            x = nn.relu(nn.Conv(level.channels, (3, 3), strides=2, name=name)(x))
            found[name] = x
        return found


def network(levels: int, seed: int) -> tuple[Backbone, Any]:
    known = dict(list(LEVELS.items())[:levels])
    variables = Net(levels).init(jax.random.key(seed), jnp.zeros((1, *SIZE, 3)))
    return Backbone("net", Net(levels), known, Preprocess()), variables


def detector_of(name: str) -> Any:
    file, changes, levels = SETTINGS[name]
    config = parse_config(["--config", str(CONFIGS / file), *(f"--config.{c}" for c in changes)])
    roles = ("source", "target") if name == "pfm" else ("backbone",)
    found = {role: network(levels, n) for n, role in enumerate(roles)}
    if name in ("simplenet", "adapted_moe"):
        found = {role: patched(*pair, width=32) for role, pair in found.items()}
    networks, frozen = ({role: pair[i] for role, pair in found.items()} for i in (0, 1))
    backbones = Backbones(networks, frozen, {})
    return models(config, backbones)(2).detector, frozen


def trained(detector: Any, frozen: Any, seed: int = 1) -> Any:
    """Statistics and weights as training leaves them: no zeros, no ones."""
    r = np.random.default_rng(seed)

    def of(path: Any, leaf: Any) -> Any:
        name, shape = path[-1].key, leaf.shape
        if name in ("var", "std", "scale"):
            return jnp.asarray(r.uniform(0.5, 1.5, shape), leaf.dtype)
        spread = np.prod(shape[:-1]) ** -0.5 if name == "kernel" else 0.1
        return jnp.asarray(spread * r.standard_normal(shape), leaf.dtype)

    shapes = detector.feature_shapes(frozen, size=SIZE)
    method = jax.eval_shape(detector.method.init, jax.random.key(0), shapes)
    return {"backbones": frozen, "method": jax.tree_util.tree_map_with_path(of, method)}


def photos(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3), np.uint8)


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
