"""AFRAD: its parts against torch's numbers, shapes, gradients, switches, learning, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from jaxad.backbones import ARCHITECTURES
from jaxad.config import load_file
from jaxad.core import InputError
from jaxad.methods.afrad import afrad, jitter_features
from jaxad.methods.afrad_network import (
    MLP,
    AFRADNetwork,
    DepthwiseConv,
    FocusedLocalDecoder,
    Stage,
    StageAdaptiveDecoder,
)
from jaxad.ops.initialise import lecun_normal
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
        ((6, 4, 2, 1), (8, 4, 2, 1), (10, 3, 2, 2), (12, 1, 1, 0))
    )
)


SIZE = (16, 24)
"""Of the images that the features are said to be of, whose grids are 16 x 24 to 2 x 3."""


def features(batch: int = 2, height: int = 16, width: int = 24) -> dict[str, jax.Array]:
    """Four stages at strides 1, 2, 4, 8 of a made-up image."""
    draw = np.random.default_rng(0)
    return {
        stage.feature: jnp.asarray(
            draw.normal(size=(batch, height >> i, width >> i, channels)), jnp.float32
        )
        for i, (stage, channels) in enumerate(zip(STAGES, CHANNELS))
    }


FOUND = features()


def method_of(**changes: Any) -> Any:
    return afrad(STAGES, **{"width": 8, "kernels": (3,), "ratio": 1, "pooling": 4, **changes})


@pytest.fixture(scope="module")
def variables() -> Any:
    """Of `method_of()`; its switches of loss and score do not change them."""
    return quick.init(method_of(), FOUND)


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
    got = quick.jit(lambda x: FocusedLocalDecoder(4, (p,)).apply({"params": params}, [x], (12, 7)))(
        x
    )
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
    params = jax.eval_shape(lambda: decoder.init(jax.random.key(0), stages, (8, 8)))["params"]
    assert sorted(params) == ["fuse", "mlp0_0", "mlp0_1"]
    assert params["mlp0_0"]["expand"]["kernel"].shape == (3, 12)
    assert params["fuse"]["kernel"].shape == (9, 5)


def test_depthwise_filters_do_not_mix_channels() -> None:
    layer = DepthwiseConv(3)
    x = jnp.zeros((1, 5, 5, 4)).at[..., 2].set(1)
    y, _ = quick.jit(layer.init_with_output)(jax.random.key(0), x)
    assert (np.asarray(y[..., [0, 1, 3]]) == 0).all()
    assert np.abs(y[..., 2]).max() > 0


def test_decoders_upsample_to_the_finest_of_their_stages() -> None:
    """Eq. 4 and 7: bringing the others there before changes nothing, in whichever order."""
    draw = np.random.default_rng(0)
    fine, coarse = (
        jnp.asarray(draw.normal(size=shape), jnp.float32) for shape in ((1, 8, 6, 3), (1, 4, 3, 5))
    )
    up = resize(coarse, size=(8, 6), align_corners=True)
    for decoder in (FocusedLocalDecoder(7, (3,)), StageAdaptiveDecoder(7, (0, 0), 1)):
        for stages, same in (([fine, coarse], [fine, up]), ([coarse, fine], [up, fine])):
            params = quick.jit(lambda x, d=decoder: d.init(jax.random.key(0), x, (4, 3)))(stages)
            run = quick.jit(lambda x, p=params, d=decoder: d.apply(p, x, (4, 3)))
            np.testing.assert_allclose(run(stages), run(same), rtol=1e-4, atol=1e-5)
    S = np.concatenate([fine, up], axis=-1)
    params = decoder.init(jax.random.key(0), [fine, coarse], (8, 6))["params"]["fuse"]
    want = S @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
    got = decoder.apply({"params": {"fuse": params}}, [fine, coarse], (8, 6))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def network(**changes: Any) -> AFRADNetwork:
    options: dict[str, Any] = {
        "stages": STAGES,
        "channels": sum(CHANNELS),
        "width": 8,
        "local": (1, 2),
        "compensation": (2, 3),
        "adaptive": (1, 2, 3, 4),
        "kernels": (3,),
        "compensation_refinements": 1,
        "ratio": 1,
        "ngib_layers": 1,
        "refine": True,
        "hidden": (),
    }
    return AFRADNetwork(**{**options, **changes})


def drawn(module: AFRADNetwork, S: Any, grid: tuple[int, int]) -> Any:
    shapes = jax.eval_shape(lambda S: module.init(jax.random.key(0), S, grid), S)
    return lecun_normal(jax.random.key(0), shapes)


def test_every_part_is_given_what_the_equations_say() -> None:
    """Each part by itself, on what came out of those before it, gives what the network has."""
    module, S, grid = network(), list(FOUND.values()), (2, 3)
    variables = drawn(module, S, grid)
    p = variables["params"]

    @quick.jit
    def compare(variables: Any, S: Any) -> list[tuple[Any, Any]]:
        F_rec, state = module.apply(
            variables, S, grid, capture_intermediates=True, mutable=["intermediates"]
        )
        seen = {
            name: tree["__call__"][0]
            for name, tree in state["intermediates"].items()
            if name != "__call__"
        }
        tokens = {i: seen[f"refine{i}_0"] for i in (1, 2, 3, 4)}
        pairs = [
            (tokens[i], MLP(1).apply({"params": p[f"refine{i}_0"]}, seen[f"patch_embedding{i}"]))
            for i in tokens
        ]
        pairs += [
            (seen[f"compensate{i}_0"], MLP(1).apply({"params": p[f"compensate{i}_0"]}, tokens[i]))
            for i in (2, 3)
        ]
        decodings = tuple(stage.decodings for stage in STAGES)
        parts = {
            "stage_adaptive": (StageAdaptiveDecoder(8, decodings, 1), list(tokens.values())),
            "compensation": (
                StageAdaptiveDecoder(8, (1, 1), 1),
                [seen["compensate2_0"], seen["compensate3_0"]],
            ),
            "focused_local": (FocusedLocalDecoder(8, (3,)), [tokens[1], tokens[2]]),
        }
        outputs = []
        for name, (part, given) in parts.items():
            pairs.append((seen[name], part.apply({"params": p[name]}, given, grid)))
            outputs.append(seen[name])
        F = MLP(1).apply({"params": p["ngib0"]}, jnp.concatenate(outputs, axis=-1))
        pairs.append((seen["ngib0"], F))
        pairs.append((F_rec, F @ p["output"]["kernel"] + p["output"]["bias"]))
        return pairs

    with jax.numpy_rank_promotion("allow"):
        pairs = compare(variables, S)
    assert [pair[0].shape[1:3] for pair in pairs[:4]] == [(8, 12), (4, 6), (2, 3), (2, 3)]
    for got, want in pairs:
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grid", [1, 3])
def test_scores_have_the_size_of_the_image_at_every_grid(grid: int, variables: Any) -> None:
    scores = quick.score(method_of(grid=grid), variables, FOUND, size=(32, 48))
    assert scores.map.shape == (2, 32, 48)
    assert scores.image.shape == (2,)
    assert {x.dtype for x in scores} == {jnp.dtype("float32")}
    pooled = average_pool(scores.map, window=4)
    np.testing.assert_allclose(scores.image, pooled.max(axis=(1, 2)), rtol=1e-5)
    assert (scores.map >= 0).all()


def test_image_score_is_the_mean_of_the_map_or_of_its_highest_share(variables: Any) -> None:
    scores = quick.score(method_of(pooling=0), variables, FOUND, size=SIZE)
    np.testing.assert_allclose(scores.image, scores.map.mean(axis=(1, 2)), rtol=1e-5)
    share = quick.score(method_of(top_share=0.2), variables, FOUND, size=SIZE)
    pooled = np.sort(np.asarray(average_pool(scores.map, window=4)).reshape(2, -1), axis=1)
    count = round(0.2 * pooled.shape[1])
    np.testing.assert_allclose(share.image, pooled[:, -count:].mean(axis=1), rtol=1e-5)


def test_score_of_a_perfect_reconstruction_is_zero(variables: Any) -> None:
    """The output layer's bias alone reconstructs constant features."""
    method = method_of()
    constant = {name: jnp.full_like(x, 0.5) for name, x in FOUND.items()}
    output = {
        "kernel": jnp.zeros_like(variables["params"]["output"]["kernel"]),
        "bias": jnp.full((sum(CHANNELS),), 0.5),
    }
    variables = {"params": {**variables["params"], "output": output}}
    run = quick.jit(lambda v, x: method.score(v, x, size=SIZE))
    np.testing.assert_allclose(run(variables, constant).map, 0, atol=1e-5)
    off = {**constant, STAGES[3].feature: constant[STAGES[3].feature] + 2.0}
    want = 2.0 * CHANNELS[3] ** 0.5  # Eq. 14, 10 channels that are off by 2
    np.testing.assert_allclose(run(variables, off).map, want, rtol=1e-4)


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
def test_switches_leave_their_part_out(name: str) -> None:
    params = jax.eval_shape(method_of(**ABLATIONS[name]).init, jax.random.key(0), FOUND)["params"]
    assert PARTS.get(name) not in params
    whole = jax.eval_shape(method_of().init, jax.random.key(0), FOUND)["params"]
    assert set(PARTS.values()) <= whole.keys()


@pytest.mark.parametrize(
    "names",
    [
        ("with jitter", "other stages"),
        ("hidden, without NGIB", "without FRM", "sum of scales"),
        ("hidden", "local on all stages"),
    ],
)
def test_every_parameter_has_a_gradient(names: tuple[str, ...]) -> None:
    changes: dict[str, Any] = {"jitter": 0.0, "compensation_refinements": 2}
    for name in names:
        changes |= ABLATIONS[name]
    method = method_of(**changes)
    variables = quick.init(method, FOUND)

    def loss(params: Any) -> jax.Array:
        return method.loss({"params": params}, FOUND, {}, jax.random.key(1))[0]

    value, gradient = quick.jit(jax.value_and_grad(loss))(variables["params"])
    assert np.isfinite(value)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


def test_a_hidden_stage_is_rebuilt_from_the_others() -> None:
    hidden = ((1, 3), (4, 2))
    module = network(compensation=(1, 2), hidden=hidden)
    S = list(FOUND.values())
    rebuilt = quick.jit(lambda v, S: module.apply(v, S, (4, 6)))
    variables = drawn(module, S, (4, 6))
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
    method = method_of(jitter=0.0, hidden=((1, 2, 3), (4,)))
    variables = quick.init(method, FOUND)
    outputs = {name for name in variables["params"] if name.startswith("output")}
    assert outputs == {"output0", "output1"}

    @quick.jit
    def both(variables: Any) -> Any:
        value, _ = method.loss(variables, FOUND, {}, jax.random.key(1))
        return value, method.score(variables, FOUND, size=(2, 3)).map  # on the grid itself

    value, map_ = both(variables)
    np.testing.assert_allclose(value, (map_**2).mean() / sum(CHANNELS), rtol=1e-5)


def with_output_of_zeros(variables: Any) -> Any:
    params = variables["params"]
    return {"params": {**params, "output": jax.tree.map(jnp.zeros_like, params["output"])}}


def test_map_length_gives_the_length_back_to_the_map_alone(variables: Any) -> None:
    """Nothing is rebuilt, so the distance of features of one length is that length."""
    found = {name: jnp.full_like(x, 16.0) for name, x in FOUND.items()}
    method = method_of(normalise=1.0, map_length=0.5, image_stages=(3, 4))
    scores = quick.score(method, with_output_of_zeros(variables), found, size=SIZE)
    np.testing.assert_allclose(scores.map, 16**0.5 * sum(CHANNELS) ** 0.5, rtol=1e-5)
    np.testing.assert_allclose(scores.image, sum(CHANNELS[2:]) ** 0.5, rtol=1e-5)


def test_image_score_of_chosen_stages(variables: Any) -> None:
    def scored(stages: tuple[int, ...]) -> Any:
        return method_of(image_stages=stages).score(variables, FOUND, size=SIZE)

    whole, deep, named = quick.jit(lambda: [scored(x) for x in ((), (4,), (1, 2, 3, 4))])()
    np.testing.assert_allclose(whole.map, deep.map, rtol=1e-6)
    assert (deep.image < whole.image).all()  # a part of the distance
    np.testing.assert_allclose(named.image, whole.image, rtol=1e-6)


def test_whole_images_are_judged_by_their_means_over_positions() -> None:
    """Where things are changes nothing, and the length is that of the mean."""
    method = method_of(whole=True, normalise=1.0, pooling=0)
    variables = quick.init(method, FOUND)
    both = {name: jnp.concatenate([x, x[:, ::-1, ::-1]]) for name, x in FOUND.items()}
    means = {name: jnp.mean(x, axis=(1, 2), keepdims=True) for name, x in both.items()}
    plain = method_of(normalise=1.0, pooling=0)
    got, want = (
        quick.score(m, variables, x, size=SIZE) for m, x in ((method, both), (plain, means))
    )
    np.testing.assert_allclose(got.image, want.image, rtol=1e-5)
    np.testing.assert_allclose(got.map, want.map, rtol=1e-5)
    np.testing.assert_allclose(got.image[:2], got.image[2:], rtol=1e-5)


def test_roots_are_what_roots_of_the_features_are() -> None:
    """Scores and losses with `root` are those of plain AFRAD whose features are the roots."""
    rooted = {name: jnp.sign(x) * jnp.sqrt(jnp.abs(x)) for name, x in FOUND.items()}
    ours, plain = method_of(root=True), method_of()
    variables = quick.init(ours, FOUND)
    got = quick.score(ours, variables, FOUND, size=SIZE)
    want = quick.score(plain, variables, rooted, size=SIZE)
    np.testing.assert_allclose(got.map, want.map, rtol=1e-5)
    np.testing.assert_allclose(
        quick.loss(ours, variables, FOUND)[0], quick.loss(plain, variables, rooted)[0], rtol=1e-5
    )


@pytest.mark.parametrize("chosen", [(), (2, 4)])
def test_relative_scores_are_shares_of_the_distance_from_the_usual(chosen: tuple[int, ...]) -> None:
    """Image scores over a power of the distance from the training images' mean; maps stay."""
    settings: dict[str, Any] = {"whole": True, "image_stages": chosen, "pooling": 0}
    ours, plain = method_of(relative=0.5, **settings), method_of(**settings)
    variables = quick.init(ours, FOUND)
    assert set(variables) == {"params", "usual"}
    assert plain.finalize is None
    assert ours.finalize is not None
    images = [({name: x[i : i + 1] for name, x in FOUND.items()}, {}) for i in (0, 1)]
    variables = ours.finalize(variables, images)
    vectors = np.concatenate([np.mean(FOUND[s.feature], axis=(1, 2)) for s in STAGES], axis=-1)
    usual = vectors.mean(axis=0)
    np.testing.assert_allclose(variables["usual"]["mean"], usual, rtol=1e-5, atol=1e-6)
    odd = {name: 1.5 * x + 0.1 for name, x in FOUND.items()}
    parts = np.split((1.5 * vectors + 0.1 - usual) ** 2, np.cumsum(CHANNELS)[:-1], axis=-1)
    apart = sum(parts[i - 1].sum(axis=-1) for i in chosen or (1, 2, 3, 4)) ** 0.5
    got = quick.score(ours, variables, odd, size=SIZE)
    want = quick.score(plain, {"params": variables["params"]}, odd, size=SIZE)
    np.testing.assert_allclose(got.image, want.image * apart**-0.5, rtol=1e-4)
    np.testing.assert_allclose(got.map, want.map, rtol=1e-5)
    usual_itself = {
        s.feature: jnp.asarray(x)[None, None, None]
        for s, x in zip(STAGES, np.split(usual, np.cumsum(CHANNELS)[:-1]))
    }
    assert np.isfinite(quick.score(ours, variables, usual_itself, size=SIZE).image).all()


def test_loss_is_the_mean_over_channels_or_the_sum_over_stages(variables: Any) -> None:
    @quick.jit
    def both(variables: Any) -> Any:
        key = jax.random.key(1)
        one, many = (
            method_of(jitter=0.0, sum_of_scales=sum_of_scales).loss(variables, FOUND, {}, key)
            for sum_of_scales in (False, True)
        )
        return one, many

    for (value, aux), weights in zip(
        both(variables), (np.asarray(CHANNELS) / sum(CHANNELS), np.ones(4)), strict=True
    ):
        parts = np.asarray([aux.metrics[f"loss_s{i}"][0] for i in (1, 2, 3, 4)])
        np.testing.assert_allclose(value, (parts * weights).sum(), rtol=1e-5)


def test_what_is_rebuilt_are_the_features_without_noise(variables: Any) -> None:
    """Where nothing is rebuilt, the loss is the features' own square, however strong the noise."""
    value, _ = quick.loss(method_of(jitter=9.0), with_output_of_zeros(variables), FOUND)
    maps = [resize(x, size=(2, 3), align_corners=True) for x in FOUND.values()]
    np.testing.assert_allclose(value, np.mean(np.concatenate(maps, axis=-1) ** 2), rtol=1e-5)


def jittered(S: list[jax.Array], **options: Any) -> list[jax.Array]:
    run = quick.jit(
        lambda S: jitter_features(jax.random.key(0), S, element=jnp.arange(2), **options)
    )
    return run(S)


def test_jitter_is_in_units_of_each_tokens_size() -> None:
    x = jnp.stack([jnp.full((40, 50, 8), 3.0), jnp.zeros((40, 50, 8))])
    noisy, other = jittered([x, x[:, :4]], scale=0.5, grid=(40, 50))
    np.testing.assert_allclose(np.std(noisy[0] - x[0]), 1.5, rtol=0.02)
    np.testing.assert_array_equal(noisy[1], 0)
    assert np.abs(noisy[:, :4] - other).max() > 0  # stages have their own noise


def test_jitter_is_one_draw_for_all_positions_of_a_token() -> None:
    x = jnp.ones((2, 8, 6, 3))
    (noisy,) = jittered([x], scale=1.0, grid=(4, 3))
    np.testing.assert_array_equal(noisy[:, ::2, ::2], noisy[:, 1::2, 1::2])
    assert len(np.unique(noisy)) == 2 * 4 * 3 * 3
    (coarse,) = jittered([x[:, :2, :3]], scale=1.0, grid=(4, 3))
    assert coarse.shape == (2, 2, 3, 3)  # a stage coarser than the grid takes every other draw


def test_jitter_goes_by_the_images_places_in_the_batch(variables: Any) -> None:
    method, order = method_of(jitter=0.7), np.asarray([1, 0])
    turned = {name: x[order] for name, x in FOUND.items()}
    run = quick.jit(lambda found, batch: method.loss(variables, found, batch, jax.random.key(1))[0])
    first = run(FOUND, {"element": np.asarray([4, 9], np.int32)})
    same = run(turned, {"element": np.asarray([9, 4], np.int32)})
    np.testing.assert_allclose(first, same, rtol=1e-6)
    other = run(FOUND, {"element": np.asarray([9, 4], np.int32)})
    assert abs(other - first) > 1e-4 * first
    counted = run(FOUND, {"element": np.asarray([0, 1], np.int32)})
    assert quick.loss(method, variables, FOUND)[0] == pytest.approx(float(counted), rel=1e-6)


def test_normalise_takes_a_power_of_the_features_length_away(variables: Any) -> None:
    found = {name: 16 * x for name, x in FOUND.items()}
    shorter = {
        name: x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True)) ** 0.75
        for name, x in found.items()
    }
    ours, plain = (
        quick.jit(lambda x, p=p: method_of(normalise=p).score(variables, x, size=SIZE).map)
        for p in (0.75, 0.0)
    )
    np.testing.assert_allclose(ours(found), plain(shorter), rtol=1e-4)
    assert np.abs(ours(found) - plain(found)).max() > 1
    assert np.isfinite(ours({name: jnp.zeros_like(x) for name, x in found.items()})).all()


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

    method = method_of(width=16, jitter=0.2, learning_rate=3e-3, clip=1.0, one_cycle=True)
    state = init_state(quick.init(method, normal(1)), method.optimizer(60))

    def loss(variables: Any, _: Any, batch: Any, rng: jax.Array) -> tuple[jax.Array, Any]:
        return method.loss(variables, batch, {}, rng)

    step = quick.jit(make_train_step(loss, method.optimizer(60)))
    losses = []
    for _ in range(60):
        state, metrics = step(state, {}, normal(8), jax.random.key(1))
        losses.append(float(metrics["loss"][0]))
    assert np.mean(losses[-10:]) < 0.15 * losses[0]

    odd = normal(4)
    deepest = STAGES[3].feature
    odd[deepest][:, 2, 1] += 3.0
    scores = quick.score(method, state.variables, odd, size=(64, 64))
    rows, columns = np.divmod(np.asarray(scores.map).reshape(4, -1).argmax(axis=1), 64)
    assert (np.abs(rows - 42) <= 12).all()  # position 2 of 4, corners aligned
    assert (np.abs(columns - 21) <= 12).all()


CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    ("setting", "channels", "batch", "tokens"),
    [
        ("mvtec", 272, 8, [64, 32, 16, 16]),
        ("visa", 272, 8, [64, 32, 16, 16]),
        ("cifar10-01234", 720, 16, [64, 32, 16, 16, 8]),
    ],
)
def test_published_configurations_have_uniads_numbers_and_grids(
    setting: str, channels: int, batch: int, tokens: list[int]
) -> None:
    """UniAD: jitter 20 ‖token‖ / C, batches of 8 and 16. Stage 2 is upsampled to stage 1."""
    config = load_file(f"{CONFIGS / 'afrad.py'}:{setting}")
    m = config.method
    levels = ARCHITECTURES["efficientnet_b4"].levels
    names = m.levels or ARCHITECTURES["efficientnet_b4"].default_levels
    assert sum(levels[name].channels for name in names) == channels
    # A vector's length is √C times its root mean square.
    assert m.jitter == pytest.approx(20 / channels * channels**0.5, rel=0.02)
    assert config.train.batch_size == batch
    sides = [256 // levels[n].stride // s for n, s in zip(names, m.patch_stride, strict=True)]
    assert sides == tokens
    assert (m.learning_rate, m.weight_decay, m.clip, m.one_cycle) == (1e-4, 1e-4, 0.1, False)


PARAMS = np.asarray([1e3, -2e3, 5e2], np.float32)


@pytest.mark.parametrize("one_cycle", [False, True])
def test_optimizer_is_uniads(one_cycle: bool) -> None:
    """AdamW 1e-4 with decay 1e-4 and clipping at 0.1; a tenth of the rate after four fifths."""
    draw = np.random.default_rng(0)
    gradients = [(10.0 ** draw.uniform(-3, 2) * draw.normal(size=3)) for _ in range(10)]
    gradients = [g.astype(np.float32) for g in gradients]
    params = {"output": {"bias": PARAMS}}
    given = [{"output": {"bias": g}} for g in gradients]
    found = quick.updates_of(method_of(one_cycle=one_cycle), 10, params, given)
    rate = quick.one_cycle(10, 1e-4) if one_cycle else (lambda t: 1e-4 if t < 8 else 1e-5)
    want = quick.adam_by_hand(rate, PARAMS, gradients, decay=1e-4, clip=0.1)
    for t, (a, b) in enumerate(zip(found, want)):
        np.testing.assert_allclose(a["output"]["bias"], b, rtol=1e-3, err_msg=f"step {t}")
    free = quick.updates_of(method_of(clip=0.0, weight_decay=0.0), 10, params, given)
    want = quick.adam_by_hand(lambda t: 1e-4 if t < 8 else 1e-5, PARAMS, gradients)
    for t, (a, b) in enumerate(zip(free, want)):
        np.testing.assert_allclose(a["output"]["bias"], b, rtol=1e-3, err_msg=f"step {t}")


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
    found = dict(FOUND)
    del found["backbone/s2"]
    with pytest.raises(InputError, match="no feature 'backbone/s2'; there are"):
        afrad(STAGES).init(jax.random.key(0), found)


def test_kernels_start_at_the_size_of_their_fan_in() -> None:
    params = quick.init(afrad(STAGES, width=64), FOUND)["params"]
    fuse = params["stage_adaptive"]["fuse"]
    np.testing.assert_allclose(np.std(fuse["kernel"]), (6 + 8 + 10 + 12) ** -0.5, rtol=0.05)
    local = params["focused_local"]["depthwise7"]["kernel"]
    np.testing.assert_allclose(np.std(local), 1 / 7, rtol=0.05)
    np.testing.assert_array_equal(fuse["bias"], 0)
    np.testing.assert_array_equal(params["refine1_0"]["norm"]["scale"], 1)


def test_same_key_same_variables_and_loss(variables: Any) -> None:
    again = quick.init(method_of(), FOUND)
    jax.tree.map(np.testing.assert_array_equal, variables, again)
    run = quick.jit(lambda v, seed: method_of().loss(v, FOUND, {}, jax.random.key(seed))[0])
    assert run(variables, 4) == run(again, 4) != run(again, 5)
