"""DINOv2 and DeiT weights with the array names of timm and of DINOv2's own hub.

`blocks.0.attn.qkv.weight` in both (and in DeiT's own files). DINOv2's hub also has a `mask_token`,
calls registers `register_tokens`, and its table of positions begins with that of the class token;
timm has added that one to the class token where there are registers (`reg_token`). Here it always
is: `class_token` comes with its position.
"""

from __future__ import annotations

import functools
import re

import numpy as np

from ports.converted import TORCH_LEAVES, Converted, Naming, State, gather, refuse_other

DINOV2 = ("dinov2_vits14", "dinov2_vits14_reg", "dinov2_vitb14", "dinov2_vitb14_reg")
ARCHITECTURES = (*DINOV2, "deit_small_patch16")
LICENCE = "Apache-2.0"
"""Of DINOv2's and DeiT's code and weights, by Meta."""

_TOP = {"class_token": "cls_token", "position": "pos_embed"}
_PARTS = {
    "norm1": "norm1",
    "qkv": "attn.qkv",
    "proj": "attn.proj",
    "scale1": "ls1.gamma",
    "norm2": "norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "scale2": "ls2.gamma",
}
_IGNORED = re.compile(r"^(mask_token$|head\.)")


def convert(architecture: str, state: State) -> Converted:
    """Convert a state dict of timm (`vit_small_patch14_dinov2`, `deit_small_patch16_224`, ...).

    Args:
        architecture: One of `ARCHITECTURES`.
        state: Array name -> array; kernels OIHW, those of linear layers `(out, in)`.

    Raises:
        InputError: Another architecture, or arrays missing, unknown or misshapen.
    """
    refuse_other(architecture, ARCHITECTURES, "timm")
    registers = architecture.endswith("_reg")
    return _gather(architecture, state if registers else _merged(state), "timm", "reg_token")


def convert_hub(architecture: str, state: State) -> Converted:
    """Convert a state dict of DINOv2's hub (`dinov2_vits14_pretrain.pth`, ...).

    Args:
        architecture: One of `DINOV2`.
        state: As of `convert`.

    Raises:
        InputError: Another architecture, or arrays missing, unknown or misshapen.
    """
    refuse_other(architecture, DINOV2, "DINOv2's hub")
    return _gather(architecture, _merged(state), "DINOv2's hub", "register_tokens")


def _gather(architecture: str, state: State, framework: str, registers: str) -> Converted:
    naming = Naming(
        framework=framework,
        array=functools.partial(_name, registers),
        statistics=".running_mean",  # of which there are none
        ignored=_IGNORED,
    )
    return gather(architecture, state, naming)


def _merged(state: State) -> State:
    """Add the first position to the class token. What does not fit is left to `gather` to name."""
    token, table = (np.asarray(state.get(name, 0)) for name in ("cls_token", "pos_embed"))
    real = all(np.issubdtype(array.dtype, np.floating) for array in (token, table))
    if not real or table.ndim != 3 or token.shape != table[:, :1].shape:
        return state
    with np.errstate(over="ignore", invalid="ignore"):
        merged = token.astype(np.float32) + table[:, :1].astype(np.float32)
    return {**state, "cls_token": merged, "pos_embed": table[:, 1:]}


def _name(registers: str, path: tuple[str, ...]) -> str:
    """`params, block1, qkv, kernel` -> `blocks.0.attn.qkv.weight`."""
    scope, *below = path[1:]
    if not below:
        return {**_TOP, "registers": registers}[scope]
    if scope.startswith("block"):
        scope = f"blocks.{int(scope.removeprefix('block')) - 1}.{_PARTS[below[0]]}"
        below = below[1:]
    elif scope == "patch_embed":
        scope = "patch_embed.proj"
    return ".".join([scope, *(TORCH_LEAVES[leaf] for leaf in below)])
