"""Make `tests/golden/simplenet.npz`: SimpleNet's patch features and one training step, by torch.

    python -m ports.golden_simplenet tests/golden/simplenet.npz     # needs the extra `parity`

A restatement of the authors' recipe in torch (github.com/DonaldRR/SimpleNet: run.sh, simplenet.py,
common.py): unfolded 3 x 3 neighbourhoods, the coarser level resized, two adaptive poolings; then
an adaptor and a discriminator, their margin loss on true and noised features, two optimisers.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ports.golden_pfm import pack

LEVELS = {"fine": (2, 6, 5, 8), "coarse": (2, 3, 3, 16)}
"""Shapes `(B, h, w, C)`."""
WIDTH, HIDDEN, COUNT, NOISE = 12, 10, 20, 0.3


def patches(maps: list[Any]) -> Any:
    """The reference's `_embed`: `(B, h, w, WIDTH)` from `(B, C, h, w)` of each level."""
    import torch
    from torch.nn import functional as F

    size = maps[0].shape[2:]
    parts = []
    for x in maps:
        batch, channels, h, w = x.shape
        p = F.unfold(x, kernel_size=3, padding=1).reshape(batch, channels, 3, 3, h, w)
        if (h, w) != tuple(size):
            p = F.interpolate(
                p.reshape(batch, -1, h, w), size=size, mode="bilinear", align_corners=False
            ).reshape(batch, channels, 3, 3, *size)
        p = p.permute(0, 4, 5, 1, 2, 3).reshape(-1, 1, channels * 9)
        parts.append(F.adaptive_avg_pool1d(p, WIDTH)[:, 0])
    stacked = torch.stack(parts, dim=1).reshape(len(parts[0]), 1, -1)
    return F.adaptive_avg_pool1d(stacked, WIDTH).reshape(-1, *size, WIDTH)


def one_step(x: Any, noise: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Loss, gradients, and weights and statistics after one step, then scores."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    adaptor = nn.Linear(WIDTH, WIDTH)
    discriminator = nn.Sequential(
        nn.Linear(WIDTH, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.LeakyReLU(0.2)
    )
    discriminator.append(nn.Linear(HIDDEN, 1, bias=False))
    nets = nn.ModuleDict({"adaptor": adaptor, "discriminator": discriminator})
    out = {f"before/{k}": v.detach().clone().numpy() for k, v in nets.state_dict().items()}
    optimisers = [
        torch.optim.AdamW(adaptor.parameters(), lr=1e-4),
        torch.optim.Adam(discriminator.parameters(), lr=2e-4, weight_decay=1e-5),
    ]
    nets.train()
    true = adaptor(x)
    scores = discriminator(torch.cat([true, true + noise]))[:, 0]
    s_true, s_fake = scores[: len(x)], scores[len(x) :]
    loss = torch.clip(0.5 - s_true, min=0).mean() + torch.clip(s_fake + 0.5, min=0).mean()
    loss.backward()
    out["loss"] = loss.detach().numpy()
    out |= {f"grad/{k}": v.grad.numpy().copy() for k, v in nets.named_parameters()}
    for optimiser in optimisers:
        optimiser.step()
    out |= {f"after/{k}": v.detach().clone().numpy() for k, v in nets.state_dict().items()}
    nets.eval()
    with torch.no_grad():
        out["scores"] = -discriminator(adaptor(x))[:, 0].numpy()
    return {k: v for k, v in out.items() if not k.endswith("num_batches_tracked")}


def main(path: str) -> None:
    """Write the golden file."""
    import torch

    rng = np.random.default_rng(7)
    arrays = {n: rng.normal(size=shape).astype(np.float32) for n, shape in LEVELS.items()}
    maps = [torch.from_numpy(x.transpose(0, 3, 1, 2).copy()) for x in arrays.values()]
    arrays["patches"] = patches(maps).numpy()
    arrays["x"] = rng.normal(size=(COUNT, WIDTH)).astype(np.float32)
    arrays["noise"] = (NOISE * rng.normal(size=(COUNT, WIDTH))).astype(np.float32)
    arrays |= pack(one_step(*(torch.from_numpy(arrays[name]) for name in ("x", "noise"))))
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1])
