"""Feature maps as `keras.applications` computes them, and small files as Keras writes them.

`ports/golden.py` calls `cases`. The models are Keras' own, in float64, with their own
preprocessing: `preprocess_input` for ResNet-50 and VGG, their first layers for EfficientNets, which
so get raw pixels. The files are for the tests of `ports/hdf5.py`:

    python -m ports.golden_keras tests/golden/keras_files

Needs Keras 3, h5py and torch, which Keras runs on here.
"""

from __future__ import annotations

import importlib
import itertools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from ports.golden_case import GAINS, SIZES, Case, Features, Shapes
from ports.seeded import fill, image

_BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
# Of the published files: "variance" is ImageNet's standard deviation, see `ports/keras_names.py`.
_NORMALIZATION = {"mean": (0.485, 0.456, 0.406), "variance": (0.229, 0.224, 0.225)}


def cases() -> Iterator[Case]:
    """Every network that `ports/keras_names.py` covers."""
    keras = _keras()
    keras.config.set_floatx("float64")
    applications = keras.applications

    outputs = {
        f"layer{i}": f"conv{i + 1}_block{blocks}_out" for i, blocks in enumerate((3, 4, 6, 3), 1)
    }
    make, prepare = applications.ResNet50, applications.resnet50.preprocess_input
    yield _case("resnet50_keras", "resnet", _build(make, "resnet", None), outputs, prepare)

    for name, make, module in (
        ("vgg16", applications.VGG16, applications.vgg16),
        ("vgg19", applications.VGG19, applications.vgg19),
    ):
        outputs = {f"block{i}": f"block{i}_conv{last}" for i, last in enumerate(_BLOCKS[name], 1)}
        yield _case(name, "vgg", _build(make, "vgg", None), outputs, module.preprocess_input)

    for number in range(8):
        make = getattr(applications, f"EfficientNetB{number}")
        model = _build(make, "efficientnet", "imagenet")
        prepare = applications.efficientnet.preprocess_input
        outputs = _stage_outputs(model)
        yield _case(f"efficientnet_b{number}", "efficientnet", model, outputs, prepare)


def _keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    return importlib.import_module("keras")


def _build(make: Any, family: str, weights: str | None) -> Any:
    """Build a model without its top, as Keras does for those weights, but load none.

    EfficientNets have one more layer where they are ImageNet's.
    """
    functional = importlib.import_module("keras.src.models.functional").Functional
    files = importlib.import_module("keras.src.utils.file_utils")
    with mock.patch.object(files, "get_file"), mock.patch.object(functional, "load_weights"):
        return make(include_top=False, weights=weights, input_shape=(*SIZES[family], 3))


def _stage_outputs(model: Any) -> dict[str, str]:
    """Level -> the last layer of the last block of each stage; of the head, its activation."""
    numbered = [
        (found[1], layer.name)
        for layer in model.layers
        if (found := re.match(r"block(\d)[a-z]_", layer.name))
    ]
    stages = itertools.groupby(numbered, key=lambda pair: pair[0])
    outputs = {f"stage{number}": list(pairs)[-1][1] for number, pairs in stages}
    return {**outputs, "head": "top_activation"}


def _case(
    architecture: str, family: str, model: Any, outputs: dict[str, str], prepare: Any
) -> Case:
    """Fill a model from the seed; the `Normalization` layer is filled as the published files are.

    Its arrays are not among those of the case: a seed would not make a variance of them.
    """
    layers = {layer.name: layer for layer in model.layers}
    variables = {
        f"{layer.name}.{variable.name}": variable
        for layer in model.layers
        for variable in layer.weights
        if not layer.name.startswith("normalization")
    }
    shapes: Shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    for name, array in fill(shapes, gain=GAINS[family]).items():
        variables[name].assign(array)
    for layer in layers.values():
        if type(layer).__name__ == "Normalization":
            layer.adapt_mean.assign(_NORMALIZATION["mean"])
            layer.adapt_variance.assign(_NORMALIZATION["variance"])
            layer.finalize_state()

    def features() -> Features:
        submodel = type(model)(model.input, [layers[name].output for name in outputs.values()])
        maps = submodel(prepare(image(*SIZES[family]).astype(np.float64)))
        for level, tensor in zip(outputs, maps):
            yield level, np.asarray(tensor.detach())

    return "keras", architecture, family, shapes, features()


def main(folder: Path) -> None:
    """Write a classifier with a frozen network in it, fitted once, in Keras 3's two formats.

    The array of layer L that is the N-th there is `100 N + 0, 1, 2, ...`.
    """
    keras = _keras()
    layers = keras.layers
    pixels = layers.Input((4, 4, 3), name="pixels")
    x = layers.Normalization(name="normalization")(pixels)
    x = layers.Conv2D(2, 3, padding="same", name="stem_conv")(x)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = layers.DepthwiseConv2D(3, use_bias=False, name="block1a_dwconv")(x)
    network = keras.Model(pixels, x, name="network")
    network.trainable = False
    images = layers.Input((4, 4, 3), name="images")
    x = layers.GlobalAveragePooling2D(name="pool")(network(images))
    model = keras.Model(images, layers.Dense(2, name="own_head")(x), name="classifier")
    model.compile(optimizer="sgd", loss="mse", metrics=["mae"])
    model.fit(np.zeros((1, 4, 4, 3)), np.zeros((1, 2)), verbose=0)
    for layer in (*network.layers, model.get_layer("own_head")):
        values = [array.astype(np.float32) for array in layer.get_weights()]
        layer.set_weights(
            [100 * n + np.arange(a.size).reshape(a.shape) for n, a in enumerate(values)]
        )
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "classifier.h5")
    model.save(folder / "classifier.keras")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
