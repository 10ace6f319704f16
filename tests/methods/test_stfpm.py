"""STFPM: parity with the authors' recipe in torch, by hand, what is learnt, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxad.backbones.pixels import pixels
from jaxad.backbones.resnet import ResNet
from jaxad.core import InputError, Level, Preprocess
from jaxad.methods.stfpm import distance, stfpm
from jaxad.ops.layers import BatchNorm
from jaxad.training.state import init_state
from jaxad.training.steps import make_train_step
from ports import golden_stfpm
from ports.golden_pfm import unpack
from ports.seeded import fill, sample
from ports.torchvision_names import cnn_name

STORED = np.load(Path(__file__).parents[1] / "golden" / "stfpm.npz")
GOLDEN = unpack(STORED["contents"], STORED["values"])


def resnet(*, train: bool, folded: bool) -> nn.Module:
    blocks, levels = (1, 1, 1, 1), tuple(golden_stfpm.CHANNELS)
    return ResNet(blocks, False, levels, train=train, folded=folded)


def torch_names(variables: Any) -> dict[tuple[str, ...], str]:
    """Our path -> torchvision's name."""
    name = cnn_name("resnet18")
    return {path: name(path) for path in flatten_dict(variables)}


def test_two_steps_and_maps_equal_the_reference_recipe() -> None:
    # In float64: in float32 the second step already goes by how a maximum or a ReLU was rounded.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        levels = [f"teacher/{name}" for name in golden_stfpm.CHANNELS]
        method = stfpm("pixels/image", levels, resnet, prepare=Preprocess())
        found = {
            f"teacher/{name}": jnp.asarray(x, jnp.float64)
            for name, x in golden_stfpm.teachers().items()
        }
        found["pixels/image"] = jnp.asarray(golden_stfpm.photos())
        shapes = jax.eval_shape(method.init, jax.random.key(0), found)
        names, torch = torch_names(shapes), fill(golden_stfpm.shapes())
        assert set(names.values()) == set(torch)
        ours = {
            path: torch[name].transpose(2, 3, 1, 0) if torch[name].ndim == 4 else torch[name]
            for path, name in names.items()
        }
        variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), unflatten_dict(ours))
        assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)

        state = init_state(variables, method.optimizer(2))
        step = quick.jit(
            make_train_step(lambda v, _, b, r: method.loss(v, b, {}, r), method.optimizer(2))
        )
        for n in range(2):
            state, metrics = step(state, {}, found, jax.random.key(0))
            np.testing.assert_allclose(metrics["loss"][0], GOLDEN[f"loss{n}"], rtol=1e-5)
        for path, value in flatten_dict(state.variables).items():
            want = GOLDEN[f"after/{names[path]}"]
            own = np.asarray(value).transpose(3, 2, 0, 1) if value.ndim == 4 else value
            tolerance = 1e-5 * max(1.0, float(np.max(np.abs(want))))
            np.testing.assert_allclose(
                sample(own), want, rtol=0, atol=tolerance, err_msg=names[path]
            )

        assert method.fold is not None
        folded = method.fold(state.variables)
        assert list(folded) == ["params"]
        for each in (state.variables, folded):
            scores = quick.score(method, each, found, size=golden_stfpm.SIZE)
            np.testing.assert_allclose(sample(scores.map), GOLDEN["map"], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(scores.image, GOLDEN["image"], rtol=1e-5)


@pytest.mark.parametrize(
    ("teacher", "student", "want"),
    [
        ((3, 4), (4, 3), 0.08),
        ((3, 4), (6, 8), 0.0),
        ((1, 0), (-2, 0), 4.0),
        ((0, 0), (0, 5), 1.0),  # nothing is seen: no direction
        ((0, 0), (0, 0), 0.0),
    ],
)
def test_distance_by_hand(teacher: Any, student: Any, want: float) -> None:
    found = distance(*(jnp.asarray([[x]], jnp.float32) for x in (teacher, student)))
    assert found.shape == (1, 1)
    assert float(found[0, 0]) == pytest.approx(want, abs=1e-6)


class Student(nn.Module):
    """A convolution at stride 2, and one on it."""

    train: bool
    folded: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        found = {}
        for name, width in (("a", 4), ("b", 6)):
            x = nn.Conv(width, (2, 2), 2, "VALID", name=f"conv_{name}")(x)
            if not self.folded:
                x = BatchNorm(name=f"norm_{name}")(x, train=self.train)
            found[name] = x
        return found


class Fixed(nn.Module):
    """A student whose maps are its variables."""

    train: bool
    folded: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        a = self.param("a", nn.initializers.zeros, (1, 2, 2, 2))
        b = self.param("b", nn.initializers.zeros, (1, 1, 1, 2))
        return {"a": a, "b": b}


def made(student: Any = Student, **options: Any) -> Any:
    return stfpm("p/image", ["t/a", "t/b"], student, prepare=Preprocess(), **options)


def test_map_is_the_product_of_the_levels_and_image_score_its_maximum() -> None:
    # Level a differs at one position by 2 (a right angle), b everywhere by 4.
    a = np.ones((1, 2, 2, 2), np.float32) * (1, 0)
    a[0, 0, 1] = (0, 3)
    variables = {"params": {"a": jnp.asarray(a), "b": jnp.asarray([[[[-1.0, 0.0]]]])}}
    found = {
        "p/image": jnp.zeros((1, 4, 4, 3), jnp.uint8),
        "t/a": jnp.ones((1, 2, 2, 2)) * jnp.asarray([1.0, 0.0]).reshape(1, 1, 1, 2),
        "t/b": jnp.asarray([[[[1.0, 0.0]]]]),
    }
    scores = made(Fixed).score(variables, found, size=(4, 4))
    row = [0, 0.25, 0.75, 1]  # bilinear, half-pixel centres
    want = 8 * np.outer([1, 0.75, 0.25, 0], row)
    np.testing.assert_allclose(scores.map[0], want, atol=1e-6)
    np.testing.assert_allclose(scores.image, [8], rtol=1e-6)


def seen(count: int, seed: int = 0, dtype: Any = np.uint8) -> dict[str, Any]:
    """Photos, and what a teacher sees of them: two fixed projections of their patches."""
    draw = np.random.default_rng(seed)
    photo = draw.integers(0, 256, (count, 8, 8, 3), np.uint8)
    kernels = np.random.default_rng(1)
    maps, x = {}, photo / 255.0
    for name, width in (("a", 4), ("b", 6)):
        h, w, c = x.shape[1] // 2, x.shape[2] // 2, x.shape[3]
        x = x.reshape(count, h, 2, w, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(count, h, w, 4 * c)
        x = x @ kernels.normal(size=(4 * c, width))
        maps[f"t/{name}"] = jnp.asarray(x, jnp.float32)
    return {"p/image": jnp.asarray(photo.astype(dtype)), **maps}


def test_a_student_learns_what_the_teacher_sees_of_photos() -> None:
    method = made(learning_rate=0.2)
    state = init_state(quick.init(method, seen(1)), method.optimizer(60))
    step = quick.jit(
        make_train_step(lambda v, _, b, r: method.loss(v, b, {}, r), method.optimizer(60))
    )
    before = float(quick.score(method, state.variables, seen(8, 99), size=(8, 8)).map.mean())
    for n in range(60):
        state, metrics = step(state, {}, seen(8, n), jax.random.key(0))
    each = [float(metrics[f"loss_{name}"][0]) for name in "ab"]
    assert float(metrics["loss"][0]) == pytest.approx(sum(each), rel=1e-6)
    scores = quick.score(method, state.variables, seen(8, 99), size=(8, 8))
    assert float(scores.map.mean()) < 0.1 * before
    # What the teacher sees of other photos is not what the student sees of these.
    wrong = {**seen(8, 98), "p/image": seen(8, 99)["p/image"]}
    other = quick.score(method, state.variables, wrong, size=(8, 8))
    assert float(other.map.mean()) > 5 * float(scores.map.mean())


def test_pixels_of_a_cache_and_as_they_are_read_are_the_same() -> None:
    method = made()
    variables = quick.filled(method, seen(1))
    as_read, kept = (
        quick.loss(method, variables, seen(2, 0, d))[0] for d in (np.uint8, np.float32)
    )
    assert float(as_read) == float(kept)


def test_a_student_starts_as_torchs_resnets_do() -> None:
    method = stfpm("p", ["t/layer1"], resnet, prepare=Preprocess())
    found = {"p": jnp.zeros((1, 32, 32, 3), jnp.uint8), "t/layer1": jnp.zeros((1, 8, 8, 64))}
    flat = flatten_dict(quick.init(method, found), sep="/")
    for name, value in flat.items():
        if name.endswith("kernel"):
            kh, kw, _, outputs = value.shape
            assert float(value.std()) == pytest.approx((2 / (kh * kw * outputs)) ** 0.5, rel=0.05)
            assert abs(float(value.mean())) < 0.1 * float(value.std())
        else:
            assert np.unique(value).tolist() == [float(name.endswith(("scale", "var")))], name


@pytest.mark.parametrize("one_cycle", [False, True])
def test_optimizer_is_sgd_with_momentum_and_decay(one_cycle: bool) -> None:
    options = {"learning_rate": 0.3, "momentum": 0.8, "weight_decay": 0.01}
    method = made(**options, one_cycle=one_cycle)
    params, gradients = (
        np.asarray([1.0, -2.0], np.float32),
        [np.asarray([0.5, 1.0], np.float32)] * 3,
    )
    moves = quick.updates_of(method, 10, params, gradients)
    rate = quick.one_cycle(10, 0.3) if one_cycle else lambda t: 0.3
    trace = np.zeros(2)
    for t, move in enumerate(moves):
        trace = 0.8 * trace + gradients[t] + 0.01 * params
        np.testing.assert_allclose(move, -rate(t) * trace, rtol=1e-5)
    told = method.schedules(10)["student"]
    with jax.numpy_dtype_promotion("standard"):
        assert float(told(0) if one_cycle else told) == pytest.approx(rate(0))


def test_levels_that_are_none_or_twice_are_refused() -> None:
    for levels in ([], ["t/a", "u/a"]):
        with pytest.raises(InputError, match=r"method\.levels"):
            stfpm("p", levels, Student, prepare=Preprocess())
    with pytest.raises(InputError, match="no feature 'p/image'"):
        made().loss({}, {"t/a": jnp.zeros((1, 4, 4, 4))}, {}, jax.random.key(0))


def test_pixels_are_a_backbone_without_weights() -> None:
    backbone, variables = pixels()
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    found = jax.jit(backbone.features)(variables, images)
    assert found.keys() == backbone.levels.keys() == {"image"}
    assert found["image"].dtype == np.uint8
    np.testing.assert_array_equal(found["image"], images)
    assert backbone.levels["image"] == Level(3, 1)
    assert backbone.least_size(variables) == 1
    assert jax.tree.leaves(variables) == []
    with pytest.raises(InputError, match="images are float32"):
        backbone.features(variables, jnp.zeros((1, 4, 4, 3)))
    other = Preprocess(resize="lanczos")
    assert pixels(other)[0].preprocess is other
