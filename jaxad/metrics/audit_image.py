"""An audit's rows of whole photos: how a map becomes one score, and where the line is drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxad.metrics import conventions
from jaxad.metrics.audit_table import ONE_KIND, OURS, Line, Photos, Table
from jaxad.metrics.bootstrap import image_figures
from jaxad.metrics.image import image_metrics

_SCORES: tuple[tuple[str, str, Callable[[np.ndarray], float | None]], ...] = (
    ("maximum of the map", "PFM, most papers", lambda own: float(own.max())),
    (
        "mean of the highest 1 % of the map",
        "Dinomaly, AnomalyDINO",
        lambda own: conventions.top_mean(own, 0.01),
    ),
    ("maximum after a Gaussian, sigma 4", "RD4AD, PaDiM", conventions.smoothed_maximum),
    ("maximum of the means of 16 x 16", "UniAD, ADer", conventions.pooled_maximum),
    (
        "maximum of the centre crop, 7/8",
        "PatchCore, SimpleNet crop photos",
        lambda own: float(conventions.centre(own).max()),
    ),
)


def image_rows(
    table: Table, photos: Photos, weights: np.ndarray, check: Callable[[], None]
) -> None:
    """Add AUROC by every image score, and AP and F1 of the method's own.

    Args:
        table: Gets the rows.
        photos: What is measured.
        weights: `(1 + R, N)`, of all photos and of each resample.
        check: Called for every photo.
    """
    labels = photos.labels
    exact = image_metrics(labels, photos.scores)
    both = exact["image_auroc"] is not None
    ours = image_figures(labels, photos.scores, weights) if both else None
    table.add(
        *("image AUROC", "the method's own image score", OURS, exact["image_auroc"]),
        ours and ours.auroc[1:],
        key="image_auroc",
        why=ONE_KIND,
    )
    found: list[list[float | None]] = []
    for scores in photos.maps if both else ():
        check()
        found.append([measure(scores) for *_, measure in _SCORES])
    for n, (convention, used_by, _) in enumerate(_SCORES):
        values = [row[n] for row in found]
        if not both or None in values:
            why = "the map is too small" if both else ONE_KIND
            table.add("image AUROC", convention, used_by, None, why=why)
            continue
        by = np.asarray(values, np.float64)
        drawn = image_figures(labels, by, weights).auroc[1:]
        value = image_metrics(labels, by)["image_auroc"]
        table.add("image AUROC", convention, used_by, value, drawn)
    table.add(
        *("image AP", "sum of steps", f"{OURS}, scikit-learn", exact["image_ap"]),
        ours and ours.ap[1:],
        key="image_ap",
        why=ONE_KIND,
    )
    table.add(
        *("image AP", "area by trapezoids", "SimpleNet's code, VisA's code"),
        None if ours is None else ours.ap_trapezoid[0],
        ours and ours.ap_trapezoid[1:],
        why=ONE_KIND,
    )
    table.add(
        *("image F1", "best threshold, chosen on the test photos", f"{OURS}, ADer, anomalib"),
        exact["image_f1_max"],
        ours and ours.f1_max[1:],
        key="image_f1_max",
        why=ONE_KIND,
    )


def threshold_rows(
    table: Table, photos: Photos, weights: np.ndarray, line: Line | None, why: str
) -> None:
    """Add what a threshold gives that was set without defects, before the test; see `image_rows`.

    `why` is said where there is no line.
    """
    told = "conformal threshold" if line is None else line.told
    bad = photos.labels == 1
    called = np.zeros(len(bad), bool) if line is None else line.called
    tp, fp = weights @ (bad & called), weights @ (~bad & called)
    shares = (
        ("image F1", 2 * tp, weights @ bad + tp + fp),
        ("defects found", tp, weights @ bad),
        ("false alarms", fp, weights @ ~bad),
    )
    for name, part, whole in shares:
        each = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
        value = None if line is None else each[0]
        table.add(name, told, OURS, value, each[1:], why=why if line is None else ONE_KIND)
