"""One replicate of a run in its work directory: what is there already, and what is written."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxad.config import save_config
from jaxad.core import InputError
from jaxad.files import refusal
from jaxad.normal import Normal
from jaxad.recipes.recipe import Backbones, Model
from jaxad.runs import checkpoint, outcomes, record
from jaxad.runs.calibrations import Calibrations
from jaxad.runs.dataset import DATA, TrainedOn, save_trained_on
from jaxad.runs.decode_once import FOLDER as DECODED
from jaxad.runs.evaluate import write_results
from jaxad.runs.evaluator import Outcome
from jaxad.runs.keeper import TrainingKeeper, When
from jaxad.runs.outcomes import Outcomes
from jaxad.runs.workdir import (
    CHECKPOINTS,
    PHOTOS,
    SUBCLASSES,
    restore,
    save_subclasses,
    subclasses_of,
)
from jaxad.training.fit import Fit

LOG = "train.jsonl"


class Replicate:
    """One work directory of a run."""

    def __init__(
        self,
        config: Any,
        claimed: record.Record,
        backbones: Backbones,
        data: TrainedOn,
        *,
        categories: Sequence[str],
        place: str,
        also: Callable[[dict[str, Any]], None] = lambda line: None,
    ) -> None:
        """Write the configuration and what is known of the data; open the log.

        Args:
            config: Of this replicate.
            claimed: The record of its work directory.
            backbones: Its frozen networks.
            data: What it is trained on.
            categories: All that are to be measured.
            place: Where features are kept.
            also: Is given every line of the log, too.
        """
        self.config, self.backbones, self.seed = config, backbones, config.train.seed
        self.results: dict[str, Any] = {}
        self._also = also
        self._claimed, self._data, self._categories = claimed, data, categories
        self._outcomes: list[Outcome] = []
        self._subclasses = subclasses_of(claimed.folder)
        self._calibrations = Calibrations(claimed, config.calibrate)
        save_trained_on(claimed.file(DATA), data)
        path = claimed.file("config.json")
        save_config(path, config, weights=backbones.sha256, place=place)
        self._path = claimed.file(LOG)
        try:
            self._log = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise refusal("write", self._path, error) from error
        self._size = 0
        """Of the log, as far as finished detectors have written it."""

    def close(self) -> None:
        """Close the log."""
        os.close(self._log)

    def log(self, **values: Any) -> None:
        """Add a line to `train.jsonl`.

        Raises:
            InputError: It can not be written.
        """
        line = (json.dumps(values) + "\n").encode()
        try:
            while line:
                line = line[os.write(self._log, line) :]
        except OSError as error:
            raise refusal("write", self._path, error) from error
        self._also(values)

    def begin(self, cost: dict[str, Any]) -> None:
        """Write the log's first line, or pass it over where it is there."""
        line = (json.dumps({"cost": cost}) + "\n").encode()
        there = os.pread(self._log, len(line), 0)
        if there != line:
            self._go_on(0)
            self.log(cost=cost)
        self._size = len(line)

    def trained(self, name: str, model: Callable[[int], Model]) -> Fit | None:
        """A detector that is finished; None if it is not.

        Raises:
            InputError: It is damaged.
        """
        path = self._claimed.folder / CHECKPOINTS / name
        if not record.is_whole(path):
            return None
        built, variables = restore(self._claimed.folder, name, self.config, self.backbones, model)
        about = checkpoint.about(path)
        seconds, size = about.get("seconds"), about.get("log")
        if not isinstance(seconds, dict) or type(size) is not int:
            raise InputError(f"{path} is damaged: train again, with --overwrite")
        self._size = size
        print(f"{name}: is trained", file=sys.stderr)
        return Fit(built, variables, seconds, tuple(self._subclasses.get(name, ("",))), None)

    def keeper(self, name: str) -> TrainingKeeper:
        """What keeps a detector's training."""
        return TrainingKeeper(
            self._claimed,
            name,
            When(**self.config.checkpoint.to_dict()),
            log_size=lambda: os.lseek(self._log, 0, os.SEEK_CUR),
            go_on=lambda size: self._go_on(self._size if size < 0 else size),
        )

    def save(self, name: str, fit: Fit, photos: Sequence[str]) -> None:
        """Keep a trained detector, and what it has learnt as `workdir.PHOTOS` are."""
        if fit.subclasses != ("",):
            self._subclasses[name] = list(fit.subclasses)
            save_subclasses(self._claimed.file(SUBCLASSES), self._subclasses)
        self._size = os.lseek(self._log, 0, os.SEEK_CUR)
        about: dict[str, Any] = {"seconds": fit.seconds, "log": self._size}
        if fit.model.detector.method.update is not None:
            about[PHOTOS] = list(photos)
        checkpoint.save(self._claimed.tree(CHECKPOINTS, name), fit.variables, about)

    def outcomes(self, name: str) -> Outcomes:
        """What is measured of a detector, as far as it is kept."""
        key = outcomes.measured_by(
            self.config,
            self.backbones.sha256,
            self._data.fingerprint,
            self._claimed.folder / CHECKPOINTS / name,
        )
        return Outcomes(self._claimed, key)

    def calibrated(self, name: str) -> bool:
        """Whether a detector's calibration photos are scored."""
        return self._calibrations.kept(name)

    def calibrate(self, name: str, categories: Mapping[str, Normal]) -> None:
        """Keep what they scored."""
        self._calibrations.keep(name, categories)

    def add(self, outcome: Outcome) -> None:
        """Write results and report anew: what is done is on disk, whatever happens to the next."""
        self._outcomes.append(outcome)
        self.results = write_results(
            self._outcomes,
            self.config,
            results=self._claimed.file("results.json"),
            report=self._claimed.file("report", "index.html"),
            missing_yet=outcomes.missing(self._categories, self._outcomes),
            calibrations=self._calibrations.all(),
        )

    def finish(self) -> None:
        """Delete what only a run that is under way needs."""
        outcomes.forget(self._claimed)
        self._claimed.drop(DECODED)

    def _go_on(self, size: int) -> None:
        """Cut off what the log says of steps that are taken again."""
        os.ftruncate(self._log, min(size, os.lseek(self._log, 0, os.SEEK_END)))
        os.lseek(self._log, 0, os.SEEK_END)
