"""Choose `configs/mb_pfm_lite.py` without a test photo: by training photos left out, on many sets.

    python -m benchmarks.lite --data FOLDER [--sets NAME ...] [--json FILE]

Candidates are all at 224 pixels, where MB-PFM scores more than twice as many photos a second as
`mb_pfm_fast` (`benchmarks.pareto`): two mapping networks, each under every way to make a map and a
photo's score. They learn two thirds of a set's training photos and are judged on the rest, as they
are and with a piece pasted into each (`jaxad.data.cut_paste`). A level is trained once and serves
all candidates. What is chosen has the largest mean of image AUROC and pixel AUROC over the sets
(`benchmarks.choose`). FILE is written after every set; sets that it holds are not run again.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.choose import METRICS, Photos, chosen, shares
from benchmarks.compare import earlier
from benchmarks.measure import machine, markdown
from benchmarks.pareto import Point, configure, judged
from benchmarks.sets import SETS
from jaxad.errors import InputError
from jaxad.files import write_json

SHARES = 3
"""One of so many shares of the photos is left out."""
NETWORKS = {
    "long": Point(size=224, latent=(64, 128, 200), steps=(200, 900, 2400)),
    # As shipped when these were tried; `pareto`'s "lite" follows what is shipped.
    "lite": Point(size=224, latent=(16, 200, 200), steps=(150, 900, 2400)),
}
SMOOTHING, TOP_SHARE = (0.0, 2.0, 4.0), (0.01, 0.025, 0.003)
"""As `mb_pfm_fast` has it first: what is as good and named earlier is chosen."""
CANDIDATES = {
    f"{name}, smoothed by {sigma:g}, highest {share:.1%}": point._replace(
        smoothing=sigma, top_share=share
    )
    for (name, point), sigma, share in itertools.product(NETWORKS.items(), SMOOTHING, TOP_SHARE)
}

Rows = dict[str, dict[str, dict[str, float | None]]]
"""Set -> candidate -> metrics."""


def by_candidate(found: Rows) -> dict[str, dict[str, Any]]:
    """Candidate -> set -> metrics, as `benchmarks.choose.chosen` takes them."""
    return {name: {data: rows[name] for data, rows in found.items()} for name in CANDIDATES}


def left_out(changes: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Metrics of every candidate on photos that it has not learnt."""
    first = next(iter(CANDIDATES.values()))
    photos = Photos(configure(first._replace(latent=(1, 1, 1)), changes))
    (name, out), *_ = shares(len(photos.job.train), SHARES).items()
    return judged(CANDIDATES, photos.without(name, out), changes)


def known(path: Path | None) -> Rows:
    """The sets of an earlier sitting.

    Raises:
        InputError: The file is not one of ours, or of other candidates.
    """
    before = earlier(path, sets=dict, candidates=dict)
    if before is None:
        return {}
    found, points = before
    if points != json.loads(json.dumps(described())):
        raise InputError(f"{path}: of other candidates: choose another --json")
    return dict(found)


def described() -> dict[str, Any]:
    """The candidates as a file has them."""
    return {name: point._asdict() for name, point in CANDIDATES.items()}


def table(found: Rows) -> str:
    """Markdown: image AUROC / pixel AUROC / AUPRO@0.3 on every set, and the mean of each."""

    def cell(rows: Sequence[Mapping[str, Any]]) -> str:
        means = (np.mean([row[metric] for row in rows]) for metric in METRICS)
        return " / ".join(f"{mean:.4f}".removeprefix("0") for mean in means)

    lines = [
        (name, *(cell([row]) for row in own.values()), cell(list(own.values())))
        for name, own in by_candidate(found).items()
    ]
    return markdown(("candidate", *found, "mean"), lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing; print the table, and what is chosen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of the sets (benchmarks.sets)")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--json", type=Path, help="write all here; goes on from what it holds")
    args = parser.parse_args(argv)
    try:
        found = known(args.json)
        for name in args.sets:
            if name in found:
                continue
            changes = [f"{k}={v.format(data=args.data)}" for k, v in SETS[name].items()]
            found[name] = left_out(changes)
            print(f"{name}: done", file=sys.stderr, flush=True)
            if args.json:
                about = {"benchmark": "lite", "date": datetime.date.today().isoformat()}
                best = chosen(by_candidate(found))
                tree = {"candidates": described(), "sets": found, "chosen": best}
                write_json(args.json, {**about, "machine": machine(), **tree})
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(table(found))
    print(f"chosen: {chosen(by_candidate(found))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
