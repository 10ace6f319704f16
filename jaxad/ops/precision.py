"""How exactly an accelerator multiplies float32 numbers: decided here for every product.

A CPU multiplies in float32 whatever is asked. GPUs and TPUs have faster units that round what they
multiply: to 10 bits of mantissa (TF32), or to 7 (bfloat16). docs/precision.md has what that does to
scores. Where networks compute in bfloat16 altogether, what stays float32 is decided here, too.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxad.core import Array, Variables

EXACT = jax.lax.Precision.HIGHEST
"""Full float32. For whatever becomes a score or a choice without a network in between: resizing,
smoothing and pooling of maps, distances and cosines, the choice and the mixture of experts, means
and spreads, and the merging of layers. These products are few and small."""

NETWORK: jax.lax.Precision | None = None
"""JAX's default, for the layers of networks, frozen or trained: TF32 on a GPU, one pass of bfloat16
on a TPU. `jax.config.update("jax_default_matmul_precision", "highest")` makes these exact too."""

KEPT = frozenset({"norm", "norm1", "norm2", "bn", "router"})
"""Scopes of parameters that stay float32: normalisation, and the choice of experts."""


def rounded(variables: Variables, dtype: str) -> Variables:
    """Parameters in the type in which networks compute with them; `KEPT` and statistics stay.

    A pure function of arrays: through it, gradients reach the float32 parameters as float32.

    Args:
        variables: Trees with a collection `params` in them.
        dtype: "float32" (all as it is) or "bfloat16".
    """

    def cast(path: Any, leaf: Array) -> Array:
        names = {getattr(key, "key", None) for key in path}
        kept = names & KEPT or "params" not in names
        return leaf if kept else jnp.asarray(leaf).astype(dtype)

    if dtype == "float32":
        return variables
    cast_all: Variables = jax.tree_util.tree_map_with_path(cast, variables)
    return cast_all


def at_least_float32(x: Array) -> Array:
    """`x`, in float32 if it is of half precision: for statistics, losses and scores."""
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x
