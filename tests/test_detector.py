"""Backbones and a method composed: what is checked, trained, frozen and folded."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxad.backbones import ARCHITECTURES
from jaxad.backbones.architectures import Variant
from jaxad.core import Aux, Backbone, Features, InputError, Level, Method, Preprocess, Scores
from jaxad.detector import Detector
from jaxad.methods.simplenet import simplenet

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), np.uint8)


class Halves(nn.Module):
    """A network of one level at stride 2."""

    @nn.compact
    def __call__(self, x: jax.Array) -> Features:
        """Map `(B, H, W, 3)` to `(B, h, w, 5)`."""
        return {"half": nn.Conv(5, (3, 3), strides=(2, 2), name="conv")(x)}


BACKBONE = Backbone("halves", Halves(), {"half": Level(5, 2)}, Preprocess())
FROZEN = {"network": BACKBONE.module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))}


def linear() -> Method:
    """A linen module used as anyone would use it: its `init` is called on what `init` is given."""
    module = nn.Dense(5)

    def init(rng: jax.Array, features: Features) -> Any:
        assert not isinstance(features["network/half"], jax.ShapeDtypeStruct)
        return module.init(rng, features["network/half"])

    def error(variables: Any, features: Features) -> jax.Array:
        x = features["network/half"]
        return jnp.square(module.apply(variables, x) - x)

    def loss(variables: Any, features: Features, batch: Any, rng: jax.Array) -> Any:
        noise = jax.random.normal(rng, ()) * jnp.sum(batch["label"])
        return jnp.mean(error(variables, features)) + noise, Aux({}, {})

    def score(variables: Any, features: Features, *, size: tuple[int, int]) -> Scores:
        each = jnp.mean(error(variables, features), axis=(1, 2, 3))
        return Scores(jnp.broadcast_to(each[:, None, None], (len(each), *size)), each)

    return Method(init, loss, score, lambda _: optax.sgd(0.1))


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector({"network": BACKBONE}, linear())


@pytest.fixture(scope="module")
def variables(detector: Detector) -> Any:
    return detector.init(jax.random.key(1), FROZEN, size=(16, 24))


def test_a_plain_linen_init_makes_the_variables(detector: Detector, variables: Any) -> None:
    assert jax.tree.map(jnp.shape, variables["method"]) == {
        "params": {"kernel": (5, 5), "bias": (5,)}
    }
    want = nn.Dense(5).init(jax.random.key(1), jnp.zeros((1, 8, 12, 5)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), variables["method"], want
    )
    shapes = jax.eval_shape(lambda r, b: detector.init(r, b, size=(16, 24)), *_key_and_frozen())
    assert jax.tree.map(lambda x: x.shape, shapes) == jax.tree.map(jnp.shape, variables)


def _key_and_frozen() -> tuple[jax.Array, Any]:
    return jax.random.key(1), FROZEN


def test_loss_takes_the_methods_variables_and_frozen_ones_apart(
    detector: Detector, variables: Any
) -> None:
    """So that a training state holds what is trained, and donating it leaves the networks alone."""
    batch = {"image": IMAGES, "label": np.zeros(2, np.float32)}
    run = jax.jit(jax.grad(lambda v, f, b, r: detector.loss(v, f, b, r)[0]))
    gradient = run(variables["method"], FROZEN, batch, jax.random.key(2))
    assert jax.tree.structure(gradient) == jax.tree.structure(variables["method"])
    assert all(float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(gradient))
    value, _ = detector.loss(variables["method"], FROZEN, batch, jax.random.key(2))
    features = detector.features({"backbones": FROZEN}, IMAGES)
    want, _ = detector.method.loss(variables["method"], features, batch, jax.random.key(2))
    np.testing.assert_allclose(value, want, rtol=1e-5)


def test_fold_is_a_function_that_can_be_compiled() -> None:
    detector = Detector({"network": BACKBONE}, simplenet("network/half", hidden=4))
    variables = detector.init(jax.random.key(1), FROZEN, size=(16, 24))
    fold = jax.jit(detector.fold, static_argnames="dtype")
    score = jax.jit(detector.score)
    want, got = score(variables, IMAGES), score(fold(variables), IMAGES)
    np.testing.assert_allclose(got.map, want.map, rtol=1e-4, atol=1e-5)
    half = fold(variables, dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(half)} == {jnp.dtype("bfloat16")}
    np.testing.assert_allclose(score(half, IMAGES).map, want.map, atol=0.05)
    plain = Detector({"network": BACKBONE}, linear())
    assert plain.fold({"backbones": FROZEN, "method": {}}) == {"backbones": FROZEN, "method": {}}


def test_cost_counts_what_is_trained_and_what_is_frozen(detector: Detector) -> None:
    cost = detector.cost(FROZEN, size=(16, 24))
    assert (cost.trained, cost.frozen) == (30, 140)
    assert cost.gflop == pytest.approx(2 * 8 * 12 * (27 * 5 + 25) / 1e9, rel=0.25)


FITS = np.zeros((1, 16, 16, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (FITS / 255, r"images are float64: give uint8 .* np\.rint\(images \* 255\)"),
        (FITS.astype(np.float32), "images are float32: give uint8 pixels, 0 to 255"),
        (FITS.astype(np.int32), "images are int32: give uint8"),
        (FITS[0], r"images are \(16, 16, 3\): .* one image as image\[None\]"),
        (FITS[..., 0], r"images are \(1, 16, 16\): give \(B, H, W, 3\), red"),
        (FITS[..., :1], r"images are \(1, 16, 16, 1\): give"),
        (np.zeros((1, 3, 16, 16), np.uint8), r"channels last: images\.transpose\(0, 2, 3, 1\)"),
        (FITS[:0], "nothing to look at"),
        ([FITS], "images are a list: give one array"),
    ],
)
@pytest.mark.parametrize("of", ["score", "features", "backbone", "jit", "loss"])
def test_images_of_another_kind_are_refused_with_the_mend(
    images: Any, message: str, of: str, detector: Detector, variables: Any
) -> None:
    calls = {
        "score": functools.partial(detector.score, variables),
        "features": functools.partial(detector.features, variables),
        "backbone": functools.partial(BACKBONE.features, FROZEN["network"]),
        "jit": functools.partial(jax.jit(detector.score), variables),
        "loss": lambda x: detector.loss(
            variables["method"], FROZEN, {"image": x}, jax.random.key(0)
        ),
    }
    if of == "jit" and (isinstance(images, list) or images.dtype == np.float64):
        pytest.skip("jit itself makes something else of it first")
    with pytest.raises(InputError, match=message):
        calls[of](images)


def abstract(name: str, level: str, variant: Variant | None = None) -> tuple[Backbone, Any]:
    """A network up to one level, and the shapes of its variables."""
    arch = ARCHITECTURES[name]
    module = arch.build(levels=(level,), folded=True, variant=variant)
    if name.startswith("efficientnet") and name != "efficientnet_b4":
        # Further blocks of a stage keep the shape that the second one gives: quicker to trace.
        stages = (stage._replace(repeats=min(stage.repeats, 2)) for stage in module.stages)
        module = module.clone(stages=tuple(stages))
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    return Backbone(name, module, {level: arch.levels[level]}, arch.preprocess), shapes


def features_of(backbone: Backbone, shapes: Any, height: int, width: int) -> Any:
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.uint8)
    return jax.eval_shape(backbone.features, shapes, image)


@pytest.mark.parametrize("name", [n for n, arch in ARCHITECTURES.items() if arch.patch == 1])
def test_images_too_small_for_a_network_are_refused_with_the_least_size(name: str) -> None:
    level = ARCHITECTURES[name].default_levels[-1]
    backbone, shapes = abstract(name, level)
    least = backbone.least_size(shapes)
    assert 1 <= least <= ARCHITECTURES[name].levels[level].stride
    found = features_of(backbone, shapes, least, least)
    assert all(0 not in x.shape for x in found.values())
    if least == 1:
        assert name.startswith("resnet") or name in ("wide_resnet50_2", "pdn_small")
        return
    message = rf"too small for {name}: its level {level} needs at least {least} x {least}"
    for height, width in ((least - 1, 64), (64, least - 1)):
        with pytest.raises(InputError, match=rf"images of {height} x {width} .*{message}"):
            features_of(backbone, shapes, height, width)


def test_the_least_size_goes_by_the_weights_padding() -> None:
    for padding in ("same", "symmetric"):
        backbone, shapes = abstract("efficientnet_lite0", "stage5", Variant(padding=padding))
        assert backbone.least_size(shapes) == 1


def test_a_networks_own_fault_is_not_taken_for_a_small_image() -> None:
    class Broken(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> Features:
            raise ValueError(f"out of order at {x.shape[1]} pixels")

    broken = Backbone("broken", Broken(), {"a": Level(1, 1)}, Preprocess())
    with pytest.raises(ValueError, match="out of order at 16 pixels"):
        broken.features(FROZEN["network"], FITS)
