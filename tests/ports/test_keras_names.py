"""Keras' names, layouts and preprocessing; that features are right is shown by the parity test."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.backbones import Variant
from jaxad.core import InputError
from ports import keras_names
from ports.read import read_state

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def state_of(layers):
    """Layer -> shape of its HWIO kernel, ("bias",) after it; or channels of its BatchNorm."""
    random, state = np.random.default_rng(0), {}
    for layer, shape in layers.items():
        if isinstance(shape, int):
            for leaf in NORM:
                state[f"{layer}.{leaf}"] = random.uniform(0.5, 1, shape).astype(np.float32)
        else:
            kernel, bias = (shape[:-1], True) if shape[-1] == "bias" else (shape, False)
            state[f"{layer}.kernel"] = random.standard_normal(kernel, np.float32)
            if bias:
                state[f"{layer}.bias"] = random.standard_normal(kernel[-1], np.float32)
    return state


def efficientnet_b0():
    """A file that ends after the second stage."""
    layers = {"stem_conv": (3, 3, 3, 32), "stem_bn": 32}
    blocks = (("1a", 3, 32, 1, 16), ("2a", 3, 16, 6, 24), ("2b", 3, 24, 6, 24))
    for name, size, inputs, expand, outputs in blocks:
        inner = inputs * expand
        if expand > 1:
            layers |= {f"block{name}_expand_conv": (1, 1, inputs, inner)}
            layers |= {f"block{name}_expand_bn": inner}
        layers |= {
            f"block{name}_dwconv": (size, size, inner, 1),
            f"block{name}_bn": inner,
            f"block{name}_se_reduce": (1, 1, inner, inputs // 4, "bias"),
            f"block{name}_se_expand": (1, 1, inputs // 4, inner, "bias"),
            f"block{name}_project_conv": (1, 1, inner, outputs),
            f"block{name}_project_bn": outputs,
        }
    return state_of(layers)


def pytorch_layout(state):
    """The same network as other tools write it: kernels OIHW and called `weight`."""
    rewritten = {}
    for name, array in state.items():
        if name.endswith(".kernel"):
            outputs_first = (2, 3, 0, 1) if "dwconv" in name else (3, 2, 0, 1)
            name, array = name.replace("kernel", "weight"), array.transpose(outputs_first)
        rewritten[name] = array
    return rewritten


def keras_2_names(state):
    return {name.replace("dwconv.", "dwconv.depthwise_"): array for name, array in state.items()}


def test_efficientnet_layers_find_their_places():
    state = efficientnet_b0()
    converted = keras_names.convert("efficientnet_b0", state)
    assert converted.levels == ("stage1", "stage2")
    assert not converted.folded
    assert converted.variant == Variant(epsilon=1e-3, padding="same")
    parameters, statistics = converted.variables["params"], converted.variables["batch_stats"]
    assert parameters.keys() == {"conv_stem", "blocks_0", "blocks_1", "blocks_2"}
    for ours, theirs in (
        (parameters["conv_stem"]["conv"]["kernel"], "stem_conv.kernel"),
        (parameters["blocks_1"]["expand_conv"]["conv"]["kernel"], "block2a_expand_conv.kernel"),
        (parameters["blocks_2"]["squeeze_excite"]["reduce"]["bias"], "block2b_se_reduce.bias"),
        (parameters["blocks_0"]["squeeze_excite"]["expand"]["kernel"], "block1a_se_expand.kernel"),
        (parameters["blocks_0"]["depthwise_conv"]["bn"]["scale"], "block1a_bn.gamma"),
        (parameters["blocks_2"]["project_conv"]["bn"]["bias"], "block2b_project_bn.beta"),
        (statistics["blocks_1"]["expand_conv"]["bn"]["mean"], "block2a_expand_bn.moving_mean"),
        (statistics["conv_stem"]["bn"]["var"], "stem_bn.moving_variance"),
    ):
        np.testing.assert_array_equal(ours, state[theirs])
    depthwise = parameters["blocks_1"]["depthwise_conv"]["conv"]["kernel"]
    np.testing.assert_array_equal(depthwise[:, :, 0], state["block2a_dwconv.kernel"][..., 0])


@pytest.mark.parametrize("rewrite", [pytorch_layout, keras_2_names])
def test_efficientnet_kernels_of_other_names_and_layouts(rewrite):
    state = efficientnet_b0()
    first, second = (keras_names.convert("efficientnet_b0", s) for s in (state, rewrite(state)))
    jax.tree.map(np.testing.assert_array_equal, first.variables, second.variables)


def test_vgg_is_read_from_either_layout():
    blocks = {1: (3, 64, 64), 2: (64, 128, 128)}
    state = state_of(
        {
            f"block{block}_conv{i + 1}": (3, 3, channels[i], channels[i + 1], "bias")
            for block, channels in blocks.items()
            for i in (0, 1)
        }
    )
    converted = keras_names.convert("vgg16", state)
    assert converted.levels == ("block1", "block2")
    check_pixels(converted.preprocess, CAFFE)
    kernel = converted.variables["params"]["block2_conv1"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel, state["block2_conv1.kernel"])
    other = keras_names.convert("vgg16", pytorch_layout(state))
    jax.tree.map(np.testing.assert_array_equal, converted.variables, other.variables)


def test_layers_of_ones_own_are_left_out():
    state = efficientnet_b0()
    own = {
        "top_dense.kernel": np.ones((1280, 10)),
        "predictions.kernel": np.ones((1280, 10)),
        "my_head.kernel": np.ones((1280, 3)),
        "batch_normalization.moving_mean": np.ones(3),
    }
    first, second = (keras_names.convert("efficientnet_b0", s) for s in (state, state | own))
    jax.tree.map(np.testing.assert_array_equal, first.variables, second.variables)


@pytest.mark.parametrize(
    ("architecture", "change", "message"),
    [
        ("efficientnet_b0", {"block2c_bn.gamma": np.ones(144)}, r"1 unknown \(block2c_bn.gamma\)"),
        ("efficientnet_b0", {"stem_bn.beta": None}, r"1 missing \(stem_bn.beta\)"),
        ("efficientnet_b4", {}, "is it a file of efficientnet_b4"),
        ("vgg16", {}, "is it a file of vgg16"),
        ("resnet50_keras", {}, "is it a file of resnet50_keras"),
        ("efficientnet_lite0", {}, "Keras names cover .*; not 'efficientnet_lite0'"),
    ],
)
def test_a_file_of_another_network_is_refused_in_one_line(architecture, change, message):
    state = {n: a for n, a in (efficientnet_b0() | change).items() if a is not None}
    with pytest.raises(InputError, match=message) as caught:
        keras_names.convert(architecture, state)
    assert "\n" not in str(caught.value)


PIXELS = np.array([[[[0, 128, 255], [17, 99, 203]]]], np.uint8)
# What Keras 3.15 makes of them in float64: its `preprocess_input`, or the layers before `stem_conv`
# of EfficientNetB0(weights="imagenet") with the published arrays, and of weights=None with others.
CAFFE = [[151.061, 11.221, -123.68], [99.061, -17.779, -106.68]]
PUBLISHED = [
    [-2.117903963344738, 0.20518206950979617, 2.639999934811505],
    [-1.826783143640994, -0.3025210035093242, 1.7336818744021942],
]
ADAPTED = [
    [-1.2499999813735487, 0.00653594745270306, 17.499999739229683],
    [-0.9166666530072691, -0.3725490048040757, 13.421568427454025],
]
UNTOUCHED = [
    [0.0, 0.5019607843137255, 1.0],
    [0.06666666666666667, 0.38823529411764707, 0.796078431372549],
]


def check_pixels(preprocess, expected):
    got = np.asarray(preprocess(jnp.asarray(PIXELS)))[0, 0]
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "mean", "variance", "expected"),
    [
        ("normalization", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), PUBLISHED),
        ("normalization_1", (0.25, 0.5, 0.125), (0.04, 0.09, 0.0025), ADAPTED),
        ("normalization", (0, 0, 0), (1, 1, 1), UNTOUCHED),
        (None, None, None, PUBLISHED),
    ],
)
def test_efficientnet_pixels_are_those_of_keras(layer, mean, variance, expected):
    state = efficientnet_b0()
    if layer:
        state[f"{layer}.mean"] = np.asarray(mean, np.float32)
        state[f"{layer}.variance"] = np.asarray(variance, np.float32)
    preprocess = keras_names.convert("efficientnet_b0", state).preprocess
    check_pixels(preprocess, expected)
    assert preprocess.resize == "bicubic"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"normalization.mean": np.ones(3)}, "normalization.mean and .variance are not three"),
        (
            {"normalization.mean": np.ones(1), "normalization.variance": np.ones(1)},
            "normalization.mean and .variance are not three",
        ),
        (
            {"normalization.mean": np.ones(3), "normalization.variance": np.zeros(3)},
            "normalization holds values that no layer has",
        ),
        (
            {"normalization.mean": np.full(3, np.nan), "normalization.variance": np.ones(3)},
            "normalization holds values that no layer has",
        ),
        (
            {f"normalization{i}.{x}": np.ones(3) for i in ("", "_1") for x in ("mean", "variance")},
            "several layers of preprocessing: normalization, normalization_1",
        ),
    ],
)
def test_pixels_that_nobody_can_have_meant_are_refused(arrays, message):
    with pytest.raises(InputError, match=message):
        keras_names.efficientnet_preprocess(arrays)


def test_real_resnet_weights_and_their_pixels():
    path = SHARED / "weights" / "resnet50_keras_imagenet.safetensors"
    if not path.exists():
        pytest.skip(f"needs {path.name} of shared")
    converted = keras_names.convert("resnet50_keras", read_state(path)[0])
    assert converted.levels == ("layer1", "layer2", "layer3")
    check_pixels(converted.preprocess, CAFFE)
