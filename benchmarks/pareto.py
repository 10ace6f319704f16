"""Accuracy against speed of MB-PFM: image size, networks, latent sizes, levels, steps, smoothing.

    python -m benchmarks.pareto --data FOLDER [--only POINT ...] [--json FILE]
    python -m benchmarks.pareto --fake

Every point is `configs/mb_pfm_fast.py` with other values of these. Accuracy is that of MVTec AD's
bottle and of magnetic tiles (FOLDER holds `mvtec_ad_256/` and `magnetic_tile/`), fps that of
`jaxad.scorer` on this machine, all points in turn, and their ratio to the first point's. Levels
are trained each by itself, so points share them: features are computed once for a pair of networks
and a size (and kept as float16), each level is trained once for a width. FILE is written after
every pair and size; the accuracy that it holds already is not measured again. A point is beaten by
one that is faster and loses no more than .001 in any metric: `python -m benchmarks.plots FILE`.
`--fake` takes drawn pictures, random weights and few steps: it proves that all runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import ablation
from benchmarks.compare import read
from benchmarks.detectors import build
from benchmarks.measure import interleave, machine, markdown, ratio
from benchmarks.sets import BOTTLE, TILES
from benchmarks.training import FAKE
from configs import mb_pfm_fast
from jaxad.config import apply_changes
from jaxad.core import Array
from jaxad.data.synthetic import write_dataset
from jaxad.errors import InputError
from jaxad.files import write_json
from jaxad.metrics.pixel import pixel_metrics
from jaxad.metrics.summary import category_metrics
from jaxad.ops.pool import top_share_mean
from jaxad.ops.resample import resize_map
from jaxad.recipes.build import build_backbones
from jaxad.runs.train import trainer_of
from jaxad.scorer import Scorer, make_scorer
from jaxad.training import feature_cache as features

METRICS = ablation.METRICS
DATA = ("bottle", "magnetic_tile")
TOLERANCE = 0.001
"""Of a metric: less does not count as a loss where points are compared."""
BATCH = 8
Maps = np.ndarray[Any, np.dtype[np.float32]]


class Point(NamedTuple):
    """A detector: `mb_pfm_fast` but for these."""

    source: str = "resnet18"
    target: str = "resnet50_keras"
    size: int = 256
    latent: tuple[int, ...] = (200, 400, 400)
    """Of hierarchy 1, 2, 3; 0: without it."""
    steps: tuple[int, ...] = (200, 300, 1200)
    bidirectional: bool = True
    smoothing: float = 0.0
    top_share: float = 0.01

    def pieces(self) -> list[Point]:
        """Its levels, each a detector of its own: what is trained."""

        def only(values: tuple[int, ...], level: int, other: int) -> tuple[int, ...]:
            return tuple(v if i == level else other for i, v in enumerate(values))

        alike = self._replace(smoothing=Point().smoothing, top_share=Point().top_share)
        return [
            alike._replace(latent=only(self.latent, i, 0), steps=only(self.steps, i, 1))
            for i, width in enumerate(self.latent)
            if width
        ]

    def group(self) -> tuple[str, str, int]:
        """What decides which features are computed."""
        return self.source, self.target, self.size


NARROW = Point(latent=(64, 128, 200))
POINTS = {
    "fast": Point(),
    "lite": Point(
        size=224, latent=(16, 200, 200), steps=(150, 900, 2400), smoothing=2.0, top_share=0.025
    ),
    "narrow": NARROW,
    "narrow_224": NARROW._replace(size=224),
    "narrow_224_long": NARROW._replace(size=224, steps=(200, 900, 2400)),
    "levels_13": NARROW._replace(latent=(64, 0, 200)),
    "levels_23": NARROW._replace(latent=(0, 128, 200)),
    "levels_12": NARROW._replace(latent=(64, 128, 0)),
    "small_target": NARROW._replace(target="efficientnet_lite2"),
}
"""By name; `fast` and `lite` are configs/mb_pfm_fast.py and configs/mb_pfm_lite.py."""


def configure(point: Point, changes: Sequence[str] = ()) -> Any:
    """Make the configuration of a point; `changes` are `key=value`."""
    config = mb_pfm_fast.get_config()
    method = config.method
    method.source, method.target = point.source, point.target
    method.latent = tuple(c or 1 for c in point.latent)
    method.levels = tuple(h for h, c in enumerate(point.latent, start=1) if c)
    method.bidirectional, method.smoothing = point.bidirectional, point.smoothing
    method.top_share, config.train.steps = point.top_share, point.steps
    config.data.image_size = (point.size, point.size)
    config.train.cache_dtype, config.data.calibration = "float16", 0.0
    apply_changes(config, [f"--config.{change}" for change in changes])
    return config


def train_piece(piece: Point, data: ablation.Data, changes: Sequence[str]) -> Maps:
    """Train one level; returns its `(N, h, w)` maps of the test images, as fine as its features."""
    config = configure(piece, changes)
    backbones = build_backbones(config)  # up to this level
    trainer = trainer_of(config, backbones, data.parallel, capacity=len(data.job.train))
    fit = trainer.fit(
        data.job, data.root, lambda **_: None, seed=config.train.seed, cache=data.train
    )
    detector, variables = fit.model.detector, fit.variables
    method = detector.method
    (level,) = detector.backbones["source"].levels
    size = data.train[f"source/{level}"].shape[1:3]
    score = jax.jit(lambda v, found: method.score(v, features.as_float32(found), size=size).map)
    (test,) = data.test.values()
    starts = range(0, len(test.labels), BATCH)
    return np.concatenate(
        [score(variables, features.take_images(test.found, slice(i, i + BATCH))) for i in starts]
    )


def scores(maps: Sequence[Maps], point: Point) -> tuple[Maps, Maps]:
    """What `pfm` makes of the maps of its levels (Eq. 15): score maps and image scores."""
    size = (point.size, point.size)

    @jax.jit
    def of(parts: Sequence[Array]) -> tuple[Array, Array]:
        every = [resize_map(x, size=size, sigma=point.smoothing) for x in parts]
        final = jnp.mean(jnp.stack(every), axis=0)
        return final, top_share_mean(final, point.top_share)

    found = [of([x[i : i + 32] for x in maps]) for i in range(0, len(maps[0]), 32)]
    whole, image = zip(*found)
    return np.concatenate(whole), np.concatenate(image)


def accuracy(
    points: Mapping[str, Point], changes: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """Metrics of points of one group on one data set."""
    first = next(iter(points.values()))
    whole = configure(first._replace(latent=(1, 1, 1)), changes)
    return judged(points, ablation.prepare(whole), changes)


def judged(
    points: Mapping[str, Point], data: ablation.Data, changes: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """Train every level that the points are made of once; metrics of each point."""
    pieces = {piece for point in points.values() for piece in point.pieces()}
    maps = {piece: train_piece(piece, data, changes) for piece in sorted(pieces)}
    (test,) = data.test.values()
    found = {}
    for name, point in points.items():
        size = configure(point, changes).data.image_size[0]
        own = [maps[piece] for piece in point.pieces()]
        map_, image = scores(own, point._replace(size=size))
        pixel = pixel_metrics(test.masks[test.has_mask], map_[test.has_mask])
        every = category_metrics(test.labels, image, pixel, n_train=test.n_train)
        found[name] = {metric: every[metric] for metric in METRICS}
    return found


def speeds(
    points: Mapping[str, Point], changes: Sequence[str], *, pairs: int
) -> dict[str, dict[str, Any]]:
    """Frames per second of all points in turn, and their ratio to the first."""
    runs: dict[str, Callable[[], Any]] = {}
    gflop = {}
    for name, point in points.items():
        config = configure(point, [*changes, "method.random_weights=True"])
        detector, variables = build(config)
        size = tuple(config.data.image_size)
        scorer = make_scorer(detector, variables, batch_size=BATCH, size=size)
        images = np.random.default_rng(0).integers(0, 256, (BATCH, *size, 3), np.uint8)

        def run(scorer: Scorer = scorer, images: Any = images) -> None:
            jax.block_until_ready(scorer.score(images))

        runs[name] = run
        gflop[name] = detector.cost(variables["backbones"], size=size).gflop
    seconds = interleave(runs, pairs=pairs, warmup=1)
    first = seconds[next(iter(points))]
    return {
        name: {
            "fps": BATCH / statistics.median(each),
            "ratio": ratio(first, each),
            "gflop_per_image": gflop[name],
        }
        for name, each in seconds.items()
    }


def values(row: Mapping[str, Any]) -> list[float]:
    """All metrics of a row, in one order."""
    found = (row["metrics"][data] for data in sorted(row["metrics"]))
    return [v for metrics in found for v in metrics.values() if v is not None]


def beaten(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether another row is faster and loses nothing."""
    return any(
        other["fps"] > row["fps"]
        and all(a >= b - TOLERANCE for a, b in zip(values(other), values(row)))
        for other in rows
    )


HEAD = ("point", "networks", "px", "c", *DATA, "GFLOP", "fps", "ratio", "largest loss")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown; metrics are image AUROC / pixel AUROC / AUPRO@0.3, losses against the first row."""

    def metrics(row: Mapping[str, Any], data: str) -> str:
        found = row["metrics"][data].values()
        return " / ".join("–" if v is None else f"{v:.4f}".removeprefix("0") for v in found)

    lines = []
    for row in rows:
        point = Point(**row["point"])
        how = "" if point.bidirectional else ", one way"
        how += f", smoothed by {point.smoothing:g}" if point.smoothing else ""
        if tuple(point.steps) != Point().steps:
            how += f", {'/'.join(map(str, point.steps))} steps"
        if point.top_share != Point().top_share:
            how += f", highest {point.top_share:.1%}"
        lines.append(
            (
                row["name"],
                f"{point.source} – {point.target}",
                point.size,
                "/".join(str(c or "–") for c in point.latent) + how,
                *(metrics(row, data) for data in DATA),
                "–" if row["gflop_per_image"] is None else f"{row['gflop_per_image']:.1f}",
                f"{row['fps']:.2f}",
                f"{row['ratio']['median']:.2f}",
                f"{max(a - b for a, b in zip(values(rows[0]), values(row))):.4f}",
            )
        )
    return markdown(HEAD, lines)


def known(path: Path | None) -> dict[str, Any]:
    """Rows of an earlier run by name, as far as their points are still the same.

    Raises:
        InputError: The file is not one of ours.
    """
    if path is None or not path.exists():
        return {}
    rows = read(path)["benchmarks"].get("pareto", {}).get("rows", [])
    every = {name: json.loads(json.dumps(point._asdict())) for name, point in POINTS.items()}
    return {row["name"]: row for row in rows if every.get(row["name"]) == row["point"]}


def data_of(folder: Path | None, drawn: Path) -> dict[str, list[str]]:
    """`key=value` of the configuration for each data set: real ones, or drawn below `drawn`."""
    if folder is not None:
        return {
            name: [f"{key}={value.format(data=folder)}" for key, value in changes.items()]
            for name, changes in zip(DATA, (BOTTLE, TILES))
        }
    write_dataset(drawn, categories=DATA, n_train=4, n_test_good=2, n_test_bad=3, size=(64, 64))
    fake = [f"{key}={value}" for key, value in FAKE.items()]
    return {name: [f"data.root={drawn}", f"data.categories={name}", *fake] for name in DATA}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, then the speed of all; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="folder of mvtec_ad_256/ and magnetic_tile/")
    source.add_argument("--fake", action="store_true", help="drawn pictures, no accuracy")
    parser.add_argument("--only", nargs="+", choices=POINTS, default=list(POINTS))
    parser.add_argument("--pairs", type=int, default=7, help="rounds of timing")
    parser.add_argument("--json", type=Path, help="write all rows here; goes on from what it holds")
    args = parser.parse_args(argv)
    if args.pairs < 1:
        parser.error("--pairs is 1 or more")
    points = {name: POINTS[name] for name in POINTS if name in args.only}
    with tempfile.TemporaryDirectory() as drawn:
        try:
            rows = {} if args.fake else known(args.json)
            data = data_of(args.data, Path(drawn))
            results: dict[str, Any] = {"benchmark": "pareto", "machine": machine()}

            def write() -> None:
                order = sorted(rows, key=list(POINTS).index)
                results["rows"] = [{"name": name, **rows[name]} for name in order]
                if args.json:
                    write_json(args.json, results)

            missing = {name: point for name, point in points.items() if name not in rows}
            for group in dict.fromkeys(point.group() for point in missing.values()):
                own = {name: point for name, point in missing.items() if point.group() == group}
                found = {name: accuracy(own, changes) for name, changes in data.items()}
                for name, point in own.items():
                    metrics = {data: of[name] for data, of in found.items()}
                    rows[name] = {"point": point._asdict(), "metrics": metrics}
                write()
            changes = [] if args.data else data[DATA[0]]
            for name, speed in speeds(points, changes, pairs=args.pairs).items():
                rows[name] |= speed
        except InputError as error:
            print(error, file=sys.stderr)
            return 2
    timed = [rows[name] for name in points]
    for row in timed:
        row["beaten"] = beaten(row, timed)
    write()
    print(table([{"name": name, **rows[name]} for name in points]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
