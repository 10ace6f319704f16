"""Weights of EfficientAD's teacher, the patch description network PDN-S.

`0.weight`, `3.weight`, `6.weight` and `8.weight` in the best known code (nelson1425/EfficientAd,
`models/teacher_small.pth`), `conv1.weight` to `conv4.weight` in anomalib's archive
(`pretrained_teacher_small.pth`).
"""

from __future__ import annotations

import re

from jaxad.core import Preprocess
from ports.converted import TORCH_LEAVES, Converted, Naming, State, gather, refuse_other

ARCHITECTURES = ("pdn_small",)
LICENCE = "Apache-2.0"
"""Of both codes, which the weights are published with."""

_PLACES = {"conv1": "0", "conv2": "3", "conv3": "6", "conv4": "8"}
"""Among convolutions, ReLUs and pools."""


def convert(architecture: str, state: State) -> Converted:
    """Convert a teacher's state dict. Both codes give it photos as torchvision's networks are.

    Args:
        architecture: One of `ARCHITECTURES`.
        state: Array name -> array; kernels OIHW.

    Raises:
        InputError: Another architecture, or arrays missing, unknown or misshapen.
    """
    refuse_other(architecture, ARCHITECTURES, "EfficientAD's")
    numbered = any(name.startswith("0.") for name in state)

    def name(path: tuple[str, ...]) -> str:
        _, convolution, leaf = path
        layer = _PLACES[convolution] if numbered else convolution
        return f"{layer}.{TORCH_LEAVES[leaf]}"

    naming = Naming(
        framework="EfficientAD",
        array=name,
        statistics=".running_mean",
        ignored=re.compile("(?!)"),  # none
    )
    return gather(architecture, state, naming, preprocess=Preprocess())
