"""How XLA is asked to compile programs that score."""

from __future__ import annotations

from typing import Any

import jax

_FUSE = "LIBRARY_FUSION_TYPE_"
CPU_OPTIONS: dict[str, str | bool] = {
    "xla_cpu_experimental_ynn_fusion_type": ",".join(
        _FUSE + kind for kind in ("INDIVIDUAL_DOT", "INDIVIDUAL_CONVOLUTION", "ELTWISE")
    )
}
"""XLA's defaults and bias, ReLU and sums in one pass with the products before them. Not in
bfloat16, where jax 0.12.0.1 then computes NaN, and not for networks with depthwise convolutions,
whose sums of shifted products then take twice as long (benchmarks/NOTES.md)."""


MOST_CONSTANTS = 1 << 29
"""Bytes of weights that a program may hold as constants. XLA takes at most 2 GB, and several times
a program's size while it compiles."""


def fit_as_constants(variables: Any) -> bool:
    """Whether a program may hold these arrays as constants."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(variables))
    return bool(size <= MOST_CONSTANTS)


def has_depthwise(variables: Any) -> bool:
    """Whether a kernel `(kh, kw, 1, C)` is among them, larger than 1 x 1."""
    return any(
        leaf.ndim == 4 and leaf.shape[2] == 1 and leaf.shape[0] * leaf.shape[1] > 1
        for leaf in jax.tree.leaves(variables)
    )
