import numpy as np
import pytest

from jaxad.calibration import Calibration
from jaxad.drift import Verdict
from jaxad.normal import Normal
from jaxad.report.line import count, draw, drift, drift_text

LABELS = np.array([0, 0, 0, 1, 1, 1])
SCORES = np.array([0.1, 0.2, 0.6, 0.5, 0.7, 0.9])


def calibration(n: int = 39, **rates: float) -> Calibration:
    scores = np.arange(n, dtype=np.float32)
    return Calibration({"a": Normal(scores, scores, ("",) * n)}, **({"false_alarm": 0.05} | rates))


def test_above_the_line_is_anomalous_and_on_it_is_not() -> None:
    found = count(LABELS, SCORES, 0.5)
    assert found == (2, 1, 1, 2)
    assert (found.recall, found.precision, found.f1) == pytest.approx((2 / 3,) * 3)
    assert found.false_alarm_rate == pytest.approx(1 / 3)
    assert count(LABELS, SCORES, 1.0).precision is None
    good = count(np.zeros(2), np.ones(2), 0.5)  # alarms alone
    assert (good.recall, good.precision, good.f1) == (None, None, None)
    assert good.false_alarm_rate == 1


def test_a_calibration_draws_the_line_and_its_promise() -> None:
    line = draw(LABELS, SCORES, calibration(), "a")
    assert line is not None
    assert line.threshold == calibration().limits("a").score == 37
    assert "at most 5 % of photos of normal parts" in line.note
    assert "on average over calibration sets of 39 photos" in line.note
    sure = draw(LABELS, SCORES, calibration(100, confidence=0.9), "a")
    assert sure is not None
    assert "holds for 90 % of calibration sets of 100 photos" in sure.note


@pytest.mark.parametrize(
    ("given", "name", "why"),
    [
        (None, "a", "No calibration"),
        (calibration(), "b", "No calibration"),
        (calibration(5), "a", "5 calibration photos are too few"),
    ],
)
def test_without_one_the_best_f1_is_for_looking_only(
    given: Calibration | None, name: str, why: str
) -> None:
    line = draw(LABELS, SCORES, given, name)
    assert line is not None
    assert line.calibrated is None
    assert line.note.startswith(why) or why in line.note
    assert "for looking only" in line.note
    found = count(LABELS, SCORES, line.threshold)
    assert (found.found, found.alarms) == (3, 1)  # F1 6/7: what is at the best threshold is above


def test_one_class_and_none() -> None:
    good = draw(np.zeros(3), SCORES[:3], None, "")
    bad = draw(np.ones(3), SCORES[:3], None, "")
    assert good is not None
    assert bad is not None
    assert count(np.zeros(3), SCORES[:3], good.threshold).alarms == 0
    assert count(np.ones(3), SCORES[:3], bad.threshold).missed == 0
    assert draw(np.empty(0), np.empty(0), None, "") is None


def test_drift_in_words() -> None:
    def told(good: np.ndarray) -> Verdict:
        labels = np.append(np.zeros(len(good)), 1)
        scores = np.append(good, 1.0)  # of the defect, which must not count
        line = draw(labels, scores, calibration(), "a")
        assert line is not None
        found = drift(line, labels, scores)
        assert found is not None
        return found

    rng = np.random.default_rng(0)
    alike, apart = rng.uniform(0, 37, 40), rng.uniform(0, 8, 40)
    assert drift_text(told(alike)).startswith("No difference is seen")
    assert drift_text(told(apart)).startswith("Good test photos that pass do not look like")
    assert drift_text(told(np.full(5, 99.0))).startswith("Too few photos to say")
    assert told(np.append(alike, 99.0)).passed == 40


def test_each_photo_is_judged_by_the_line_of_what_it_is_taken_for() -> None:
    scores = np.concatenate([np.arange(39), 100 + np.arange(39), [500]]).astype(np.float32)
    routed = ("low",) * 39 + ("high",) * 39 + ("rare",)
    own = Calibration({"a": Normal(scores, scores, ("",) * 79, routed)}, 0.05)
    labels, found = np.array([0, 1, 0, 1, 0]), np.array([37.0, 38.0, 137.0, 138.0, 139.0])
    taken = ("low", "low", "high", "high", "rare")
    line = draw(labels, found, own, "a", taken=taken)
    assert line is not None
    assert line.called.tolist() == [False, True, False, True, own.limits("a").score < 139]
    assert line.threshold == 0
    assert line.compared[:4].tolist() == [0, 1, 0, 1]
    assert line.counts == count(labels, line.compared, 0) == (2, 0, 1, 2)
    limits = own.routed_limits("a")
    assert line.p_values is not None
    assert line.p_values[1] == limits["low"].p_values(found[1:2])[0]
    assert line.p_values[3] == limits["high"].p_values(found[3:4])[0]
    assert "taken for a subclass score above the line of this subclass" in line.note
    assert "Too few calibration photos are taken for rare" in line.note
    one = draw(labels, found, own, "a")  # of photos that nobody knows what they are taken for
    assert one is not None
    assert one.threshold == own.limits("a").score
    assert not one.by_subclass
    assert "score above this line" in one.note
