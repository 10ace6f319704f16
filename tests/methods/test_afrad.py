"""AFRAD: its parts against torch's numbers, shapes, gradients, switches, learning, errors."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.core import InputError, Method, Scores
from jaxad.methods.afrad import afrad, jitter_features
from jaxad.methods.afrad_network import (
    AFRADNetwork,
    DepthwiseConv,
    FocusedLocalDecoder,
    Stage,
    StageAdaptiveDecoder,
)
from jaxad.ops.pool import average_pool
from jaxad.ops.resample import resize
from jaxad.training.state import init_state
from jaxad.training.steps import make_train_step
from ports import golden_afrad

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "afrad.npz")
INPUTS = golden_afrad.inputs()
CHANNELS = (4, 6, 8, 10)
STAGES = tuple(
    Stage(f"backbone/s{i + 1}", width, kernel, stride, 1, decodings)
    for i, (width, kernel, stride, decodings) in enumerate(
        ((6, 7, 4, 1), (8, 4, 4, 1), (10, 3, 2, 2), (12, 1, 1, 0))
    )
)


def features(batch: int = 2, height: int = 32, width: int = 48) -> dict[str, jax.Array]:
    """Four stages at strides 1, 2, 4, 8 of a made-up image."""
    return {
        stage.feature: jax.random.normal(
            jax.random.key(i), (batch, height >> i, width >> i, channels)
        )
        for i, (stage, channels) in enumerate(zip(STAGES, CHANNELS))
    }


def score(method: Method, variables: Any, found: Any, *, size: tuple[int, int]) -> Scores:
    """The method's scores, compiled: quicker than operation by operation."""
    return jax.jit(functools.partial(method.score, size=size))(variables, found)


@pytest.mark.parametrize("size", golden_afrad.SIZES)
def test_resize_is_torchs_with_aligned_corners(size: tuple[int, int]) -> None:
    got = resize(jnp.asarray(INPUTS["features"]), size=size, align_corners=True)
    want = GOLDEN[f"resize_{size[0]}_{size[1]}"]
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


def test_pooling_is_torchs() -> None:
    got = average_pool(jnp.asarray(INPUTS["maps"]), window=16)
    np.testing.assert_allclose(got, GOLDEN["pooled"], rtol=0, atol=1e-6)
    whole = average_pool(jnp.asarray(INPUTS["maps"]), window=64)
    np.testing.assert_allclose(whole[:, 0, 0], INPUTS["maps"].mean(axis=(1, 2)), rtol=1e-5)


@pytest.mark.parametrize("p", golden_afrad.KERNELS)
def test_local_branch_is_torchs(p: int) -> None:
    """The branch is read out by a fusing layer that is the identity."""
    dense = {
        name: {"kernel": INPUTS[f"{name}{p}"], "bias": INPUTS[f"{name}{p}_bias"]}
        for name in ("enter", "leave")
    }
    params = {
        f"enter{p}": dense["enter"],
        f"depthwise{p}": {
            "kernel": INPUTS[f"depthwise{p}"],
            "bias": INPUTS[f"depthwise{p}_bias"],
        },
        f"leave{p}": dense["leave"],
        "fuse": {"kernel": np.eye(4, dtype=np.float32), "bias": np.zeros(4, np.float32)},
    }
    x = jnp.asarray(INPUTS["features"])
    got = FocusedLocalDecoder(4, (p,)).apply({"params": params}, [x], (12, 7))
    np.testing.assert_allclose(got, GOLDEN[f"branch{p}"], rtol=0, atol=2e-5)


def test_local_decoder_brings_stages_to_the_finest_grid() -> None:
    fine, coarse = jnp.ones((1, 8, 6, 3)), jnp.ones((1, 4, 3, 5))
    decoder = FocusedLocalDecoder(7, (5, 7))
    found, variables = jax.eval_shape(
        lambda: decoder.init_with_output(jax.random.key(0), [fine, coarse], (4, 3))
    )
    assert found.shape == (1, 4, 3, 7)
    assert variables["params"]["enter5"]["kernel"].shape == (8, 7)


def test_adaptive_decoder_has_as_many_mlps_as_asked_of_each_stage() -> None:
    decoder = StageAdaptiveDecoder(5, (2, 0), 4)
    stages = [jnp.ones((1, 4, 4, 3)), jnp.ones((1, 2, 2, 6))]
    params = decoder.init(jax.random.key(0), stages, (8, 8))["params"]
    assert sorted(params) == ["fuse", "mlp0_0", "mlp0_1"]
    assert params["mlp0_0"]["expand"]["kernel"].shape == (3, 12)
    assert params["fuse"]["kernel"].shape == (9, 5)


def test_depthwise_filters_do_not_mix_channels() -> None:
    layer = DepthwiseConv(3)
    variables = layer.init(jax.random.key(0), jnp.zeros((1, 5, 5, 4)))
    x = jnp.zeros((1, 5, 5, 4)).at[..., 2].set(1)
    y = layer.apply(variables, x)
    assert (np.asarray(y[..., [0, 1, 3]]) == 0).all()
    assert np.abs(y[..., 2]).max() > 0


@pytest.mark.parametrize("grid", [1, 2, 3, 4])
def test_scores_have_the_size_of_the_image_at_every_grid(grid: int) -> None:
    method = afrad(STAGES, grid=grid, width=8, kernels=(3,))
    shapes = jax.eval_shape(features)
    variables = method.init(jax.random.key(0), shapes)
    scores = score(method, variables, features(), size=(64, 96))
    assert scores.map.shape == (2, 64, 96)
    assert scores.image.shape == (2,)
    assert {x.dtype for x in scores} == {jnp.dtype("float32")}
    pooled = average_pool(scores.map, window=16)
    np.testing.assert_allclose(scores.image, pooled.max(axis=(1, 2)), rtol=1e-5)
    assert (scores.map >= 0).all()


def test_mean_pooling() -> None:
    method = afrad(STAGES, width=8, pooling=0, kernels=(3,))
    variables = method.init(jax.random.key(0), features())
    scores = score(method, variables, features(), size=(64, 96))
    np.testing.assert_allclose(scores.image, scores.map.mean(axis=(1, 2)), rtol=1e-5)


def test_score_of_a_perfect_reconstruction_is_zero() -> None:
    """The output layer's bias alone reconstructs constant features."""
    method = afrad(STAGES, width=8, kernels=(3,))
    constant = {name: jnp.full_like(x, 0.5) for name, x in features().items()}
    variables = method.init(jax.random.key(0), constant)
    output = variables["params"]["output"]
    output["kernel"] = jnp.zeros_like(output["kernel"])
    output["bias"] = jnp.full_like(output["bias"], 0.5)
    scores = score(method, variables, constant, size=(32, 48))
    np.testing.assert_allclose(scores.map, 0, atol=1e-5)
    off = {**constant, STAGES[3].feature: constant[STAGES[3].feature] + 2.0}
    want = 2.0 * CHANNELS[3] ** 0.5  # Eq. 14, 10 channels that are off by 2
    off_by_two = score(method, variables, off, size=(32, 48))
    np.testing.assert_allclose(off_by_two.map, want, rtol=1e-4)


ABLATIONS: dict[str, dict[str, Any]] = {
    "whole": {},
    "without local": {"local": ()},
    "without compensation": {"compensation": ()},
    "without adaptive": {"adaptive": ()},
    "without NGIB": {"ngib_layers": 0},
    "without FRM": {"refine": False},
    "other stages": {"compensation": (2, 3), "adaptive": (3, 4)},
    "local on all stages": {"local": (1, 2, 3, 4)},
    "sum of scales": {"sum_of_scales": True},
    "with jitter": {"jitter": 0.3},
    "hidden": {"hidden": ((1, 2, 3), (4,))},
    "hidden, without NGIB": {"hidden": ((1, 3), (2, 4)), "ngib_layers": 0},
}
PARTS = {
    "without local": "focused_local",
    "without compensation": "compensation",
    "without adaptive": "stage_adaptive",
    "without NGIB": "ngib0",
    "without FRM": "refine1_0",
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_parameter_has_a_gradient(name: str) -> None:
    changes = {"kernels": (3,), "jitter": 0.0, "compensation_refinements": 2, **ABLATIONS[name]}
    method = afrad(STAGES, width=8, **changes)
    found = features()
    variables = method.init(jax.random.key(0), found)
    if name in PARTS:
        assert PARTS[name] not in variables["params"]

    def loss(params: Any) -> jax.Array:
        return method.loss({"params": params}, found, {}, jax.random.key(1))[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(variables["params"])
    assert np.isfinite(value)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


def test_a_hidden_stage_is_rebuilt_from_the_others() -> None:
    hidden = ((1, 3), (4, 2))
    network = AFRADNetwork(
        stages=STAGES,
        channels=sum(CHANNELS),
        width=8,
        local=(1, 2),
        compensation=(1, 2),
        adaptive=(1, 2, 3, 4),
        kernels=(3,),
        compensation_refinements=1,
        ratio=1,
        ngib_layers=1,
        refine=True,
        hidden=hidden,
    )
    S = list(features().values())
    rebuilt = jax.jit(lambda v, S: network.apply(v, S, (4, 6)))
    variables = network.init(jax.random.key(0), S, (4, 6))
    before = rebuilt(variables, S)
    assert before.shape == (2, 4, 6, sum(CHANNELS))
    bounds = np.cumsum((0, *CHANNELS))
    for changed in range(1, 5):
        others = [x + 1 if i == changed else x for i, x in enumerate(S, start=1)]
        difference = np.abs(rebuilt(variables, others) - before).max(axis=(0, 1, 2))
        (own,) = (group for group in hidden if changed in group)
        for stage in range(1, 5):
            moved = difference[bounds[stage - 1] : bounds[stage]].max() > 0
            assert moved == (stage not in own), (changed, stage)


def test_hidden_stages_are_trained_and_scored_by_the_same_function() -> None:
    method = afrad(STAGES, width=8, kernels=(3,), jitter=0.0, hidden=((1, 2, 3), (4,)))
    found = features()
    variables = method.init(jax.random.key(0), found)
    outputs = {name for name in variables["params"] if name.startswith("output")}
    assert outputs == {"output0", "output1"}
    loss, _ = jax.jit(method.loss)(variables, found, {}, jax.random.key(1))
    squared = score(method, variables, found, size=(4, 6)).map ** 2  # on the grid itself
    np.testing.assert_allclose(loss, squared.mean() / sum(CHANNELS), rtol=1e-5)


def test_map_length_gives_the_length_back_to_the_map_alone() -> None:
    """Nothing is rebuilt, so the distance of features of one length is that length."""
    found = {name: jnp.full_like(x, 16.0) for name, x in features().items()}
    method = afrad(
        STAGES, width=8, kernels=(3,), normalise=1.0, map_length=0.5, image_stages=(3, 4)
    )
    variables = method.init(jax.random.key(0), found)
    variables["params"]["output"] = jax.tree.map(jnp.zeros_like, variables["params"]["output"])
    scores = score(method, variables, found, size=(32, 48))
    np.testing.assert_allclose(scores.map, 16**0.5 * sum(CHANNELS) ** 0.5, rtol=1e-5)
    np.testing.assert_allclose(scores.image, sum(CHANNELS[2:]) ** 0.5, rtol=1e-5)


def test_image_score_of_chosen_stages() -> None:
    found = features()
    whole, deep = (
        afrad(STAGES, width=8, kernels=(3,), image_stages=stages) for stages in ((), (4,))
    )
    variables = whole.init(jax.random.key(0), found)
    both = [score(m, variables, found, size=(64, 96)) for m in (whole, deep)]
    np.testing.assert_array_equal(both[0].map, both[1].map)
    assert (both[1].image < both[0].image).all()  # a part of the distance
    named = afrad(STAGES, width=8, kernels=(3,), image_stages=(1, 2, 3, 4))
    np.testing.assert_allclose(
        score(named, variables, found, size=(64, 96)).image, both[0].image, rtol=1e-6
    )


def test_loss_is_the_mean_over_channels_or_the_sum_over_stages() -> None:
    found = features()
    for sum_of_scales in (False, True):
        method = afrad(STAGES, width=8, kernels=(3,), jitter=0.0, sum_of_scales=sum_of_scales)
        variables = method.init(jax.random.key(0), found)
        value, aux = jax.jit(method.loss)(variables, found, {}, jax.random.key(1))
        parts = np.asarray([aux.metrics[f"loss_s{i}"][0] for i in (1, 2, 3, 4)])
        weights = np.ones(4) if sum_of_scales else np.asarray(CHANNELS) / sum(CHANNELS)
        np.testing.assert_allclose(value, (parts * weights).sum(), rtol=1e-5)


def test_jitter_is_in_units_of_each_tokens_size() -> None:
    x = jnp.stack([jnp.full((40, 50, 8), 3.0), jnp.zeros((40, 50, 8))])
    noisy, other = jitter_features(jax.random.key(0), [x, x[:, :4]], scale=0.5, grid=(40, 50))
    np.testing.assert_allclose(np.std(noisy[0] - x[0]), 1.5, rtol=0.02)
    np.testing.assert_array_equal(noisy[1], 0)
    assert np.abs(noisy[:, :4] - other).max() > 0  # stages have their own noise


def test_jitter_is_one_draw_for_all_positions_of_a_token() -> None:
    x = jnp.ones((2, 8, 6, 3))
    (noisy,) = jitter_features(jax.random.key(0), [x], scale=1.0, grid=(4, 3))
    np.testing.assert_array_equal(noisy[:, ::2, ::2], noisy[:, 1::2, 1::2])
    assert len(np.unique(noisy)) == 2 * 4 * 3 * 3
    (coarse,) = jitter_features(jax.random.key(0), [x[:, :2, :3]], scale=1.0, grid=(4, 3))
    assert coarse.shape == (2, 2, 3, 3)  # a stage coarser than the grid takes every other draw


def test_normalise_takes_a_power_of_the_features_length_away() -> None:
    found = {name: 16 * x for name, x in features().items()}
    shorter = {
        name: x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True)) ** 0.75
        for name, x in found.items()
    }
    ours, plain = (afrad(STAGES, width=8, kernels=(3,), normalise=p) for p in (0.75, 0.0))
    variables = ours.init(jax.random.key(0), found)
    got = score(ours, variables, found, size=(32, 32)).map
    np.testing.assert_allclose(got, score(plain, variables, shorter, size=(32, 32)).map, rtol=1e-4)
    assert np.abs(got - score(plain, variables, found, size=(32, 32)).map).max() > 1
    nothing = {name: jnp.zeros_like(x) for name, x in found.items()}
    assert np.isfinite(score(ours, variables, nothing, size=(32, 32)).map).all()


def test_training_brings_the_loss_down_and_finds_what_is_new() -> None:
    """Normal features lie in a plane; a patch outside of it must score highest."""
    rng = np.random.default_rng(0)
    basis = [rng.standard_normal((2, c)).astype(np.float32) for c in CHANNELS]

    def normal(batch: int) -> dict[str, Any]:
        code = rng.standard_normal((batch, 1, 1, 2)).astype(np.float32)
        return {
            stage.feature: np.broadcast_to(code, (batch, 32 >> i, 32 >> i, 2)) @ b
            for i, (stage, b) in enumerate(zip(STAGES, basis))
        }

    method = afrad(
        STAGES, width=16, kernels=(3,), jitter=0.2, learning_rate=3e-3, clip=1.0, one_cycle=True
    )
    state = init_state(method.init(jax.random.key(0), normal(1)), method.optimizer(100))

    def loss(variables: Any, batch: Any, rng: jax.Array) -> tuple[jax.Array, Any]:
        return method.loss(variables, batch, {}, rng)

    step = jax.jit(make_train_step(loss, method.optimizer(100)))
    losses = []
    for _ in range(100):
        state, metrics = step(state, normal(8), jax.random.key(1))
        losses.append(float(metrics["loss"][0]))
    assert np.mean(losses[-10:]) < 0.1 * losses[0]

    odd = normal(4)
    deepest = STAGES[3].feature
    odd[deepest][:, 2, 1] += 3.0
    scores = score(method, state.variables, odd, size=(64, 64))
    rows, columns = np.divmod(np.asarray(scores.map).reshape(4, -1).argmax(axis=1), 64)
    assert (np.abs(rows - 42) <= 12).all()  # position 2 of 4, corners aligned
    assert (np.abs(columns - 21) <= 12).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": 5}, "method.grid is 5: name one of the stages 1 to 4"),
        ({"local": (0,)}, r"method.local is \(0,\): name stages 1 to 4"),
        ({"adaptive": (1, 1)}, r"method.adaptive is \(1, 1\)"),
        ({"local": (), "compensation": (), "adaptive": ()}, "all empty: name one decoder"),
        ({"image_stages": (5,)}, r"method.image_stages is \(5,\): name stages 1 to 4"),
        ({"hidden": (1, 2)}, r"method.hidden is \(1, 2\): give groups, as"),
        ({"hidden": ((1, 2), (3,))}, "every stage, 1 to 4, belongs to one group"),
        ({"hidden": ((1, 2), (2, 3, 4))}, "every stage, 1 to 4, belongs to one group"),
        ({"hidden": ((1, 2, 3, 4),)}, "no decoder reads another stage"),
        (
            {"adaptive": (), "hidden": ((1, 2), (3, 4))},
            r"group \(1, 2\), and no decoder reads another stage",
        ),
    ],
)
def test_unusable_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        afrad(STAGES, **changes)


def test_a_missing_feature_is_named() -> None:
    found = features()
    del found["backbone/s2"]
    with pytest.raises(InputError, match="no feature 'backbone/s2'; there are"):
        afrad(STAGES).init(jax.random.key(0), found)


def test_kernels_start_at_the_size_of_their_fan_in() -> None:
    method = afrad(STAGES, width=64)
    params = method.init(jax.random.key(0), jax.eval_shape(features))["params"]
    fuse = params["stage_adaptive"]["fuse"]
    np.testing.assert_allclose(np.std(fuse["kernel"]), (6 + 8 + 10 + 12) ** -0.5, rtol=0.05)
    local = params["focused_local"]["depthwise7"]["kernel"]
    np.testing.assert_allclose(np.std(local), 1 / 7, rtol=0.05)
    np.testing.assert_array_equal(fuse["bias"], 0)
    np.testing.assert_array_equal(params["refine1_0"]["norm"]["scale"], 1)


def test_same_key_same_variables_and_loss() -> None:
    method = afrad(STAGES, width=8, kernels=(3,))
    made = [method.init(jax.random.key(3), features()) for _ in range(2)]
    jax.tree.map(np.testing.assert_array_equal, *made)
    values = [method.loss(v, features(), {}, jax.random.key(4))[0] for v in made]
    assert values[0] == values[1]
    assert method.loss(made[0], features(), {}, jax.random.key(5))[0] != values[0]
