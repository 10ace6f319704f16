"""The rows of an audit: jaxad's own equal its metrics, the others are what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from jaxad.errors import InputError
from jaxad.metrics import conventions
from jaxad.metrics.audit import Audited, audit, audited, paired
from jaxad.metrics.audit_table import Photos
from jaxad.metrics.image import image_metrics
from jaxad.metrics.pixel import pixel_metrics

N = 20


@pytest.fixture(scope="module")
def photos() -> Photos:
    rng = np.random.default_rng(0)
    masks = np.zeros((N, 24, 24), bool)
    for n in range(N // 2):
        masks[n, n : n + 5, 3 : 4 + n] = True
    noise = ndimage.gaussian_filter(rng.normal(size=masks.shape), (0, 2, 2))
    maps = (noise + 0.1 * masks).astype(np.float32)
    halves = ndimage.binary_erosion(masks, np.ones((1, 2, 2)))
    labels = masks.any(axis=(1, 2)).astype(int)
    return Photos(maps, masks, labels, maps.max(axis=(1, 2)), np.ones(N, bool), halves)


@pytest.fixture(scope="module")
def found(photos: Photos) -> Audited:
    return audited(photos, resamples=300)


def row(rows: list[dict[str, Any]], metric: str, convention: str) -> dict[str, Any]:
    (one,) = [r for r in rows if r["metric"] == metric and convention in r["convention"]]
    return one


def test_rows_with_a_key_are_the_exact_metrics(photos: Photos, found: Audited) -> None:
    exact = {
        **image_metrics(photos.labels, photos.scores),
        **pixel_metrics(photos.masks, photos.maps),
    }
    assert {r["key"]: r["value"] for r in found.rows if r["key"]} == exact
    for one in found.rows:
        if one["value"] is not None:
            assert one["low"] <= one["value"] + 2e-3, one
            assert one["value"] - 2e-3 <= one["high"], one
            assert one["high"] - one["low"] < 0.6, one
            assert not one["why"]
    assert len({(r["metric"], r["convention"]) for r in found.rows}) == len(found.rows)


def test_conventions_are_what_they_say(photos: Photos, found: Audited) -> None:
    rows, (maps, masks) = found.rows, (photos.maps, photos.masks)

    def auroc(scores: Any) -> float | None:
        return image_metrics(photos.labels, np.array(scores))["image_auroc"]

    top = [np.sort(m.ravel())[-6:].mean(dtype=np.float64) for m in maps]
    assert row(rows, "image AUROC", "highest 1 %")["value"] == auroc(top)
    smooth = [ndimage.gaussian_filter(m, 4).max() for m in maps]
    assert row(rows, "image AUROC", "Gaussian")["value"] == auroc(smooth)
    windows = np.lib.stride_tricks.sliding_window_view(maps.astype(float), (16, 16), (1, 2))
    pooled = windows.mean(axis=(-1, -2)).max(axis=(1, 2))
    np.testing.assert_allclose([conventions.pooled_maximum(m) for m in maps], pooled)
    inner = maps[:, 1:22, 1:22]
    assert row(rows, "image AUROC", "crop")["value"] == auroc(inner.max(axis=(1, 2)))
    crop = pixel_metrics(masks[:, 1:22, 1:22], inner)
    assert row(rows, "AUPRO@0.30", "crop")["value"] == crop["aupro_0.30"]
    alone = pixel_metrics(masks[:10], maps[:10])
    assert row(rows, "pixel AUROC", "alone")["value"] == alone["pixel_auroc"]
    half = pixel_metrics(photos.halves, maps)  # type: ignore[arg-type]
    assert row(rows, "AUPRO@0.30", "bilinearly")["value"] == half["aupro_0.30"]
    strict = pixel_metrics(masks, maps, limits=(0.05,))["aupro_0.05"]
    assert row(rows, "AUPRO@0.05", "exact")["value"] == strict
    assert row(rows, "AUPIMO", "")["why"].startswith("good photos have too few pixels")


def test_a_threshold_is_held_against_the_best_one(photos: Photos) -> None:
    line = float(np.sort(photos.scores)[14])
    rows = audit(photos.maps, photos.masks, threshold=line, resamples=100)
    called, bad = photos.scores > line, photos.labels == 1
    f1 = 2 * (called & bad).sum() / (called.sum() + bad.sum())
    told = "threshold set"
    assert row(rows, "image F1", told)["value"] == pytest.approx(f1)
    assert row(rows, "false alarms", told)["value"] == pytest.approx((called & ~bad).sum() / 10)
    assert row(rows, "defects found", told)["value"] == pytest.approx((called & bad).sum() / 10)
    assert row(rows, "image F1", "best")["value"] >= f1


def test_two_detectors_are_compared_on_the_same_draws(photos: Photos, found: Audited) -> None:
    worse = photos.maps + 0.02 * np.random.default_rng(1).normal(size=photos.maps.shape)
    maps = worse.astype(np.float32)
    scores = maps.max(axis=(1, 2))
    other = audited(Photos(maps, photos.masks, photos.labels, scores, photos.known), resamples=300)
    same = {one["metric"]: one for one in paired(found, found)}
    assert all((r["value"], r["low"], r["high"], r["share"]) == (0, 0, 0, 1) for r in same.values())
    for one in paired(found, other):
        assert one["low"] <= one["value"] + 1e-3
        width = one["high"] - one["low"]
        own = next(r for r in found.rows if r["key"] == one["metric"])
        assert width < own["high"] - own["low"]  # pairing takes out what photos have in common


def test_what_is_missing_is_said(photos: Photos) -> None:
    without = audit(photos.maps, labels=photos.labels)
    assert all(
        (r["value"] is None) == ("pixel" in r["metric"] or "AUP" in r["metric"] or bool(r["why"]))
        for r in without
    )
    assert row(without, "AUPRO@0.30", "exact")["why"].startswith("needs masks")
    assert row(without, "image F1", "conformal")["why"] == "no threshold was given"
    good = audit(photos.maps[10:], photos.masks[10:])
    assert all(r["value"] is None and r["why"] for r in good)
    few = audit(photos.maps[7:13], photos.masks[7:13])
    assert row(few, "image AUROC", "own")["value"] is not None
    assert all(r["low"] is None for r in few)
    small = audit(photos.maps[:, :9, :9], labels=photos.labels)
    assert row(small, "image AUROC", "16 x 16")["why"] == "the map is too small"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"masks": None}, "masks or labels"),
        ({"maps": np.zeros((2, 3, 3))}, "float64"),
        ({"maps": np.zeros((0, 3, 3), np.float32)}, "shape"),
        ({"masks": np.zeros((20, 3, 3), bool)}, "resize"),
        ({"masks": np.zeros((20, 24, 24), np.uint8)}, "boolean"),
        ({"labels": np.zeros(3)}, "labels"),
        ({"labels": np.full(20, 2)}, "0 .good. or 1"),
        ({"scores": np.full(20, np.nan)}, "finite"),
        ({"resamples": -1}, "resamples"),
    ],
)
def test_unusable_arrays_are_refused(photos: Photos, changed: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        audit(**{"maps": photos.maps, "masks": photos.masks, "resamples": 0, **changed})
