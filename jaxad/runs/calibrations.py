"""What normal photos scored that training has not seen, as a work directory keeps it.

`calibration.json` has the scores themselves, of every detector, so that another false-alarm rate
needs no photo.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from jaxad.calibration import Calibration, from_json
from jaxad.conformal import photos_needed
from jaxad.errors import InputError, printable
from jaxad.files import confined, read_json, write_json
from jaxad.normal import Normal
from jaxad.runs import record

FILE = "calibration.json"
FORMAT = 1


class Calibrations:
    """The calibrations of a work directory's detectors, written one by one."""

    def __init__(self, claimed: record.Record, rates: Any) -> None:
        """Read those that are there; what is damaged is made again.

        Args:
            claimed: The record of the work directory.
            rates: The section `calibrate` of a configuration.
        """
        self._claimed = claimed
        self._rates = {
            "false_alarm": rates.false_alarm,
            "confidence": rates.confidence or None,
        }
        try:
            self._there = _read(claimed.folder)
        except InputError:
            self._there = {}

    def kept(self, detector: str) -> bool:
        """Whether a detector is calibrated: it is the same again wherever this run goes on."""
        return detector in self._there

    def all(self) -> dict[str, Calibration]:
        """Those that there are, by detector; what is damaged is none."""
        found = {}
        for name, own in self._there.items():
            with contextlib.suppress(InputError):
                found[name] = from_json(own)
        return found

    def keep(self, detector: str, categories: Mapping[str, Normal]) -> None:
        """Keep what a detector's calibration photos scored.

        Raises:
            InputError: It can not be written.
        """
        self._there[detector] = Calibration(categories, **self._rates).to_json()
        write_calibrations(self._claimed, self._there)


def read_calibrations(workdir: Path) -> dict[str, Calibration]:
    """The calibrations of a work directory, by detector.

    Raises:
        InputError: There is none, or it is damaged.
    """
    if not confined(workdir, FILE).is_file():
        raise InputError(
            f"{workdir} has no calibration: run jaxad calibrate --workdir {workdir} DIR, DIR being "
            "a folder of normal photos that training has not seen"
        )
    try:
        return {name: from_json(own) for name, own in _read(workdir).items()}
    except InputError as error:
        raise InputError(f"{confined(workdir, FILE)}: {error}") from None


def calibration_of(workdir: Path, detector: str) -> Calibration | None:
    """The calibration of one detector; None if it has none.

    Raises:
        InputError: What is there is damaged.
    """
    there = confined(workdir, FILE).exists()
    return read_calibrations(workdir).get(detector) if there else None


def lines(calibrations: Mapping[str, Calibration], workdir: Path) -> list[str]:
    """Say for every category where the line is drawn, or why it can not be."""
    found = []
    for own in calibrations.values():
        for name, normal in own.categories.items():
            found.append(line_of(own, name))
            with contextlib.suppress(InputError):  # said already
                drawn = own.limits(name).score
                found.append(f"{name}: {_drawn_by(drawn, normal, workdir)}")
                found += _subclasses(own, name, normal)
    return found


def line_of(own: Calibration, category: str) -> str:
    """Say where the line of a category is drawn, or why it can not be."""
    try:
        limits = own.limits(category)
    except InputError as error:
        return str(error)
    sure = f" (confidence {own.confidence:g})" if own.confidence else " on average"
    return (
        f"{category}: {len(own.categories[category].scores)} normal photos; above "
        f"{limits.score:.6g} a photo is called anomalous, above {limits.pixel:.6g} a pixel: false "
        f"alarms at most {100 * own.false_alarm:g} % of normal photos{sure}"
    )


def _drawn_by(line: float, normal: Normal, workdir: Path) -> str:
    """Say whose score the line is, and whether that one stands far from the others."""
    order = np.argsort(normal.scores)[::-1]
    scores = normal.scores[order]
    place = int(np.flatnonzero(scores == np.float32(line))[0])
    below = scores[place + 1 :]
    photo = normal.photos[order[place]] if normal.photos else ""
    rank = "the highest" if place == 0 else f"number {place + 1} from the top"
    told = f"the line is the score of {printable(photo) if photo else 'one photo'}, {rank}"
    if not len(below):
        return told
    told = f"{told}; the next is {below[0]:.6g}"
    # As far from the next as that one is from the median: nothing promised, a reason to look.
    if not line - below[0] > below[0] - np.median(scores) >= 0:
        told += ", so not far from the others"
    else:
        command = f"jaxad calibrate --workdir {quote(str(workdir))} --leave-out"
        told += (
            ". It stands far from the others, and all that scores less passes: look at it. If it "
            "shows a defect, or you would take the photo again, leave it out: "
            f"{command} {printable(quote(photo or 'PHOTO'))}"
        )
    return told


def _subclasses(own: Calibration, category: str, normal: Normal) -> list[str]:
    """Say the same for the subclasses that the detector takes photos for."""
    by_name = own.routed_limits(category)
    found = []
    for name in sorted(set(normal.routed) - {""}):
        photos = f"{category}: {normal.routed.count(name)} of them are taken for {name}"
        if name in by_name:
            limits = by_name[name]
            found.append(f"{photos}; for these {limits.score:.6g}, a pixel {limits.pixel:.6g}")
        else:
            needed = photos_needed(own.false_alarm, confidence=own.confidence)
            found.append(f"{photos}, too few ({needed} do): for these the limits of {category}")
    return found


def write_calibrations(
    claimed: record.Record, detectors: Mapping[str, Any], *, forgotten: str = ""
) -> None:
    """Write what `Calibration.to_json` gives of every detector.

    Args:
        claimed: The record of the work directory.
        detectors: All that are calibrated.
        forgotten: One that is so no more, as it is another detector by now.

    Raises:
        InputError: It can not be written.
    """
    stale = sorted({*stale_calibrations(claimed.folder), forgotten} - {"", *detectors})
    found = {"format": FORMAT, "detectors": detectors, **({"stale": stale} if stale else {})}
    write_json(claimed.file(FILE), found)


def forget_calibration(claimed: record.Record, detector: str) -> None:
    """Take away the calibration of a detector that is another by now.

    Raises:
        InputError: It can not be written, or what is there is damaged.
    """
    there = {name: own for name, own in _read(claimed.folder).items() if name != detector}
    write_calibrations(claimed, there, forgotten=detector)


def stale_calibrations(workdir: Path) -> list[str]:
    """Detectors that have changed since they were calibrated; what is damaged tells of none."""
    try:
        found = read_json(confined(workdir, FILE))
    except InputError:
        return []
    names = found.get("stale") if isinstance(found, dict) else None
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _read(workdir: Path) -> dict[str, dict[str, Any]]:
    path = confined(workdir, FILE)
    found = read_json(path, "the calibration", "run jaxad calibrate again") if path.exists() else {}
    detectors = found.get("detectors", {}) if isinstance(found, dict) else None
    if not isinstance(detectors, dict) or not all(isinstance(d, dict) for d in detectors.values()):
        raise InputError("the calibration is damaged: run jaxad calibrate again")
    if found and found.get("format") != FORMAT:
        raise InputError(f"{path} is of another jaxad: run jaxad calibrate again")
    return detectors
