"""Make `tests/golden/draem.npz`: training steps of DRAEM and its maps, by torch.

    python -m ports.golden_draem tests/golden/draem.npz     # needs the extra `parity` (torch)

A restatement in torch of the authors' recipe (github.com/VitjanZ/DRAEM: model_unet.py, loss.py,
train_DRAEM.py, test_DRAEM.py), with defects that are drawn here instead of simulated: both networks
and their BatchNorm, squared error, SSIM of range 1, focal loss, Adam, the smoothed maximum. Left
out are biases in front of BatchNorm, which it takes out again. Networks are narrow and drawn from a
seed (`ports/seeded.py`), the rate is a hundred times higher, so that two steps show; all is
computed in float64. Stored, of networks that halve twice: losses, a sample of every array after two
steps, map and image scores; of the whole networks, which compile slowly: losses of one step, map
and image scores before it.
"""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np

from ports.golden_pfm import pack
from ports.seeded import fill, sample

BATCH, SIZE, WIDTH, TELLING = 3, (32, 64), 4, 3
WHOLE, FEWER = 5, 2
"""How often the telling network halves the photo: in the authors' code, where steps are made."""
RATE = 1e-2


def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Photos and what is seen of them, `(B, H, W, 3)` from 0 to 1, and masks, `(B, H, W)`."""
    draw = np.random.default_rng(5)
    photos, textures = draw.random((2, BATCH, *SIZE, 3))
    masks = np.zeros((BATCH, *SIZE), bool)
    masks[0, 4:20, 8:30] = masks[1, 10:12] = True  # of the last photo nothing
    return photos, np.where(masks[..., None], 0.3 * photos + 0.7 * textures, photos), masks


def layers(halvings: int) -> dict[str, tuple[int, int]]:
    """Each convolution with BatchNorm: channels that come in and go out, by name."""
    found: dict[str, tuple[int, int]] = {}

    def chain(name: str, *widths: int) -> int:
        for n, pair in enumerate(itertools.pairwise(widths)):
            found[f"{name}.layer{n}"] = pair
        return widths[-1]

    # Of the authors' lists the beginnings (going in) and ends (coming out).
    x, w = 3, WIDTH
    for n, by in enumerate((1, 2, 4, 8, 8)[:halvings]):
        x = chain(f"rebuild.encode{n}", x, by * w, by * w)
    for n, (by, out) in enumerate(((8, 4), (4, 2), (2, 1), (1, 1))[5 - halvings :]):
        x = chain(f"rebuild.decode{n}", x, by * w, by * w, out * w)
    x, w, seen = 6, TELLING, []
    for n, by in enumerate((1, 2, 4, 8, 8, 8)[: halvings + 1]):
        x = chain(f"tell.encode{n}", x, by * w, by * w)
        seen.append(x)
    for n, by in enumerate((8, 4, 2, 1, 1)[5 - halvings :]):
        chain(f"tell.up{n}", x, by * w)
        x = chain(f"tell.decode{n}", by * w + seen[halvings - 1 - n], by * w, by * w)
    return found


def shapes(halvings: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all arrays, kernels OIHW."""
    found: dict[str, tuple[int, ...]] = {}
    for name, (inputs, outputs) in layers(halvings).items():
        found[f"{name}.conv.weight"] = (outputs, inputs, 3, 3)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.bn.{leaf}"] = (outputs,)
    for name, inputs, outputs in (("rebuild", WIDTH, 3), ("tell", TELLING, 2)):
        found[f"{name}.out.weight"] = (outputs, inputs, 3, 3)
        found[f"{name}.out.bias"] = (outputs,)
    return found


def networks(state: dict[str, Any], x: Any, halvings: int, *, train: bool) -> tuple[Any, Any]:
    """Rebuilt photos and logits; in training the running arrays move."""
    import torch
    from torch.nn import functional as F

    names = list(layers(halvings))

    def chain(x: Any, name: str) -> Any:
        for layer in (n for n in names if n.startswith(f"{name}.")):
            x = F.conv2d(x, state[f"{layer}.conv.weight"], padding=1)
            leaves = ("running_mean", "running_var", "weight", "bias")
            norm = (state[f"{layer}.bn.{leaf}"] for leaf in leaves)
            x = F.batch_norm(x, *norm, training=train).relu()
        return x

    def up(x: Any) -> Any:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

    def out(x: Any, name: str) -> Any:
        return F.conv2d(x, state[f"{name}.out.weight"], state[f"{name}.out.bias"], padding=1)

    y = x
    for n in range(halvings):
        y = chain(F.max_pool2d(y, 2) if n else y, f"rebuild.encode{n}")
    for n in range(halvings - 1):
        y = chain(up(y), f"rebuild.decode{n}")
    rebuilt = out(y, "rebuild")
    y, seen = torch.cat([rebuilt, x], 1), []
    for n in range(halvings + 1):
        y = chain(F.max_pool2d(y, 2) if n else y, f"tell.encode{n}")
        seen.append(y)
    for n in range(halvings):
        beside = torch.cat([chain(up(y), f"tell.up{n}"), seen[halvings - 1 - n]], 1)
        y = chain(beside, f"tell.decode{n}")
    return rebuilt, out(y, "tell")


def similarity(a: Any, b: Any) -> Any:
    """SSIM of images of range 1, `(B, C, H, W)`, mean over all."""
    import torch
    from torch.nn import functional as F

    taps = torch.exp(-((torch.arange(11, dtype=a.dtype) - 5) ** 2) / (2 * 1.5**2))
    taps = taps / taps.sum()
    window = torch.outer(taps, taps).expand(a.shape[1], 1, 11, 11)

    def mean(x: Any) -> Any:
        return F.conv2d(x, window, padding=5, groups=a.shape[1])

    of_a, of_b = mean(a), mean(b)
    var_a, var_b, both = mean(a * a) - of_a**2, mean(b * b) - of_b**2, mean(a * b) - of_a * of_b
    c1, c2 = 0.01**2, 0.03**2
    over = (2 * of_a * of_b + c1) * (2 * both + c2)
    return (over / ((of_a**2 + of_b**2 + c1) * (var_a + var_b + c2))).mean()


def losses_of(state: dict[str, Any], halvings: int) -> dict[str, Any]:
    """The three losses of a training step."""
    import torch
    from torch.nn import functional as F

    photos, seen, masks = drawn()
    true, x = (torch.from_numpy(p.transpose(0, 3, 1, 2).copy()) for p in (photos, seen))
    smooth = 1e-5
    wanted = F.one_hot(torch.from_numpy(masks).long(), 2).permute(0, 3, 1, 2).double()
    wanted = wanted.clamp(smooth, 1 - smooth)
    rebuilt, logits = networks(state, x, halvings, train=True)
    p = (wanted * torch.softmax(logits, 1)).sum(1) + smooth
    return {
        "l2": F.mse_loss(rebuilt, true),
        "ssim": 1 - similarity(rebuilt, true),
        "focal": (-((1 - p) ** 2) * p.log()).mean(),
    }


def scores_of(state: dict[str, Any], halvings: int) -> dict[str, np.ndarray]:
    """A sample of the maps, and the image scores."""
    import torch
    from torch.nn import functional as F

    x = torch.from_numpy(drawn()[1].transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        map_ = torch.softmax(networks(state, x, halvings, train=False)[1], 1)[:, 1:]
        means = F.avg_pool2d(map_, 21, 1, 10)
    return {"map": sample(map_.numpy()), "image": means.amax(dim=(1, 2, 3)).numpy()}


def computed() -> dict[str, np.ndarray]:
    """What is stored."""
    import torch

    def made(halvings: int) -> dict[str, Any]:
        values = fill(shapes(halvings))
        return {name: torch.from_numpy(x.astype(np.float64)) for name, x in values.items()}

    whole = made(WHOLE)
    out = {f"whole/{name}": value for name, value in scores_of(whole, WHOLE).items()}
    out |= {f"whole/{name}": x.numpy() for name, x in losses_of(whole, WHOLE).items()}
    state = made(FEWER)
    learnt = [state[name].requires_grad_() for name in state if "running" not in name]
    optimiser = torch.optim.Adam(learnt, lr=RATE)
    for step in range(2):
        losses = losses_of(state, FEWER)
        optimiser.zero_grad()
        torch.stack([*losses.values()]).sum().backward()
        optimiser.step()
        out |= {f"{name}{step}": loss.detach().numpy() for name, loss in losses.items()}
    out |= {f"after/{name}": sample(value.detach().numpy()) for name, value in state.items()}
    return out | scores_of(state, FEWER)


def main(path: str) -> None:
    """Write the golden file."""
    np.savez_compressed(path, **pack(computed()))  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1])
