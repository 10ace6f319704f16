"""What other run times do to a trained detector's accuracy, and to its speed.

    python -m benchmarks.runtimes WORKDIR [--data FOLDER] [--only NAME ...] [--batch 1 8]
        [--rounds 9] [--photos 100] [--json FILE]

Every test image is scored by JAX's own run time and by each of the others, in each of its types;
int8 takes its ranges from training photos. Then all are timed in turn on the same photos. What is
not installed, or what this processor has not, is said in its row.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.measure import interleave, machine, markdown, ratio
from jaxad.config import apply_changes, load_config
from jaxad.data.manifest import Manifest
from jaxad.errors import InputError
from jaxad.files import write_json
from jaxad.own_keys import EVALUATION
from jaxad.recipes.build import models
from jaxad.runs.dataset import jobs_of, read_dataset, reading_of
from jaxad.runs.score_category import score_category
from jaxad.runs.workdir import restore, trained, trained_backbones
from jaxad.runtimes.engines import DTYPES
from jaxad.scorer import Scorer, make_scorer

WAYS = {
    "xla": ("xla", "float32"),
    **{f"{runtime} {dtype}": (runtime, dtype) for runtime in DTYPES for dtype in DTYPES[runtime]},
}
METRICS = ("image_auroc", "pixel_auroc", "aupro_0.30")
PAUSE = 0.03
"""Seconds before every timed run, not counted."""


def measure(
    workdir: Path, changes: Sequence[str], ways: Sequence[str], *, photos: int, **timing: Any
) -> list[dict[str, Any]]:
    """All rows of the first trained detector of a work directory."""
    config, hashes = load_config(workdir / "config.json")
    apply_changes(config, changes, only=EVALUATION)
    backbones = trained_backbones(workdir, config, hashes)
    manifest, reading = read_dataset(config), reading_of(config, backbones)
    job = next(job for job in jobs_of(manifest, config) if job.name in trained(workdir))
    built, method = restore(
        workdir, job.name, config, backbones, models(config, backbones, axis_name=None)
    )
    variables = {"backbones": backbones.variables, "method": method}
    normal = _photos(reading, manifest, job.train, photos)
    category, records = next(iter(job.test.items()))

    def scorer(way: str, batch_size: int) -> Scorer:
        runtime, dtype = WAYS[way]
        return make_scorer(
            built.detector,
            variables,
            batch_size=batch_size,
            size=reading.size,
            runtime=runtime,
            dtype=dtype,
            photos=normal,
        )

    rows: dict[str, dict[str, Any]] = {}
    maps: dict[str, Any] = {}
    some = _photos(reading, manifest, records, 8)
    for way in ways:
        row: dict[str, Any] = {"detector": config.method.name, "category": category, "way": way}
        rows[way] = row
        try:
            made = scorer(way, 8)
        except InputError as error:
            row["note"] = str(error)
            continue
        scored = score_category(
            category,
            records,
            manifest.root,
            made.score,
            reading=reading,
            batch_size=8,
            examples=0,
            n_train=0,
        )
        row |= {metric: scored.metrics[metric] for metric in METRICS}
        maps[way] = np.asarray(made.score(some).map)
        span = float(np.ptp(maps["xla"]))
        row["map_difference"] = float(np.abs(maps[way] - maps["xla"]).max()) / span
        print(way, row, file=sys.stderr, flush=True)
    able = [way for way in ways if "note" not in rows[way]]
    for batch in timing["batches"]:
        runs = {way: _timed(scorer(way, batch), some[:batch]) for way in able}
        seconds = interleave(runs, pairs=timing["rounds"], pause=PAUSE)
        for way in able:
            rows[way][f"milliseconds_{batch}"] = 1e3 * statistics.median(seconds[way])
            rows[way][f"ratio_{batch}"] = ratio(seconds["xla"], seconds[way])
    return list(rows.values())


def _photos(reading: Any, manifest: Any, records: Sequence[Any], count: int) -> Any:
    chosen = Manifest(manifest.root, tuple(records[:: max(len(records) // count, 1)][:count]))
    batches = list(reading.batches(chosen, count, with_masks=False))
    return np.concatenate([batch["image"][batch["_mask"]] for batch in batches])


def _timed(scorer: Scorer, images: Any) -> Callable[[], Any]:
    return lambda: jax.device_get(scorer.score(images))


def table(rows: Sequence[dict[str, Any]], batches: Sequence[int]) -> str:
    """Markdown; a ratio is the time of XLA over that of the row."""

    def cells(row: dict[str, Any]) -> list[str]:
        start = [row["detector"], row["way"]]
        if "note" in row:
            return [*start, row["note"], *[""] * (len(METRICS) + len(batches))]
        found = [f"{row[metric]:.4f}" for metric in METRICS]
        speed = []
        for batch in batches:
            r = row[f"ratio_{batch}"]
            each = row[f"milliseconds_{batch}"] / batch
            speed.append(f"{each:.0f}; {r['median']:.2f} ({r['low']:.2f}–{r['high']:.2f})")
        return [*start, f"{row['map_difference']:.1e}", *found, *speed]

    head = ["detector", "run time", "map differs", *METRICS]
    head += [f"ms an image; ratio, batch {batch}" for batch in batches]
    return markdown(head, [cells(row) for row in rows])


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for; 2 for input that is of no use."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=Path, help="what `jaxad train` wrote, with float32")
    parser.add_argument("--data", help="folder of the data set, if it has moved")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS), help="beside xla")
    parser.add_argument("--batch", nargs="+", type=int, choices=range(1, 9), default=(1, 8))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--photos", type=int, default=100, help="that int8 takes its ranges from")
    parser.add_argument("--json", type=Path, help="write all rows here")
    args = parser.parse_args(argv)
    ways = ["xla", *(way for way in args.only if way != "xla")]
    changes = [f"--config.data.root={args.data}"] if args.data else []
    try:
        rows = measure(
            args.workdir,
            changes,
            ways,
            photos=args.photos,
            batches=args.batch,
            rounds=args.rounds,
        )
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(table(rows, args.batch))
    if args.json:
        write_json(args.json, {"benchmark": "runtimes", "machine": machine(), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
