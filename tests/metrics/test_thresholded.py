"""Counts above thresholds against loops that do what the papers' codes do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from jaxad.metrics import thresholded
from jaxad.metrics.pixel import pixel_metrics
from jaxad.metrics.thresholded import Sums, count, linear_thresholds, pixels_of


@pytest.fixture(scope="module")
def photos() -> tuple[np.ndarray, np.ndarray]:
    """Masks and maps of 6 photos, 4 with one or two defects, scores with ties."""
    rng = np.random.default_rng(0)
    masks = np.zeros((6, 12, 14), bool)
    masks[0, 2:5, 3:6] = masks[0, 8:10, 9:13] = True
    masks[1, 1, 1] = masks[2, 5:11, 2:5] = masks[3, 0:4, 10:14] = True
    maps = ndimage.gaussian_filter(rng.normal(size=masks.shape), (0, 1, 1)) + 0.3 * masks
    return masks, np.round(maps, 2).astype(np.float32)


def counted(masks: np.ndarray, maps: np.ndarray, number: int, *, dilated: int = 0) -> Sums:
    good = ~masks.any(axis=(1, 2))
    each = (pixels_of(*pair, dilated=dilated) for pair in zip(masks, maps))
    return count(each, linear_thresholds(maps, number), np.ones((1, len(maps)), int), good)


def by_hand(
    masks: np.ndarray, maps: np.ndarray, number: int, *, dilated: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """FPR and PRO of each threshold from the lowest on, by comparing every pixel."""
    regions = [
        (n, labels == k)
        for n, mask in enumerate(masks)
        for labels, found in [ndimage.label(mask, np.ones((3, 3)))]
        for k in range(1, found + 1)
    ]
    low, high = float(maps.min()), float(maps.max())
    fpr, pro = [], []
    for step in range(number):
        called = maps > low + step * (high - low) / number
        fpr.append((called & ~masks).sum() / (~masks).sum())
        if dilated:
            called = np.stack([ndimage.binary_dilation(c, np.ones((dilated,) * 2)) for c in called])
        pro.append(np.mean([called[n][region].mean() for n, region in regions]))
    return np.array(fpr), np.array(pro)


@pytest.mark.parametrize(
    ("number", "dilated", "inclusive", "from_least"),
    [(200, 5, False, False), (200, 0, False, True), (2000, 0, True, True)],
    ids=["SimpleNet", "ADer", "PFM"],
)
def test_aupro_with_thresholds_is_what_the_codes_compute(
    photos: tuple[np.ndarray, np.ndarray],
    number: int,
    dilated: int,
    inclusive: bool,
    from_least: bool,
) -> None:
    sums = counted(*photos, number, dilated=dilated)
    fpr, pro = by_hand(*photos, number, dilated=dilated)
    np.testing.assert_allclose(sums.fpr()[0, :-1], fpr[::-1], atol=1e-12)
    np.testing.assert_allclose(sums.pro()[0, :-1], pro[::-1], atol=1e-12)
    within = fpr <= 0.3 if inclusive else fpr < 0.3
    x, y = fpr[within], pro[within]
    x = (x - x.min()) / (x.max() - x.min()) if from_least else x / x.max()
    expected = abs(np.trapezoid(y, x))
    (value,) = thresholded.rescaled(
        *(sums.fpr()[:, :-1], sums.pro()[:, :-1], 0.3), inclusive=inclusive, from_least=from_least
    )
    assert value == pytest.approx(expected, abs=1e-12)


def test_thresholds_at_every_score_give_the_exact_metrics(
    photos: tuple[np.ndarray, np.ndarray],
) -> None:
    masks, maps = photos
    good = ~masks.any(axis=(1, 2))
    sums = count(map(pixels_of, masks, maps), np.unique(maps), np.ones((1, 6), int), good)
    exact = pixel_metrics(masks, maps)
    assert thresholded.auroc_of(sums.fpr(), sums.tpr())[0] == pytest.approx(exact["pixel_auroc"])
    assert thresholded.ap_of(sums)[0] == pytest.approx(exact["pixel_ap"])
    found = thresholded.interpolated(sums.fpr(), sums.pro(), 0.3)[0]
    assert found == pytest.approx(exact["aupro_0.30"])
    alone = pixel_metrics(masks[~good], maps[~good])
    found = thresholded.interpolated(sums.fpr(good=False), sums.pro(), 0.3)[0]
    assert found == pytest.approx(alone["aupro_0.30"])


def test_a_weight_is_so_many_copies_of_a_photo(photos: tuple[np.ndarray, np.ndarray]) -> None:
    masks, maps = photos
    weights = np.array([2, 0, 1, 3, 0, 1])
    good = ~masks.any(axis=(1, 2))
    sums = count(map(pixels_of, masks, maps), np.unique(maps), weights[None], good)
    copies = np.repeat(np.arange(6), weights)
    exact = pixel_metrics(masks[copies], maps[copies])
    assert thresholded.auroc_of(sums.fpr(), sums.tpr())[0] == pytest.approx(exact["pixel_auroc"])
    found = thresholded.interpolated(sums.fpr(), sums.pro(), 0.3)[0]
    assert found == pytest.approx(exact["aupro_0.30"])


def test_one_photo_is_judged_by_its_own_thresholds(photos: tuple[np.ndarray, np.ndarray]) -> None:
    masks, maps = photos
    fpr, pro = by_hand(masks[:1], maps[:1], 200)
    x, y = fpr[fpr < 0.3], pro[fpr < 0.3]
    found = thresholded.aupro_of_photo(masks[0], maps[0], number=200, limit=0.3)
    assert found == pytest.approx(abs(np.trapezoid(y, x / x.max())), abs=1e-12)
    assert np.isnan(thresholded.aupro_of_photo(masks[5], maps[5], number=200, limit=0.3))


def test_an_outlier_leaves_linear_thresholds_nothing(
    photos: tuple[np.ndarray, np.ndarray],
) -> None:
    masks, maps = photos[0], photos[1].copy()
    maps[5, 0, 0] = 1e6
    sums = counted(masks, maps, 50)
    points = sums.fpr()[:, :-1], sums.pro()[:, :-1]
    (value,) = thresholded.rescaled(*points, 0.3, inclusive=False, from_least=True)
    assert np.isnan(value)


@pytest.mark.parametrize(
    ("inclusive", "from_least", "expected"),
    [
        (False, False, 0.5 * (0.2 + 0.6) / 2),  # from one half to 1
        (False, True, (0.2 + 0.6) / 2),  # from 0 to 1
        (True, True, 0.5 * (0.2 + 0.6) / 2 + 0.5 * (0.6 + 0.8) / 2),
    ],
)
def test_thresholds_within_the_limit_are_stretched(
    inclusive: bool, from_least: bool, expected: float
) -> None:
    fpr, pro = np.array([[0.125, 0.25, 0.375, 0.9]]), np.array([[0.2, 0.6, 0.8, 1.0]])
    found = thresholded.rescaled(fpr, pro, 0.375, inclusive=inclusive, from_least=from_least)
    assert found[0] == pytest.approx(expected)
