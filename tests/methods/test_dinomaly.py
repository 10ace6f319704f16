"""Dinomaly: the reference's numbers, hard positions, dropout, learning, what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from flax.traverse_util import flatten_dict, unflatten_dict
from small_transformer import transformer

from jaxad.backbones.architectures import ARCHITECTURES
from jaxad.config import default_config, load_file
from jaxad.core import Backbone, InputError, Preprocess
from jaxad.methods.dinomaly import dinomaly, softened
from jaxad.recipes.build import recipe_named
from jaxad.recipes.dinomaly import grouped
from jaxad.training.state import init_state
from jaxad.training.steps import make_train_step
from ports import golden_dinomaly as golden
from ports.golden_pfm import unpack

FILE = np.load(Path(__file__).parents[1] / "golden" / "dinomaly.npz")
GROUPS = tuple(f"group{n + 1}" for n in range(golden.GROUPS))
NETWORK = {"blocks": golden.BLOCKS, "heads": golden.HEADS, "dropout": 0.0}


def method_of(**changes: Any) -> Any:
    return dinomaly(GROUPS, "others", **{**NETWORK, "warmup": 0, **changes})


def given() -> tuple[Any, Any, Any]:
    """Features, variables, and what torch makes of them."""
    blocks, arrays = golden.inputs()
    every, size = list(blocks.values()), golden.BLOCKS // golden.GROUPS
    features = {
        name: np.mean(every[n * size : (n + 1) * size], axis=0)[:, golden.OTHERS :].reshape(
            golden.BATCH, *golden.GRID, golden.CHANNELS
        )
        for n, name in enumerate(GROUPS)
    }
    others = np.mean(every, axis=0)[:, : golden.OTHERS]
    features["others"] = others.reshape(golden.BATCH, 1, 1, -1)
    params = unflatten_dict({tuple(k.split("/")): jnp.asarray(x) for k, x in arrays.items()})
    step = jnp.asarray(golden.STEP, jnp.float32)
    return features, {"params": params, "course": {"step": step}}, unpack(**FILE)


def named(tree: Any) -> dict[str, np.ndarray]:
    return flatten_dict(tree, sep="/")


def test_one_step_and_the_map_equal_the_references() -> None:
    features, variables, want = given()
    method = method_of()
    made = jax.eval_shape(method.init, jax.random.key(0), features)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, variables)

    scores = quick.score(method, variables, features, size=golden.IMAGE)
    np.testing.assert_allclose(scores.map, want["map"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(scores.image, want["image"], rtol=0, atol=1e-5)

    def loss(params: Any) -> Any:
        return method.loss({**variables, "params": params}, features, {}, jax.random.key(0))

    (value, aux), grads = quick.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    assert aux.updates == {"course": {"step": golden.STEP + 1}}
    np.testing.assert_allclose(value, want["loss"], rtol=1e-5)
    for name, gradient in named(grads).items():
        np.testing.assert_allclose(
            gradient, want[f"grad/{name}"], rtol=1e-5, atol=1e-5, err_msg=name
        )
    optimizer, params = method.optimizer(10), variables["params"]
    with jax.numpy_dtype_promotion("standard"):
        moves, _ = quick.jit(optimizer.update)(grads, optimizer.init(params), params)
    for name in golden.STORED_AFTER:
        after = named(params)[name] + named(moves)[name]
        np.testing.assert_allclose(after, want[f"after/{name}"], rtol=0, atol=1e-6, err_msg=name)


def test_gradients_of_positions_that_are_rebuilt_well_are_softened() -> None:
    """Of ten positions, four of which are hard, three of them in one photo: by hand."""
    distance = jnp.asarray([0.1, 0.9, 0.2, 0.7, 0.8, 0.0, 0.3, 0.4, 0.6, 0.5]).reshape(2, 1, 5)
    x = jnp.arange(20, dtype=jnp.float32).reshape(2, 1, 5, 2)
    hard = np.asarray(distance > 0.55)

    def run(share: float, x: Any = x, distance: Any = distance, axis: str | None = None) -> Any:
        def total(x: Any) -> Any:
            own = softened(x, distance, share=jnp.asarray(share), factor=0.1, axis_name=axis)
            return jnp.sum(3 * own), own

        return jax.grad(total, has_aux=True)(x)

    for share, want in (
        (0.55, hard),
        (0.0, np.ones_like(hard)),
        (1.0, np.asarray(distance == 0.9)),
    ):
        gradient, value = run(share)
        np.testing.assert_array_equal(value, x)
        np.testing.assert_allclose(gradient[..., 0], np.where(want, 3, 0.3), rtol=1e-6)
    # Over two devices with one photo each: which ones are hard is decided for both together.
    both = jax.vmap(lambda x, d: run(0.55, x, d, "batch")[0], axis_name="batch")
    gradient = both(x[:, None], distance[:, None])
    np.testing.assert_allclose(gradient[:, 0, ..., 0], np.where(hard, 3, 0.3), rtol=1e-6)


def test_more_positions_become_easy_with_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    features, variables, _ = given()
    shares: list[Any] = []

    def noted(x: Any, distance: Any, *, share: Any, factor: float, axis_name: str | None) -> Any:
        assert (distance.shape, factor, axis_name) == (x.shape[:-1], 0.3, None)
        shares.append(share)
        return x

    monkeypatch.setattr("jaxad.methods.dinomaly.softened", noted)

    def told(steps: int, done: float) -> list[float]:
        method = method_of(easy=0.3, easy_share=0.5, easy_steps=steps)

        def run(done: Any) -> Any:  # nothing else is computed
            shares.clear()
            method.loss({**variables, "course": {"step": done}}, features, {}, jax.random.key(0))
            return jnp.stack(shares)

        return quick.jit(run)(jnp.asarray(done, jnp.float32)).tolist()

    for steps, done, want in (
        *((100, 0, 0), (100, 50, 0.25), (100, 100, 0.5), (100, 1000, 0.5), (0, 0, 0.5)),
    ):
        assert told(steps, done) == [want, want]  # of both groups


def test_dropout_is_in_training_alone_and_by_an_elements_place() -> None:
    features, variables, want = given()
    method, order = method_of(dropout=0.4), np.asarray([2, 0, 1])
    found = quick.score(method, variables, features, size=golden.IMAGE)
    np.testing.assert_allclose(found.map, want["map"], rtol=0, atol=1e-5)
    run = quick.jit(lambda x, e: method.loss(variables, x, {"element": e}, jax.random.key(1))[0])
    place = np.asarray([3, 8, 5], np.int32)
    first = run(features, place)
    turned = {name: x[order] for name, x in features.items()}
    np.testing.assert_allclose(run(turned, place[order]), first, rtol=1e-5)
    assert abs(run(turned, place) - first) > 1e-4
    assert abs(want["loss"] - first) > 1e-3


def test_training_rebuilds_what_is_normal() -> None:
    """Features are of one of two vectors by their row; a third one scores higher, there."""
    method = dinomaly(
        ("a", "b"), "others", blocks=2, heads=2, dropout=0.1, learning_rate=(1e-2, 1e-3),
        warmup=10, easy_steps=20, clip=1.0, smoothing=1.0,
    )  # fmt: skip
    draw = np.random.default_rng(0)
    kinds = draw.normal(size=(2, 2, 8)).astype(np.float32)
    image = kinds[np.arange(36).reshape(6, 6) // 18]

    def normal(count: int) -> dict[str, np.ndarray]:
        by = draw.uniform(0.8, 1.2, (count, 6, 6, 1)).astype(np.float32)
        own = {name: image[..., n, :] * by for n, name in enumerate("ab")}
        return {**own, "others": np.ones((count, 1, 1, 8), np.float32)}

    optimizer = method.optimizer(150)
    state = init_state(quick.init(method, normal(1)), optimizer)
    step = quick.jit(make_train_step(lambda v, _, b, r: method.loss(v, b, {}, r), optimizer))
    losses = []
    for _ in range(150):
        state, metrics = step(state, {}, normal(4), jax.random.key(1))
        losses.append(float(metrics["loss"][0]))
    assert np.mean(losses[-10:]) < 0.5 * losses[0]
    assert float(state.variables["course"]["step"]) == 150
    photos = normal(2)
    for name in "ab":
        photos[name][1, 4, 1] = draw.normal(size=8)
    scores = quick.score(method, state.variables, photos, size=(24, 24))
    assert scores.image[1] > 1.5 * scores.image[0]
    row, column = divmod(int(scores.map[1].argmax()), 24)
    assert abs(row - 18.4) < 3
    assert abs(column - 4.6) < 3


def test_kernels_start_small_and_cut_off() -> None:
    features = {name: jnp.zeros((1, 2, 2, 96)) for name in GROUPS}
    made = quick.init(method_of(), {**features, "others": jnp.zeros((1, 1, 1, 96))})
    for name, value in named(made["params"]).items():
        if name.endswith("/kernel"):
            assert 0.028 < np.abs(value).max() <= 0.03001, name
            assert np.std(value) == pytest.approx(0.01 * 0.987, rel=0.02), name
        else:
            assert (value == (1 if name.endswith("/scale") else 0)).all()
    assert made["course"]["step"] == 0


def test_it_reads_averages_of_blocks_and_the_tokens_beside_the_patches() -> None:
    plain, variables = transformer(levels=("block1", "block2", "block3", "block4"), registers=2)
    network, own = grouped(plain, variables, groups=2)
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 8, 3), np.uint8)
    inner = plain.module.clone(others=True, offset=True)
    x = plain.preprocess(jnp.asarray(images))
    raw = quick.jit(inner.apply)(variables, x)
    found = quick.jit(network.features)(own, images)
    want = {
        "group1": (raw["block1"] + raw["block2"]) / 2,
        "group2": (raw["block3"] + raw["block4"]) / 2,
        "others": sum(raw[f"block{n}/others"] for n in (1, 2, 3, 4)) / 4,
    }
    assert {name: tuple(level) for name, level in network.levels.items()} == {
        "group1": (8, 4), "group2": (8, 4), "others": (24, 0),
    }  # fmt: skip
    assert found["others"].shape == (2, 1, 1, 24)
    for name, value in want.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)
    # Positions are resized as the authors do, with registers, too.
    other = quick.jit(plain.features)(variables, images)["block1"]
    assert np.abs(other - raw["block1"]).max() > 1e-3


def test_what_does_not_fit_is_named() -> None:
    features, _, _ = given()
    with pytest.raises(InputError, match=r"method\.groups is 2: the 3 levels do not divide"):
        method_of(blocks=3)
    with pytest.raises(InputError, match=r"method\.heads is 5: 12 channels do not divide"):
        method_of(heads=5).init(jax.random.key(0), features)
    plain, variables = transformer(levels=("block1", "block2", "block3"))
    with pytest.raises(InputError, match=r"method\.groups is 2: the 3 levels do not divide"):
        grouped(plain, variables, groups=2)
    config = default_config("dinomaly")
    config.method.update({"backbone": "resnet18", "levels": ("layer1",), "random_weights": True})
    with pytest.raises(InputError, match=r"backbone is resnet18: Dinomaly .* vision transformer"):
        recipe_named("dinomaly").backbones(config)


def built(setting: str) -> tuple[Any, Any, Any]:
    """Configuration, method and features of a published size; nothing is computed."""
    config = load_file(f"dinomaly:{setting}")
    m = config.method
    known = ARCHITECTURES[m.backbone]
    table = {name: known.levels[name] for name in known.check_levels(m.levels)}
    module = known.build(levels=tuple(table), folded=True)
    plain = Backbone(m.backbone, module, table, Preprocess(), patch=known.patch)
    network, _ = grouped(plain, {}, groups=m.groups)
    method, ((_, _, steps, *_),) = recipe_named("dinomaly").method(config, {"backbone": network})
    side = config.data.image_size[0] // 14
    features = {
        f"backbone/{name}": jnp.zeros((1, *((side, side) if level.stride else (1, 1)), level[0]))
        for name, level in network.levels.items()
    }
    return config, (method, steps), features


@pytest.mark.parametrize(
    ("setting", "channels", "steps"), [("reference", 768, 10000), ("small", 384, 1000)]
)
def test_configurations_have_the_authors_numbers(setting: str, channels: int, steps: int) -> None:
    config, (method, found), features = built(setting)
    m = config.method
    assert tuple(m.levels) == tuple(f"block{n}" for n in range(3, 11))  # there counted from 0
    assert (found, config.train.batch_size) == (steps, 16)
    assert features["backbone/group2"].shape == (1, 28, 28, channels)
    assert features["backbone/others"].shape == (1, 1, 1, 5 * channels)
    params = jax.eval_shape(method.init, jax.random.key(0), features)["params"]
    count = 8 * (12 * channels**2 + 13 * channels) + 8 * channels**2 + 5 * channels
    assert sum(x.size for x in jax.tree.leaves(params)) == count
    assert m.easy_steps == steps // 10
    rate = method.schedules(steps)["all"]
    np.testing.assert_allclose([rate(0), rate(99), rate(100)], [0, 2e-3, 2e-3], rtol=1e-6)
    with pytest.raises(InputError, match="settings are reference, small"):
        load_file("dinomaly:other")
