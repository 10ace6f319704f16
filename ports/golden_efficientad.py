"""Make `tests/golden/efficientad.npz`: two training steps of EfficientAD-S and its maps, by torch.

    python -m ports.golden_efficientad tests/golden/efficientad.npz     # needs the extra `parity`

A restatement in torch of the student's phase in the best known code (github.com/nelson1425/
EfficientAd: common.py, efficientad.py), without what it draws at random (dropout, colours): hard
features, penalty, autoencoder, Adam, quantiles of maps. Networks are narrow and drawn from a seed
(`ports/seeded.py`), photos are small, so the autoencoder's grids are those of 64 pixels. All is
computed in float64. Stored: losses, a sample of every array after two steps, quantiles, map and
image scores.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ports.golden_pfm import pack
from ports.seeded import fill, sample

BATCH, SIDE, CHANNELS, WIDTH, NARROW = 2, 64, 6, 4, 3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
UP = (1, 2, 3, 8, 15, 31)
"""Grids that the decoder is resized to before each convolution: 3, 8, 15, 32, 63, 127 of 256."""
GRID = 8
"""Of the teacher's map of 64 pixels: 56 of 256."""


def photos(seed: int) -> np.ndarray:
    """`(B, H, W, 3)` uint8: of seed 0 those of the parts, of seed 1 the penalty's (the first)."""
    return np.random.default_rng(seed).integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8)


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of all arrays, kernels OIHW."""
    found: dict[str, tuple[int, ...]] = {}

    def conv(name: str, inputs: int, outputs: int, size: int) -> None:
        found[f"{name}.weight"] = (outputs, inputs, size, size)
        found[f"{name}.bias"] = (outputs,)

    for name, channels in (("teacher", CHANNELS), ("student", 2 * CHANNELS)):
        conv(f"{name}.conv1", 3, WIDTH, 4)
        conv(f"{name}.conv2", WIDTH, 2 * WIDTH, 4)
        conv(f"{name}.conv3", 2 * WIDTH, 2 * WIDTH, 3)
        conv(f"{name}.conv4", 2 * WIDTH, channels, 4)
    before, wide = 3, 2 * NARROW
    for n, width in enumerate((NARROW, NARROW, wide, wide, wide)):
        conv(f"autoencoder.encode{n}", before, width, 4)
        before = width
    conv("autoencoder.vector", wide, wide, SIDE // 32)
    for n in range(6):
        conv(f"autoencoder.decode{n}", wide, wide, 4)
    conv("autoencoder.decode6", wide, wide, 3)
    conv("autoencoder.decode7", wide, CHANNELS, 3)
    return found


def two_steps() -> dict[str, np.ndarray]:
    """Losses, arrays after two steps, and what is then scored."""
    import torch
    from torch.nn import functional as F

    state = {
        name: torch.from_numpy(value.astype(np.float64)) for name, value in fill(shapes()).items()
    }

    def conv(x: Any, name: str, stride: int = 1, padding: int = 0) -> Any:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride, padding)

    def described(x: Any, name: str, pad: int = 0) -> Any:
        x = F.avg_pool2d(conv(x, f"{name}.conv1", 1, 3 * pad).relu(), 2, 2, pad)
        x = F.avg_pool2d(conv(x, f"{name}.conv2", 1, 3 * pad).relu(), 2, 2, pad)
        return conv(conv(x, f"{name}.conv3", 1, pad).relu(), f"{name}.conv4")

    def rebuilt(x: Any) -> Any:
        for n in range(5):
            x = conv(x, f"autoencoder.encode{n}", 2, 1).relu()
        x = conv(x, "autoencoder.vector")
        for n, size in enumerate(UP):
            x = F.interpolate(x, size=size, mode="bilinear")
            x = conv(x, f"autoencoder.decode{n}", 1, 2).relu()
        x = F.interpolate(x, size=GRID, mode="bilinear")
        return conv(conv(x, "autoencoder.decode6", 1, 1).relu(), "autoencoder.decode7", 1, 1)

    def prepared(images: np.ndarray) -> Any:
        x = (images / 255.0 - np.asarray(MEAN)) / np.asarray(STD)
        return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())

    x, other = prepared(photos(0)), prepared(photos(1)[:1])
    out: dict[str, np.ndarray] = {}
    out["padded"] = sample(described(x, "teacher", 1).numpy())
    learnt = [state[name].requires_grad_() for name in state if not name.startswith("teacher")]
    optimiser = torch.optim.Adam(learnt, lr=1e-4, weight_decay=1e-5)
    with torch.no_grad():
        teacher = described(x, "teacher")

    def distances() -> tuple[Any, Any, Any]:
        halves, own = described(x, "student").split(CHANNELS, dim=1), rebuilt(x)
        return (teacher - halves[0]) ** 2, (teacher - own) ** 2, (own - halves[1]) ** 2

    for step in range(2):
        structure, autoencoder, logic = distances()
        # One photo at a time there: so the quantile is that of each.
        hard = torch.stack([d[d >= torch.quantile(d, 0.99)].mean() for d in structure]).mean()
        # Of one photo, which each draws.
        penalty = (described(other, "student")[:, :CHANNELS] ** 2).mean()
        losses = {
            "hard": hard,
            "penalty": penalty,
            "autoencoder": autoencoder.mean(),
            "logic": logic.mean(),
        }
        optimiser.zero_grad()
        torch.stack([*losses.values()]).sum().backward()
        optimiser.step()
        out |= {f"{name}{step}": loss.detach().numpy() for name, loss in losses.items()}
    out |= {f"after/{name}": sample(value.detach().numpy()) for name, value in state.items()}
    with torch.no_grad():
        structure, _, logic = distances()
        total: Any = 0
        for name, distance in (("structure", structure), ("logic", logic)):
            map_ = distance.mean(dim=1, keepdim=True)
            low, high = (torch.quantile(map_, q) for q in (0.9, 0.995))
            out[f"{name}_quantiles"] = np.asarray([low, high])
            total = total + 0.5 * 0.1 * (map_ - low) / (high - low)
        total = F.interpolate(F.pad(total, (4, 4, 4, 4)), size=SIDE, mode="bilinear")
    out["map"], out["image"] = sample(total.numpy()), total.amax(dim=(1, 2, 3)).numpy()
    return out


def main(path: str) -> None:
    """Write the golden file."""
    np.savez_compressed(path, **pack(two_steps()))  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1])
