"""UniAD: the reference's numbers, mask, noise and dropout, learning, what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxad.backbones.architectures import ARCHITECTURES
from jaxad.config import default_config, load_file
from jaxad.core import Backbone, InputError, Preprocess
from jaxad.methods.uniad import jittered, uniad
from jaxad.methods.uniad_network import Drops, Transformer, neighbour_mask
from jaxad.recipes.build import recipe_named
from jaxad.training.state import init_state
from jaxad.training.steps import make_train_step
from ports import golden_uniad
from ports.golden_pfm import unpack

FILE = np.load(Path(__file__).parents[1] / "golden" / "uniad.npz")
STAGES = tuple(golden_uniad.STAGES)
SIZES = {
    "width": golden_uniad.WIDTH,
    "heads": golden_uniad.HEADS,
    "inner": golden_uniad.INNER,
    "layers": golden_uniad.LAYERS,
    "neighbours": golden_uniad.NEIGHBOURS,
}


def golden(position: str) -> tuple[Any, Any, Any, Any]:
    """Features, variables, the jitter's noise, and what torch makes of them."""
    features, arrays, noise = golden_uniad.inputs(position)
    flat = {tuple(name.split("/")): jnp.asarray(value) for name, value in arrays.items()}
    made = unpack(FILE[f"{position}/contents"], FILE[f"{position}/values"])
    found = {name: jnp.asarray(x) for name, x in features.items()}
    return found, {"params": unflatten_dict(flat)}, jnp.asarray(noise), made


def method_of(**changes: Any) -> Any:
    values = {**SIZES, "pooling": golden_uniad.POOLING, "dropout": 0.0, "grid": "grid"}
    return uniad(STAGES, **{**values, **changes})


def transformer(position: str = "learned", dropout: float = 0.0, **changes: Any) -> Transformer:
    values = {**SIZES, "grid": golden_uniad.GRID, "channels": golden_uniad.CHANNELS}
    return Transformer(**{**values, "sine": position == "sine", "dropout": dropout, **changes})


def named(tree: Any) -> dict[str, np.ndarray]:
    return flatten_dict(tree, sep="/")


@pytest.mark.parametrize("position", golden_uniad.POSITIONS)
def test_one_step_and_the_map_equal_the_references(position: str) -> None:
    features, variables, noise, want = golden(position)
    method = method_of(position=position)
    made = jax.eval_shape(method.init, jax.random.key(0), features)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, variables)

    scores = quick.score(method, variables, features, size=golden_uniad.IMAGE)
    np.testing.assert_allclose(scores.map, want["map"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(scores.image, want["image"], rtol=0, atol=1e-5)

    # The recipe's own loss, with the reference's noise in the place of its own.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("jaxad.methods.uniad.normal_by_element", lambda *a, **k: noise)

        def loss(params: Any) -> Any:
            return method.loss({"params": params}, features, {}, jax.random.key(0))[0]

        value, grads = quick.jit(jax.value_and_grad(loss))(variables["params"])
    np.testing.assert_allclose(value, want["loss"], rtol=1e-5)
    for name, gradient in named(grads).items():
        np.testing.assert_allclose(
            gradient, want[f"grad/{name}"], rtol=1e-5, atol=1e-5, err_msg=name
        )
    optimizer, params = method.optimizer(golden_uniad.STEPS), variables["params"]
    with jax.numpy_dtype_promotion("standard"):
        moves, _ = quick.jit(optimizer.update)(grads, optimizer.init(params), params)
    for name in golden_uniad.STORED_AFTER:
        after = named(params)[name] + named(moves)[name]
        np.testing.assert_allclose(after, want[f"after/{name}"], rtol=0, atol=1e-6, err_msg=name)


def test_optimizer_clips_decays_and_steps_down() -> None:
    params = {"a": np.float32([1e3, -2e3])}
    draw = np.random.default_rng(0)
    gradients = [{"a": np.float32(draw.normal(size=2) * s)} for s in (1e-3, 1, 1, 1, 1)]
    found = quick.updates_of(method_of(), 5, params, gradients)
    want = quick.adam_by_hand(
        lambda t: 1e-4 if t < 4 else 1e-5,
        params["a"],
        [g["a"] for g in gradients],
        decay=1e-4,
        clip=0.1,
    )
    np.testing.assert_allclose([x["a"] for x in found], want, rtol=1e-3)
    rate = method_of(one_cycle=True, learning_rate=1.0).schedules(10)["all"]
    with jax.numpy_dtype_promotion("standard"):
        rates = [rate(t) for t in range(10)]
    np.testing.assert_allclose(rates, [quick.one_cycle(10, 1.0)(t) for t in range(10)], rtol=1e-5)
    free = method_of(clip=0.0).optimizer(5)
    assert len(jax.tree.leaves(free.init(params))) == len(
        jax.tree.leaves(optax.adamw(lambda t: 1.0).init(params))
    )


def test_a_token_does_not_see_its_neighbours() -> None:
    """Of one layer of the encoder: what changes at a token is seen by those far enough alone."""
    mask = neighbour_mask((4, 5), 3).reshape(4, 5, 4, 5)
    assert mask[1, 2].astype(int).tolist() == [
        [0, 1, 1, 1, 0],
        [0, 1, 1, 1, 0],
        [0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0],
    ]
    features, variables, _, _ = golden("sine")
    F = jnp.zeros((1, *golden_uniad.GRID, golden_uniad.CHANNELS)) + 0.1
    moved = F.at[0, 1, 2].add(3.0)
    # Without a decoder: queries attend to what the encoder made.
    one = transformer("sine", layers=1)
    params = {k: v for k, v in variables["params"].items() if k != "decoder0"}
    zeros = jax.tree.map(jnp.zeros_like, variables["params"]["decoder0"])
    del features

    def seen(F: Any) -> Any:
        _, kept = one.apply(
            {"params": {**params, "decoder0": zeros}}, F, None, capture_intermediates=True
        )
        return kept["intermediates"]["encoder0"]["attention0"]["__call__"][0]

    before, after = (np.asarray(quick.jit(seen)(x)).reshape(4, 5, -1) for x in (F, moved))
    changed = np.abs(after - before).max(axis=-1) > 1e-4
    np.testing.assert_array_equal(changed, ~mask[:, :, 1, 2])


def test_noise_is_twenty_lengths_over_channels_by_an_elements_place() -> None:
    F = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 30)), jnp.float32)
    F = F.at[1].multiply(10.0).at[0, 3, 3].set(0.0)
    key, place = jax.random.key(1), jnp.asarray([3, 8], jnp.int32)
    noise = np.asarray(jittered(key, F, element=place, scale=20.0) - F)
    length = np.linalg.norm(F, axis=-1)
    np.testing.assert_allclose(
        noise.std(axis=-1).mean(axis=(1, 2)), 20 / 30 * length.mean((1, 2)), rtol=0.05
    )
    assert (noise[0, 3, 3] == 0).all()
    other = jittered(key, F[::-1], element=place[::-1], scale=20.0) - F[::-1]
    np.testing.assert_allclose(other[::-1], noise, rtol=1e-4, atol=1e-4)


def test_dropout_leaves_out_a_share_and_makes_up_for_it() -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    drops = Drops(keys, "a", 30_000, 0.3)
    x = jnp.ones((3, 100, 100))
    first, second, third = drops(x), drops(x), drops(x)
    for found in (first, second, third):
        assert float(jnp.mean(found == 0)) == pytest.approx(0.3, abs=0.01)
        np.testing.assert_allclose(np.unique(found), [0, 1 / 0.7], rtol=1e-4)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first[0], first[1])
    again = Drops(jax.random.split(jax.random.key(0), 3), "b", 10_000, 0.3)(x)
    assert not np.array_equal(again, first)
    np.testing.assert_array_equal(Drops(None, "a", 10_000, 0.3)(x), x)


def test_every_part_of_a_step_is_by_an_elements_place() -> None:
    features, variables, _, _ = golden("learned")
    method, order = method_of(dropout=0.4), np.asarray([2, 0, 1])
    run = quick.jit(lambda x, e: method.loss(variables, x, {"element": e}, jax.random.key(1))[0])
    place = np.asarray([3, 8, 5], np.int32)
    first = run(features, place)
    turned = {name: x[order] for name, x in features.items()}
    np.testing.assert_allclose(run(turned, place[order]), first, rtol=1e-5)
    assert abs(run(turned, place) - first) > 1e-4
    less = quick.loss(method_of(dropout=0.0), variables, features, {"element": place})[0]
    assert abs(less - first) > 1e-3
    # Without either, nothing is drawn.
    quiet = method_of(dropout=0.0, jitter=0.0)
    losses = [quick.loss(quiet, variables, features, seed=n)[0] for n in (1, 2)]
    assert losses[0] == losses[1] != less


def test_scores_know_no_dropout_and_no_noise() -> None:
    features, variables, _, want = golden("learned")
    found = quick.score(method_of(dropout=0.5), variables, features, size=golden_uniad.IMAGE)
    np.testing.assert_allclose(found.map, want["map"], rtol=0, atol=1e-5)
    mean = quick.score(method_of(pooling=0), variables, features, size=golden_uniad.IMAGE)
    np.testing.assert_allclose(mean.image, want["map"].mean(axis=(1, 2)), rtol=1e-4)


def test_layers_start_as_torchs() -> None:
    features = {"fine": jnp.zeros((1, 8, 8, 30)), "grid": jnp.zeros((1, 4, 4, 34))}
    made = quick.init(
        uniad(STAGES, grid="grid", width=96, heads=4, inner=160, neighbours=1), features
    )
    params = named(made["params"])
    for name, inputs, outputs in (
        ("enter", 64, 96),
        ("encoder0/attention0/query", 96, 3 * 96),
        ("encoder3/attention0/out", 96, 96),
        ("decoder0/attention1/value", 96, 3 * 96),
        ("decoder0/expand", 96, 160),
    ):
        kernel, bound = params[f"{name}/kernel"], (6 / (inputs + outputs)) ** 0.5
        assert 0.98 * bound < np.abs(kernel).max() <= bound, name
        assert np.std(kernel) == pytest.approx(bound / 3**0.5, rel=0.03), name
        assert (params[f"{name}/bias"] == 0).all()
    assert np.std(params["decoder0/queries"]) == pytest.approx(1, rel=0.05)
    for name in ("rows", "columns"):
        assert params[name].min() >= 0
        assert 0.9 < params[name].max() <= 1
        assert np.mean(params[name]) == pytest.approx(0.5, abs=0.1)
    assert (params["norm/scale"] == 1).all()


def test_the_last_layer_may_start_at_zero() -> None:
    draw = np.random.default_rng(0)
    features = {"fine": draw.normal(size=(2, 8, 8, 6)), "grid": draw.normal(size=(2, 4, 4, 10))}
    features = {name: x.astype(np.float32) for name, x in features.items()}
    one, other = (method_of(zero_output=zero) for zero in (True, False))
    made, usual = (named(quick.init(method, features)["params"]) for method in (one, other))
    assert not made.pop("leave/kernel").any()
    assert usual.pop("leave/kernel").any()
    for name, kernel in made.items():
        np.testing.assert_allclose(kernel, usual[name], rtol=1e-6, err_msg=name)
    variables = quick.init(one, features)
    scores = quick.score(one, variables, features, size=(4, 4))
    length = np.linalg.norm(features["grid"], axis=-1)
    assert (np.asarray(scores.map) > length).all()  # of the whole token: nothing is rebuilt yet


def test_training_rebuilds_what_is_normal() -> None:
    """Features are of one of two vectors by their row; what swaps them scores higher, there."""
    method = uniad(
        ("x",), grid="x", width=16, heads=2, inner=16, layers=1, neighbours=3, jitter=1.0,
        dropout=0.1, pooling=4, learning_rate=1e-2, clip=1.0,
    )  # fmt: skip
    draw = np.random.default_rng(0)
    kinds = draw.normal(size=(2, 8)).astype(np.float32)
    image = kinds[np.arange(36).reshape(6, 6) // 18]

    def normal(count: int) -> dict[str, np.ndarray]:
        return {"x": image * draw.uniform(0.8, 1.2, (count, 6, 6, 1)).astype(np.float32)}

    optimizer = method.optimizer(200)
    state = init_state(quick.init(method, normal(1)), optimizer)
    step = quick.jit(make_train_step(lambda v, _, b, r: method.loss(v, b, {}, r), optimizer))
    losses = []
    for _ in range(200):
        state, metrics = step(state, {}, normal(4), jax.random.key(1))
        losses.append(float(metrics["loss"][0]))
    assert np.mean(losses[-10:]) < 0.3 * losses[0]
    photos = normal(2)
    photos["x"][1, 4, 1] = kinds[0]
    scores = quick.score(method, state.variables, photos, size=(24, 24))
    assert scores.image[1] > 1.5 * scores.image[0]
    row, column = divmod(int(scores.map[1].argmax()), 24)
    assert abs(row - 18.4) < 3
    assert abs(column - 4.6) < 3


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"grid": "other"}, "the grid 'other' is not among the stages"),
        ({"width": 12, "heads": 5}, "method.width is 12: use a multiple of 4 and of 5 heads"),
        ({"width": 6}, "method.width is 6: use a multiple of 4"),
        ({"position": "none"}, "method.position is 'none'"),
        ({"neighbours": 4}, "method.neighbours is 4: use an odd number"),
        ({"neighbours": 9}, "method.neighbours is 9, and tokens lie on a grid of 4 x 5: one would"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], told: str) -> None:
    features = golden("sine")[0]
    with pytest.raises(InputError, match=told):
        method_of(**changes).init(jax.random.key(0), features)


def test_images_of_another_size_than_it_was_trained_on_are_named() -> None:
    features, variables, _, _ = golden("sine")
    features["grid"] = features["grid"][:, :3]
    with pytest.raises(InputError, match="have 3 x 5 tokens, and UniAD was trained on 20"):
        method_of().score(variables, features, size=(24, 40))


def built(architecture: str, **changes: Any) -> Any:
    """The method of a configuration, on a network that is not filled, and its levels."""
    config = default_config("uniad")
    config.method.update(changes)
    known = ARCHITECTURES[architecture]
    levels = known.check_levels(changes.get("levels") or None)
    table = {name: known.levels[name] for name in levels}
    network = Backbone(architecture, known.build(levels=levels, folded=True), table, Preprocess())
    return recipe_named("uniad").method(config, {"backbone": network})[0], table


def test_it_has_as_many_parameters_as_the_authors() -> None:
    method, levels = built("efficientnet_b4")
    features = {
        f"backbone/{name}": jnp.zeros((1, 224 // level.stride, 224 // level.stride, level.channels))
        for name, level in levels.items()
    }
    params = jax.eval_shape(method.init, jax.random.key(0), features)["params"]
    assert params["enter"]["kernel"].shape == (272, 256)
    assert sum(x.size for x in jax.tree.leaves(params)) == 7_717_392


def test_a_stride_that_no_level_has_is_named() -> None:
    with pytest.raises(InputError, match=r"stride is 64, and no level of resnet18 .*layer1 4"):
        built("resnet18", stride=64)


def test_configurations_are_the_authors_and_one_for_a_cpu() -> None:
    file = Path(__file__).parents[2] / "configs" / "uniad.py"
    reference = load_file(str(file))
    assert (reference.train.epochs, reference.train.batch_size) == (1000, 64)
    assert tuple(reference.data.image_size) == (224, 224)
    assert reference.data.one_for_all
    assert load_file(f"{file}:cpu").method.backbone == "resnet18"
    with pytest.raises(InputError, match="settings are reference, cpu"):
        load_file(f"{file}:other")
