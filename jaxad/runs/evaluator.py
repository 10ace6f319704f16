"""What scores and measures detector after detector, and what comes of one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from jaxad.core import Variables
from jaxad.data.jobs import Job
from jaxad.data.reading import Reading
from jaxad.normal import Normal
from jaxad.parallel import DataParallel
from jaxad.recipes.recipe import Model
from jaxad.report.view import CategoryView
from jaxad.runs.outcomes import Kept
from jaxad.runs.score_category import normal_scores, score_category
from jaxad.runtimes.engines import check_runtime
from jaxad.scorer import Scorer, constants_pay, make_scorer
from jaxad.training.sampling import batch_elements


class Outcome(NamedTuple):
    """What results and report need of one detector."""

    metrics: dict[str, dict[str, Any]]
    """By category."""
    views: dict[str, CategoryView]
    seconds: dict[str, float]
    steady: tuple[int, float]
    detector: str = ""
    """Its name."""
    sources: Mapping[str, str] = MappingProxyType({})
    """Name of a block -> the category that its photos are of."""


class Evaluator:
    """Scores and measures detector after detector, with one program where one serves them all."""

    def __init__(
        self,
        jobs: Sequence[Job],
        reading: Reading,
        parallel: DataParallel,
        *,
        batch_size: int,
        examples: int,
        runtime: str = "xla",
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Set up; nothing is computed.

        Args:
            jobs: All that are to be evaluated.
            reading: How photos are read.
            parallel: Over which devices.
            batch_size: Images a program call; rounded up to what the devices share.
            examples: Photos a category of each kind, for the report.
            runtime: What scores, see `make_scorer`.
            check: Called before every batch; may raise, to end the work.
        """
        check_runtime(runtime)
        self._check, self._runtime = check, runtime
        self._detectors = len(jobs)
        photos = sum(len(records) for job in jobs for records in job.test.values())
        self._images = photos // max(len(jobs), 1)
        self._reading, self._examples = reading, examples
        # Each process scores its share of a batch, on its own devices.
        self._parallel, self._share = parallel.within(), (parallel.process, parallel.processes)
        self._batch_size = batch_elements(batch_size, 1, parallel.device_count)
        self._scorers: dict[int, Scorer] = {}
        self._variables: Variables = {}
        """Those that the last scorer holds."""

    def scorer(self, model: Model, variables: Variables) -> Scorer:
        """The scorer of one trained detector, `variables` being of backbones and method."""
        key = id(model)  # `models` keeps it alive, and gives the same for the same
        last, self._variables = self._variables, variables
        if key in self._scorers and last is variables:
            return self._scorers[key]
        if key in self._scorers:
            self._scorers[key] = self._scorers[key].renew(variables)
        else:
            cost = model.detector.cost(variables["backbones"], size=self._reading.size)
            constants = jax.default_backend() == "cpu" and constants_pay(
                gflop=cost.gflop, images=self._images, detectors=self._detectors
            )
            self._scorers[key] = make_scorer(
                model.detector,
                variables,
                batch_size=self._batch_size // self._share[1],
                size=self._reading.size,
                constants=constants,
                parallel=self._parallel,
                runtime=self._runtime,
                routed=True,
            )
        return self._scorers[key]

    def evaluate(
        self,
        job: Job,
        root: Path,
        model: Model,
        variables: Variables,
        *,
        n_train: Mapping[str, int],
        n_calibration: Mapping[str, int],
        subclasses: Sequence[str] = (),
        outcomes: Kept,
        also: Callable[..., None] = lambda *batch: None,
    ) -> Outcome:
        """Score every category of a job.

        Args:
            job: What is tested.
            root: Folder of the job's records.
            model: The trained detector.
            variables: Of backbones and method.
            n_train: Training photos by category, for the results.
            n_calibration: Calibration photos by category, for the results.
            subclasses: Names of those that the detector has learnt.
            outcomes: Keeps what is measured; a category that is kept there is not scored again.
            also: `also(category, rows, batch, maps, scores)` is given every batch.
        """
        metrics, views = {}, {}
        images, steady, total = 0, 0.0, 0.0
        tested = {name: records for name, records in job.test.items() if records}
        there = {name: outcomes.kept(name) for name in tested}
        if not all(there.values()):
            scorer = self.scorer(model, variables)
            total = scorer.compile_seconds
        for name, records in tested.items():
            scored = there[name]
            if scored is None:
                scored = score_category(
                    name,
                    records,
                    root,
                    scorer.score,
                    reading=self._reading,
                    batch_size=self._batch_size,
                    examples=self._examples,
                    n_train=n_train.get(records[0].category, 0),
                    n_calibration=n_calibration.get(records[0].category, 0),
                    subclasses=_routed(model, subclasses),
                    share=self._share,
                    check=self._check,
                    also=functools.partial(also, name),
                )
                outcomes.keep(name, scored)
            metrics[name], views[name] = scored.metrics, scored.view
            total += scored.seconds
            images, steady = images + scored.steady[0], steady + scored.steady[1]
        seconds = {"features": 0.0, "train": 0.0, "score": total}
        sources = {name: records[0].category for name, records in tested.items()}
        return Outcome(metrics, views, seconds, (images, steady), job.name, sources)

    def calibrate(
        self,
        job: Job,
        root: Path,
        model: Model,
        variables: Variables,
        *,
        subclasses: Sequence[str] = (),
    ) -> dict[str, Normal]:
        """Score the calibration photos of a job, by category; see `evaluate`."""
        return {
            name: normal_scores(
                name,
                records,
                root,
                self.scorer(model, variables).score,
                reading=self._reading,
                batch_size=self._batch_size,
                subclasses=_routed(model, subclasses),
                share=self._share,
                check=self._check,
            )
            for name, records in job.calibration.items()
            if records
        }


def _routed(model: Model, subclasses: Sequence[str]) -> Sequence[str]:
    """The subclasses that a detector takes photos for."""
    return () if model.detector.method.route is None else subclasses
