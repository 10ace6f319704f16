"""The frameworks whose array names are known, and which of them named the arrays of a file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxad.backbones import ARCHITECTURES, weights
from jaxad.core import InputError
from ports import (
    efficientad_names,
    efficientnet_pytorch_names,
    keras_names,
    timm_names,
    torchvision_names,
    vit_names,
)
from ports.converted import Converted, State


class Framework(NamedTuple):
    """What names the arrays of weight files."""

    convert: Callable[[str, State], Converted]
    """`convert(architecture, state)`."""
    architectures: tuple[str, ...]
    licence: str
    """Of its public weights, where nothing better is known: SPDX identifier."""
    owner: str
    """Who publishes them under it."""

    def __str__(self) -> str:
        return f"{self.licence} ({self.owner})"


NAMINGS: dict[str, Framework] = {
    "torchvision": Framework(
        torchvision_names.convert,
        torchvision_names.ARCHITECTURES,
        torchvision_names.LICENCE,
        "torchvision",
    ),
    "dinov2_hub": Framework(
        vit_names.convert_hub,
        vit_names.DINOV2,
        vit_names.LICENCE,
        "Meta",
    ),
    "timm": Framework(
        timm_names.convert,
        timm_names.ARCHITECTURES,
        timm_names.LICENCE,
        "timm",
    ),
    "timm_tf": Framework(
        timm_names.convert_tf,
        timm_names.TF_ARCHITECTURES,
        timm_names.LICENCE,
        "Google, ported by timm",
    ),
    "efficientnet_pytorch": Framework(
        efficientnet_pytorch_names.convert,
        efficientnet_pytorch_names.ARCHITECTURES,
        efficientnet_pytorch_names.LICENCE,
        "EfficientNet and EfficientNet-Lite, Google",
    ),
    "keras": Framework(
        keras_names.convert,
        keras_names.ARCHITECTURES,
        keras_names.LICENCE,
        "Keras Applications",
    ),
    "efficientad": Framework(
        efficientad_names.convert,
        efficientad_names.ARCHITECTURES,
        efficientad_names.LICENCE,
        "EfficientAD, anomalib",
    ),
}
"""In order of preference: where two namings read a file alike, the first is taken."""

_TORCH_CNN = r"layer1\.0\.|features\.0\.(weight|bias)$"
_TIMM_EFFICIENTNET = r"conv_stem\.|blocks\.0\.0\."
_VIT = r"blocks\.0\.norm1\."
_SIGNATURES: dict[str, re.Pattern[str]] = {
    "torchvision": re.compile(rf"^({_TORCH_CNN}|features\.0\.0\.)"),
    "dinov2_hub": re.compile(rf"^({_VIT}|mask_token$|register_tokens$)"),
    "timm": re.compile(rf"^({_TORCH_CNN}|{_TIMM_EFFICIENTNET}|{_VIT}|reg_token$)"),
    "timm_tf": re.compile(rf"^({_TIMM_EFFICIENTNET})"),
    "efficientnet_pytorch": re.compile(r"^_(conv_stem|blocks\.0)\."),
    "keras": re.compile(r"^(conv1_conv|block1_conv1|stem_conv)\."),
    "efficientad": re.compile(r"^(conv4|8)\.bias$"),
}
"""Names that every file of that naming has, whichever network it holds; one of them is enough."""
_TIMM_VGG_HEAD = ("pre_logits.fc1.", "head.fc.")
"""Beginnings of names of timm's VGGs that torchvision's do not have."""


def choose(
    architecture: str,
    state: State,
    *,
    naming: str | None = None,
    file_name: str = "",
    config: Mapping[str, Any] | None = None,
) -> str:
    """Tell which framework named the arrays of a file.

    Array names decide. Where two namings read them alike (ResNets of torchvision and timm, and
    VGGs without classifier), a `config.json` says that the file is timm's; without one the first of
    `NAMINGS` is taken. EfficientNets of timm come in two kinds with the same arrays, so there
    `config.json` decides, or else the name of the file.

    Args:
        architecture: What the file is meant to hold.
        state: Array name -> array; only the names matter.
        naming: A key of `NAMINGS` that is already known; it is only checked.
        file_name: The last part of the file's path.
        config: The parsed `config.json` beside the file: timm's has the key "architecture".

    Returns:
        A key of `NAMINGS`.

    Raises:
        InputError: No naming has such arrays, or none that covers the architecture, or nothing
            tells timm's two kinds apart.
    """
    covering = [key for key, row in NAMINGS.items() if architecture in row.architectures]
    if naming is not None:
        if naming not in covering:
            known = ", ".join(covering) or "none"
            raise InputError(f"no naming {naming!r} for {architecture}; known: {known}")
        return naming
    told = [
        key for key, pattern in _SIGNATURES.items() if any(pattern.search(name) for name in state)
    ]
    fitting = [key for key in told if key in covering]
    if not fitting:
        names = weights.few(sorted(state)) or "none at all"
        if told:
            what = f"are named as those of {' or '.join(told)}, which do not cover {architecture}"
        else:
            what = "have names of no known naming"
        raise InputError(f"its arrays ({names}) {what}; is it a file of {architecture}?")
    kind = None
    if "timm" in fitting:
        stated = str((config or {}).get("architecture", ""))
        kind = _timm_kind(architecture, stated, file_name)
        if any(name.startswith((*_TIMM_VGG_HEAD, "reg_token")) for name in state):
            kind = "timm"
        if kind is None and "timm_tf" in fitting:
            raise InputError(
                f"timm has two networks with these arrays, {architecture} and tf_{architecture}, "
                f"which pad differently, and nothing tells which this is; "
                f"pass --naming timm or --naming timm_tf"
            )
    return kind or fitting[0]


def _timm_kind(architecture: str, stated: str, file_name: str) -> str | None:
    """Tell timm's own networks from its `tf_` ones by what is beside the arrays, if anything is.

    Raises:
        InputError: The configuration is another network's.
    """
    if stated in (architecture, f"tf_{architecture}"):
        return "timm_tf" if stated.startswith("tf_") else "timm"
    if stated.removeprefix("tf_") in ARCHITECTURES:
        raise InputError(f"the config.json beside the file says {stated}, not {architecture}")
    if file_name.startswith("tf_efficientnet"):
        return "timm_tf"
    if file_name.startswith("efficientnet"):
        return "timm"
    return None
