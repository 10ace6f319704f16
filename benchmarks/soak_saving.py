"""What training checkpoints cost: the same training with and without, in turn.

At the default interval a save comes every few minutes, so a pair of trainings that are long enough
would take an hour. Saves are therefore made so often that their cost is seen, and what one costs is
set against the time from one to the next at the default interval: by the pairs, where most of it
runs beside the steps, and by its whole time from the first copy to the last checksum, which it can
not exceed where cores are as busy as can be.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from benchmarks.detectors import configure
from benchmarks.measure import interleave
from jaxad.data.synthetic import write_dataset
from jaxad.own_keys import KEYS
from jaxad.parallel import data_parallel
from jaxad.recipes.build import build_backbones
from jaxad.runs import record
from jaxad.runs.dataset import jobs_of, read_dataset
from jaxad.runs.keeper import TrainingKeeper, When
from jaxad.runs.train import trainer_of
from jaxad.training.keeping import on_host

BAR = 0.03
"""Share of the training that saving may take at the default interval."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A training that is timed."""

    name: str
    """In `benchmarks.detectors`."""
    steps: tuple[int, ...]
    every: int
    """Steps between two saves."""


CASES = (
    Case("mb_pfm_fast", (20, 20, 20), 10),
    Case("afrad_fast", (20,), 5),
)


def configuration(case: Case, root: Path) -> Any:
    """Of a case at its published size, random networks, and its photos below `root`."""
    config = configure(case.name)
    config.data.root, config.data.layout = str(root / "data"), "mvtec_ad"
    config.train.steps, config.data.calibration = case.steps, 0.0
    size = tuple(config.data.image_size)
    write_dataset(root / "data", categories=("part",), n_train=8, n_test_good=1, size=size)
    return config


def measure(case: Case, config: Any, root: Path, *, pairs: int) -> dict[str, Any]:
    """Time pairs of one case's trainings.

    Args:
        case: What is trained.
        config: Of it, with photos of one category.
        root: A folder to save in.
        pairs: With and without, in turn.
    """
    backbones, parallel = build_backbones(config), data_parallel(config.train.parallel)
    manifest = read_dataset(config)
    (job,) = jobs_of(manifest, config)
    trainer = trainer_of(config, backbones, parallel, capacity=len(job.train))
    claimed = record.claim(root / "w", [], overwrite=False)
    saves: list[list[float]] = []
    """Of every training, the seconds of each save."""
    nbytes: list[int] = []

    def fit(keeper: Any, cache: Any) -> Any:
        return trainer.fit(
            job, manifest.root, lambda **values: None, seed=0, cache=cache, keeper=keeper
        )

    class Timed(TrainingKeeper):
        def _write(self, path: Path, tree: Any, about: dict[str, Any]) -> None:
            start = time.monotonic()
            on_host(tree)  # as it was copied for this, between two steps
            super()._write(path, tree, about)
            saves[-1].append(time.monotonic() - start)
            nbytes.append(sum(leaf.nbytes for leaf in jax.tree.leaves(tree)))

    cache = fit(None, None).cache

    def saving() -> None:
        saves.append([])
        when = When(every_minutes=0, every_steps=case.every, keep=2, features=False)
        keeper = Timed(claimed, job.name, when, log_size=lambda: 0, go_on=lambda size: None)
        fit(keeper, cache)
        keeper.done()

    runs: dict[str, Callable[[], Any]] = {"without": lambda: fit(None, cache), "with": saving}
    seconds = interleave(runs, pairs=pairs, warmup=1)
    each = [
        (b - a) / len(saves[-1]) for a, b in zip(seconds["without"], seconds["with"], strict=True)
    ]
    every = 60 * KEYS["checkpoint.every_minutes"].default
    whole = [value for found in saves[1:] for value in found]
    return {
        "name": case.name,
        "steps": case.steps,
        "saves": len(saves[-1]),
        "megabyte": max(nbytes) / 1e6,
        "seconds": seconds,
        "seconds_a_save": {"pairs": statistics.median(each), "whole": statistics.median(whole)},
        "share": {
            "pairs": statistics.median(each) / every,
            "whole": statistics.median(whole) / every,
            "dearest": max(whole) / every,
        },
    }
