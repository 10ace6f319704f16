"""The replicates of a work directory, opened to be measured: data, networks, trained detectors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxad.config import apply_changes, check_config, load_config
from jaxad.core import InputError
from jaxad.data import prepared
from jaxad.data.fingerprint import fingerprint
from jaxad.data.jobs import Job, name_list
from jaxad.data.manifest import Manifest, some
from jaxad.files import confined
from jaxad.own_keys import EVALUATION
from jaxad.parallel import data_parallel
from jaxad.recipes.build import models
from jaxad.recipes.recipe import Backbones, Model
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
from jaxad.runs.evaluator import Evaluator, Outcome
from jaxad.runs.outcomes import Kept
from jaxad.runs.replicates import folders
from jaxad.runs.workdir import restore, routed_by, trained, trained_backbones


class Source(NamedTuple):
    """What detectors are evaluated with: the same for replicates, whose seeds alone differ."""

    manifest: Manifest
    jobs: list[Job]
    backbones: Backbones
    model: Callable[[int], Model]
    evaluator: Evaluator
    fingerprint: dict[str, Any]


class Opened(NamedTuple):
    """One replicate of a work directory, ready to be measured."""

    workdir: Path
    config: Any
    source: Source
    data: TrainedOn
    narrowed: bool
    """Whether some of what it was trained for was asked for."""

    @property
    def every(self) -> list[Job]:
        """What the data has, of the categories that were trained."""
        return [_of_training(job, self.data.n_train) for job in self.source.jobs]

    def measured(
        self, jobs: Sequence[Job], outcomes: Callable[[Job], Kept], also: Callable[..., None]
    ) -> list[Outcome]:
        """Evaluate trained detectors; see `Evaluator.evaluate`."""
        found = []
        for job in jobs:
            built, method = restore(
                self.workdir, job.name, self.config, self.source.backbones, self.source.model
            )
            variables = {"backbones": self.source.backbones.variables, "method": method}
            found.append(
                self.source.evaluator.evaluate(
                    job,
                    self.source.manifest.root,
                    built,
                    variables,
                    n_train=self.data.n_train,
                    n_calibration=self.data.n_calibration,
                    subclasses=routed_by(self.workdir, job.name, built.detector),
                    outcomes=outcomes(job),
                    also=also,
                )
            )
        return found


def nothing_trained(workdir: Path) -> InputError:
    """The refusal of a work directory without a detector of the data."""
    return InputError(
        f"{workdir} has no trained detector of this data, but {trained(workdir) or 'none'}: "
        "train, or name its categories by --config.data.categories"
    )


def opened_replicates(
    workdir: Path, changes: Sequence[str], *, check: Callable[[], None]
) -> Iterator[Opened]:
    """Open every replicate of a work directory, with what they share read once.

    Raises:
        InputError: Whatever a user can mend.
    """
    sources: dict[str, Source] = {}
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
        yield Opened(folder, config, sources[key], before, narrowed)


def _source(
    workdir: Path,
    config: Any,
    hashes: Mapping[str, str],
    before: Mapping[str, Any],
    *,
    say: bool,
    check: Callable[[], None],
) -> Source:
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
    return Source(manifest, jobs, backbones, model, evaluator, now)


def jobs_there(replicate: Opened) -> list[Job]:
    """The detectors that are trained and wanted; the others are named."""
    there = trained(replicate.workdir)
    _say_what_is_missing(there, replicate.source.jobs, replicate.data.n_train)
    return [job for job in replicate.every if job.name in there]


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
