"""Whether thresholds keep what they promise, on real photos of normal parts.

    python -m benchmarks.promise --data FOLDER [--json FILE] [--plot PNG]

FOLDER holds `mvtec_ad_256/` and `magnetic_tile/`; ELPV comes as a package. Every method learns half
of the normal training photos of each of four categories, and scores the other half. These scores
are split 200 times at random into a calibration set and photos that come later, and false alarms
are counted among the latter: their mean share, and how often the share of one split is above the
rate. Both are random; the interval is that within which 99 % of such experiments lie if the promise
is kept exactly: the count of m later photos above the k-th of n is beta-binomial. Last, the whole
half calibrates and the data set's own normal test photos come later: once, as in use.

The promise does not depend on how good a detector is, so training is short.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import stats

from benchmarks.measure import machine, markdown
from benchmarks.sets import JOIN
from jaxad.config import load_config, parse_config
from jaxad.conformal import photos_needed, rank, threshold
from jaxad.errors import InputError
from jaxad.files import write_json
from jaxad.recipes.build import models
from jaxad.runs.calibrations import read_calibrations
from jaxad.runs.dataset import jobs_of, read_dataset, reading_of
from jaxad.runs.score_category import normal_scores
from jaxad.runs.train import train
from jaxad.runs.workdir import restore, trained_backbones
from jaxad.scorer import make_scorer

SPLITS = 200
RATES = (0.01, 0.05, 0.1)
CONFIDENCE = 0.9
INSIDE = 0.99
"""Share of experiments whose result lies in the interval, if the promise is kept."""
METHODS: dict[str, tuple[str, dict[str, str]]] = {
    "MB-PFM": ("configs/demo.py", {"train.steps": "(50,100,100)"}),
    "AFRAD": ("configs/afrad_fast.py", {"train.steps": "(200,)"}),
    "SimpleNet": ("configs/simplenet_fast.py", {"train.steps": "(200,)"}),
}
"""Name -> configuration and its changes."""
SHARED = {"data.layout": "join", "data.join": repr(JOIN), "data.calibration": "0.5"}


class Kept(NamedTuple):
    """What was promised and what came, at one rate."""

    rate: float
    confidence: float | None
    calibrated: int
    """n."""
    later: int
    """m."""
    realised: float
    """On average: the mean share of false alarms; with confidence: the share of splits where that
    is above the rate."""
    expected: float
    """Of the same, by the beta-binomial distribution."""
    interval: tuple[float, float]

    @property
    def inside(self) -> bool:
        """Whether what came lies within the interval."""
        return self.interval[0] <= self.realised <= self.interval[1]


def check(
    scores: np.ndarray, rate: float, *, confidence: float | None, seed: int = 0
) -> Kept | None:
    """Split scores `(N,)` of normal photos 200 times; None if they are too few."""
    needed = photos_needed(rate, confidence=confidence)
    n = max(needed, len(scores) // 2)
    m = len(scores) - n
    if m < 5:
        return None
    k = rank(n, rate, confidence=confidence)
    rng = np.random.default_rng(seed)
    shares = []
    for _ in range(SPLITS):
        mixed = rng.permutation(scores)
        limit = threshold(mixed[:n], rate, confidence=confidence)
        shares.append(np.mean(mixed[n:] > limit))
    law = stats.betabinom(m, n + 1 - k, k)
    if confidence is None:
        expected, spread = law.mean() / m, law.std() / m / SPLITS**0.5
        low, high = stats.norm(expected, spread).interval(INSIDE)
        realised = float(np.mean(shares))
    else:
        expected = float(law.sf(np.floor(rate * m)))
        low, high = (np.array(stats.binom(SPLITS, expected).interval(INSIDE))) / SPLITS
        realised = float(np.mean(np.array(shares) > rate))
    return Kept(rate, confidence, n, m, realised, float(expected), (float(low), float(high)))


def rows_of(
    method: str, category: str, held: np.ndarray, tested: np.ndarray
) -> list[dict[str, Any]]:
    """All rates of one detector and category.

    Args:
        method: Its name.
        category: Its name.
        held: `(N,)`, scores of normal photos held out of training.
        tested: `(M,)`, of the data set's normal test photos.
    """
    rows = []
    for confidence in (None, CONFIDENCE):
        for rate in RATES:
            kept = check(held, rate, confidence=confidence)
            if kept is None:
                continue
            limit = threshold(held, rate, confidence=confidence)
            row = {"method": method, "category": category, **kept._asdict()}
            row |= {"inside": kept.inside, "test_photos": len(tested)}
            row |= {"test_false_alarms": int((tested > limit).sum())}
            rows.append(row)
    return rows


def scored(workdir: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Of every category: scores of normal photos held out of training, and of those of the test."""
    config, hashes = load_config(workdir / "config.json")
    manifest, backbones = read_dataset(config), trained_backbones(workdir, config, hashes)
    reading, batch_size = reading_of(config, backbones), config.score.batch_size
    calibrations, model = read_calibrations(workdir), models(config, backbones)
    for job in jobs_of(manifest, config):
        built, method = restore(workdir, job.name, config, backbones, model)
        variables = {"backbones": backbones.variables, "method": method}
        scorer = make_scorer(built.detector, variables, batch_size=batch_size, size=reading.size)
        for name, records in job.test.items():
            good = [record for record in records if record.is_good]
            found = normal_scores(
                name, good, manifest.root, scorer.score, reading=reading, batch_size=batch_size
            )
            yield name, calibrations[job.name].categories[name].scores, found.scores


def measure(data: str, runs: Path) -> list[dict[str, Any]]:
    """Train every method and check every category."""
    rows = []
    for method, (path, changes) in METHODS.items():
        own = {**SHARED, **changes, "data.root": data}
        flags = [f"--config.{key}={value}" for key, value in own.items()]
        workdir = runs / method.lower()
        train(parse_config(["--config", path, *flags]), workdir)
        for category, held, tested in scored(workdir):
            rows += rows_of(method, category, held, tested)
    return rows


HEAD = (
    *("method", "category", "rate", "promise", "n / later", "realised", "expected (99 % interval)"),
    *("inside", "normal test photos called anomalous"),
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = []
    for row in rows:
        low, high = (100 * end for end in row["interval"])
        sure = (
            "on average"
            if row["confidence"] is None
            else f"above the rate in ≤ {1 - CONFIDENCE:.0%}"
        )
        lines.append(
            (
                *(row["method"], row["category"], f"{row['rate']:.0%}", sure),
                f"{row['calibrated']} / {row['later']}",
                f"{100 * row['realised']:.2f} %",
                f"{100 * row['expected']:.2f} % ({low:.2f}–{high:.2f})",
                "yes" if row["inside"] else "NO",
                f"{row['test_false_alarms']} of {row['test_photos']}",
            )
        )
    return markdown(HEAD, lines)


def draw(rows: Sequence[dict[str, Any]]) -> Image.Image:
    """A panel for each rate and promise: what came, and the interval of what was promised."""
    kinds = sorted(
        {(row["confidence"], row["rate"]) for row in rows}, key=lambda k: (k[0] or 0, k[1])
    )
    names = list(dict.fromkeys((row["method"], row["category"]) for row in rows))
    left, width, gap, line, top, fine = 190, 180, 24, 20, 46, 3
    size = (left + len(kinds) * (width + gap), top + len(names) * line + 30)
    image = Image.new("RGB", (fine * size[0], fine * size[1]), "white")
    canvas, font = ImageDraw.Draw(image), ImageFont.load_default(fine * 11)

    def text(x: float, y: float, said: str, anchor: str) -> None:
        canvas.text((fine * x, fine * y), said, fill="#222", font=font, anchor=anchor)

    for n, name in enumerate(names):
        text(left - 12, top + line * (n + 0.5), ", ".join(name), "rm")
    for column, (confidence, rate) in enumerate(kinds):
        own = [r for r in rows if (r["confidence"], r["rate"]) == (confidence, rate)]
        promised = rate if confidence is None else 1 - confidence
        most = 1.15 * max(promised, *(max(r["interval"][1], r["realised"]) for r in own))
        start = left + column * (width + gap)
        what = (
            "mean rate" if confidence is None else f"splits above the rate, {confidence:.0%} sure"
        )
        text(start, 12, f"rate {rate:.0%}", "lm")
        text(start, 28, what, "lm")

        def place(share: float, start: int = start, most: float = most) -> float:
            return start + width * share / most

        bottom = top + line * len(names)
        for share, colour in ((0.0, "#999"), (promised, "#d55e00")):
            x = fine * place(share)
            canvas.line([x, fine * top, x, fine * bottom], colour, fine)
            text(place(share), bottom + 12, f"{share:.0%}", "mm")
        for row in own:
            y = top + line * (names.index((row["method"], row["category"])) + 0.5)
            low, high = (fine * place(end) for end in row["interval"])
            canvas.line([low, fine * y, high, fine * y], "#56b4e9", 4 * fine)
            x = fine * place(row["realised"])
            canvas.ellipse([x - 3 * fine, fine * (y - 3), x + 3 * fine, fine * (y + 3)], "#222")
    return image.resize(size, Image.Resampling.BOX)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, check, print; 1 if a promise is broken, 2 for what can not be used."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of the data sets")
    parser.add_argument("--runs", type=Path, default=Path("runs/promise"), help="work directories")
    parser.add_argument("--json", type=Path, help="write all results here")
    parser.add_argument("--plot", type=Path, help="draw them here")
    args = parser.parse_args(argv)
    try:
        rows = measure(args.data, args.runs)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(table(rows))
    if args.json:
        write_json(args.json, {"benchmark": "promise", "machine": machine(), "rows": rows})
    if args.plot:
        draw(rows).save(args.plot)
    return 0 if all(row["inside"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
