"""AUPIMO against a loop over thresholds, and where it is undefined."""

from __future__ import annotations

import numpy as np
import pytest

from jaxad.metrics.pimo import aupimo

BOUNDS = (0.01, 0.1)


def by_hand(good: np.ndarray, defect: np.ndarray) -> float:
    """The paper's definition: every score of a good pixel is a threshold."""
    points = []
    for threshold in np.unique(good):
        rate = np.mean(good >= threshold)
        points.append((np.log(rate), np.mean(defect >= threshold)))
    x, y = np.array(sorted(points)).T
    low, high = np.log(BOUNDS)
    inside = [low, *[v for v in x if low < v < high], high]
    heights = [np.interp(v, x, y) for v in inside]
    area = sum(
        (b - a) * (p + q) / 2 for a, b, p, q in zip(inside, inside[1:], heights, heights[1:])
    )
    return float(area / (high - low))


@pytest.mark.parametrize("digits", [2, 6], ids=["ties", "no ties"])
def test_it_is_what_the_paper_defines(digits: int) -> None:
    rng = np.random.default_rng(3)  # a tie stands across the upper bound
    good = np.round(rng.normal(size=6000), digits).astype(np.float32)
    defects = [np.round(rng.normal(m, 1, 4000), digits).astype(np.float32) for m in (0.5, 2, 9)]
    found = aupimo(good, defects, bounds=BOUNDS)
    assert found is not None
    np.testing.assert_allclose(found, [by_hand(good, defect) for defect in defects], atol=1e-9)
    assert 0 < found[0] < found[1] < found[2] == pytest.approx(1)


def test_too_few_pixels_and_empty_masks_are_undefined() -> None:
    rng = np.random.default_rng(2)
    good = rng.normal(size=200).astype(np.float32)
    assert aupimo(good, [good[:5]], bounds=BOUNDS) is None
    assert aupimo(np.zeros(5000, np.float32), [good[:5]], bounds=BOUNDS) is None
    many = rng.normal(size=2000).astype(np.float32)
    found = aupimo(many, [good[:5], good[:0]], bounds=BOUNDS)
    assert found is not None
    assert np.isnan(found).tolist() == [False, True]
