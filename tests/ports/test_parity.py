"""Converters and modules against feature maps of the original frameworks (`ports/golden.py`)."""

import jax
import numpy as np
import pytest

from jaxad.backbones import ARCHITECTURES, Variant, fold_batch_norm
from ports.namings import NAMINGS
from ports.parity import GOLDEN, apply_by_parts, golden_cases, parity_error
from ports.seeded import image

TOLERANCE = 1e-5  # of the largest value of a level
PAIRS = [(naming, name) for naming, row in NAMINGS.items() for name in row.architectures]
PADDINGS = {"timm": "symmetric", "timm_tf": "same", "efficientnet_pytorch": 380}


def check(error):
    assert max(error.values()) <= TOLERANCE, error


def test_every_pair_has_a_reference():
    assert golden_cases().keys() == set(PAIRS)
    assert {name for _, name in PAIRS} == set(ARCHITECTURES)
    for (_, name), case in golden_cases().items():
        assert list(case.levels) == list(ARCHITECTURES[name].levels)
    assert sum(path.stat().st_size for path in GOLDEN) < 250_000


@pytest.mark.parametrize(("naming", "name"), PAIRS)
def test_folded_features_equal_those_of_the_framework(naming, name):
    check(parity_error(naming, name))


@pytest.mark.parametrize(
    ("naming", "name"),
    [
        ("torchvision", "resnet18"),
        ("torchvision", "vgg16_bn"),
        ("torchvision", "efficientnet_b0"),
        ("timm_tf", "efficientnet_lite0"),
        ("keras", "resnet50_keras"),
    ],
)
def test_unfolded_features_equal_those_of_the_framework(naming, name):
    check(parity_error(naming, name, folded=False))


@pytest.mark.parametrize("naming", PADDINGS)
def test_another_padding_is_another_network(naming):
    """The image is such that all three differ, if only from the third stage on."""
    name, right = "efficientnet_b4", PADDINGS[naming]
    epsilon = NAMINGS[naming].convert(name, golden_cases()[naming, name].state()).variant.epsilon
    for padding in PADDINGS.values():
        error = parity_error(naming, name, variant=Variant(epsilon=epsilon, padding=padding))
        if padding == right:
            check(error)
        else:
            deep = [error[level] for level in list(error)[2:]]
            assert min(deep) > 100 * TOLERANCE, (padding, error)


@pytest.mark.parametrize(("naming", "wrong"), [("timm", 1e-3), ("timm_tf", 1e-5)])
def test_another_epsilon_is_another_network(naming, wrong):
    error = parity_error(
        naming, "efficientnet_b0", variant=Variant(epsilon=wrong, padding=PADDINGS[naming])
    )
    assert min(error.values()) > 10 * TOLERANCE, error


def test_parts_make_the_network():
    """What parity is measured on computes the same as the network compiled as one program."""
    name = "efficientnet_lite0"
    converted = NAMINGS["timm_tf"].convert(name, golden_cases()["timm_tf", name].state())
    assert converted.variant.padding == "same"  # which the parts are told in zeros
    variables = fold_batch_norm(converted.variables, converted.variant.epsilon)
    module = ARCHITECTURES[name].build(
        levels=("stage2", "stage4"), folded=True, variant=converted.variant
    )
    x = image(48, 40).astype(np.float32) / 255
    with jax.default_matmul_precision("highest"):
        whole = jax.jit(module.apply)(variables, x)
        parts = apply_by_parts(module, variables, x)
    assert list(parts) == list(whole) == ["stage2", "stage4"]
    for level, want in whole.items():
        largest = np.abs(want).max()
        np.testing.assert_allclose(parts[level], want, rtol=0, atol=1e-6 * largest)
