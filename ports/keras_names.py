"""ResNet-50, VGG and EfficientNet weights with the layer names of `keras.applications`.

`conv2_block1_1_conv.kernel`, `block1_conv1.bias` and `block2a_dwconv.depthwise_kernel`, as
`ports/hdf5.py` names the arrays of `.h5`, `.weights.h5` and `.keras` files. Kernels may also be
called `.weight`, as in files that were made of Keras' with another tool.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable

import numpy as np

from jaxad.backbones import Variant, weights
from jaxad.backbones.architectures import CAFFE, IMAGENET
from jaxad.core import InputError, Preprocess
from ports.converted import Converted, Naming, State, gather, refuse_other, stage_and_place

VGGS = ("vgg16", "vgg19")
EFFICIENTNETS = tuple(f"efficientnet_b{i}" for i in range(8))
ARCHITECTURES = ("resnet50_keras", *VGGS, *EFFICIENTNETS)
LICENCE = "Apache-2.0"
"""Of Keras and of Google's EfficientNets; `ports.sources` has those of the other networks."""

_LEAVES = {
    "kernel": "kernel",
    "bias": "bias",
    "scale": "gamma",
    "mean": "moving_mean",
    "var": "moving_variance",
}
_KERNELS = ("weight", "depthwise_kernel")
"""What `kernel` is also called; Keras 2 has the second."""
_NORMALIZATION = re.compile(r"normalization(_\d+)?\.(mean|variance)$")
_PARTS = {
    ("conv_stem", "conv"): "stem_conv",
    ("conv_stem", "bn"): "stem_bn",
    ("expand_conv", "conv"): "expand_conv",
    ("expand_conv", "bn"): "expand_bn",
    ("depthwise_conv", "conv"): "dwconv",
    ("depthwise_conv", "bn"): "bn",
    ("squeeze_excite", "reduce"): "se_reduce",
    ("squeeze_excite", "expand"): "se_expand",
    ("project_conv", "conv"): "project_conv",
    ("project_conv", "bn"): "project_bn",
    ("conv_head", "conv"): "top_conv",
    ("conv_head", "bn"): "top_bn",
}


def convert(architecture: str, state: State) -> Converted:
    """Convert the arrays of a network of `keras.applications`.

    In ResNet-50 (version 1) every convolution has a bias before its BatchNorm; it goes into the
    running mean. Layers that the network has no name for, such as a classifier of one's own, are
    left out.

    Args:
        architecture: One of `ARCHITECTURES`.
        state: Array name -> array; kernels HWIO (depthwise HWC1), or OIHW.

    Returns:
        The weights and their preprocessing: that of `preprocess_input` (ResNet-50 and VGG), or of
        the layers that EfficientNets begin with, as `efficientnet_preprocess` says.

    Raises:
        InputError: Another architecture, or arrays missing, unknown or misshapen.
    """
    refuse_other(architecture, ARCHITECTURES, "Keras")
    name: Callable[[tuple[str, ...]], str] = _resnet_name
    layers, preprocess, variant = r"conv[1-5]_", CAFFE, None
    if architecture in VGGS:
        name, layers = _vgg_name, r"block\d_conv\d\."
    elif architecture in EFFICIENTNETS:
        name = functools.partial(_efficientnet_name, architecture)
        layers = r"stem_|block\d+[a-z]+_|top_(conv|bn)\."
        preprocess = efficientnet_preprocess(state)
        variant = Variant(epsilon=1e-3, padding="same")
    own = {_canonical(key): array for key, array in state.items() if re.match(layers, key)}
    naming = Naming(
        framework="Keras",
        array=name,
        statistics=".moving_mean",
        ignored=re.compile("(?!)"),  # none: the other layers are gone already
        bias_before_norm=architecture == "resnet50_keras",
        hwio=True,
    )
    return gather(architecture, own, naming, preprocess=preprocess, variant=variant)


def efficientnet_preprocess(state: State) -> Preprocess:
    """Return what the first layers of a Keras EfficientNet do to pixels.

    They are `Rescaling(1/255)`, `Normalization` (`(x - mean) / sqrt(variance)`) and, where Keras
    loads ImageNet weights itself, `Rescaling(1/sqrt(std))`. For the "variance" in the published
    files is ImageNet's standard deviation, so only both together are `(x - mean) / std`, which the
    weights were trained with (tensorflow issue 49930). Which layers a file was saved with its
    arrays do not tell, but that variance does. Another one comes from `adapt` in a network of
    one's own, which has no third layer.

    Args:
        state: The arrays `mean` and `variance`, `(3,)`, of layers called `normalization` or
            `normalization_1` (as Keras counts) are looked at; without them the weights are taken
            for ImageNet's.

    Raises:
        InputError: They are not three finite numbers, or not positive, or of several layers.
    """
    usual = dataclasses.replace(IMAGENET, resize="bicubic")
    found = {key: array for key, array in state.items() if _NORMALIZATION.match(key)}
    layers = sorted({key.partition(".")[0] for key in found})
    if not layers:
        return usual
    if len(layers) > 1:
        raise InputError(f"it has several layers of preprocessing: {weights.few(layers)}")
    pair = [found.get(f"{layers[0]}.{leaf}") for leaf in ("mean", "variance")]
    if not all(array is not None and array.size == 3 for array in pair):
        raise InputError(f"{layers[0]}.mean and .variance are not three numbers each")
    mean, variance = (np.asarray(array, np.float64).ravel() for array in pair)
    if not (np.isfinite(mean).all() and np.isfinite(variance).all() and (variance > 0).all()):
        raise InputError(f"{layers[0]} holds values that no layer has; the weights are damaged")
    if np.allclose(mean, IMAGENET.mean, 0, 1e-4) and np.allclose(variance, IMAGENET.std, 0, 1e-4):
        return usual
    std = np.maximum(np.sqrt(variance), 1e-7)  # Keras' own bound
    return dataclasses.replace(usual, mean=_triple(mean), std=_triple(std))


def _triple(array: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = array.tolist()
    return red, green, blue


def _canonical(name: str) -> str:
    layer, _, leaf = name.rpartition(".")
    return f"{layer}.kernel" if leaf in _KERNELS else name


def _leaf(kind: str, leaf: str) -> str:
    return "beta" if (kind, leaf) == ("bn", "bias") else _LEAVES[leaf]


def _resnet_name(path: tuple[str, ...]) -> str:
    """`params, layer1_0, conv2, bn, scale` -> `conv2_block1_2_bn.gamma`."""
    *block, module, kind, leaf = path[1:]
    if block:
        stage, place = (int(digits) for digits in re.findall(r"\d+", block[0]))
        number = "0" if module == "downsample" else module.removeprefix("conv")
        module = f"conv{stage + 1}_block{place + 1}_{number}"
    return f"{module}_{kind}.{_leaf(kind, leaf)}"


def _vgg_name(path: tuple[str, ...]) -> str:
    """`params, block1_conv2, conv, kernel` -> `block1_conv2.kernel`."""
    return f"{path[1]}.{_LEAVES[path[-1]]}"


def _efficientnet_name(architecture: str, path: tuple[str, ...]) -> str:
    """`params, blocks_1, expand_conv, bn, scale` -> `block2a_expand_bn.gamma`."""
    *block, module, kind, leaf = path[1:]
    prefix = ""
    if block:
        stage, place = stage_and_place(architecture, block[0])
        prefix = f"block{stage + 1}{chr(ord('a') + place)}_"
    return f"{prefix}{_PARTS[module, kind]}.{_leaf(kind, leaf)}"
