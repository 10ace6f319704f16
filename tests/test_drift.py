"""Drift: the test is SciPy's; no alarm without a change, one with it; in little memory."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from jaxad.conformal import p_values
from jaxad.drift import BLOCK, BLOCKS, LEAST, Drift, Verdict


def passed(
    known: np.ndarray, limit: float, scores: np.ndarray, *, parts: int = 5
) -> tuple[Drift, np.ndarray]:
    own = scores[scores <= limit]
    (p_limit,) = p_values(known, np.asarray([limit]))
    drift = Drift(known, limit, float(p_limit))
    for part in np.array_split(own, parts):
        drift.add(part, p_values(known, part))
    return drift, own


@pytest.mark.parametrize("digits", [1, 6])  # with ties, and without
@pytest.mark.parametrize("count", [40, 900])
def test_the_test_is_that_of_scipy(digits: int, count: int) -> None:
    rng = np.random.default_rng(count + digits)
    known = np.round(rng.normal(size=120), digits)
    limit = float(np.quantile(known, 0.95, method="higher"))
    drift, own = passed(known, limit, np.round(rng.normal(0.3, 1.2, count), digits))
    expected = ks_2samp(own, known[known <= limit], method="asymp")
    found = drift.verdict()
    assert found.passed == len(own)
    assert found.distance == pytest.approx(expected.statistic, abs=1e-12)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)


def test_no_alarm_where_nothing_changed() -> None:
    alarms, means = 0, []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        known = rng.normal(size=100).astype(np.float32)
        limit = float(np.sort(known)[95])
        drift, _ = passed(known, limit, rng.normal(size=400).astype(np.float32))
        found = drift.verdict()
        alarms += found.drifted
        means.append((found.mean_p - found.expected) / found.error)
    assert alarms <= 3
    assert abs(np.mean(means)) < 0.2
    assert 0.8 < np.std(means) < 1.2  # the standard error is one


def test_a_change_is_said() -> None:
    rng = np.random.default_rng(0)
    known = rng.normal(size=200)
    limit = float(np.sort(known)[190])
    drift, _ = passed(known, limit, rng.normal(size=5000))
    assert not drift.verdict().drifted
    later = rng.normal(0.6, 1, BLOCK * BLOCKS * 2)
    later = later[later <= limit]
    drift.add(later, p_values(known, later))
    found = drift.latest()
    assert BLOCK * (BLOCKS - 1) <= found.passed <= BLOCK * BLOCKS
    assert found.drifted
    assert found.mean_p < found.expected - 3 * found.error
    assert "no longer look like the calibration's (scores are higher)" in found.text()
    assert drift.verdict().p > found.p  # the long past weighs


def test_latest_photos_come_in_any_portions() -> None:
    known = np.linspace(0, 1, 50)
    for portion in (1, 7, 100, 1000):
        drift = Drift(known, 1.0, 0.0)
        for _ in range(3000 // portion):
            drift.add(np.full(portion, 0.5), np.full(portion, 0.5))
        assert BLOCK * (BLOCKS - 1) - 60 <= drift.latest().passed <= BLOCK * BLOCKS
        assert drift.verdict().passed == 3000 // portion * portion


def test_few_photos_say_nothing() -> None:
    drift = Drift(np.linspace(0, 1, 100), 1.0, 0.0)
    drift.add(np.full(LEAST - 1, 5.0), np.full(LEAST - 1, 0.01))
    found = drift.verdict()
    assert not found.drifted
    assert "too few photos to tell" in found.text()
    drift.add(np.full(LEAST, 0.99), np.full(LEAST, 0.01))
    assert drift.verdict().drifted
    assert isinstance(drift.latest(), Verdict)
