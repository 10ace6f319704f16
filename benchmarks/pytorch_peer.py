"""Scoring against the same networks with the same weights in PyTorch, at its best.

    python -m benchmarks.pytorch_peer [--only NAME ...] [--batch 1 8] [--pairs 7] [--size H W]
        [--variants NAME ...] [--resident] [--json FILE]

Needs PyTorch beside jaxad (`pip install -e .[peer]`), no weights and no data. For every detector
and batch size: all variants of the peer are built and their maps and image scores compared with
ours; a float32 variant that differs by more than 1e-4 of the map's largest value is told, is not
timed, and the exit code is 1. A short run finds the two fastest, which are then timed against ours
in turn, A B A B. The headline ratio is float32 against float32. Variants in bfloat16 do not give
equal maps; they have rows of their own, beside ours in bfloat16. Where OpenVINO is installed, our
scorer by it (`runtime="openvino"`, docs/runtimes.md) takes its turn in the same rounds, on a CPU.

Images come from the host as uint8, scores go back to it. Both libraries take all cores, one after
the other: PyTorch's OpenMP threads go on spinning for some milliseconds after a run, so a pause,
which is not counted, stands before every run. On a GPU float32 products are TF32 on both sides, as
is jax's default, and maps are first compared without it.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch

from benchmarks.detectors import build, configure, trained_like
from benchmarks.measure import interleave, machine, markdown, ratio
from benchmarks.torch_peer import (
    Variant,
    allow_tf32,
    make_score,
    torch_detector,
    variants,
)
from jaxad.core import InputError, Variables
from jaxad.detector import Detector
from jaxad.files import write_json
from jaxad.scorer import make_scorer

SUBJECTS = (
    *("mb_pfm", "simplenet_rewritten", "simplenet", "afrad"),
    *("pfm", "b_pfm", "mb_pfm_fast", "afrad_fast"),
)
"""`simplenet_rewritten`: SimpleNet's peer has our patch aggregation, so the arithmetic is the same.
`simplenet`: it unfolds neighbourhoods as the reference does, which is more work."""
DEFAULT = SUBJECTS[:4]
OTHER = "openvino"
"""Our other run time."""
TOLERANCE = 1e-4
TF32_TOLERANCE = 2e-2
PAUSE = 0.03
"""Seconds before every timed run, not counted."""
ENVIRONMENT = (
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "KMP_BLOCKTIME",
    "LD_PRELOAD",
)
Output = tuple[Any, Any]


def our_score(
    detector: Detector,
    variables: Variables,
    *,
    batch: int,
    size: tuple[int, int],
    dtype: str,
    resident: bool,
    runtime: str = "xla",
) -> Callable[[Any], Output]:
    """Ours, compiled: NumPy to NumPy, or on the device and waited for."""
    scorer = make_scorer(
        detector, variables, batch_size=batch, size=size, dtype=dtype, runtime=runtime
    )
    finish = jax.block_until_ready if resident else jax.device_get

    def score(images: Any) -> Output:
        scores = finish(scorer.score(images))
        return scores.map, scores.image

    return score


def difference(theirs: Output, ours: Output) -> tuple[float, float]:
    """Largest difference of maps and of image scores, relative to the largest of ours' map."""
    scale = float(np.abs(ours[0]).max())
    map_, image = (
        float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max()) / scale
        for a, b in zip(theirs, ours)
    )
    return map_, image


def host(output: Output) -> Output:
    """Scores as NumPy arrays, from wherever they are."""
    map_, image = (x.float().cpu().numpy() if hasattr(x, "cpu") else np.asarray(x) for x in output)
    return map_, image


def compare(
    name: str,
    *,
    batch: int,
    size: tuple[int, int] | None,
    pairs: int,
    chosen: dict[str, Variant],
    resident: bool,
) -> list[dict[str, Any]]:
    """Compare and time one subject at one batch size; returns its rows."""
    config = configure(name.removesuffix("_rewritten"), image_size=size)
    if "zero_output" in config.method:
        config.method.zero_output = False  # maps of a zero output are the features' length: 1
    height, width = config.data.image_size
    detector, variables = build(config)
    variables = trained_like(detector, variables, seed=config.train.seed)
    images = np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
    ours_in = functools.partial(
        our_score, detector, variables, batch=batch, size=(height, width), resident=resident
    )
    ours = ours_in(dtype="float32")
    placed = jax.device_put(images) if resident else images
    reference = host(ours(placed))
    model = torch_detector(name, config, detector, variables)
    base = {"subject": name, "batch": batch, "size": [height, width], "resident": resident}

    gpu = torch.cuda.is_available()
    allow_tf32(gpu)
    rows: list[dict[str, Any]] = []
    if gpu:
        rows.append({**base, **_without_tf32(model, detector, variables, images)})
    theirs = torch.from_numpy(images).to("cuda" if gpu else "cpu") if resident else images
    runs: dict[str, Callable[[], Any]] = {}
    brief: dict[str, float] = {}
    for label, variant in chosen.items():
        start = time.perf_counter()
        row = {**base, "library": "pytorch", "variant": label, "dtype": variant.dtype}
        rows.append(row)
        try:
            score = make_score(model, variant, images, resident=resident)
        except Exception as error:  # whatever this installation can not compile is told so
            row["note"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            continue
        row["build_seconds"] = round(time.perf_counter() - start, 1)
        row["map_difference"], row["image_difference"] = difference(host(score(theirs)), reference)
        if variant.dtype == "float32":
            row["equal"] = within(row, TF32_TOLERANCE if gpu else TOLERANCE)
            if not row["equal"]:
                continue
        runs[label] = functools.partial(score, theirs)
        brief[label] = min(_seconds(runs[label]) for _ in range(3))
        row["brief_milliseconds"] = 1e3 * brief[label]
        gc.collect()

    def fastest(dtypes: tuple[str, ...]) -> list[str]:
        able = [label for label in brief if chosen[label].dtype in dtypes]
        return sorted(able, key=brief.__getitem__)[:2]

    row_of = {row["variant"]: row for row in rows if "variant" in row}
    for dtype, dtypes in (("float32", ("float32",)), ("bfloat16", ("bfloat16", "autocast"))):
        best = fastest(dtypes)
        own = {**base, "library": "jaxad", "variant": "", "dtype": dtype}
        if dtype == "bfloat16":
            if not any(chosen[label].dtype in dtypes for label in chosen):
                continue
            ours = ours_in(dtype=dtype)
            found = difference(host(ours(placed)), reference)
            own["map_difference"], own["image_difference"] = found
        both: dict[str, Callable[[], Any]] = {"jaxad": functools.partial(ours, placed)}
        both |= {label: runs[label] for label in best}
        other = {**base, "library": OTHER, "variant": "", "dtype": dtype}
        if importlib.util.find_spec(OTHER) and not gpu and not resident:
            rows.append(other)
            try:
                run = ours_in(dtype=dtype, runtime=OTHER)
            except InputError as error:
                other["note"] = str(error)
            else:
                found = difference(host(run(placed)), reference)
                other["map_difference"], other["image_difference"] = found
                if dtype == "float32":
                    other["equal"] = within(other, TOLERANCE)
                both[OTHER] = functools.partial(run, placed)
        seconds = interleave(both, pairs=pairs, pause=PAUSE)
        own |= _spread(seconds["jaxad"])
        for label in best:
            row_of[label] |= _spread(seconds[label])
            row_of[label]["ratio"] = ratio(seconds[label], seconds["jaxad"])
        if best:
            rival = min(best, key=lambda label: statistics.median(seconds[label]))
            own["against"], own["ratio"] = rival, row_of[rival]["ratio"]
        rows.append(own)
        if OTHER in both:
            other |= _spread(seconds[OTHER])
            if best:
                other |= {"against": rival, "ratio": ratio(seconds[rival], seconds[OTHER])}
    return rows


def _without_tf32(
    model: Any, detector: Detector, variables: Variables, images: np.ndarray[Any, Any]
) -> dict[str, Any]:
    """Compare maps at full float32 precision on a GPU, where they are timed at less."""
    with jax.default_matmul_precision("highest"):
        scores = jax.device_get(jax.jit(detector.score)(variables, images))
    allow_tf32(False)
    found = make_score(model, Variant(), images)(images)
    allow_tf32(True)
    row: dict[str, Any] = {
        "library": "pytorch",
        "variant": "eager without TF32",
        "dtype": "float32",
    }
    row["map_difference"], row["image_difference"] = difference(found, (scores.map, scores.image))
    return {**row, "equal": within(row, TOLERANCE)}


def within(row: dict[str, Any], tolerance: float) -> bool:
    """Whether both differences are numbers, and small."""
    return row["map_difference"] <= tolerance and row["image_difference"] <= tolerance


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    each = sorted(1e3 * s for s in seconds)
    return {
        "milliseconds": statistics.median(each),
        "milliseconds_low": each[len(each) // 4],
        "milliseconds_high": each[-1 - len(each) // 4],
    }


HEAD = ("detector", "batch", "library", "dtype", "map differs", "ms a batch", "images/s", "ratio")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown; the ratio of a PyTorch row is its time over ours, ours is to the best of them."""

    def cells(row: dict[str, Any]) -> list[str]:
        ms = row.get("milliseconds", row.get("brief_milliseconds"))
        sign = "" if "milliseconds" in row else "~"
        differs = f"{row['map_difference']:.1e}" if "map_difference" in row else "–"
        if row.get("equal") is False:
            differs += " NOT EQUAL"
        r = row.get("ratio")
        return [
            row["subject"],
            str(row["batch"]),
            f"{row['library']} {row['variant']}".strip(),
            row["dtype"],
            row.get("note", differs),
            "–" if ms is None else f"{sign}{ms:.1f}",
            "–" if ms is None else f"{sign}{row['batch'] / ms * 1e3:.1f}",
            "–" if r is None else f"{r['median']:.2f} ({r['low']:.2f}–{r['high']:.2f})",
        ]

    return markdown(HEAD, [cells(row) for row in rows])


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for; 1 if an output of float32 differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=DEFAULT)
    parser.add_argument("--batch", nargs="+", type=int, default=(1, 8))
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="of images")
    known = variants()
    parser.add_argument("--variants", nargs="+", choices=known, default=tuple(known))
    parser.add_argument("--resident", action="store_true", help="images and scores on the device")
    parser.add_argument("--json", type=Path, help="write all rows here")
    args = parser.parse_args(argv)
    rows = []
    for name in args.only:
        for batch in args.batch:
            new = compare(
                name,
                batch=batch,
                size=tuple(args.size) if args.size else None,
                pairs=args.pairs,
                chosen={label: known[label] for label in args.variants},
                resident=args.resident,
            )
            print(table(new), flush=True)
            rows += new
            torch._dynamo.reset()  # its caches hold the compiled models
            gc.collect()
    if args.json:
        head = {
            **machine(),
            "torch": torch.__version__,
            "torch_threads": torch.get_num_threads(),
            "pairs": args.pairs,
            "resident": args.resident,
            "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        }
        write_json(args.json, {"benchmark": "pytorch_peer", "machine": head, "rows": rows})
    return int(any(row.get("equal") is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
