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
from collections.abc import Callable, Sequence
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
from jaxad.recipes.recipe import Recipe
from jaxad.runs.train import trainer_of
from jaxad.training import feature_cache as features

ROWS = ("patchcore", "moe-bank")
"""Of the ablation; the second is trained once for both of its ways."""
Way = Callable[[Variables, list[Any]], tuple[Method, Variables]]
"""Makes a subclass known to what was trained, by photos of it."""


def some(test: Test, which: np.ndarray[Any, Any]) -> Test:
    """Some of the photos of a test set."""
    found = {name: values[which] for name, values in test.found.items()}
    truth = (test.labels[which], test.masks[which], test.has_mask[which])
    return Test(found, *truth, test.n_train)


def images_of(test: Test) -> list[Any]:
    """See `jaxad.core.Images`."""
    rows = (features.take_images(test.found, slice(i, i + 1)) for i in range(len(test.labels)))
    return [(features.as_float32(own), {"subclass": np.zeros(1, np.int32)}) for own in rows]


def ways(config: Any, data: Data, method: Method, count: int) -> dict[str, Way]:
    """Row -> way, for a detector of `count` subclasses (0: that learns none)."""
    if not count:
        update, stay = method.update, np.ones(len(data.job.train), bool)
        assert update is not None
        return {"patchcore": lambda variables, new: (method, update(variables, new, stay=stay))}
    known = {role: mixture.plain(network) for role, network in data.backbones.networks.items()}
    every = [f"{role}/{level}" for role, network in known.items() for level in network.levels]
    routed, _ = mixture.router(config, every, axis_name=None, count=count, known=known)
    name = config.method.name.removeprefix(mixture.PREFIX)
    expert = recipe_named(name)

    def banks(*args: Any, **options: Any) -> Any:
        whole, phases = expert.method(*args, **options)
        return adding(whole), phases

    def way(expert: Recipe) -> Way:
        larger, _ = mixture.method(
            config, data.backbones.networks, subclasses=count + 1, expert=expert, name=name
        )
        return lambda variables, new: (larger, welcome(larger, routed, variables, new))

    return {"moe-bank": way(expert), "added": way(expert._replace(method=banks))}


def run_row(
    config: Any, data: Data, photos: Sequence[int], seed: int
) -> dict[str, dict[int, dict[str, Any]]]:
    """Train one row of the ablation once; for each way, metrics of every number of photos."""
    size, batch = tuple(config.data.image_size), config.score.batch_size
    trainer = trainer_of(config, data.backbones, data.parallel, capacity=len(data.job.train))
    fit = trainer.fit(data.job, data.root, lambda **_: None, seed=seed, cache=data.train)
    method, learnt = fit.model.detector.method, fit.variables
    by_name = ways(config, data, method, len(learnt.get("routing", {}).get("centres", ())))
    found: dict[str, dict[int, Any]] = {name: {k: {} for k in photos} for name in by_name}
    for test_set, test in data.test.items():
        good = np.random.default_rng(seed).permutation(np.flatnonzero(test.labels == 0))
        if len(good) <= max(photos):
            raise InputError(f"{test_set} has {len(good)} good photos: ask for fewer by --photos")
        drawn, judged = good[: max(photos)], np.ones(len(test.labels), bool)
        judged[drawn] = False
        others = some(test, np.flatnonzero(judged))
        for name, way in by_name.items():
            for k in photos:
                new = images_of(some(test, drawn[:k]))
                own, variables = way(learnt, new) if k else (method, learnt)
                score = partial(score_features, own, size)
                found[name][k][test_set] = measure(score, variables, others, batch)
    return {
        name: {k: {"mean": mean_metrics(each), "categories": each} for k, each in row.items()}
        for name, row in found.items()
    }


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
            config = moe_row(name, args.data)
            apply_changes(config, changes)
            data = data or prepare(config)
            each = [run_row(config, data, args.photos, seed) for seed in range(args.seeds)]
            for way in each[0]:
                rows[way] = {k: [seed[way][k] for seed in each] for k in args.photos}
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(table(rows))
    if args.json:
        write_json(args.json, {"benchmark": "newcomers", "machine": machine(), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
