"""ResNet, VGG and EfficientNet weights with the array names of torchvision.

`layer1.0.conv1.weight`, `features.0.weight` and `features.2.0.block.0.0.weight`. BatchNorm may have
been folded already (`conv1.weight` and `conv1.bias`, no `bn1`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from jaxad.backbones import Variant
from jaxad.backbones.vgg import CONVOLUTIONS
from jaxad.core import Preprocess
from ports.converted import (
    TORCH_LEAVES,
    Converted,
    Naming,
    State,
    gather,
    refuse_other,
    stage_and_place,
)

RESNETS = ("resnet18", "resnet34", "resnet50", "wide_resnet50_2")
VGGS = ("vgg16", "vgg19", "vgg16_bn", "vgg19_bn")
EFFICIENTNETS = tuple(f"efficientnet_b{i}" for i in range(8))
ARCHITECTURES = (*RESNETS, *VGGS, *EFFICIENTNETS)
LICENCE = "BSD-3-Clause"
"""Of torchvision, which its weights are published with."""

_EPSILON_1E_3 = ("efficientnet_b5", "efficientnet_b6", "efficientnet_b7")
"""torchvision took these from EfficientNet-PyTorch, and the smaller ones from timm."""
_PARTS = ("expand_conv", "depthwise_conv", "squeeze_excite", "project_conv")
_IGNORED = re.compile(r"^(fc|classifier)\.|\.num_batches_tracked$")


def convert(architecture: str, state: State) -> Converted:
    """Convert a torchvision state dict.

    EfficientNets pad symmetrically and were evaluated on images resized bicubically (all but the
    second recipe of B1); their BatchNorm has epsilon 1e-5 up to B4 and 1e-3 from B5.

    Args:
        architecture: One of `ARCHITECTURES`.
        state: Array name -> array; kernels OIHW.

    Raises:
        InputError: Another architecture, or arrays missing, unknown or misshapen.
    """
    refuse_other(architecture, ARCHITECTURES, "torchvision")
    if architecture in EFFICIENTNETS:
        name: Callable[[tuple[str, ...]], str] = functools.partial(_efficientnet_name, architecture)
    else:
        name = cnn_name(architecture)
    naming = Naming(
        framework="torchvision",
        array=name,
        statistics=".running_mean",
        ignored=_IGNORED,
        bias_before_norm=architecture in VGGS,
    )
    return gather(
        architecture,
        state,
        naming,
        preprocess=Preprocess(resize="bicubic" if architecture in EFFICIENTNETS else "bilinear"),
        variant=Variant(epsilon=1e-3 if architecture in _EPSILON_1E_3 else 1e-5),
    )


def cnn_name(architecture: str) -> Callable[[tuple[str, ...]], str]:
    """How torchvision (and timm) name the arrays of a ResNet or VGG: our path -> their name."""
    if architecture in VGGS:
        return functools.partial(_vgg_name, architecture)
    return _resnet_name


def _resnet_name(path: tuple[str, ...]) -> str:
    """`params, layer1_0, conv2, bn, scale` -> `layer1.0.bn2.weight`."""
    *block, module, kind, leaf = path[1:]
    if module == "downsample":
        module = "downsample.0" if kind == "conv" else "downsample.1"
    else:
        module = module.replace("conv", kind)
    scopes = [scope.replace("_", ".") for scope in block]
    return ".".join([*scopes, module, TORCH_LEAVES[leaf]])


def _vgg_name(architecture: str, path: tuple[str, ...]) -> str:
    """`params, block1_conv2, conv, kernel` -> `features.2.weight`, `features.3.` with BatchNorm."""
    _, scope, kind, leaf = path
    depth, batch_norm = architecture.removesuffix("_bn"), architecture.endswith("_bn")
    block, place = (int(digits) for digits in re.findall(r"\d+", scope))
    step = 3 if batch_norm else 2  # convolution, (BatchNorm,) ReLU
    before = sum(n * step + 1 for n in CONVOLUTIONS[depth][: block - 1])  # 1: the pool
    number = before + (place - 1) * step + (kind == "bn")
    return f"features.{number}.{TORCH_LEAVES[leaf]}"


def _efficientnet_name(architecture: str, path: tuple[str, ...]) -> str:
    """`params, blocks_1, expand_conv, bn, scale` -> `features.2.0.block.0.1.weight`."""
    *block, module, kind, leaf = path[1:]
    child = {"conv": "0", "bn": "1", "reduce": "fc1", "expand": "fc2"}[kind]
    if not block:
        end = 0 if module == "conv_stem" else 8
        return f"features.{end}.{child}.{TORCH_LEAVES[leaf]}"
    stage, place = stage_and_place(architecture, block[0])
    part = _PARTS.index(module) - (stage == 0)  # the first stage does not expand
    return f"features.{stage + 1}.{place}.block.{part}.{child}.{TORCH_LEAVES[leaf]}"
