"""Who judges photos: a work directory's detector or an exported file, with its calibration."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxad.calibration import Calibration, Limits, Lines, from_json
from jaxad.config import flat, load_config
from jaxad.conformal import photos_needed
from jaxad.core import InputError, Routed, Scores
from jaxad.data.manifest import some
from jaxad.files import confined, read_json
from jaxad.runs import checkpoint
from jaxad.runs.calibrations import read_calibrations, stale_calibrations
from jaxad.runs.dataset import reading_of, reads_upright
from jaxad.runs.workdir import CHECKPOINTS, detectors, opened, routed_by, trained_detector
from jaxad.runtimes.engines import check_runtime
from jaxad.scorer import make_scorer

BATCH_SIZE = 8
"""Where no configuration says one."""
Score = Callable[[Any], Scores | Routed]
"""Maps B images `(B, H, W, 3)` uint8 to their scores; does not wait."""


@dataclasses.dataclass(frozen=True)
class Judge:
    """A detector with what decides about a photo."""

    id: str
    """Of the detector: other weights, another id."""
    category: str
    """Of the photos; "" where it is none of several."""
    size: tuple[int, int]
    """(H, W) that photos are resized to."""
    resample: str
    """A name in `images.FILTERS`."""
    upright: bool
    """Whether photos are turned by their EXIF orientation, as those of training were."""
    batch_size: int
    runtime: str
    limits: Limits
    false_alarm: float
    compiled: Callable[[int], Score]
    """Makes the function that scores so many images; takes seconds."""
    subclasses: tuple[str, ...] = ()
    """Names of what it takes photos for, by `Routed.subclass`; none where it gives `Scores`."""
    routed: Mapping[str, Limits] = dataclasses.field(default_factory=dict)
    """Limits of photos that are taken for a subclass; for all others, `limits`."""
    note: str = ""
    """Which subclasses have no limits of their own, if some have none."""

    @property
    def lines(self) -> Lines:
        """Which limits count for which photo."""
        return Lines(self.limits, self.routed)


def open_judge(
    *,
    workdir: Path | None = None,
    model: Path | None = None,
    category: str | None = None,
    subclass: str | None = None,
    false_alarm: float | None = None,
    batch_size: int | None = None,
    runtime: str | None = None,
) -> Judge:
    """Read a trained detector and its calibration; nothing is compiled.

    Args:
        workdir: What `jaxad train` wrote, and `jaxad calibrate`.
        model: What `jaxad export` wrote, instead.
        category: Of the photos. Needed where there are several detectors; where one has several
            categories, the most cautious limits count without it.
        subclass: Of the photos: their limits by calibration photos of this subclass alone.
        false_alarm: Rate that the limits are drawn for; None: the calibration's.
        batch_size: Images a program call; None: the configuration's.
        runtime: What scores, see `make_scorer`; None: the configuration's. A file brings its own.

    Raises:
        InputError: Whatever a user can mend: no such detector, no calibration, damage.
    """
    if (workdir is None) == (model is None):
        raise InputError("name a detector: --workdir DIR, or --model FILE of jaxad export")
    if batch_size is not None and batch_size < 1:
        raise InputError(f"--batch-size is {batch_size}: it must be 1 or more")
    asked = _Asked(category, subclass, false_alarm)
    if workdir is not None:
        return _of_workdir(opened(workdir), asked, batch_size, runtime)
    assert model is not None
    if runtime not in (None, "xla"):
        raise InputError(f"--runtime {runtime} is for --workdir: a file of jaxad export is XLA's")
    return _of_file(model, asked, batch_size)


class _Asked(NamedTuple):
    """Which limits are wanted."""

    category: str | None
    subclass: str | None
    false_alarm: float | None


def _of_workdir(workdir: Path, asked: _Asked, batch_size: int | None, runtime: str | None) -> Judge:
    config, hashes = load_config(confined(workdir, "config.json"))
    runtime = runtime or config.score.runtime
    check_runtime(runtime)
    names = detectors(workdir)  # first: what a run is still writing has no calibration either
    calibrations = read_calibrations(workdir)
    name = _detector_of(workdir, names, calibrations, asked.category)
    if name not in calibrations:
        told = "has no calibration of"
        if name in stale_calibrations(workdir):
            told = "has no calibration since the update of"
        raise InputError(
            f"{workdir} {told} {name!r}: run jaxad calibrate --workdir {workdir} "
            f"--category {name} DIR, DIR being a folder of normal photos"
        )
    detector, variables, backbones = trained_detector(workdir, name, config, hashes)
    decided = _decided(
        calibrations[name], asked, detector=name, subclasses=routed_by(workdir, name, detector)
    )
    reading = reading_of(config, backbones)
    facts = (
        sorted((k, v) for k, v in flat(config.to_dict()).items() if k.startswith("method.")),
        sorted(hashes.items()),
        read_json(confined(workdir, CHECKPOINTS, name, checkpoint.SUMS)),
        reading.size,
        reading.resample,
    )

    def compiled(batch_size: int) -> Score:
        return make_scorer(
            detector,
            variables,
            batch_size=batch_size,
            size=reading.size,
            runtime=runtime,
            routed=bool(decided.subclasses),
        ).score

    return Judge(
        id=hashlib.sha256(repr(facts).encode()).hexdigest()[:16],
        size=reading.size,
        resample=reading.resample,
        upright=reads_upright(config),
        batch_size=batch_size or config.score.batch_size,
        runtime=runtime,
        compiled=compiled,
        **decided._asdict(),
    )


def _detector_of(
    workdir: Path,
    names: Sequence[str],
    calibrations: Mapping[str, Calibration],
    category: str | None,
) -> str:
    """The one of these detectors that judges a category."""
    if category is None:
        found = names if len(names) == 1 else []
    elif category in names:
        found = [category]
    else:
        found = [n for n in names if n in calibrations and category in calibrations[n].categories]
    if len(found) != 1:
        known = {*names, *(c for own in calibrations.values() for c in own.categories)}
        not_this = "" if category is None else f", not {category!r}"
        raise InputError(
            f"{workdir} judges {some(sorted(known), 5)}: name one of them by --category{not_this}"
        )
    return found[0]


def _of_file(path: Path, asked: _Asked, batch_size: int | None) -> Judge:
    from jaxad.export import load

    exported = load(path)
    if exported.calibration is None:
        raise InputError(
            f"{path} has no calibration: run jaxad calibrate on its work directory, then export it "
            "again"
        )
    calibration = from_json(exported.calibration)
    decided = _decided(
        calibration, asked, detector=exported.detector, subclasses=exported.subclasses
    )

    def score(images: Any) -> Scores | Routed:
        if exported.subclasses:
            return Routed(*exported.routed(images))
        return Scores(*exported.score(images))

    def compiled(batch_size: int) -> Score:
        # A program is compiled at its first call: here, before anybody measures a rate.
        score(np.zeros((batch_size, *exported.size, 3), np.uint8))
        return score

    return Judge(
        id=exported.id,
        size=exported.size,
        resample=exported.resample,
        upright=exported.upright,
        batch_size=batch_size or BATCH_SIZE,
        runtime="xla",
        compiled=compiled,
        **decided._asdict(),
    )


class _Decided(NamedTuple):
    """What of a `Judge` goes by its calibration."""

    category: str
    limits: Limits
    false_alarm: float
    subclasses: tuple[str, ...]
    routed: Mapping[str, Limits]
    note: str


def _decided(
    calibration: Calibration, asked: _Asked, *, detector: str, subclasses: tuple[str, ...]
) -> _Decided:
    """Draw the limits that are asked for of a detector that takes photos for these subclasses."""
    category, subclass, false_alarm = asked
    if false_alarm is not None:
        calibration = dataclasses.replace(calibration, false_alarm=false_alarm)
    if category == detector and category not in calibration.categories:  # one for all, by its name
        category = None
    if category is None and len(calibration.categories) == 1:
        category = next(iter(calibration.categories))
    limits = calibration.limits(category, subclass)
    routed: dict[str, Limits] = {}
    note = ""
    if subclasses and subclass is None:
        routed = calibration.routed_limits(category)
        note = _note(calibration, limits, [name for name in subclasses if name not in routed])
    return _Decided(category or "", limits, calibration.false_alarm, subclasses, routed, note)


def _note(calibration: Calibration, limits: Limits, without: Sequence[str]) -> str:
    """Say which subclasses have no limits of their own, and why."""
    if not without:
        return ""
    if not any(own.routed for own in limits.normal):
        return (
            "the calibration does not know what its photos are taken for, so one limit counts for "
            "all subclasses: run jaxad calibrate with a folder of normal photos"
        )
    needed = photos_needed(calibration.false_alarm, confidence=calibration.confidence)
    return (
        f"photos that are taken for {some(without, 5)} are judged by the limits of the category: "
        f"fewer than {needed} calibration photos are taken for each (jaxad calibrate --add "
        "takes more)"
    )
