"""Where a page draws the line between normal and anomalous photos, and what comes of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxad.calibration import Calibration, Limits, Lines
from jaxad.drift import LEAST, Drift, Verdict
from jaxad.errors import InputError
from jaxad.metrics.image import f1_max
from jaxad.normal import Normal

VERDICTS = (("passed", "false alarm"), ("missed", "found"))
"""In words, by label and by whether a photo is called anomalous."""


class Counts(NamedTuple):
    """How photos fall on the two sides of a line."""

    found: int
    """Defective photos that are called anomalous."""
    missed: int
    alarms: int
    """Good photos that are called anomalous."""
    passed: int

    @property
    def recall(self) -> float | None:
        """Share of the defective photos that are found; None without any."""
        return _ratio(self.found, self.found + self.missed)

    @property
    def precision(self) -> float | None:
        """Share of what is called anomalous that is defective; None where nothing is either."""
        return _ratio(self.found, self.found + self.alarms) if self.found + self.missed else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None without defective photos."""
        bad = self.found + self.missed
        return _ratio(2 * self.found, bad + self.found + self.alarms) if bad else None

    @property
    def false_alarm_rate(self) -> float | None:
        """Share of the good photos that are called anomalous; None without any."""
        return _ratio(self.alarms, self.alarms + self.passed)


def count(labels: np.ndarray, scores: np.ndarray, threshold: float) -> Counts:
    """Count photos on the two sides: a photo is called anomalous if its score is above."""
    bad, above = np.asarray(labels).astype(bool), np.asarray(scores) > threshold
    found, alarms = int((bad & above).sum()), int((~bad & above).sum())
    return Counts(found, int(bad.sum()) - found, alarms, int((~bad).sum()) - alarms)


class Calibrated(NamedTuple):
    """What a calibration says of a category."""

    lines: Lines
    false_alarm: float
    confidence: float | None

    @property
    def normal(self) -> Normal:
        """The calibration photos."""
        (found,) = self.lines.limits.normal
        return found

    @property
    def compared(self) -> np.ndarray:
        """What is compared of each calibration photo, `(n,)` ascending; see `Line.compared`."""
        return np.sort(_compared(self.lines, self.normal.scores, self.normal.routed))


class Line(NamedTuple):
    """Where a page starts: the line of a category, or those of the subclasses within it."""

    threshold: float
    """A photo of which more is compared is called anomalous; 0 where photos have their own lines"""
    compared: np.ndarray
    """`(N,)` of each test photo its score or, where photos have their own lines, its score less the
    line of the subclass that it is taken for."""
    counts: Counts
    """How the test photos fall on the two sides."""
    p_values: np.ndarray | None
    """`(N,)` of the test photos; None without a calibration."""
    calibrated: Calibrated | None
    """None: the line is drawn by the test photos themselves."""
    note: str
    """Where it comes from, and what is promised; plain text."""

    @property
    def called(self) -> np.ndarray:
        """`(N,)` bool, which test photos are called anomalous."""
        return self.compared > self.threshold

    @property
    def by_subclass(self) -> Mapping[str, Limits]:
        """The limits of photos that are taken for a subclass, where there are such."""
        return self.calibrated.lines.routed if self.calibrated else {}


def draw(
    labels: np.ndarray,
    scores: np.ndarray,
    calibration: Calibration | None = None,
    category: str = "",
    *,
    taken: Sequence[str] = (),
) -> Line | None:
    """Draw the line of a category, or where subclasses have lines of their own, these.

    Args:
        labels: `(N,)` 0 or 1.
        scores: `(N,)`.
        calibration: Of its detector; None if there is none.
        category: Name of the category in it.
        taken: Names of the subclasses that the detector took each photo for; none if it takes them
            for none.

    Returns:
        By the calibration where that can be, else the best of the test photos; None without photos.
    """
    if not len(scores):
        return None
    scores = np.asarray(scores)
    why = "No calibration is there for this category (jaxad calibrate makes one)"
    if calibration is not None and category in calibration.categories:
        try:
            lines = calibration.lines(category, routed=bool(taken))
        except InputError as error:
            why = f"The calibration can not draw a line ({error})"
        else:
            own = Calibrated(lines, calibration.false_alarm, calibration.confidence)
            taken = taken or ("",) * len(scores)
            threshold, compared = _start(lines), _compared(lines, scores, taken)
            counts, p_values = count(labels, compared, threshold), lines.p_values(scores, taken)
            return Line(threshold, compared, counts, p_values, own, _promise(own, {*taken}))
    if not np.any(labels):
        told = "the highest score of the test photos, all of which are good"
        threshold, note = float(np.max(scores)), f"{why}. This line is {told}: for looking only."
    else:
        told = "the best F1 on these very test photos: for looking only, not to decide by"
        best = f1_max(labels, scores)[1]  # photos of this score are above the line
        below = scores[scores < best]
        threshold = float(below.max() if len(below) else np.nextafter(best, -np.inf))
        note = f"{why}. This line is chosen for {told}."
    return Line(threshold, scores, count(labels, scores, threshold), None, None, note)


def _start(lines: Lines) -> float:
    return 0.0 if lines.routed else lines.limits.score


def _compared(lines: Lines, scores: np.ndarray, taken: Sequence[str]) -> np.ndarray:
    return scores - lines.scores(taken) if lines.routed else scores


def drift(line: Line, labels: np.ndarray, scores: np.ndarray) -> Verdict | None:
    """Whether good test photos that pass look like the calibration's; None without a calibration.

    Args:
        line: What `draw` gave.
        labels: `(N,)` 0 or 1.
        scores: `(N,)`.
    """
    if line.calibrated is None or line.p_values is None:
        return None
    seen = Drift(*line.calibrated.lines.passed())
    passed = ~line.called & (np.asarray(labels) == 0)
    if passed.any():
        seen.add(np.asarray(scores)[passed], line.p_values[passed])
    return seen.verdict()


def drift_text(verdict: Verdict) -> str:
    """What `drift` found, in a sentence."""
    if np.isnan(verdict.p):
        return (
            f"Too few photos to say whether good test photos look like the calibration's: "
            f"{verdict.passed} pass, and both sides need {LEAST}."
        )
    told = (
        "Good test photos that pass do not look like the calibration's"
        if verdict.drifted
        else "No difference is seen between good test photos that pass and the calibration's"
    )
    return (
        f"{told}: Kolmogorov–Smirnov distance {verdict.distance:.3f} of "
        f"{verdict.passed} photos, p = {verdict.p:.2g}; mean p-value "
        f"{verdict.mean_p:.3f} ± {verdict.error:.3f} where {verdict.expected:.3f} is expected."
    )


def _promise(own: Calibrated, taken: Collection[str]) -> str:
    rate, photos = f"{100 * own.false_alarm:g} %", len(own.normal.scores)
    if own.lines.routed:
        of, photos_told = "photos of normal parts that are taken for a subclass", "their photos"
        line = "the line of this subclass"
    else:
        of, photos_told, line = "photos of normal parts", f"{photos} photos", "this line"
    if own.confidence is None:
        told = f"on average over calibration sets of {photos_told}"
    else:
        told = f"which holds for {100 * own.confidence:g} % of calibration sets of {photos_told}"
    without = sorted({*taken, *own.normal.routed} - own.lines.routed.keys() - {""})
    few = ""
    if own.lines.routed and without:
        few = (
            f"Too few calibration photos are taken for {', '.join(without)}: for these the line "
            "of the category counts, and of them alone nothing is promised. "
        )
    return (
        f"Calibrated: at most {rate} of {of} score above {line}, {told}. {few}The "
        "promise is for photos that come from where the calibration photos came from. It says "
        "nothing of how many defects are found."
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
