"""ResNet, VGG, EfficientNet and ViT weights with the array names of timm.

ResNets and VGGs have torchvision's names. EfficientNets come in two kinds under the same names
(`conv_stem.weight`, `blocks.1.0.conv_pw.weight`), and no array tells them apart: timm's own pad
symmetrically and have epsilon 1e-5, its `tf_` models keep TensorFlow's dynamic "SAME" and 1e-3.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

from jaxad.backbones import Variant
from jaxad.backbones.weight_file import check_pixels
from jaxad.core import InputError, Preprocess
from ports import vit_names
from ports.converted import (
    TORCH_LEAVES,
    Converted,
    Naming,
    State,
    gather,
    refuse_other,
    stage_and_place,
)
from ports.torchvision_names import RESNETS, VGGS, cnn_name

TF_ARCHITECTURES = (
    *(f"efficientnet_b{i}" for i in range(8)),
    *(f"efficientnet_lite{i}" for i in range(5)),
)
ARCHITECTURES = (*RESNETS, *VGGS, *TF_ARCHITECTURES, *vit_names.ARCHITECTURES)
LICENCE = "Apache-2.0"
"""Of the weights that timm's authors trained, and of Google's behind the `tf_` models."""

_HALF = Preprocess(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
_FIRST = {  # stage: a depthwise convolution and a pointwise one
    ("depthwise_conv", "conv"): "conv_dw",
    ("depthwise_conv", "bn"): "bn1",
    ("project_conv", "conv"): "conv_pw",
    ("project_conv", "bn"): "bn2",
}
_LATER = {
    ("expand_conv", "conv"): "conv_pw",
    ("expand_conv", "bn"): "bn1",
    ("depthwise_conv", "conv"): "conv_dw",
    ("depthwise_conv", "bn"): "bn2",
    ("project_conv", "conv"): "conv_pwl",
    ("project_conv", "bn"): "bn3",
}
_IGNORED = {
    "resnet": re.compile(r"^fc\.|\.num_batches_tracked$"),
    "vgg": re.compile(r"^(pre_logits|head)\.|\.num_batches_tracked$"),
    "efficientnet": re.compile(r"^classifier\.|\.num_batches_tracked$"),
}


def convert(architecture: str, state: State) -> Converted:
    """Convert a state dict of timm's own training (`resnet50`, `efficientnet_b4`, ...).

    Args:
        architecture: One of `ARCHITECTURES`.
        state: Array name -> array; kernels OIHW.

    Returns:
        The weights, with the pixels of timm's default ones: resized bicubically (VGG's came from
        torchvision), with ImageNet's mean and standard deviation (EfficientNet-B1's: 0.5). Other
        weights of timm differ in this; `with_config` reads what is stated beside them.

    Raises:
        InputError: Another architecture, or arrays missing, unknown or misshapen.
    """
    if architecture in vit_names.ARCHITECTURES:
        return vit_names.convert(architecture, state)
    refuse_other(architecture, ARCHITECTURES, "timm")
    usual = _HALF if architecture == "efficientnet_b1" else Preprocess()
    resize = "bilinear" if architecture in VGGS else "bicubic"
    return gather(
        architecture,
        state,
        _naming(architecture, "timm"),
        preprocess=dataclasses.replace(usual, resize=resize),
        variant=Variant(),
    )


def convert_tf(architecture: str, state: State) -> Converted:
    """Convert a state dict of one of timm's `tf_efficientnet_` models.

    The pixels are those of its default weights; see `with_config` for others. Lite was trained on
    images resized bilinearly, with mean and standard deviation close to 0.5.

    Args:
        architecture: One of `TF_ARCHITECTURES`, without timm's `tf_`.
        state: Array name -> array; kernels OIHW.

    Raises:
        InputError: Another architecture, or arrays missing, unknown or misshapen.
    """
    refuse_other(architecture, TF_ARCHITECTURES, "timm's tf_")
    lite = architecture.startswith("efficientnet_lite")
    return gather(
        architecture,
        state,
        _naming(architecture, "timm's tf_"),
        preprocess=_HALF if lite else Preprocess(resize="bicubic"),
        variant=Variant(epsilon=1e-3, padding="same"),
    )


def with_config(converted: Converted, config: Mapping[str, Any]) -> Converted:
    """Take the preprocessing that the hub's `config.json` states beside its weights.

    Sets of weights of one timm network may differ in nothing but that: `ap_in1k` has mean and
    standard deviation 0.5, `tv_in1k` bilinear resizing.

    Args:
        converted: What `convert` or `convert_tf` made.
        config: The parsed file; one without such entries changes nothing.

    Raises:
        InputError: The entries are no mean and standard deviation of three channels and a filter.
    """
    said = config.get("pretrained_cfg") or config  # older files have the entries themselves
    usual = converted.preprocess
    try:
        mean, std = (tuple(said.get(key, getattr(usual, key))) for key in ("mean", "std"))
        resize = said.get("interpolation", usual.resize)
        preprocess = Preprocess(mean=mean, std=std, resize=resize)
        check_pixels(preprocess)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"config.json: its pixels are not usable ({error}); fetch it again"
        ) from None
    return converted._replace(preprocess=preprocess)


def _naming(architecture: str, framework: str) -> Naming:
    family = "vgg" if architecture in VGGS else "resnet"
    name = cnn_name(architecture)
    if architecture in TF_ARCHITECTURES:
        family, name = "efficientnet", functools.partial(_efficientnet_name, architecture)
    return Naming(
        framework=framework,
        array=name,
        statistics=".running_mean",
        ignored=_IGNORED[family],
        bias_before_norm=family == "vgg",
    )


def _efficientnet_name(architecture: str, path: tuple[str, ...]) -> str:
    """`params, blocks_1, expand_conv, bn, scale` -> `blocks.1.0.bn1.weight`."""
    *block, module, kind, leaf = path[1:]
    leaf = TORCH_LEAVES[leaf]
    if not block:
        bn = "bn1" if module == "conv_stem" else "bn2"
        return f"{module if kind == 'conv' else bn}.{leaf}"
    stage, place = stage_and_place(architecture, block[0])
    if module == "squeeze_excite":
        part = f"se.conv_{kind}"
    else:
        part = (_LATER if stage else _FIRST)[module, kind]
    return f"blocks.{stage}.{place}.{part}.{leaf}"
