"""Where a page draws the line between normal and anomalous photos, and what comes of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxad.calibration import Calibration, Limits
from jaxad.drift import LEAST, Drift, Verdict
from jaxad.errors import InputError
from jaxad.metrics.image import f1_max

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

    limits: Limits
    false_alarm: float
    confidence: float | None

    @property
    def scores(self) -> np.ndarray:
        """Of the calibration photos, `(n,)` ascending."""
        return np.sort(np.concatenate([own.scores for own in self.limits.normal]))


class Line(NamedTuple):
    """The line that a page starts with."""

    threshold: float
    """A photo whose score is above is called anomalous."""
    calibrated: Calibrated | None
    """None: the line is drawn by the test photos themselves."""
    note: str
    """Where it comes from, and what is promised; plain text."""


def draw(
    labels: np.ndarray, scores: np.ndarray, calibration: Calibration | None, category: str
) -> Line | None:
    """Draw the line of a category.

    Args:
        labels: `(N,)` 0 or 1.
        scores: `(N,)`.
        calibration: Of its detector; None if there is none.
        category: Name of the category in it.

    Returns:
        By the calibration where that can be, else the best of the test photos; None without photos.
    """
    if not len(scores):
        return None
    why = "No calibration is there for this category (jaxad calibrate makes one)"
    if calibration is not None and category in calibration.categories:
        try:
            limits = calibration.limits(category)
        except InputError as error:
            why = f"The calibration can not draw a line ({error})"
        else:
            own = Calibrated(limits, calibration.false_alarm, calibration.confidence)
            return Line(limits.score, own, _promise(own))
    if not np.any(labels):
        told = "the highest score of the test photos, all of which are good"
        return Line(float(np.max(scores)), None, f"{why}. This line is {told}: for looking only.")
    told = "the best F1 on these very test photos: for looking only, not to decide by"
    best = f1_max(labels, scores)[1]  # photos of this score are above the line
    below = np.asarray(scores)[np.asarray(scores) < best]
    threshold = float(below.max() if len(below) else np.nextafter(best, -np.inf))
    return Line(threshold, None, f"{why}. This line is chosen for {told}.")


def drift(own: Calibrated, good: np.ndarray) -> Verdict:
    """Whether good test photos below the line look like the calibration's; `good` is `(m,)`."""
    limit = own.limits.score
    seen = Drift(own.scores, limit, own.limits.p_limit)
    passed = good[good <= limit]
    if len(passed):
        seen.add(passed, own.limits.p_values(passed))
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


def _promise(own: Calibrated) -> str:
    rate, photos = f"{100 * own.false_alarm:g} %", len(own.scores)
    if own.confidence is None:
        told = f"on average over calibration sets of {photos} photos"
    else:
        told = f"which holds for {100 * own.confidence:g} % of calibration sets of {photos} photos"
    return (
        f"Calibrated: at most {rate} of photos of normal parts score above this line, {told}. The "
        "promise is for photos that come from where the calibration photos came from. It says "
        "nothing of how many defects are found."
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
