"""The PyTorch peers compute what ours do."""

from __future__ import annotations

import jax
import numpy as np
import pytest

torch = pytest.importorskip(
    "torch", reason="PyTorch is the benchmarks' peer only: pip install -e .[peer]"
)

torch.set_num_threads(1)  # their barriers spin, which a busy machine does not forgive

from benchmarks.detectors import build, configure, trained_like  # noqa: E402
from benchmarks.golden_peer import (  # noqa: E402
    SIZE,
    SUBJECTS,
    images,
    our_steps,
    peer_steps,
    small,
)
from benchmarks.torch_nets import Network  # noqa: E402
from benchmarks.torch_peer import peer  # noqa: E402
from jaxad.backbones import architectures, weights  # noqa: E402
from jaxad.backbones.architectures import ARCHITECTURES, Variant  # noqa: E402
from jaxad.core import Backbone, InputError  # noqa: E402


def assert_equal_features(backbone: Backbone, variables: dict, channels_last: bool) -> None:
    ours = jax.jit(backbone.features)(variables, images())
    with torch.inference_mode():
        net = Network(backbone, variables).eval()
        theirs = net(torch.from_numpy(images()), channels_last=channels_last)
    assert list(theirs) == list(backbone.levels)
    for level, x in ours.items():
        y = theirs[level].permute(0, 2, 3, 1).numpy()
        assert np.abs(x).max() > 0
        np.testing.assert_allclose(y, x, rtol=0, atol=1e-5 * float(np.abs(x).max()))


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet50", "resnet50_keras", "efficientnet_lite0", "efficientnet_b0"],
)
def test_networks_are_equal(name: str) -> None:
    levels = tuple(ARCHITECTURES[name].levels)[:4]
    assert_equal_features(*weights.init_backbone(name, jax.random.key(1), levels=levels), False)


@pytest.mark.parametrize("padding", [224, "same", "symmetric"])
def test_every_way_of_padding_is_equal(padding: int | str) -> None:
    name = "efficientnet_b0"
    backbone, variables = weights.init_backbone(name, jax.random.key(1), levels=("stage5",))
    module = architectures.architecture(name).build(
        levels=("stage5",), folded=True, variant=Variant(epsilon=1e-3, padding=padding)
    )
    backbone = Backbone(name, module, backbone.levels, backbone.preprocess)
    assert_equal_features(backbone, variables, True)


def test_networks_without_a_peer_are_told() -> None:
    with pytest.raises(InputError, match="vgg16 has no PyTorch peer"):
        Network(*weights.init_backbone("vgg16", jax.random.key(1)))


@pytest.mark.parametrize("name", SUBJECTS)
def test_detectors_score_alike(name: str) -> None:
    config = small(name)
    detector, variables = build(config)
    variables = trained_like(detector, variables, seed=0)
    ours = jax.device_get(jax.jit(detector.score)(variables, images()))
    their_map, their_image = peer(name, config, detector, variables)(images())
    scale = float(np.abs(ours.map).max())
    assert float(np.ptp(ours.map)) > 1e-3 * scale  # not one value all over
    np.testing.assert_allclose(their_map, ours.map, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(their_image, ours.image, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_peer_trains_as_ours(channels_last: bool) -> None:
    config = small("mb_pfm", size=(64, 64))
    detector, variables = build(config)
    ours = our_steps(detector, variables)
    theirs = peer_steps(config, detector, variables, channels_last=channels_last)
    for key, value in ours.items():
        np.testing.assert_allclose(theirs[key], value, rtol=1e-3)
    assert ours["loss"][-1] < ours["loss"][0]


def test_a_method_without_a_peer_is_told() -> None:
    config = configure("adapted_moe", image_size=SIZE)
    config.method.update({"backbone": "resnet18", "embedding": 96, "hidden": 64})
    detector, variables = build(config)
    with pytest.raises(InputError, match="adapted_moe has no PyTorch peer"):
        peer("adapted_moe", config, detector, variables)
