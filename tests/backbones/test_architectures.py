import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.backbones import ARCHITECTURES
from jaxad.backbones.efficientnet import LEVELS, EfficientNet, Stage, round_channels
from jaxad.core import InputError


@pytest.mark.parametrize("name", [n for n, arch in ARCHITECTURES.items() if arch.patch == 1])
def test_default_levels_are_what_the_papers_read(name):
    arch = ARCHITECTURES[name]
    assert arch.name == name
    strides = [4, 8, 16]  # PFM's three hierarchies
    if name == "wide_resnet50_2":  # SimpleNet
        strides = [8, 16]
    elif name.startswith("efficientnet_b"):  # AFRAD
        strides = [2, 4, 8, 16]
    elif name == "pdn_small":  # EfficientAD
        strides = [4]
    assert [arch.levels[level].stride for level in arch.default_levels] == strides


@pytest.mark.parametrize(
    ("name", "channels"),  # of the papers' tables: Lite's ends do not scale
    [("efficientnet_b0", 1280), ("efficientnet_b4", 1792), ("efficientnet_lite4", 1280)],
)
def test_the_head_of_an_efficientnet_is_its_last_level(name, channels):
    *_, (last, head) = ARCHITECTURES[name].levels.items()
    assert (last, head.channels, head.stride) == ("head", channels, 32)


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
        head_channels=12,
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
