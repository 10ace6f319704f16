"""Converters and modules against feature maps of the original frameworks (`ports/golden.py`)."""

import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxad.backbones import ARCHITECTURES, fold_batch_norm
from ports import efficientnet_lite_names, keras_names, seeded, torchvision_names

GOLDEN = Path(__file__).parents[1] / "golden" / "backbones.npz"
TOLERANCE = 1e-5  # of the largest value of a level

CONVERTERS = {
    name: module.convert
    for module in (torchvision_names, keras_names, efficientnet_lite_names)
    for name in module.ARCHITECTURES
}


@functools.cache
def golden() -> dict:
    """Architecture -> size, gain, arrays, levels; each level with its sampled values."""
    with np.load(GOLDEN) as file:
        index, values = json.loads(str(file["index"])), iter(file["values"])
    for case in index.values():
        for level in case["levels"].values():
            level["sample"] = next(values)
    return index


def features(name, variables, *, levels, folded, preprocess):
    module = ARCHITECTURES[name].build(levels=levels, folded=folded)
    images = seeded.image(*golden()[name]["size"])
    with jax.default_matmul_precision("highest"):
        return jax.jit(lambda v, x: module.apply(v, preprocess(x)))(variables, images)


def check(name, got):
    want = golden()[name]["levels"]
    for level, x in got.items():
        x, expected = np.asarray(x), want[level]
        assert list(x.shape) == expected["shape"], level
        scale = expected["max"] * TOLERANCE
        np.testing.assert_allclose(seeded.sample(x), expected["sample"], 0, scale, err_msg=level)
        assert abs(x.astype(np.float64).mean() - expected["mean"]) <= scale, level
        assert abs(x.astype(np.float64).std() - expected["std"]) <= scale, level
        assert abs(np.abs(x).max() - expected["max"]) <= scale, level


def test_every_architecture_has_a_converter_and_a_reference():
    assert CONVERTERS.keys() == ARCHITECTURES.keys() == golden().keys()


@pytest.fixture(scope="module", params=ARCHITECTURES)
def converted(request):
    """(architecture, its seeded weights as converted from public names)."""
    case = golden()[request.param]
    state = seeded.fill(dict(case["arrays"]), gain=case["gain"])
    return request.param, CONVERTERS[request.param](request.param, state)


def test_folded_features_equal_those_of_the_framework(converted):
    name, weights = converted
    levels = tuple(ARCHITECTURES[name].levels)
    assert weights.levels == levels == tuple(golden()[name]["levels"])
    folded = fold_batch_norm(weights.variables, ARCHITECTURES[name].epsilon)
    got = features(name, folded, levels=levels, folded=True, preprocess=weights.preprocess)
    assert tuple(got) == levels
    check(name, got)


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("resnet18", ("layer1", "layer2")),
        ("resnet50_keras", ("layer1", "layer2")),
        ("vgg16_bn", ("block3",)),
        ("efficientnet_lite0", ("stage1", "stage3")),
    ],
)
def test_unfolded_features_equal_those_of_the_framework(name, levels):
    case = golden()[name]
    state = seeded.fill(dict(case["arrays"]), gain=case["gain"])
    weights = CONVERTERS[name](name, state)
    assert not weights.folded
    settings = {"levels": levels, "folded": False, "preprocess": weights.preprocess}
    got = features(name, weights.variables, **settings)
    assert tuple(got) == levels
    check(name, got)
