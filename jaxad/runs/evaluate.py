"""The evaluation job: score every test image, measure, write `results.json` and the report."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

import jaxad
from jaxad.calibration import Calibration, Normal
from jaxad.config import apply_changes, check_config, load_config
from jaxad.core import InputError, Variables
from jaxad.data import prepared
from jaxad.data.fingerprint import fingerprint
from jaxad.data.jobs import Job, name_list
from jaxad.data.manifest import Manifest, some
from jaxad.data.reading import Reading
from jaxad.files import confined, read_json, write_json
from jaxad.metrics.summary import mean_metrics
from jaxad.own_keys import EVALUATION
from jaxad.parallel import DataParallel, data_parallel
from jaxad.recipes.build import models
from jaxad.recipes.recipe import Backbones, Model
from jaxad.report.html import write_report
from jaxad.report.view import CategoryView
from jaxad.runs import lock, record
from jaxad.runs.calibrations import FILE as CALIBRATION
from jaxad.runs.calibrations import read_calibrations
from jaxad.runs.dataset import (
    TrainedOn,
    jobs_of,
    prepared_folder,
    read_photos,
    read_trained_on,
    reading_of,
    say_changes,
    say_left_out,
)
from jaxad.runs.outcomes import Kept, Outcomes, forget, is_under_way, measured_by, missing
from jaxad.runs.published import beside
from jaxad.runs.replicates import add_summary, folders
from jaxad.runs.score_category import normal_scores, score_category
from jaxad.runs.workdir import CHECKPOINTS, opened, restore, trained, trained_backbones
from jaxad.runtimes.engines import check_runtime
from jaxad.scorer import Scorer, constants_pay, make_scorer
from jaxad.training.sampling import batch_elements

PART = "results.part.json"
"""Results of some of the detectors."""
MAX_SECONDS = 1e9
"""What is longer stands in a damaged file."""


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
        outcomes: Kept,
    ) -> Outcome:
        """Score every category of a job.

        Args:
            job: What is tested.
            root: Folder of the job's records.
            model: The trained detector.
            variables: Of backbones and method.
            n_train: Training photos by category, for the results.
            n_calibration: Calibration photos by category, for the results.
            outcomes: Keeps what is measured; a category that is kept there is not scored again.
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
                    share=self._share,
                    check=self._check,
                )
                outcomes.keep(name, scored)
            metrics[name], views[name] = scored.metrics, scored.view
            total += scored.seconds
            images, steady = images + scored.steady[0], steady + scored.steady[1]
        seconds = {"features": 0.0, "train": 0.0, "score": total}
        sources = {name: records[0].category for name, records in tested.items()}
        return Outcome(metrics, views, seconds, (images, steady), job.name, sources)

    def calibrate(
        self, job: Job, root: Path, model: Model, variables: Variables
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
                share=self._share,
                check=self._check,
            )
            for name, records in job.calibration.items()
            if records
        }


def write_results(
    outcomes: Sequence[Outcome],
    config: Any,
    *,
    results: Path,
    report: Path,
    part: bool = False,
    missing_yet: Sequence[str] = (),
    calibrations: Mapping[str, Calibration] = MappingProxyType({}),
) -> dict[str, Any]:
    """Write results and report from all outcomes so far; return the results.

    `part` marks results of some of the detectors only; `missing_yet` are categories to come;
    `calibrations` are those that there are, by detector.
    """
    categories = {name: metrics for o in outcomes for name, metrics in o.metrics.items()}
    images, seconds = (sum(outcome.steady[i] for outcome in outcomes) for i in (0, 1))
    found = {
        **({"part": True} if part else {}),
        **({"missing": list(missing_yet)} if missing_yet else {}),
        "method": config.method.name,
        "dataset": config.data.layout,
        "categories": categories,
        "mean": mean_metrics(categories),
        "seconds": {
            key: round(sum(o.seconds[key] for o in outcomes), 3)
            for key in ("features", "train", "score")
        },
        "images_per_second": round(images / seconds, 2) if seconds else None,
        "environment": environment(config),
    }
    write_json(results, found)
    write_report(
        report,
        title=f"{config.method.name} on {config.data.layout}",
        results=found,
        categories={name: view for o in outcomes for name, view in o.views.items()},
        config_text=str(config),
        calibrations={
            name: (calibrations[o.detector], category)
            for o in outcomes
            if o.detector in calibrations
            for name, category in o.sources.items()
        },
        beside=beside(config),
    )
    return found


def environment(config: Any) -> dict[str, Any]:
    """What a figure depends on beside the code."""
    return {
        "jaxad": jaxad.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": jax.local_devices()[0].device_kind,
        "devices": jax.local_device_count(),
        "cores": os.cpu_count(),
        "parallel": config.train.parallel,
        "runtime": config.score.runtime,
    }


class _Source(NamedTuple):
    """What detectors are evaluated with: the same for replicates, whose seeds alone differ."""

    manifest: Manifest
    jobs: list[Job]
    backbones: Backbones
    model: Callable[[int], Model]
    evaluator: Evaluator
    fingerprint: dict[str, Any]


def evaluate(
    workdir: Path, changes: Sequence[str] = (), *, check: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Score and measure a trained work directory again; rewrite its results and report.

    Detectors that are not there (yet) are named and left out, and so are categories that came after
    training. Where fewer are measured than `results.json` has, the new results are written beside
    it, as `results.part.json`. What a run that was stopped has measured is not scored again.

    Args:
        workdir: What `jaxad train` wrote.
        changes: `--config.a.b=VALUE` for keys of `own_keys.EVALUATION`, such as where the data is.
        check: Called before every batch; may raise `errors.Stopped`.

    Returns:
        The results that were written.

    Raises:
        InputError: Whatever a user can mend.
    """
    with lock.locked(opened(workdir), check=check):
        return _evaluate_all(workdir, changes, check)


def _evaluate_all(
    workdir: Path, changes: Sequence[str], check: Callable[[], None]
) -> dict[str, Any]:
    sources: dict[str, _Source] = {}
    found: list[dict[str, Any]] = []
    for folder in folders(workdir):
        config, hashes = load_config(confined(folder, "config.json"))
        named = apply_changes(config, changes, only=EVALUATION)
        check_config(config)
        before = read_trained_on(folder)
        alike = config.copy_and_resolve_references()
        alike.train.seed = alike.train.replicates = 1
        key = f"{alike} {hashes}"
        if key not in sources:
            say = not sources
            sources[key] = _source(folder, config, hashes, before.fingerprint, say=say, check=check)
        narrowed = any(name in named for name in ("data.categories", "data.test_subclasses"))
        found += _evaluate(folder, config, sources[key], before, narrowed=narrowed)
    if not found:
        raise InputError(
            f"{workdir} has no trained detector of this data, but {trained(workdir) or 'none'}: "
            "train, or name its categories by --config.data.categories"
        )
    part = any(results.get("part") for results in found)
    results = found[0] if part else add_summary(workdir, found)
    for folder in folders(workdir):
        ours = record.read(folder)
        if ours is not None and not is_under_way(ours):
            forget(ours)
    return results


def _source(
    workdir: Path,
    config: Any,
    hashes: Mapping[str, str],
    before: Mapping[str, Any],
    *,
    say: bool,
    check: Callable[[], None],
) -> _Source:
    """Read the data, and load the networks that a work directory was trained with."""
    parallel = data_parallel(config.train.parallel)
    manifest, digests = read_photos(config)
    now = fingerprint(manifest, digests)
    if say:
        say_left_out(manifest, config.data.layout)
        say_changes(before, now, name_list(config.data.categories))
    backbones = trained_backbones(workdir, config, hashes)
    reading = reading_of(config, backbones)
    if folder := prepared_folder(config):  # read if it is there; for one pass it is not written
        found = prepared.find(manifest, folder, size=reading.size, resample=reading.resample)
        manifest = found or manifest
    jobs = jobs_of(manifest, config)
    evaluator = Evaluator(
        jobs,
        reading,
        parallel,
        batch_size=config.score.batch_size,
        examples=config.report.examples,
        runtime=config.score.runtime,
        check=check,
    )
    model = models(config, backbones, axis_name=parallel.axis_name)
    return _Source(manifest, jobs, backbones, model, evaluator, now)


def _evaluate(
    workdir: Path,
    config: Any,
    source: _Source,
    data: TrainedOn,
    *,
    narrowed: bool,
) -> list[dict[str, Any]]:
    """Evaluate one replicate's detectors: its results, none without a detector."""
    there = trained(workdir)
    every = [_of_training(job, data.n_train) for job in source.jobs]
    jobs = [job for job in every if job.name in there]
    _say_what_is_missing(there, source.jobs, data.n_train)
    if not jobs:
        return []
    # Before all work: what is there may be a stranger's.
    before = _results_before(workdir)
    confined(workdir, "report", "index.html")
    outcomes = []
    ours = record.read(workdir) or record.Record(workdir)
    ours.sweep()
    for job in jobs:
        built, method = restore(workdir, job.name, config, source.backbones, source.model)
        variables = {"backbones": source.backbones.variables, "method": method}
        key = measured_by(
            config, source.backbones.sha256, source.fingerprint, workdir / CHECKPOINTS / job.name
        )
        outcomes.append(
            source.evaluator.evaluate(
                job,
                source.manifest.root,
                built,
                variables,
                n_train=data.n_train,
                n_calibration=data.n_calibration,
                outcomes=Outcomes(ours, key),
            )
        )
    seconds = before.get("seconds", {})
    outcomes[0].seconds.update(
        {key: seconds[key] for key in ("features", "train") if key in seconds}
    )
    measured = {name for outcome in outcomes for name in outcome.metrics}
    whole = set(before["categories"]) <= measured if before else not narrowed
    wanted = [name for job in every for name, records in job.test.items() if records]
    results = write_results(
        outcomes,
        config,
        results=ours.file("results.json" if whole else PART),
        report=ours.file("report", "index.html" if whole else "part.html"),
        part=not whole,
        missing_yet=missing(wanted, outcomes) if whole else (),
        calibrations=_calibrations(workdir),
    )
    return [results]


def _calibrations(workdir: Path) -> dict[str, Calibration]:
    """Those that there are; results and report do without."""
    if not confined(workdir, CALIBRATION).is_file():
        return {}
    try:
        return read_calibrations(workdir)
    except InputError as error:
        print(f"{error}; the report does without it", file=sys.stderr)
        return {}


def _of_training(job: Job, n_train: Mapping[str, int]) -> Job:
    """The job without categories that its detector was not trained on."""
    known = {n: r for n, r in job.test.items() if not r or r[0].category in n_train}
    return job._replace(test=known)


def _say_what_is_missing(
    there: Sequence[str], wanted: Sequence[Job], n_train: Mapping[str, int]
) -> None:
    categories = {r.category for job in wanted for records in job.test.values() for r in records}
    names = [job.name for job in wanted]
    new = categories - set(n_train)
    for left_out, why in (
        (new, "came after training, and are not measured"),
        ({name for name in names if name not in there} - new, "are not trained yet: not measured"),
        ({name for name in there if name not in names}, "are trained, but not in the data chosen"),
    ):
        if left_out:
            print(f"{some(sorted(left_out))} {why}", file=sys.stderr)


def _results_before(workdir: Path) -> dict[str, Any]:
    """The results that are there, as far as they are in order: only their names and times serve."""
    path = confined(workdir, "results.json")
    try:
        found = read_json(path, "results") if path.is_file() else {}
    except InputError as error:
        print(f"{error}; now written anew", file=sys.stderr)
        return {}
    seconds, categories = (
        found.get(key) if isinstance(found, dict) else None for key in ("seconds", "categories")
    )
    if not isinstance(categories, dict):
        return {}
    times = seconds.items() if isinstance(seconds, dict) else ()
    known = {k: v for k, v in times if type(v) in (int, float) and 0 <= v < MAX_SECONDS}
    return {"seconds": known, "categories": list(categories)}
