"""Make `tests/golden/pfm.npz`: one training step of B-PFM as torch does it.

    python -m ports.golden_pfm tests/golden/pfm.npz     # needs the extra `parity` (torch)

A restatement of the authors' recipe in torch (github.com/smiler96/PFM-and-PEFM-for-Image-Anomaly-
Detection-and-Segmentation: two 1×1-convolution networks that share the third layer, L2-normalised
input, raw output, `Adam(weight_decay=1e-5)`), on small seeded features. Stored: the inputs, the
initial weights, and what one step makes of them, for the four variants of `jaxad.methods.pfm`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

C_S, C_T, C = 6, 10, 4
BATCH, SIZE, IMAGE = 3, 5, 17
VARIANTS = {
    "reference": {},
    "normalised": {"normalise_output": True},
    "everywhere": {"conv_block_everywhere": True},
    "one_way": {"bidirectional": False},
}


def layer_sizes(bidirectional: bool) -> dict[str, tuple[int, int]]:
    """(in, out) of every layer, by our name for it."""
    sizes = {"layer3_shared": (2 * C, C)}
    for direction, c_in, c_out in (("forward", C_S, C_T), ("reverse", C_T, C_S)):
        sizes |= {
            f"{direction}_layer1": (c_in, c_in // 2 + C),
            f"{direction}_layer2": (c_in // 2 + C, 2 * C),
            f"{direction}_layer4": (C, 2 * C),
            f"{direction}_layer5": (2 * C, c_out // 2 + C),
            f"{direction}_layer6": (c_out // 2 + C, c_out),
        }
        if not bidirectional:
            break
    return sizes


def pack(state: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """One vector and its table of contents instead of many small arrays (npz entries are large)."""
    contents = json.dumps([(name, value.shape) for name, value in state.items()])
    values = np.concatenate([np.asarray(value, np.float32).ravel() for value in state.values()])
    return {"contents": np.asarray(contents), "values": values}


def unpack(
    contents: np.ndarray[Any, Any], values: np.ndarray[Any, Any]
) -> dict[str, np.ndarray[Any, Any]]:
    """Undo `pack`."""
    state, start = {}, 0
    for name, shape in json.loads(str(contents)):
        size = int(np.prod(shape))
        state[name] = values[start : start + size].reshape(shape)
        start += size
    return state


def one_step(
    F_S: np.ndarray[Any, Any],
    F_T: np.ndarray[Any, Any],
    *,
    bidirectional: bool = True,
    normalise_output: bool = False,
    conv_block_everywhere: bool = False,
) -> dict[str, np.ndarray[Any, Any]]:
    """Loss, gradients, statistics and weights after one step, then map and image score."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32)
    layers = nn.ModuleDict()
    for name, (c_in, c_out) in layer_sizes(bidirectional).items():
        block = [nn.Conv2d(c_in, c_out, 1)]
        if conv_block_everywhere or not name.endswith(("layer3_shared", "layer6")):
            block += [nn.BatchNorm2d(c_out), nn.ReLU()]
        layers[name] = nn.Sequential(*block)
    out = {f"before/{k}": v.detach().clone().numpy() for k, v in layers.state_dict().items()}

    def network(x: Any, direction: str) -> Any:
        for part in ("layer1", "layer2", "shared", "layer4", "layer5", "layer6"):
            name = "layer3_shared" if part == "shared" else f"{direction}_{part}"
            x = layers[name](x)
        return F.normalize(x, p=2, dim=1) if normalise_output else x

    source, target = (
        F.normalize(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), p=2, dim=1)
        for x in (F_S, F_T)
    )

    def pairs() -> list[tuple[Any, Any]]:
        both = [(network(source, "forward"), target)]
        if bidirectional:
            both.append((network(target, "reverse"), source))
        return both

    layers.train()
    optimiser = torch.optim.Adam(layers.parameters(), lr=3e-3, weight_decay=1e-5)
    loss = sum(torch.mean((mapped - true) ** 2) for mapped, true in pairs())
    loss.backward()
    out["loss"] = loss.detach().numpy()
    out |= {f"grad/{k}": v.grad.numpy().copy() for k, v in layers.named_parameters()}
    optimiser.step()
    out |= {f"after/{k}": v.detach().clone().numpy() for k, v in layers.state_dict().items()}

    layers.eval()
    with torch.no_grad():
        maps = [torch.sum((true - mapped) ** 2, dim=1, keepdim=True) for mapped, true in pairs()]
        score_map = F.interpolate(
            sum(maps) / len(maps), size=IMAGE, mode="bilinear", align_corners=False
        )[:, 0]
    out["map"] = score_map.numpy()
    out["image"] = score_map.amax(dim=(1, 2)).numpy()
    return {k: v for k, v in out.items() if not k.endswith("num_batches_tracked")}


def main(path: str) -> None:
    """Write the golden file."""
    rng = np.random.default_rng(7)
    # After a ReLU, as backbone features are; one position is zero everywhere.
    F_S, F_T = (
        np.maximum(rng.normal(size=(BATCH, SIZE, SIZE, c)), 0).astype(np.float32)
        for c in (C_S, C_T)
    )
    F_S[0, 0, 0] = 0
    arrays = {"F_S": F_S, "F_T": F_T}
    for variant, switches in VARIANTS.items():
        results = one_step(F_S, F_T, **switches)
        arrays |= {f"{variant}/{k}": v for k, v in pack(results).items()}
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1])
