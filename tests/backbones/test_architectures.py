import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.backbones import ARCHITECTURES
from jaxad.backbones.efficientnet import LEVELS, EfficientNet, Stage, round_channels
from jaxad.backbones.weights import init_backbone, shapes
from jaxad.core import InputError

# Published parameter counts without the classifier, running statistics not counted. Keras counts
# 23,534,592 for its ResNet-50; 26,560 of them are biases that BatchNorm makes redundant.
PARAMETERS = {
    "resnet18": 11_689_512 - 513_000,
    "resnet34": 21_797_672 - 513_000,
    "resnet50": 25_557_032 - 2_049_000,
    "resnet50_keras": 23_534_592 - 26_560,
    "vgg16": 14_714_688,
    "vgg19": 20_024_384,
    "vgg16_bn": 14_714_688 + 8_448 - 4_224,
    "vgg19_bn": 20_024_384 + 11_008 - 5_504,
}
RECTANGLE = (64, 160)


@functools.cache
def all_shapes(name, folded=False):
    return shapes(ARCHITECTURES[name], levels=tuple(ARCHITECTURES[name].levels), folded=folded)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_levels_are_as_the_table_says(name):
    arch = ARCHITECTURES[name]
    module = arch.build(levels=tuple(arch.levels), folded=True)
    for height, width in ((64, 64), (96, 96), RECTANGLE):
        image = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
        features = jax.eval_shape(module.apply, all_shapes(name, True), image)
        assert {level: x.shape for level, x in features.items()} == {
            level: (2, height // stride, width // stride, channels)
            for level, (channels, stride) in arch.levels.items()
        }
        assert {x.dtype for x in features.values()} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count_is_the_published_one(name):
    assert count(all_shapes(name)["params"]) == PARAMETERS[name]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_default_levels_are_what_the_papers_read(name):
    arch = ARCHITECTURES[name]
    assert arch.name == name
    strides = [4, 8, 16]  # PFM's three hierarchies
    if name == "wide_resnet50_2":  # SimpleNet
        strides = [8, 16]
    elif name.startswith("efficientnet_b"):  # AFRAD
        strides = [2, 4, 8, 16]
    assert [arch.levels[level].stride for level in arch.default_levels] == strides


@pytest.mark.parametrize(
    ("name", "level", "scopes"),
    [
        ("resnet18", "layer1", r"conv1|layer1_\d"),
        ("resnet50_keras", "layer2", r"conv1|layer[12]_\d"),
        ("vgg16_bn", "block3", r"block[123]_conv\d"),
        ("efficientnet_lite0", "stage2", r"conv_stem|blocks_[012]"),
    ],
)
@pytest.mark.parametrize("folded", [False, True])
def test_nothing_above_the_last_level_is_built(name, level, scopes, folded):
    arch = ARCHITECTURES[name]
    variables = shapes(arch, levels=(level,), folded=folded)
    for collection in variables.values():
        assert all(re.fullmatch(scopes, scope) for scope in collection)
    # and what is built is what the whole network has there
    whole = all_shapes(name, folded)
    for collection, tree in variables.items():
        for scope, below in tree.items():
            assert below == whole[collection][scope]


def test_only_the_asked_levels_are_returned():
    backbone, variables = init_backbone("resnet18", jax.random.key(0), levels=("layer2",))
    features = jax.eval_shape(
        backbone.features, variables, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)
    )
    assert list(features) == list(backbone.levels) == ["layer2"]


def test_levels_come_back_in_order_of_depth():
    arch = ARCHITECTURES["resnet18"]
    assert arch.check_levels(("layer3", "layer1")) == ("layer1", "layer3")
    assert arch.check_levels(None) == ("layer1", "layer2", "layer3")


@pytest.mark.parametrize("levels", [("layer5",), ("layer1", "stage2"), ()])
def test_unknown_levels_are_refused(levels):
    with pytest.raises(InputError, match="choose from layer1, layer2, layer3, layer4"):
        ARCHITECTURES["resnet18"].check_levels(levels)


def test_channels_round_to_multiples_but_lose_at_most_a_tenth():
    assert [round_channels(24, 1.1), round_channels(40, 1.2), round_channels(16, 1.4)] == [
        24,
        48,
        24,
    ]
    assert all(round_channels(c, 1.0) == c for c in (16, 24, 40, 80, 112, 192, 320))


def small_efficientnet(padding):
    stages = (Stage(1, 3, 1, 1, 4), Stage(1, 3, 2, 2, 4), Stage(1, 5, 2, 2, 8))
    return EfficientNet(
        stages=stages,
        levels=LEVELS[:3],
        padding=padding,
        stem_channels=32,
        squeeze=False,
        activation=nn.relu6,
    )


def features_of(size, *, padding):
    """Features of a seeded image under seeded weights."""
    module = small_efficientnet(padding)
    random = np.random.default_rng(0)
    x = random.standard_normal((1, size, size, 3), np.float32)
    empty = jax.eval_shape(module.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda s: random.standard_normal(s.shape, np.float32), empty)
    return jax.jit(module.apply)(variables, x)


@pytest.mark.parametrize("size", [22, 23])
def test_static_padding_at_its_own_size_is_that_of_tensorflow(size):
    want = features_of(size, padding="same")
    got = features_of(size, padding=size)
    for level, y in want.items():
        np.testing.assert_allclose(got[level], y, rtol=1e-5, atol=1e-4, err_msg=level)


def test_static_padding_stays_when_the_input_changes():
    own = features_of(24, padding="same")["stage2"]
    frozen = features_of(24, padding=22)["stage2"]  # 22 -> 11 pads (1, 1), 24 -> 12 (0, 1)
    assert own.shape == frozen.shape
    assert jnp.abs(own - frozen).max() > 1e-3
