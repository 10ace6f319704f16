"""Whether each subclass keeps the promise: one line for all against a line for each.

    python -m benchmarks.promise_routed WORKDIR [--rate 0.1] [--splits 200] [--json FILE]

WORKDIR is of a method that tells subclasses apart, with many calibration photos, as of

    jaxad train --config configs/adapted_moe.py:magnetic_tile --workdir WORKDIR
      --config.data.root=TILES --config.data.train_subclasses= --config.data.test_subclasses=exp1
      --config.data.calibration=0.5

Its calibration scores are split in half at random, again and again: one half draws the lines, and
of the other, which comes later, the share above them is counted by what photos were taken for.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import machine, markdown
from jaxad.calibration import Calibration
from jaxad.errors import InputError
from jaxad.files import write_json
from jaxad.normal import Normal
from jaxad.runs.calibrations import read_calibrations


def rates(normal: Normal, rate: float, *, splits: int) -> list[dict[str, Any]]:
    """Mean shares of later photos above the two lines, for every subclass and for all of them.

    Subclasses that have too few photos in a half have no line of their own there: the category's.
    """
    draw, names = np.random.default_rng(0), sorted({*normal.routed})
    taken = np.asarray(normal.routed)
    above = np.full((2, splits, len(names) + 1), np.nan)
    own = np.zeros(len(names))
    for split in range(splits):
        first, later = np.array_split(draw.permutation(len(taken)), 2)
        calibration = Calibration({"": normal.rows(first)}, rate)
        limit, limits = calibration.limits().score, calibration.routed_limits()
        own += [name in limits for name in names]
        each = [limits[name].score if name in limits else limit for name in taken[later]]
        for way, line in enumerate((limit, np.asarray(each))):
            alarms = normal.scores[later] > line
            for j, name in enumerate(names):
                if (mine := taken[later] == name).any():
                    above[way, split, j] = alarms[mine].mean()
            above[way, split, -1] = alarms.mean()
    means = [np.nanmean(way, axis=0) for way in above]
    counts = [int((taken == name).sum()) for name in names]
    return [
        {
            "subclass": name,
            "photos": count,
            "one_line": float(means[0][j]),
            "own_line": float(means[1][j]),
            "has_own": float(share),
        }
        for j, (name, count, share) in enumerate(
            zip([*names, "all"], [*counts, len(taken)], [*own / splits, 1.0])
        )
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for; 2 for input that is of no use."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=Path, help="of a method that tells subclasses apart")
    parser.add_argument("--rate", type=float, default=0.1, help="of false alarms")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--json", type=Path, help="write all rows here")
    args = parser.parse_args(argv)
    try:
        found = {
            category: rates(normal, args.rate, splits=args.splits)
            for own in read_calibrations(args.workdir).values()
            for category, normal in own.categories.items()
            if normal.routed
        }
        if not found:
            raise InputError(f"{args.workdir} has no calibration that knows subclasses")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    head = ["category", "taken for", "photos", "one line", "a line each", "halves with its own"]
    shown = ("photos", "one_line", "own_line", "has_own")
    rows = [
        [category, row["subclass"], *(f"{row[key]:.3g}" for key in shown)]
        for category, every in found.items()
        for row in every
    ]
    print(markdown(head, rows))
    if args.json:
        told = {"benchmark": "promise_routed", "machine": machine(), "rate": args.rate}
        write_json(args.json, {**told, "categories": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
