"""An audit's rows of pixels: regions, false positives, thresholds, masks and crops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxad.metrics import thresholded
from jaxad.metrics.audit_table import OURS, Photos, Table
from jaxad.metrics.conventions import centre
from jaxad.metrics.pimo import aupimo
from jaxad.metrics.pixel import stream_metrics
from jaxad.metrics.stream import PixelStream
from jaxad.metrics.thresholded import Pixels, Sums, interpolated, pixels_of

LIMITS = (0.3, 0.05)
_EDGES = 2048
"""Of the bins that exact figures are resampled in: so many for the lowest nine tenths of scores and
for the highest tenth, there denser and denser towards the top."""
_SAMPLE = 1 << 20
"""Scores that these are chosen by."""
_NO_MASK = "needs masks of defective photos, and normal pixels"
_FEW = "fewer than two thresholds lie below the limit"

Measure = Callable[[Sums], np.ndarray]
"""From counts to a figure of each weighting, `(C,)`."""


class _Measuring:
    """The photos whose mask is known, counted by whatever convention."""

    def __init__(self, photos: Photos, weights: np.ndarray, check: Callable[[], None]) -> None:
        self.use = np.flatnonzero(photos.known)
        self.maps, self.masks, self.halves = photos.maps, photos.masks, photos.halves
        self.marked = np.array([bool(self.masks[n].any()) for n in self.use], bool)
        self.good = photos.labels[self.use] == 0
        self.weights, self._check = weights[:, self.use], check

    def exact(
        self, masks: np.ndarray, *, crop: bool = False, marked: bool = False
    ) -> dict[str, float | None]:
        """The exact metrics, of all photos or of those alone that are marked as defective."""
        chosen = self.use[self.marked] if marked else self.use
        stream = PixelStream(len(chosen) * self.maps[0].size, self.maps.dtype)
        for n in chosen:
            self._check()
            mask, scores = masks[n], self.maps[n]
            if crop:
                mask, scores = centre(mask), centre(scores)
            stream.add(mask[None], scores[None])
        return stream_metrics(stream, limits=LIMITS)

    def sums(
        self, thresholds: np.ndarray, masks: np.ndarray, *, crop: bool = False, dilated: int = 0
    ) -> Sums:
        """Counts above thresholds, of all photos first, then of each resample."""

        def photo(n: Any) -> Pixels:
            self._check()
            mask, scores = masks[n], self.maps[n]
            if crop:
                mask, scores = centre(mask), centre(scores)
            return pixels_of(mask, scores, dilated=dilated)

        every = (photo(n) for n in self.use)
        return thresholded.count(every, thresholds, self.weights, ~self.marked)

    def edges(self) -> np.ndarray:
        """Scores that part pixels into bins of many, but few at the top, where curves are steep."""
        step = max(1, self.maps[0].size * len(self.use) // _SAMPLE)
        sample = np.concatenate([self.maps[n].reshape(-1)[::step] for n in self.use])
        top = 1 - np.geomspace(0.1, 1e-6, _EDGES + 1)[1:]
        return np.unique(np.quantile(sample, np.append(np.linspace(0, 0.9, _EDGES), top)))


def pixel_rows(
    table: Table, photos: Photos, weights: np.ndarray, check: Callable[[], None]
) -> None:
    """Add every convention of pixel metrics.

    Args:
        table: Gets the rows.
        photos: What is measured; those whose mask is not known are left out.
        weights: `(1 + R, N)`, of all photos and of each resample.
        check: Called for every photo, pass by pass.
    """
    own = _Measuring(photos, weights, check)
    whole = own.exact(own.masks)
    there = whole["pixel_auroc"] is not None
    alone = own.exact(own.masks, marked=True) if there else whole
    edges = own.edges() if there else np.zeros(0)
    ours = own.sums(edges, own.masks) if there else None

    def add(
        metric: str,
        convention: str,
        used_by: str,
        value: float | None,
        measure: Measure,
        of: Sums | None,
        key: str | None = None,
    ) -> None:
        drawn = None if of is None else measure(of)[1:]
        table.add(metric, convention, used_by, value, drawn, key=key, why=_NO_MASK)

    add(
        *("pixel AUROC", "all photos", f"{OURS}, most papers", whole["pixel_auroc"]),
        *(_auroc(), ours, "pixel_auroc"),
    )
    add(
        *("pixel AUROC", "photos with a defect alone", "PatchCore's code, as a second column"),
        *(alone["pixel_auroc"], _auroc(good=False), ours),
    )
    add(
        *("pixel AP", "sum of steps", f"{OURS}, scikit-learn", whole["pixel_ap"]),
        *(thresholded.ap_of, ours, "pixel_ap"),
    )
    add(
        *("AUPRO@0.30", "exact", f"{OURS}, MVTec AD's code, anomalib", whole["aupro_0.30"]),
        *(_aupro(0.3), ours, "aupro_0.30"),
    )
    _threshold_rows(table, own, there)
    add(
        *(
            "AUPRO@0.30",
            "photos with a defect alone",
            "PatchCore's results, beside full_pro",
        ),
        *(alone["aupro_0.30"], _aupro(0.3, good=False), ours),
    )
    halves = own.halves if there else None
    half = {} if halves is None else own.exact(halves)
    of_half = None if halves is None else own.sums(edges, halves)
    cropped = own.exact(own.masks, crop=True) if there else {}
    of_crop = own.sums(edges, own.masks, crop=True) if cropped.get("pixel_auroc") else None
    for key, metric, measure in (
        ("pixel_auroc", "pixel AUROC", _auroc()),
        ("aupro_0.30", "AUPRO@0.30", _aupro(0.3)),
    ):
        table.add(
            *(metric, "masks resized bilinearly, above .5 (ours: nearest, above 0)", "RD4AD, ADer"),
            half.get(key),
            None if half.get(key) is None or of_half is None else measure(of_half)[1:],
            why=_NO_MASK if not there or half else "no masks resized so were given",
        )
        add(
            *(
                metric,
                "centre crop of map and mask, 7/8",
                "PatchCore, SimpleNet crop photos",
            ),
            *(cropped.get(key), measure, of_crop),
        )
    add(
        *("AUPRO@0.05", "exact", "MVTec AD 2", whole["aupro_0.05"]),
        *(_aupro(0.05), ours),
    )
    _pimo_row(table, own, there)


def _threshold_rows(table: Table, own: _Measuring, there: bool) -> None:
    """AUPRO to 0.3 of the same regions and pixels, by the thresholds that codes take."""
    ways = (
        ("50 bins, interpolated at the limit", "ADer's tables (adeval)", 50, 0, _aupro(0.3)),
        (
            *("200 thresholds, those below the limit stretched", "ADer's other routine", 200, 0),
            _points(inclusive=False, from_least=True),
        ),
        (
            *("2000 thresholds, those to the limit stretched", "PFM's code", 2000, 0),
            _points(inclusive=True, from_least=True),
        ),
        (
            *("200 thresholds, predictions dilated 5 x 5", "SimpleNet's code", 200, 5),
            _points(inclusive=False, from_least=False),
        ),
    )
    for convention, used_by, number, dilated, measure in ways:
        values = None
        if there:
            steps = thresholded.linear_thresholds((own.maps[n] for n in own.use), number)
            values = measure(own.sums(steps, own.masks, dilated=dilated))
        value, drawn = (None, None) if values is None else (values[0], values[1:])
        why = _FEW if there else _NO_MASK
        table.add("AUPRO@0.30", convention, used_by, value, drawn, why=why)
    photos = np.flatnonzero(own.marked) if there else np.zeros(0, int)
    each = [
        thresholded.aupro_of_photo(own.masks[n], own.maps[n], number=200, limit=0.3)
        for n in own.use[photos]
    ]
    _add_mean(
        *(table, "AUPRO@0.30", "200 thresholds a photo, mean over photos", "RD4AD's code"),
        *(np.array(each), own.weights[:, photos], _FEW if there else _NO_MASK),
    )


def _pimo_row(table: Table, own: _Measuring, there: bool) -> None:
    good, bad = np.flatnonzero(own.good), np.flatnonzero(own.marked & ~own.good)
    found = None
    if there and len(good) and len(bad):
        pixels = np.concatenate([own.maps[n].reshape(-1) for n in own.use[good]])
        found = aupimo(pixels, (own.maps[n][own.masks[n]] for n in own.use[bad]))
    why = "good photos have too few pixels for rates of 1e-5" if there else _NO_MASK
    _add_mean(
        *(table, "AUPIMO", "false positives of good photos, 1e-5 to 1e-4", "AUPIMO, anomalib"),
        *(np.zeros(0) if found is None else found, own.weights[:, bad], why),
    )


def _add_mean(
    table: Table,
    metric: str,
    convention: str,
    used_by: str,
    values: np.ndarray,
    weights: np.ndarray,
    why: str,
) -> None:
    """Add a row that is a mean over photos; a resample may have none of them."""
    value, drawn = None, None
    if len(values) and np.isfinite(values).all():
        total = weights.sum(axis=1)
        each = np.full(len(total), np.nan)
        np.divide(weights @ values, total, out=each, where=total > 0)
        value, drawn = float(values.mean()), each[1:]
    table.add(metric, convention, used_by, value, drawn, why=why)


def _auroc(*, good: bool = True) -> Measure:
    return lambda of: thresholded.auroc_of(of.fpr(good=good), of.tpr())


def _aupro(limit: float, *, good: bool = True) -> Measure:
    return lambda of: interpolated(of.fpr(good=good), of.pro(), limit)


def _points(*, inclusive: bool, from_least: bool) -> Measure:
    def measure(of: Sums) -> np.ndarray:
        fpr, pro = of.fpr()[:, :-1], of.pro()[:, :-1]
        return thresholded.rescaled(fpr, pro, 0.3, inclusive=inclusive, from_least=from_least)

    return measure
