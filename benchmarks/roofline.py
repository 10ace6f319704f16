"""What this machine can do: measured peaks of arithmetic and of memory.

    python -m benchmarks.roofline [--dtype float32 bfloat16] [--pairs 7] [--quick] [--json FILE]

A matrix product of random square matrices, the best of a few sizes; a 3x3 and a 1x1 convolution as
ResNets have them, put to XLA as everywhere in jaxad (`jaxad.ops.convolve`); a copy between arrays
far larger than any cache, counting bytes read and bytes written; and a copy from the host to the
device. Each is the best of several rounds: a peak is what the machine can do, not what it does on
average. Precision is JAX's default, as in scoring (float32 products on NVIDIA use TF32).
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import machine, markdown
from jaxad.files import write_json
from jaxad.ops.convolve import convolve, symmetric_padding

DTYPES = ("float32", "bfloat16")
SPAN = 0.1
"""Seconds that a round takes at least: short operations are called many times."""


class Sizes(NamedTuple):
    """How large the arrays are."""

    matmul: tuple[int, ...]
    """Sides of the square matrices."""
    batch: int
    """Images of the convolutions."""
    mbyte: int
    """Of the arrays that are copied."""


CPU = Sizes((1024, 2048), 8, 512)
ACCELERATOR = Sizes((4096, 8192, 12288), 128, 2048)
QUICK = Sizes((512, 1024), 2, 64)
CONVOLUTIONS = {"convolution 3x3": (32, 128, 128, 3), "convolution 1x1": (32, 512, 128, 1)}
"""Side of the map, channels in and out, side of the kernel: of `layer2` at 256 pixels."""


def default_sizes() -> Sizes:
    """Sizes that show the peak of what there is."""
    return CPU if jax.default_backend() == "cpu" else ACCELERATOR


def best_seconds(run: Callable[[int], Any], *, pairs: int) -> float:
    """Seconds of one call, of the fastest round. `run(n)` calls n times and waits for all."""
    run(1)
    start = time.perf_counter()
    run(1)
    calls = max(1, math.ceil(SPAN / max(time.perf_counter() - start, 1e-6)))
    found = []
    for _ in range(pairs):
        start = time.perf_counter()
        run(calls)
        found.append((time.perf_counter() - start) / calls)
    return min(found)


def _repeated(function: Callable[..., Any], *args: Any) -> Callable[[int], Any]:
    """Calls of one compiled function, two of them in flight, so that results do not pile up."""
    compiled = jax.jit(function)

    def run(calls: int) -> None:
        waiting = compiled(*args)
        for _ in range(calls - 1):
            started = compiled(*args)
            waiting.block_until_ready()
            waiting = started
        waiting.block_until_ready()

    return run


def _random(shape: tuple[int, ...], dtype: str) -> Any:
    """Normal values: zeros would be faster, for they take less power. They repeat, out of step."""
    few = np.random.default_rng(0).standard_normal(65521, np.float32)
    return jnp.asarray(np.resize(few, shape), dtype)


def matmul(dtype: str, side: int, *, pairs: int) -> float:
    """GFLOP/s of a product of two square matrices."""
    a, b = _random((side, side), dtype), _random((side, side), dtype)
    return 2 * side**3 / 1e9 / best_seconds(_repeated(jnp.dot, a, b), pairs=pairs)


def convolution(what: str, dtype: str, *, batch: int, pairs: int) -> float:
    """GFLOP/s of one of `CONVOLUTIONS`; a multiply-add counts two, borders too."""
    side, channels, out, kernel = CONVOLUTIONS[what]
    x = _random((batch, side, side, channels), dtype)
    w = _random((kernel, kernel, channels, out), dtype)
    padding = symmetric_padding(kernel // 2)
    run = _repeated(lambda x, w: convolve(x, w, stride=1, padding=padding), x, w)
    work = 2 * batch * side**2 * kernel**2 * channels * out
    return work / 1e9 / best_seconds(run, pairs=pairs)


def copy(*, mbyte: int, pairs: int) -> float:
    """GB/s of memory, read and written, by a program that does nothing else."""
    x = jnp.zeros(mbyte * 250_000, jnp.float32)
    # In place: a new result each time would measure how fast the system hands out pages.
    step = jax.jit(lambda x: x + 1, donate_argnums=0)

    def run(calls: int) -> None:
        nonlocal x
        for _ in range(calls):
            x = step(x)
        x.block_until_ready()

    return 2 * x.nbytes / 1e9 / best_seconds(run, pairs=pairs)


def host_to_device(*, mbyte: int, pairs: int) -> float:
    """GB/s of `jax.device_put` of bytes in ordinary (not pinned) memory of the host."""
    x = np.ones(mbyte * 1_000_000, np.uint8)

    def run(calls: int) -> None:
        for _ in range(calls):
            # The CPU "device" would otherwise take the array as it lies and copy nothing.
            jax.device_put(x, may_alias=False).block_until_ready()

    return x.nbytes / 1e9 / best_seconds(run, pairs=pairs)


def peaks(dtype: str, *, sizes: Sizes | None = None, pairs: int = 5) -> dict[str, float]:
    """Measure what other benchmarks divide by.

    Args:
        dtype: Of the matrices, "float32" or "bfloat16".
        sizes: How large the arrays are; None: by platform.
        pairs: Rounds, of which the best counts.

    Returns:
        `gflops`: matrix product, 1e9 operations per second, a multiply-add counts two;
        `gbyte_per_second`: memory, bytes read and written.
    """
    sizes = sizes or default_sizes()
    return {
        "gflops": max(matmul(dtype, side, pairs=pairs) for side in sizes.matmul),
        "gbyte_per_second": copy(mbyte=sizes.mbyte, pairs=pairs),
    }


def measure(dtypes: Sequence[str], *, sizes: Sizes, pairs: int) -> list[dict[str, Any]]:
    """All rows: what was measured, its shape, and its rate."""
    rows: list[dict[str, Any]] = []
    for dtype in dtypes:
        found = {side: matmul(dtype, side, pairs=pairs) for side in sizes.matmul}
        best = max(found, key=lambda side: found[side])
        shape = f"{best} x {best} x {best}"
        rows.append({"what": "matmul", "dtype": dtype, "shape": shape, "gflops": found[best]})
        for what, (side, channels, out, _) in CONVOLUTIONS.items():
            rate = convolution(what, dtype, batch=sizes.batch, pairs=pairs)
            shape = f"{sizes.batch} x {side} x {side} x {channels} to {out}"
            rows.append({"what": what, "dtype": dtype, "shape": shape, "gflops": rate})
    shape = f"{sizes.mbyte} MB"
    rate = copy(mbyte=sizes.mbyte, pairs=pairs)
    rows.append({"what": "memory copy", "shape": shape, "gbyte_per_second": rate})
    shape = f"{sizes.mbyte // 4} MB"
    rate = host_to_device(mbyte=sizes.mbyte // 4, pairs=pairs)
    rows.append({"what": "host to device", "shape": shape, "gbyte_per_second": rate})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    return markdown(
        ("what", "dtype", "shape", "GFLOP/s", "GB/s"),
        [
            (
                row["what"],
                row.get("dtype", ""),
                row["shape"],
                f"{row['gflops']:.0f}" if "gflops" in row else "",
                f"{row['gbyte_per_second']:.1f}" if "gbyte_per_second" in row else "",
            )
            for row in rows
        ],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--pairs", type=int, default=7, help="rounds, of which the best counts")
    parser.add_argument("--quick", action="store_true", help="small arrays: no true peaks")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    args = parser.parse_args(argv)
    sizes = QUICK if args.quick else default_sizes()
    rows = measure(args.dtype, sizes=sizes, pairs=args.pairs)
    print(table(rows), flush=True)
    if args.json:
        results = {"benchmark": "roofline", "machine": machine(), "rows": rows}
        write_json(args.json, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
