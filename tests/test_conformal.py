"""Thresholds keep what they promise, whatever the scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jaxad.conformal import p_values, photos_needed, rank, threshold
from jaxad.errors import InputError

RATES = st.sampled_from([0.001, 0.01, 0.05, 0.1, 0.25, 0.5])


@pytest.mark.parametrize(
    ("count", "rate", "expected"),
    [(19, 0.05, 19), (20, 0.05, 20), (39, 0.05, 38), (99, 0.01, 99), (100, 0.1, 91), (9, 0.1, 9)],
)
def test_the_threshold_is_the_conformal_one(count: int, rate: float, expected: int) -> None:
    assert rank(count, rate) == expected
    scores = np.random.default_rng(0).permutation(count).astype(np.float32)
    assert threshold(scores, rate) == expected - 1


@given(RATES, st.sampled_from([None, 0.5, 0.9, 0.99]), st.integers(0, 400))
def test_the_rank_is_the_least_that_keeps_the_promise(
    rate: float, confidence: float | None, more: int
) -> None:
    count = photos_needed(rate, confidence=confidence) + more
    k = rank(count, rate, confidence=confidence)
    assert 1 <= k <= count

    def kept(k: int) -> bool:
        if confidence is None:
            return 1 - k / (count + 1) <= rate + 1e-12
        # P(share passed ≥ 1 - α): the k-th smallest of n uniform numbers is above 1 - α.
        return stats.binom.cdf(k - 1, count, 1 - rate) >= confidence - 1e-9

    assert kept(k)
    assert k == 1 or not kept(k - 1)


@given(RATES, st.sampled_from([None, 0.5, 0.9, 0.99]))
def test_one_photo_fewer_than_needed_is_refused_with_the_mend(
    rate: float, confidence: float | None
) -> None:
    needed = photos_needed(rate, confidence=confidence)
    if needed > 1:
        with pytest.raises(InputError, match=f"take {needed} or more, or") as refused:
            rank(needed - 1, rate, confidence=confidence)
        told = float(str(refused.value).rsplit("or ", 1)[1].split()[0])
        assert rank(needed - 1, told, confidence=confidence) < needed


def test_a_threshold_raises_the_promised_share_of_false_alarms() -> None:
    rng = np.random.default_rng(1)
    rates = []
    for _ in range(4000):
        scores = rng.gamma(2.0, size=60)
        rates.append(np.mean(rng.gamma(2.0, size=50) > threshold(scores, 0.1)))
    # ⌈61 · .9⌉ = 55: 6 / 61 of normal photos are above, on average.
    assert np.mean(rates) == pytest.approx(6 / 61, abs=4 * np.std(rates) / math.sqrt(len(rates)))


def test_with_confidence_few_calibration_sets_fail() -> None:
    rng = np.random.default_rng(2)
    limits = np.array([threshold(rng.random(90), 0.1, confidence=0.9) for _ in range(4000)])
    failed = np.mean(limits < 0.9)
    assert 0.02 < failed <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / 4000)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=50), st.integers(0, 20))
def test_p_values_count_what_is_as_high(calibration: list[int], score: int) -> None:
    found = p_values(np.array(calibration, np.float32), np.array([score], np.float32))
    assert found == (1 + sum(c >= score for c in calibration)) / (1 + len(calibration))


@given(st.lists(st.integers(0, 9), min_size=20, max_size=60), RATES)
def test_threshold_and_p_value_agree(scores: list[int], rate: float) -> None:
    normal = np.array(scores, np.float32)
    if photos_needed(rate) <= len(scores):
        alarms = np.arange(12, dtype=np.float32) > threshold(normal, rate)
        np.testing.assert_array_equal(alarms, p_values(normal, np.arange(12)) <= rate + 1e-12)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 5.0, math.nan])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match="must lie between 0 and 1"):
        rank(100, rate)
    with pytest.raises(InputError, match="must lie between 0 and 1"):
        rank(100, 0.1, confidence=rate)
