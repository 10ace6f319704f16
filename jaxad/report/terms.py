"""What the numbers of results.json are called and mean, for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

_TITLES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "n_train": "train",
    "n_calibration": "calibration",
    "n_test": "test",
}
_MEANINGS = {
    "image_auroc": "how often a defective photo scores higher than a good one; 1 is perfect, "
    "0.5 is chance.",
    "image_ap": "precision averaged over recall: how clean the list is when photos are sorted by "
    "score.",
    "image_f1_max": "the best balance of precision and recall that any threshold reaches on the "
    "test photos.",
    "pixel_auroc": "how often a pixel of a defect scores higher than a normal pixel; flattering "
    "where defects are small.",
    "pixel_ap": "precision averaged over recall, pixel by pixel; strict where defects are small.",
    "n_train": "normal photos the detector learned from.",
    "n_calibration": "normal photos it did not learn from, which the line is drawn by.",
    "n_test": "photos, good and defective, that the figures are measured on.",
}


def metric_title(name: str) -> str:
    """The heading of a metric's column: "aupro_0.30" is "AUPRO@0.30"."""
    return f"AUPRO@{_limit(name)}" if name.startswith("aupro_") else _TITLES.get(name, name)


def metric_meaning(name: str) -> str:
    """One sentence on what a metric says, or nothing for a metric this version does not know."""
    if name.startswith("aupro_"):
        return (
            "the share of each defect region that is found, averaged over regions and over "
            f"false-positive rates up to {_limit(name)}; large and small defects count alike."
        )
    return _MEANINGS.get(name, "")


def metric_names(categories: Iterable[Mapping[str, Any]]) -> list[str]:
    """The metrics of all categories' blocks, in the order in which they first appear."""
    return list(dict.fromkeys(name for metrics in categories for name in metrics))


def format_metric(value: float | int | None) -> str:
    """Four decimals, a plain count, or a dash for what is undefined."""
    if value is None:
        return "–"
    return str(value) if isinstance(value, Integral) else f"{value:.4f}"


def _limit(name: str) -> str:
    return name.removeprefix("aupro_")
