"""BatchNorm folding: the running statistics go into the convolution before it.

No XLA pass does this across the arguments of a program, and on a GPU the fused convolution with
bias and ReLU is only found once the multiplication between them is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxad.core import Variables


def fold_batch_norm(variables: Variables, epsilon: float) -> Variables:
    """Fold every `bn` into the `conv` beside it; the result fits the module with `folded=True`.

    With `a = scale / sqrt(var + epsilon)`: `kernel' = kernel * a` over output channels and
    `bias' = beta + (bias - mean) * a`, so inference with running statistics is unchanged (to
    float32 rounding). Scopes without both children, and other collections, are passed through;
    variables without any `bn` come back as they are. Works on NumPy and on JAX arrays.

    Args:
        variables: With "params" and, where there is BatchNorm, "batch_stats".
        epsilon: The one the network was trained with.

    Returns:
        New variables; "batch_stats" is gone when nothing is left in it.
    """
    params, stats = _fold(variables["params"], variables.get("batch_stats", {}), epsilon)
    rest = {k: v for k, v in variables.items() if k not in ("params", "batch_stats")}
    return {"params": params, **({"batch_stats": stats} if stats else {}), **rest}


def _fold(
    params: Mapping[str, Any], stats: Mapping[str, Any], epsilon: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fold the scope whose parameters and statistics are given."""
    new_params, new_stats = dict(params), dict(stats)
    if "conv" in params and "bn" in params and "bn" in stats:
        conv, bn, running = dict(new_params["conv"]), new_params.pop("bn"), new_stats.pop("bn")
        kernel = conv["kernel"]
        a = bn["scale"] * (running["var"] + epsilon) ** -0.5
        conv["kernel"] = kernel * a.reshape((1,) * (kernel.ndim - 1) + (-1,))
        shift = conv["bias"] - running["mean"] if "bias" in conv else -running["mean"]
        conv["bias"] = bn["bias"] + shift * a
        new_params["conv"] = conv
    for name, child in new_params.items():
        if isinstance(child, Mapping):
            below = new_stats.get(name, {})
            new_params[name], left = _fold(child, below, epsilon)
            if name in new_stats:
                new_stats[name] = left
                if not left:
                    del new_stats[name]
    return new_params, new_stats
