"""How exactly an accelerator multiplies float32 numbers: decided here for every product.

A CPU multiplies in float32 whatever is asked. GPUs and TPUs have faster units that round what they
multiply: to 10 bits of mantissa (TF32), or to 7 (bfloat16). docs/precision.md has what that does to
scores.
"""

from __future__ import annotations

import jax

EXACT = jax.lax.Precision.HIGHEST
"""Full float32. For whatever becomes a score or a choice without a network in between: resizing,
smoothing and pooling of maps, distances and cosines, the choice and the mixture of experts, means
and spreads, and the merging of layers. These products are few and small."""

NETWORK: jax.lax.Precision | None = None
"""JAX's default, for the layers of networks, frozen or trained: TF32 on a GPU, one pass of bfloat16
on a TPU. `jax.config.update("jax_default_matmul_precision", "highest")` makes these exact too."""
