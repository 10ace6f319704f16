"""Make `tests/golden/uniad.npz`: one training step and a map of UniAD, by torch.

    python -m ports.golden_uniad tests/golden/uniad.npz     # needs the extra `parity` (torch)

The arithmetic of the authors' code (github.com/zhiyuanyou/UniAD: models/reconstructions/uniad.py,
models/necks/mfcn.py, utils/eval_helper.py) with torch's layers, in float64, without dropout; the
jitter's noise is given. Features and weights come from a seed; loss, gradients, some updated
weights, the map and the image scores of the weights as they were are stored.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ports.golden_pfm import pack

STAGES = {"fine": (3, 8, 10, 2), "grid": (3, 4, 5, 3)}
"""Shapes `(B, h, w, C)`; tokens lie on the second's grid."""
GRID, CHANNELS, IMAGE, POOLING = (4, 5), 5, (32, 40), 8
WIDTH, HEADS, INNER, LAYERS, NEIGHBOURS = 8, 2, 12, 2, 3
JITTER, CLIP, STEPS = 20.0, 0.1, 10
POSITIONS = ("learned", "sine")
STORED_AFTER = ("encoder0/attention0/query/kernel", "decoder1/queries", "enter/bias")
Arrays = dict[str, np.ndarray[Any, Any]]


def array_shapes(position: str) -> dict[str, tuple[int, ...]]:
    """Of every weight, by our name for it."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}/kernel"], shapes[f"{name}/bias"] = (inputs, outputs), (outputs,)

    def norm(name: str) -> None:
        shapes[f"{name}/scale"] = shapes[f"{name}/bias"] = (WIDTH,)

    linear("enter", CHANNELS, WIDTH)
    linear("leave", WIDTH, CHANNELS)
    norm("norm")
    if position == "learned":
        shapes["rows"], shapes["columns"] = (GRID[0], WIDTH // 2), (GRID[1], WIDTH // 2)
    for part, attentions in (("encoder", 1), ("decoder", 2)):
        for i in range(LAYERS):
            layer = f"{part}{i}"
            if part == "decoder":
                shapes[f"{layer}/queries"] = (GRID[0] * GRID[1], WIDTH)
            for j in range(attentions):
                for name in ("query", "key", "value", "out"):
                    linear(f"{layer}/attention{j}/{name}", WIDTH, WIDTH)
                norm(f"{layer}/attended{j}/norm")
            linear(f"{layer}/expand", WIDTH, INNER)
            linear(f"{layer}/project", INNER, WIDTH)
            norm(f"{layer}/fed/norm")
    return shapes


def inputs(position: str) -> tuple[Arrays, Arrays, np.ndarray[Any, Any]]:
    """Features, weights, and the noise `(B, h, w, C)` of the jitter, float32."""
    rng = np.random.default_rng(12)
    features = {name: rng.normal(size=s).astype(np.float32) for name, s in STAGES.items()}
    noise = rng.normal(size=(3, *GRID, CHANNELS)).astype(np.float32)
    arrays = {}
    for name, shape in array_shapes(position).items():
        if name.endswith("/scale"):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            spread = shape[0] ** -0.5 if name.endswith("/kernel") else 0.3
            value = rng.normal(size=shape) * spread
        arrays[name] = value.astype(np.float32)
    return features, arrays, noise


def positions(arrays: dict[str, Any], position: str) -> Any:
    """The reference's position embedding, `(n, WIDTH)`."""
    import torch

    (h, w), half = GRID, WIDTH // 2
    if position == "learned":
        across = arrays["columns"].unsqueeze(0).expand(h, w, half)
        down = arrays["rows"].unsqueeze(1).expand(h, w, half)
        return torch.cat([across, down], dim=-1).flatten(0, 1)
    ones = torch.ones(h, w).double()
    at = [ones.cumsum(axis) for axis in (0, 1)]
    at = [x / (x[-1, -1] + 1e-6) * 2 * torch.pi for x in at]
    number = torch.arange(half).double()
    wave = 10000 ** (2 * torch.div(number, 2, rounding_mode="floor") / half)
    parts = []
    for x in at:
        angle = x[:, :, None] / wave
        pairs = torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=3)
        parts.append(pairs.flatten(2))
    return torch.cat(parts, dim=2).flatten(0, 1)


def neighbours() -> Any:
    """The additive mask of attention."""
    import torch

    (h, w), reach = GRID, NEIGHBOURS // 2
    mask = torch.zeros(h, w, h, w).double()
    for i in range(h):
        for j in range(w):
            mask[
                i, j, max(i - reach, 0) : i + reach + 1, max(j - reach, 0) : j + reach + 1
            ] = -torch.inf
    return mask.reshape(h * w, h * w)


def rebuilt(arrays: dict[str, Any], tokens: Any, position: str) -> Any:
    """Features `(n, B, C)` of noised ones."""
    import torch
    from torch.nn import functional as F

    pos, mask = positions(arrays, position)[:, None], neighbours()

    def linear(x: Any, name: str) -> Any:
        return F.linear(x, arrays[f"{name}/kernel"].T, arrays[f"{name}/bias"])

    def norm(x: Any, name: str) -> Any:
        return F.layer_norm(x, (WIDTH,), arrays[f"{name}/scale"], arrays[f"{name}/bias"])

    def attend(query: Any, source: Any, name: str) -> Any:
        parts = ("query", "key", "value")
        kernel = torch.cat([arrays[f"{name}/{part}/kernel"].T for part in parts])
        bias = torch.cat([arrays[f"{name}/{part}/bias"] for part in parts])
        out = (arrays[f"{name}/out/kernel"].T, arrays[f"{name}/out/bias"])
        return F.multi_head_attention_forward(
            query + pos,
            source + pos,
            source,
            WIDTH,
            HEADS,
            kernel,
            bias,
            None,
            None,
            False,
            0.0,
            *out,
            attn_mask=mask,
        )[0]

    def layer(x: Any, sources: list[Any], name: str) -> Any:
        for j, source in enumerate(sources):
            y = attend(x, source, f"{name}/attention{j}")
            x = norm(x + y, f"{name}/attended{j}/norm")
        y = linear(torch.relu(linear(x, f"{name}/expand")), f"{name}/project")
        return norm(x + y, f"{name}/fed/norm")

    x = linear(tokens, "enter")
    for i in range(LAYERS):
        x = layer(x, [x], f"encoder{i}")
    memory = x
    for i in range(LAYERS):
        queries = arrays[f"decoder{i}/queries"][:, None].expand(-1, x.shape[1], -1)
        x = layer(queries, [memory, x], f"decoder{i}")
    return linear(norm(x, "norm"), "leave")


def one_step(position: str) -> Arrays:
    """What a step makes of the weights, and the map and image scores before it."""
    import torch
    from torch.nn import functional as F

    features, given, noise = inputs(position)
    arrays = {name: torch.from_numpy(value).double() for name, value in given.items()}
    maps = [torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).double() for x in features.values()]
    aligned = torch.cat(
        [F.interpolate(x, size=GRID, mode="bilinear", align_corners=True) for x in maps], dim=1
    )

    def as_map(x: Any) -> Any:
        return x.permute(1, 2, 0).reshape(aligned.shape)

    tokens = aligned.flatten(2).permute(2, 0, 1)
    out: Arrays = {}
    with torch.no_grad():
        found = as_map(rebuilt(arrays, tokens, position))
        M = torch.sqrt(torch.sum((found - aligned) ** 2, dim=1, keepdim=True))
        M = F.interpolate(M, size=IMAGE, mode="bilinear", align_corners=True)
        out["map"] = M[:, 0].numpy()
        out["image"] = F.avg_pool2d(M, POOLING, stride=1).amax(dim=(1, 2, 3)).numpy()
    for value in arrays.values():
        value.requires_grad_()
    optimiser = torch.optim.AdamW(arrays.values(), lr=1e-4, weight_decay=1e-4)
    drawn = torch.from_numpy(noise).double().permute(1, 2, 0, 3).flatten(0, 1)
    noised = tokens + drawn * tokens.norm(dim=2, keepdim=True) / CHANNELS * JITTER
    out["noised"] = as_map(noised).permute(0, 2, 3, 1).numpy()
    loss = F.mse_loss(as_map(rebuilt(arrays, noised, position)), aligned)
    loss.backward()
    out["loss"] = loss.detach().numpy()
    out |= {f"grad/{name}": value.grad.numpy().copy() for name, value in arrays.items()}
    torch.nn.utils.clip_grad_norm_(arrays.values(), CLIP)
    optimiser.step()
    return out | {f"after/{name}": arrays[name].detach().numpy() for name in STORED_AFTER}


def main(path: str) -> None:
    """Write the golden file."""
    arrays = {
        f"{position}/{key}": value
        for position in POSITIONS
        for key, value in pack(one_step(position)).items()
    }
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1])
