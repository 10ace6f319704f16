"""Frames per second of every detector: from uint8 images to score maps, compiled ahead of time.

    python -m benchmarks.fps [--only NAME ...] [--batch 1 8 32 128] [--dtype float32 bfloat16]
                             [--pairs 7] [--size H W] [--time-limit SECONDS] [--json FILE]

No weights or data are needed (`benchmarks.detectors`). `fps` is with images that lie on the device,
`with copies` from images of the host to scores on the host (`jaxad.scorer.stream`); both keep two
batches in flight, run in turn, and are medians over rounds. Latency, at batch 1, is one image from
host to host, nothing else in flight. GFLOP are XLA's count of the plain program, a multiply-add is
two; the peak is this machine's measured matrix product of the same dtype. What does not fit the
memory or the time limit gets a row that says so. The JSON file is written anew after every row.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.detectors import SUBJECTS, build, configure
from benchmarks.measure import interleave, machine, markdown
from benchmarks.roofline import DTYPES, peaks
from benchmarks.work import Work, count
from jaxad.core import Variables
from jaxad.detector import Detector
from jaxad.files import write_json
from jaxad.memory import free_memory
from jaxad.scorer import Scorer, make_scorer, stream

SPAN = 0.25
"""Seconds that a round takes at least: short programs are called many times."""
CPU_BATCHES, BATCHES = (1, 8), (1, 8, 32, 128)
Combination = tuple[str, int]
"""(dtype, batch)."""


def measure(
    detector: Detector,
    variables: Variables,
    *,
    batch: int,
    dtype: str,
    size: tuple[int, int],
    pairs: int,
) -> dict[str, Any]:
    """Compile one detector for one batch size and time it.

    Args:
        detector: What scores.
        variables: Its variables, as trained.
        batch: Images in a batch.
        dtype: Of weights and features.
        size: (H, W) of the images.
        pairs: Rounds that count.

    Returns:
        The measured part of a row.
    """
    scorer = make_scorer(detector, variables, batch_size=batch, size=size, dtype=dtype)
    images = np.random.default_rng(0).integers(0, 256, (batch, *size, 3), np.uint8)
    on_device = jax.device_put(images)
    jax.block_until_ready(scorer.score(on_device))
    start = time.perf_counter()
    jax.block_until_ready(scorer.score(on_device))
    once = time.perf_counter() - start
    calls = min(max(math.ceil(SPAN / once), 2), 1000)
    seconds = interleave(
        {
            "device": lambda: _resident(scorer, on_device, calls),
            "copies": lambda: [None for _ in stream(scorer, [images] * calls)],
        },
        pairs=pairs,
        warmup=1,
    )
    rates = {name: sorted(calls * batch / s for s in each) for name, each in seconds.items()}
    fps = statistics.median(rates["device"])
    found: dict[str, Any] = {
        "fps": fps,
        "fps_low": rates["device"][pairs // 4],
        "fps_high": rates["device"][-1 - pairs // 4],
        "fps_with_copies": statistics.median(rates["copies"]),
        "ms_per_image": 1e3 / fps,
    }
    if batch == 1:
        found |= latency(scorer, images, calls=min(max(math.ceil(1 / once), 20), 200))
    return {
        **found,
        "gflop_per_image": detector.cost(variables["backbones"], size=size).gflop,
        "compile_seconds": scorer.compile_seconds,
    }


def _resident(scorer: Scorer, images: Any, calls: int) -> None:
    """Score the same batch again and again, two in flight, and leave the scores where they are."""
    waiting = scorer.score(images)
    for _ in range(calls - 1):
        started = scorer.score(images)
        jax.block_until_ready(waiting)
        waiting = started
    jax.block_until_ready(waiting)


def latency(scorer: Scorer, images: Any, *, calls: int) -> dict[str, float]:
    """Milliseconds from images on the host to scores on the host: median and 95th percentile."""
    found = []
    for _ in range(calls):
        start = time.perf_counter()
        jax.device_get(scorer.score(images))
        found.append(1e3 * (time.perf_counter() - start))
    p50, p95 = np.percentile(found, [50, 95]).tolist()
    return {"latency_p50_ms": p50, "latency_p95_ms": p95}


def plan(
    names: Sequence[str], batches: Sequence[int], dtypes: Sequence[str], *, hurry: bool
) -> list[tuple[str, list[Combination]]]:
    """What is timed in which order: the subjects, each with its combinations of dtype and batch.

    Subjects whose papers state a speed come first. In a hurry there are two passes: first every
    subject at its largest and smallest batch in the narrowest dtype, then all the rest.
    """
    names = sorted(names, key=lambda name: SUBJECTS[name].paper_fps is None)
    dtypes = sorted(dtypes, key=lambda dtype: dtype != "bfloat16")
    ends = list(dict.fromkeys((max(batches), min(batches))))
    first = [(dtypes[0], batch) for batch in ends]
    rest = [(d, b) for d in dtypes for b in sorted(batches) if (d, b) not in first]
    if not hurry:
        return [(name, sorted([*first, *rest])) for name in names]
    passes = [first, rest] if rest else [first]
    return [(name, combinations) for combinations in passes for name in names]


def too_large(work: Work, *, batch: int, dtype: str) -> str | None:
    """Why a combination would not fit on a CPU, or None. Accelerators say so themselves."""
    if jax.default_backend() != "cpu":
        return None
    available = free_memory() / 1e9
    need = 3 * work.gbyte("held", batch=batch, dtype=dtype)
    if need < 0.9 * available:
        return None
    return f"memory: about {need:.1f} GB, {available:.1f} GB are free"


def why(error: Exception) -> dict[str, str]:
    """The part of a row that tells of a failure: too little memory is no fault, all else is."""
    text = str(error).strip().partition("\n")[0][:200]
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return {"skipped": f"memory: {text}"}
    traceback.print_exception(error)
    return {"error": f"{type(error).__name__}: {text}"}


def identity(name: str, size: Sequence[int], combination: Combination) -> dict[str, Any]:
    """What a row is about."""
    subject = SUBJECTS[name]
    return {
        "name": name,
        "batch": combination[1],
        "dtype": combination[0],
        "size": list(size),
        "device": jax.local_devices()[0].device_kind,
        "paper_fps": subject.paper_fps,
        "paper_device": subject.paper_device,
    }


def time_subject(
    name: str,
    combinations: Sequence[Combination],
    *,
    size: tuple[int, int] | None,
    pairs: int,
    peak: Mapping[str, Mapping[str, float]],
    late: Callable[[], bool],
) -> Iterator[dict[str, Any]]:
    """Build one subject and yield a row for each combination, whatever comes of it.

    Args:
        name: Of the subject.
        combinations: Of dtype and batch.
        size: (H, W); None: the paper's.
        pairs: Rounds that count.
        peak: By dtype, what `roofline.peaks` found.
        late: Whether there is no time for one more.
    """
    config = configure(name, image_size=size)
    shape: tuple[int, int] = tuple(config.data.image_size)
    built: tuple[Detector, Variables, Work] | None = None
    failed: dict[str, str] | None = None
    for combination in combinations:
        dtype, batch = combination
        row = identity(name, shape, combination)
        try:
            if failed is None and not late():
                if built is None:
                    detector, variables = build(config)
                    built = detector, variables, count(detector, variables, size=shape)
                row |= _time(*built, batch=batch, dtype=dtype, size=shape, pairs=pairs, peak=peak)
            else:
                row |= failed or {"skipped": "no time left"}
        except Exception as error:  # the other combinations are still worth their time
            row |= (told := why(error))
            failed = told if built is None else None
        yield row


def _time(
    detector: Detector,
    variables: Variables,
    work: Work,
    *,
    batch: int,
    dtype: str,
    size: tuple[int, int],
    pairs: int,
    peak: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """The measured part of a row, with what follows from it; or why there is none."""
    row: dict[str, Any] = {"gbyte_per_image": work.gbyte("moved", batch=batch, dtype=dtype) / batch}
    reason = too_large(work, batch=batch, dtype=dtype)
    if reason:
        return {"skipped": reason}
    row |= measure(detector, variables, batch=batch, dtype=dtype, size=size, pairs=pairs)
    if row["gflop_per_image"] is not None:
        row["fraction_of_peak"] = row["gflop_per_image"] * row["fps"] / peak[dtype]["gflops"]
    return row


HEAD = (
    "name", "batch", "dtype", "fps", "with copies", "ms / image", "latency p50 / p95 (ms)",
    "GFLOP / image", "of peak", "compile (s)", "paper",
)  # fmt: skip


def line(row: Mapping[str, Any]) -> list[str]:
    """One row of the table; what was not measured says why in the place of the frames."""
    paper = "" if not row["paper_fps"] else f"{row['paper_fps']:g} fps, {row['paper_device']}"
    start = [row["name"], str(row["batch"]), row["dtype"]]
    if "fps" not in row:
        return [*start, row.get("skipped") or row["error"], *[""] * 6, paper]
    wait = ""
    if "latency_p50_ms" in row:
        wait = f"{row['latency_p50_ms']:.2f} / {row['latency_p95_ms']:.2f}"
    share, gflop = row.get("fraction_of_peak"), row["gflop_per_image"]
    return [
        *start,
        number(row["fps"]),
        number(row["fps_with_copies"]),
        f"{row['ms_per_image']:.3g}",
        wait,
        "" if gflop is None else f"{gflop:.1f}",
        "" if share is None else f"{share:.0%}",
        f"{row['compile_seconds']:.1f}",
        paper,
    ]


def number(value: float) -> str:
    """Three figures, and all of a larger whole number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main(argv: Sequence[str] | None = None) -> int:
    """Time what was asked for; 1 if something failed that should not have."""
    on_cpu = jax.default_backend() == "cpu"
    batches, dtypes = (CPU_BATCHES, DTYPES[:1]) if on_cpu else (BATCHES, DTYPES)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--batch", nargs="+", type=int, default=batches)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=dtypes)
    parser.add_argument("--pairs", type=int, default=7, help="rounds")
    parser.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="not the paper's")
    parser.add_argument("--time-limit", type=float, help="seconds; most important first")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    args = parser.parse_args(argv)
    if args.pairs < 1 or min(args.batch) < 1:
        parser.error("--pairs and --batch take numbers from 1")
    start, slowest = time.monotonic(), 0.0

    def late() -> bool:
        """Whether one more, as slow as the slowest so far, would end after the limit."""
        return bool(args.time_limit) and time.monotonic() + slowest > start + args.time_limit

    results: dict[str, Any] = {"benchmark": "fps", "machine": machine()}
    results["peaks"] = {dtype: peaks(dtype) for dtype in args.dtype}
    rows: list[dict[str, Any]] = []
    results["rows"] = rows
    order = plan(args.only, args.batch, args.dtype, hurry=args.time_limit is not None)
    for name, combinations in order:
        found = time_subject(
            name,
            combinations,
            size=tuple(args.size) if args.size else None,
            pairs=args.pairs,
            peak=results["peaks"],
            late=late,
        )
        begun = time.monotonic()
        for row in found:
            slowest = max(slowest, time.monotonic() - begun)
            begun = time.monotonic()
            rows.append(row)
            print(" | ".join(cell for cell in line(row) if cell), file=sys.stderr, flush=True)
            if args.json:
                write_json(args.json, results)
        # One subject at a time: its variables, its programs and what they hold.
        jax.clear_caches()
        gc.collect()
    rows.sort(key=lambda row: (list(SUBJECTS).index(row["name"]), row["dtype"], row["batch"]))
    print(markdown(HEAD, [line(row) for row in rows]), flush=True)
    if args.json:
        write_json(args.json, results)
    failed = [row for row in rows if "error" in row]
    for row in failed:
        print(f"failed: {row['name']} at batch {row['batch']}: {row['error']}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
