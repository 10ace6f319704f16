"""What converters accept and refuse; `test_parity.py` shows that what they make is right."""

import functools
import re

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxad.backbones import Variant, load_backbone, weights
from jaxad.core import InputError, Preprocess
from ports import efficientnet_pytorch_names, keras_names, timm_names, torchvision_names
from ports.converted import write_converted
from ports.namings import NAMINGS
from ports.parity import golden_cases

TORCHVISION_RESNET18 = {  # of a file that ends after layer1, to be quick
    "conv1.weight": (64, 3, 7, 7),
    **{f"layer1.{i}.conv{j}.weight": (64, 64, 3, 3) for i in (0, 1) for j in (1, 2)},
}
NORM = ("weight", "bias", "running_mean", "running_var")
HEAD = {"fc.weight": np.ones((10, 512)), "fc.bias": np.ones(10)}


def random_array(random, name, shape):
    array = random.standard_normal(shape, np.float32)
    return np.abs(array) + np.float32(0.5) if name.endswith(("var", "variance")) else array


@functools.cache
def _resnet18():
    random = np.random.default_rng(0)
    state = {n: random_array(random, n, s) for n, s in TORCHVISION_RESNET18.items()}
    for name in TORCHVISION_RESNET18:
        norm = name.replace("conv", "bn").removesuffix(".weight")
        state |= {f"{norm}.{leaf}": random_array(random, leaf, (64,)) for leaf in NORM}
        state[f"{norm}.num_batches_tracked"] = np.asarray(7)
    return state


@pytest.fixture
def resnet18():
    """A torchvision state dict up to layer1."""
    return dict(_resnet18())


def folded_state(state):
    """The same network with BatchNorm folded, under torchvision's names."""
    folded = {}
    for name in TORCHVISION_RESNET18:
        norm = name.replace("conv", "bn").removesuffix(".weight")
        scale, shift, mean, variance = (state[f"{norm}.{leaf}"].astype(np.float64) for leaf in NORM)
        a = scale / np.sqrt(variance + 1e-5)
        folded[name] = (state[name] * a[:, None, None, None]).astype(np.float32)
        folded[name.replace("weight", "bias")] = (shift - mean * a).astype(np.float32)
    return folded


def keras_state(hwio=False):
    """A Keras ResNet-50 up to conv2 (layer1)."""
    random, state = np.random.default_rng(1), {}

    def layer(name, outputs, inputs, size):
        kernel = (size, size, inputs, outputs) if hwio else (outputs, inputs, size, size)
        state[f"{name}_conv.weight"] = np.zeros(kernel, np.float32)
        state[f"{name}_conv.bias"] = random.standard_normal(outputs, np.float32)
        for leaf in ("gamma", "beta", "moving_mean", "moving_variance"):
            state[f"{name}_bn.{leaf}"] = random_array(random, leaf, (outputs,))

    layer("conv1", 64, 3, 7)
    for block in (1, 2, 3):
        name, inputs = f"conv2_block{block}", 64 if block == 1 else 256
        if block == 1:
            layer(f"{name}_0", 256, inputs, 1)
        layer(f"{name}_1", 64, inputs, 1)
        layer(f"{name}_2", 64, 64, 3)
        layer(f"{name}_3", 256, 64, 1)
    return state


def test_a_file_may_end_after_a_stage_and_carry_a_classifier(resnet18):
    converted = torchvision_names.convert("resnet18", resnet18 | HEAD)
    assert converted.levels == ("layer1",)
    assert not converted.folded
    assert converted.variables["params"].keys() == {"conv1", "layer1_0", "layer1_1"}
    kernel = converted.variables["params"]["layer1_1"]["conv2"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel[2, 0, 5], resnet18["layer1.1.conv2.weight"][:, 5, 2, 0])


def test_folded_torchvision_names_give_the_folded_network(resnet18):
    converted = torchvision_names.convert("resnet18", folded_state(resnet18))
    assert converted.folded
    assert converted.variables.keys() == {"params"}
    plain = torchvision_names.convert("resnet18", resnet18)
    want = weights.fold_batch_norm(plain.variables, 1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        converted.variables,
        want,
    )


def test_folded_vgg_with_batch_norm_keeps_its_places():
    """Without BatchNorm's arrays the convolutions of a `_bn` variant still count it."""
    shapes = {"features.0": (64, 3, 3, 3), "features.3": (64, 64, 3, 3)}
    state = {f"{name}.weight": np.zeros(shape, np.float32) for name, shape in shapes.items()}
    state |= {f"{name}.bias": np.arange(64.0, dtype=np.float32) for name in shapes}
    converted = torchvision_names.convert("vgg16_bn", state)
    assert converted.folded
    assert converted.levels == ("block1",)


def test_keras_biases_go_into_the_running_mean():
    state = keras_state()
    converted = keras_names.convert("resnet50_keras", state)
    assert converted.levels == ("layer1",)
    assert converted.preprocess == Preprocess(
        scale=1.0, mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0), channels="BGR"
    )
    mean = converted.variables["batch_stats"]["layer1_2"]["conv3"]["bn"]["mean"]
    name = "conv2_block3_3"
    want = state[f"{name}_bn.moving_mean"] - state[f"{name}_conv.bias"]
    np.testing.assert_array_equal(mean, want)
    assert "bias" not in converted.variables["params"]["layer1_2"]["conv3"]["conv"]


def test_keras_kernels_may_be_hwio():
    oihw, hwio = keras_state(), keras_state(hwio=True)
    random = np.random.default_rng(2)
    for name in [name for name in oihw if name.endswith("weight")]:
        oihw[name] = random.standard_normal(oihw[name].shape, np.float32)
        hwio[name] = oihw[name].transpose(2, 3, 1, 0)
    first, second = (keras_names.convert("resnet50_keras", s) for s in (oihw, hwio))
    jax.tree.map(np.testing.assert_array_equal, first.variables, second.variables)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bn1.bias": None}, r"1 missing \(bn1.bias\); is it a file of resnet18"),
        ({"layer1.0.downsample.0.weight": np.ones((64, 64, 1, 1))}, r"1 unknown \(layer1.0.down"),
        ({"conv1.weight": np.ones((3, 7, 7, 64))}, r"conv1.weight is \(3, 7, 7, 64\), not \(64, 3"),
        ({"bn1.bias": np.full(64, np.inf)}, "bn1.bias holds values that are not finite"),
        ({"bn1.bias": np.full(64, 1e300)}, "bn1.bias holds values that are not finite"),
        ({"bn1.running_var": np.full(64, -1.0)}, "running_var holds a negative variance"),
        ({"bn1.weight": np.ones(64, np.int8)}, "bn1.weight is int8, not floating point"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_in_one_line(resnet18, change, message):
    state = {name: array for name, array in (resnet18 | change).items() if array is not None}
    with pytest.raises(InputError, match=message) as caught:
        torchvision_names.convert("resnet18", state)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_stage_that_is_partly_there_is_an_error(resnet18):
    state = resnet18 | {"layer2.0.conv1.weight": np.ones((128, 64, 3, 3), np.float32)}
    with pytest.raises(InputError, match=r"arrays 24 missing \(layer2.0.bn1.*20 more\)"):
        torchvision_names.convert("resnet18", state)


@pytest.mark.parametrize(
    ("convert", "name"),
    [
        (torchvision_names.convert, "resnet50_keras"),
        (keras_names.convert, "resnet50"),
        (efficientnet_pytorch_names.convert, "resnet18"),
        (torchvision_names.convert, "efficientnet_lite0"),
        (timm_names.convert, "resnet50_keras"),
        (timm_names.convert_tf, "resnet18"),
    ],
)
def test_other_architectures_are_refused(convert, name, resnet18):
    with pytest.raises(InputError, match=f"names cover .*; not '{name}'"):
        convert(name, resnet18)


def test_an_empty_state_is_refused():
    with pytest.raises(InputError, match="missing"):
        torchvision_names.convert("resnet18", {})


def test_half_precision_becomes_float32(resnet18):
    half = {n: a.astype(np.float16) if a.ndim else a for n, a in resnet18.items()}
    converted = torchvision_names.convert("resnet18", half)
    flat = flatten_dict(converted.variables)
    assert {array.dtype for array in flat.values()} == {np.dtype(np.float32)}


def test_what_is_written_loads(resnet18, tmp_path):
    converted = torchvision_names.convert("resnet18", resnet18)
    path = tmp_path / "resnet18.safetensors"
    write_converted(
        path,
        converted,
        architecture="resnet18",
        source="/somewhere/else/resnet18-f37072fd.pth",
        source_sha256="f3" * 32,
        licence=torchvision_names.LICENCE,
    )
    _, metadata = weights.read(path)
    assert metadata.source == "resnet18-f37072fd.pth"
    assert metadata.licence == "BSD-3-Clause"
    backbone, loaded = load_backbone("resnet18", levels=("layer1",), folder=tmp_path)
    assert backbone.preprocess == Preprocess()
    want = weights.fold_batch_norm(converted.variables, 1e-5)
    jax.tree.map(np.testing.assert_array_equal, loaded, want)


# What of an EfficientNet-B0 lies above its second stage.
DEEP = {
    "torchvision": r"features\.[3-8]\.",
    "timm": r"(blocks\.[2-6]|conv_head|bn2)\.",
    "timm_tf": r"(blocks\.[2-6]|conv_head|bn2)\.",
    "efficientnet_pytorch": r"_(blocks\.([3-9]|1\d)|conv_head|bn1)\.",
}
CLASSIFIERS = {
    "torchvision": ["classifier.1.weight", "classifier.1.bias"],
    "timm": ["classifier.weight", "classifier.bias"],
    "timm_tf": ["classifier.weight", "classifier.bias"],
    "efficientnet_pytorch": ["_fc.weight", "_fc.bias"],
}


@functools.cache
def _b0(naming):
    state = golden_cases()[naming, "efficientnet_b0"].state()
    return {name: array for name, array in state.items() if not re.match(DEEP[naming], name)}


@pytest.fixture(params=DEEP)
def b0(request):
    """(naming, state dict of an EfficientNet-B0 that ends after its second stage)."""
    return request.param, dict(_b0(request.param))


def first_block(naming):
    """Prefix of the arrays of B0's second stage's first block."""
    return {
        "torchvision": "features.2.0.",
        "timm": "blocks.1.0.",
        "timm_tf": "blocks.1.0.",
        "efficientnet_pytorch": "_blocks.1.",
    }[naming]


def test_an_efficientnet_may_end_after_a_stage_and_carry_a_classifier(b0):
    naming, state = b0
    head = dict.fromkeys(CLASSIFIERS[naming], np.ones(3, np.int8))
    converted = NAMINGS[naming].convert("efficientnet_b0", state | head)
    assert converted.levels == ("stage1", "stage2")
    assert not converted.folded
    blocks = [f"blocks_{i}" for i in range(3)]
    assert converted.variables["params"].keys() == {"conv_stem", *blocks}
    assert converted.variables["batch_stats"]["blocks_1"].keys() == {
        "expand_conv",
        "depthwise_conv",
        "project_conv",
    }
    gate = converted.variables["params"]["blocks_2"]["squeeze_excite"]
    assert gate["reduce"]["kernel"].shape == (1, 1, 144, 6)
    assert gate["expand"]["bias"].shape == (144,)
    assert {array.dtype for array in jax.tree.leaves(converted.variables)} == {np.dtype("float32")}


def test_arrays_of_an_efficientnet_that_do_not_fit_are_named(b0):
    naming, state = b0
    convert = NAMINGS[naming].convert
    block = first_block(naming)
    mean = next(name for name in state if name.startswith(block) and "running_mean" in name)
    kernel = next(name for name in state if name.startswith(block) and state[name].ndim == 4)
    deeper = {"features.2": "features.3", "blocks.1": "blocks.2", "_blocks.1": "_blocks.3"}
    beyond = re.sub(r"^\w+\.\d", lambda found: deeper[found[0]], kernel)

    def refusal(change):
        merged = {n: array for n, array in (state | change).items() if array is not None}
        with pytest.raises(InputError, match="efficientnet_b0 from ") as caught:
            convert("efficientnet_b0", merged)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert f"1 missing ({mean})" in refusal({mean: None})
    assert f"1 unknown ({block}extra.weight)" in refusal({f"{block}extra.weight": np.ones(3)})
    said = refusal({kernel: state[kernel].transpose(2, 3, 1, 0)})
    assert f"{kernel} is (1, 1, 16, 96), not (96, 16, 1, 1)" in said
    assert re.search(r"arrays \d+ missing", refusal({beyond: state[kernel]}))
    assert f"{mean} holds values that are not finite" in refusal({mean: np.full(96, np.nan)})


def test_a_file_of_another_efficientnet_is_refused(b0):
    naming, state = b0
    with pytest.raises(
        InputError, match=r"arrays \d+ missing .* is it a file of efficientnet_b2\?"
    ):
        NAMINGS[naming].convert("efficientnet_b2", state)


def test_folded_efficientnet(b0):
    """Convolutions with a bias and no BatchNorm."""
    naming, state = b0
    norms = {name.removesuffix("running_mean") for name in state if name.endswith("running_mean")}
    folded = {n: a for n, a in state.items() if n.rpartition(".")[0] + "." not in norms}
    random = np.random.default_rng(0)
    for name, array in list(folded.items()):
        if array.ndim == 4:
            bias = random.standard_normal(len(array), np.float32)
            folded.setdefault(name.replace("weight", "bias"), bias)
    converted = NAMINGS[naming].convert("efficientnet_b0", folded)
    assert converted.folded
    assert converted.levels == ("stage1", "stage2")
    assert converted.variables.keys() == {"params"}
    own = {leaf.tobytes() for leaf in jax.tree.leaves(converted.variables) if leaf.ndim == 1}
    assert own == {array.tobytes() for array in folded.values() if array.ndim == 1}
    stem = next(name for name in folded if "stem.bias" in name or name == "features.0.0.bias")
    np.testing.assert_array_equal(
        converted.variables["params"]["conv_stem"]["conv"]["bias"], folded[stem]
    )


def test_timm_names_of_a_vgg_and_its_classifier():
    shapes = {"features.0": (64, 3, 3, 3), "features.2": (64, 64, 3, 3)}
    state = {f"{name}.weight": np.ones(shape, np.float32) for name, shape in shapes.items()}
    state |= {f"{name}.bias": np.ones(64, np.float32) for name in shapes}
    head = dict.fromkeys(["pre_logits.fc1.weight", "pre_logits.fc2.bias", "head.fc.weight"])
    converted = timm_names.convert("vgg16", state | {name: np.ones(3) for name in head})
    assert converted.levels == ("block1",)
    with pytest.raises(InputError, match=r"unknown \(head.fc.weight"):
        torchvision_names.convert("vgg16", state | {name: np.ones(3) for name in head})


def test_the_head_of_another_kind_of_network_is_unknown(resnet18):
    """Nothing that a classifier of this kind is not called is passed over."""
    for convert in (torchvision_names.convert, timm_names.convert):
        for name in ("head.weight", "head.fc.weight", "conv_head.weight", "bn2.bias"):
            with pytest.raises(InputError, match=f"1 unknown \\({name}\\)"):
                convert("resnet18", resnet18 | {name: np.ones(3)})


def test_keras_depthwise_kernels_may_be_of_any_layout():
    case = golden_cases()["keras", "efficientnet_b0"]
    state = {n: a for n, a in case.state().items() if re.match(r"stem_|block[12]", n)}
    kernels = {name: array for name, array in state.items() if array.ndim == 4}
    assert {array.shape for name, array in kernels.items() if "dwconv" in name} == {
        (3, 3, channels, 1) for channels in (32, 96, 144)
    }
    oihw = state | {  # HWIO, and for a depthwise one HWC1
        name: array.transpose(*((2, 3, 0, 1) if "dwconv" in name else (3, 2, 0, 1)))
        for name, array in kernels.items()
    }
    one, other = (keras_names.convert("efficientnet_b0", s) for s in (state, oihw))
    jax.tree.map(np.testing.assert_array_equal, one.variables, other.variables)


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LITE = ((0.498, 0.498, 0.498), (0.502, 0.502, 0.502))
TRAITS = [  # epsilon, padding, mean and deviation, filter, of the namings' usual weights
    ("torchvision", "resnet50", 1e-5, "symmetric", IMAGENET, "bilinear"),
    ("torchvision", "vgg16_bn", 1e-5, "symmetric", IMAGENET, "bilinear"),
    ("torchvision", "efficientnet_b0", 1e-5, "symmetric", IMAGENET, "bicubic"),
    ("torchvision", "efficientnet_b4", 1e-5, "symmetric", IMAGENET, "bicubic"),
    ("torchvision", "efficientnet_b5", 1e-3, "symmetric", IMAGENET, "bicubic"),
    ("timm", "resnet50", 1e-5, "symmetric", IMAGENET, "bicubic"),
    ("timm", "vgg19", 1e-5, "symmetric", IMAGENET, "bilinear"),
    ("timm", "efficientnet_b1", 1e-5, "symmetric", HALVES, "bicubic"),
    ("timm", "efficientnet_b5", 1e-5, "symmetric", IMAGENET, "bicubic"),
    ("timm", "efficientnet_lite0", 1e-5, "symmetric", IMAGENET, "bicubic"),
    ("timm_tf", "efficientnet_b4", 1e-3, "same", IMAGENET, "bicubic"),
    ("timm_tf", "efficientnet_lite0", 1e-3, "same", HALVES, "bilinear"),
    ("efficientnet_pytorch", "efficientnet_b4", 1e-3, 380, IMAGENET, "bicubic"),
    ("efficientnet_pytorch", "efficientnet_lite0", 1e-3, 224, LITE, "bilinear"),
]


@pytest.mark.parametrize(("naming", "name", "epsilon", "padding", "pixels", "resize"), TRAITS)
def test_what_belongs_to_the_weights(naming, name, epsilon, padding, pixels, resize):
    arrays = golden_cases()[naming, name].arrays
    one = np.ones((), np.float32)
    state = {array: np.broadcast_to(one, shape) for array, shape in arrays.items()}
    converted = NAMINGS[naming].convert(name, state)
    assert converted.variant == Variant(epsilon=epsilon, padding=padding)
    mean, std = pixels
    assert converted.preprocess == Preprocess(mean=mean, std=std, resize=resize)


HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


@pytest.mark.parametrize(
    ("config", "preprocess"),
    [
        ({}, Preprocess(resize="bicubic")),
        ({"architecture": "resnet18", "pretrained_cfg": {}}, Preprocess(resize="bicubic")),
        ({"pretrained_cfg": {"interpolation": "bilinear"}}, Preprocess()),
        (
            {"pretrained_cfg": HALF},
            Preprocess(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize="bicubic"),
        ),
        (
            {"architecture": "resnet18", "interpolation": "lanczos", **HALF},
            Preprocess(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize="lanczos"),
        ),
        (
            {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
            Preprocess(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), resize="bicubic"),
        ),
        ({"std": [1, 1, 1]}, Preprocess(std=(1.0, 1.0, 1.0), resize="bicubic")),
    ],
)
def test_pixels_that_a_config_states(resnet18, config, preprocess):
    converted = timm_names.convert("resnet18", resnet18)
    assert timm_names.with_config(converted, config).preprocess == preprocess


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": 0.5},
        {"mean": [0.5]},
        {"mean": ["a", "b", "c"]},
        {"mean": [float("nan")] * 3},
        {"std": [0.2, 0.0, 0.2]},
        {"std": [0.2, 1e-46, 0.2]},
        {"std": [0.2, -0.2, 0.2]},
        {"std": [0.2, float("inf"), 0.2]},
        {"std": None},
        {"interpolation": "psychic"},
        {"interpolation": ["bicubic"]},
    ],
)
def test_pixels_that_make_no_sense_are_refused(resnet18, wrong):
    converted = timm_names.convert("resnet18", resnet18)
    with pytest.raises(InputError, match=r"^config.json: ") as caught:
        timm_names.with_config(converted, {"pretrained_cfg": wrong})
    assert "\n" not in str(caught.value)
