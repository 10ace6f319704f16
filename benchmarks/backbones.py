"""The table of docs/backbones.md: whose weights, how exact, how large, how much work.

    python -m benchmarks.backbones [--only NAME ...] [--json FILE] [--markdown]

Nothing is downloaded and no weights are needed. Parity is the largest error over all namings and
levels against the original frameworks, relative to the largest value of the level (`ports.parity`).
Parameters are those of the network with BatchNorm folded, without classifier. Work is what XLA
counts in the program, before it optimises it, for one image of 256 x 256 pixels up to the last of
the levels that are used by default; a multiply-add counts 2.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxad.backbones import ARCHITECTURES, weights
from jaxad.backbones.architectures import Architecture
from jaxad.files import write_json
from ports.namings import NAMINGS
from ports.parity import parity_error
from ports.sources import sources_of

SIZE = 256
HEAD = (
    "architecture",
    "levels",
    "namings",
    "default weights",
    "licences",
    "parity error",
    "parameters (M)",
    f"GFLOP at {SIZE}",
)


def measure(name: str) -> dict[str, Any]:
    """All there is to say of one architecture."""
    arch = ARCHITECTURES[name]
    namings = [naming for naming, row in NAMINGS.items() if name in row.architectures]
    sources = sources_of(name)
    return {
        "levels": list(arch.default_levels),
        "namings": namings,
        "source": sources[0].url or f"pip install {sources[0].package}",
        "source_naming": sources[0].naming,
        "recipe": sources[0].recipe,
        "licences": list(dict.fromkeys(source.licence for source in sources)),
        "parity_error": {
            naming: max(parity_error(naming, name).values(), default=math.inf) for naming in namings
        },
        "parameters": parameters(arch, arch.default_levels),
        "parameters_all_levels": parameters(arch, tuple(arch.levels)),
        f"gflop_at_{SIZE}": gflop(arch, arch.default_levels),
    }


def parameters(arch: Architecture, levels: tuple[str, ...]) -> int:
    """Count the parameters up to the deepest of `levels`, BatchNorm folded."""
    shapes = weights.shapes(arch, levels=levels, folded=True)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def gflop(arch: Architecture, levels: tuple[str, ...], size: int = SIZE) -> float:
    """Count the operations on one image, in units of 10^9; nothing is compiled.

    Of networks of patches, it is the largest image of up to `size` pixels that divides into them.
    """
    module = arch.build(levels=levels, folded=True)
    size = size // arch.patch * arch.patch
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    shapes = weights.shapes(arch, levels=levels, folded=True)
    cost = jax.jit(module.apply).lower(shapes, image).cost_analysis() or {}
    return round(cost["flops"] / 1e9, 3)


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of the table."""
    lines = [_line(HEAD), _line(["---"] * len(HEAD))]
    for name, row in rows.items():
        used, whole = (row[key] / 1e6 for key in ("parameters", "parameters_all_levels"))
        lines.append(
            _line(
                (
                    name,
                    span(row["levels"]),
                    ", ".join(row["namings"]),
                    f"{row['source_naming']} {row['recipe']}",
                    ", ".join(row["licences"]),
                    f"{max(row['parity_error'].values()):.1e}",
                    f"{used:.2f} of {whole:.2f}",
                    f"{row[f'gflop_at_{SIZE}']:.2f}",
                )
            )
        )
    return lines


def span(levels: Sequence[str]) -> str:
    """Name levels of one stem in short: `stage1, 2, 3, 5`."""
    stem = levels[0].rstrip("0123456789")
    return stem + ", ".join(level.removeprefix(stem) for level in levels)


def machine() -> str:
    """Say what this was measured on."""
    return (
        f"{os.cpu_count()} x {platform.machine()}, Python {platform.python_version()}, "
        f"jax {jax.__version__} on {jax.default_backend()}"
    )


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=ARCHITECTURES, help="not all of them")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    parser.add_argument(
        "--markdown", action="store_true", help="print the table of docs/backbones.md"
    )
    args = parser.parse_args(argv)
    rows = {}
    for name in args.only or ARCHITECTURES:
        start = time.monotonic()
        rows[name] = measure(name)
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        if not args.markdown:
            print(f"{name}: {json.dumps(rows[name])}", flush=True)
    if args.markdown:
        print("\n".join(markdown(rows)))
    if args.json:
        date = datetime.date.today().isoformat()
        results = {"machine": machine(), "date": date, "backbones": rows}
        write_json(args.json, results)


if __name__ == "__main__":
    main()
