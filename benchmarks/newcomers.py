"""A subclass that comes later, known by k good photos: magnetic tiles under new light.

    python -m benchmarks.newcomers --data FOLDER [--photos 0 1 5 20] [--seeds 3] [--json FILE]
        [--config.a.b=VALUE ...]

Exposures 1 to 4 are learnt, each of 5 and 6 is then made known by k of its good photos, without
training: to one bank of all (`patchcore`, what `jaxad update --add` does), as one more expert with
a bank of these photos alone (`moe-bank`, `jaxad.methods.newcomer.welcome`), and as one with its
nearest expert's members beside them (`added`). Rows are those of configs/adapted_moe_ablation.py.
As many good photos as the largest k takes are drawn by the seed and judged for no k; metrics are of
the others, means over the two exposures.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ablation import METRICS, Data, Test, measure, moe_row, prepare, score_features
from benchmarks.measure import machine, markdown
from jaxad.config import apply_changes
from jaxad.core import Method, Variables
from jaxad.errors import InputError
from jaxad.files import write_json
from jaxad.methods.newcomer import adding, welcome
from jaxad.metrics.summary import mean_metrics
from jaxad.recipes import mixture
from jaxad.recipes.build import recipe_named
from jaxad.runs.train import trainer_of
from jaxad.training import feature_cache as features

ROWS = ("patchcore", "moe-bank", "added")


def some(test: Test, which: np.ndarray[Any, Any]) -> Test:
    """Some of the photos of a test set."""
    found = {name: values[which] for name, values in test.found.items()}
    truth = (test.labels[which], test.masks[which], test.has_mask[which])
    return Test(found, *truth, test.n_train)


def images_of(test: Test) -> list[Any]:
    """See `jaxad.core.Images`."""
    rows = (features.take_images(test.found, slice(i, i + 1)) for i in range(len(test.labels)))
    return [(features.as_float32(own), {"subclass": np.zeros(1, np.int32)}) for own in rows]


def known_by(
    config: Any,
    data: Data,
    count: int,
    method: Method,
    variables: Variables,
    images: list[Any],
    *,
    add: bool,
) -> tuple[Method, Variables]:
    """Make a subclass known to a detector of `count` (0: that learns none) by photos of it."""
    if not count:
        assert method.update is not None
        stay = np.ones(len(data.job.train), bool)
        return method, method.update(variables, images, stay=stay)
    known = {role: mixture.plain(network) for role, network in data.backbones.networks.items()}
    every = [f"{role}/{level}" for role, network in known.items() for level in network.levels]
    routed, _ = mixture.router(config, every, axis_name=None, count=count, known=known)
    name = config.method.name.removeprefix(mixture.PREFIX)
    expert = recipe_named(name)

    def banks(*args: Any, **options: Any) -> Any:
        whole, phases = expert.method(*args, **options)
        return adding(whole), phases

    larger, _ = mixture.method(
        config,
        data.backbones.networks,
        subclasses=count + 1,
        expert=expert._replace(method=banks) if add else expert,
        name=name,
    )
    return larger, welcome(larger, routed, variables, images)


def run_row(
    config: Any, data: Data, photos: Sequence[int], seed: int, *, add: bool
) -> dict[int, Any]:
    """Train one row once; metrics of every number of photos."""
    size, batch = tuple(config.data.image_size), config.score.batch_size
    trainer = trainer_of(config, data.backbones, data.parallel, capacity=len(data.job.train))
    fit = trainer.fit(data.job, data.root, lambda **_: None, seed=seed, cache=data.train)
    method, learnt = fit.model.detector.method, fit.variables
    centres = learnt.get("routing", {}).get("centres", ())
    found: dict[int, Any] = {k: {} for k in photos}
    for name, test in data.test.items():
        good = np.random.default_rng(seed).permutation(np.flatnonzero(test.labels == 0))
        if len(good) <= max(photos):
            raise InputError(f"{name} has {len(good)} good photos: ask for fewer by --photos")
        drawn, judged = good[: max(photos)], np.ones(len(test.labels), bool)
        judged[drawn] = False
        others = some(test, np.flatnonzero(judged))
        for k in photos:
            own, variables = method, learnt
            if k:
                new = images_of(some(test, drawn[:k]))
                own, variables = known_by(config, data, len(centres), method, learnt, new, add=add)
            score = partial(score_features, own, size)
            found[k][name] = measure(score, variables, others, batch)
    return {k: {"mean": mean_metrics(each), "categories": each} for k, each in found.items()}


def table(rows: dict[str, dict[int, list[Any]]]) -> str:
    """Markdown: means and standard deviations over the seeds."""
    lines = []
    for name, row in rows.items():
        for k, seeds in row.items():
            cells = []
            for metric in METRICS:
                values = [seed["mean"][metric] for seed in seeds]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                cells.append(f"{statistics.mean(values):.4f} ± {spread:.4f}")
            lines.append((name, k, *cells))
    return markdown(("row", "photos", *METRICS), lines)


def main() -> int:
    """Run all rows for all seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder that holds magnetic_tile/")
    parser.add_argument("--photos", type=int, nargs="+", default=[0, 1, 5, 20])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args, changes = parser.parse_known_args()
    if args.seeds < 1 or min(args.photos) < 0:
        parser.error("--seeds is 1 or more, --photos 0 or more")
    rows: dict[str, dict[int, list[Any]]] = {}
    try:
        data = None
        for name in ROWS:
            add = name == "added"
            config = moe_row("moe-bank" if add else name, args.data)
            apply_changes(config, changes)
            data = data or prepare(config)
            each = [run_row(config, data, args.photos, seed, add=add) for seed in range(args.seeds)]
            rows[name] = {k: [seed[k] for seed in each] for k in args.photos}
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(table(rows))
    if args.json:
        write_json(args.json, {"benchmark": "newcomers", "machine": machine(), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
