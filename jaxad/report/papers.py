"""Figures that papers and their authors' logs give, in percent, as they are printed.

What stands where, and which printed figures contradict each other, was read in the papers
themselves; a figure that is not there is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

METRICS = ("image_auroc", "pixel_auroc", "aupro_0.30")
"""What a row has, in this order."""
Row = tuple[float | None, float | None, float | None]


class Paper(NamedTuple):
    """What was published of one configuration."""

    config: str
    """The shipped configuration that follows it, as `--config` takes it."""
    source: str
    """Where the figures stand."""
    mean: Row | None
    """As printed; None where a row is all there is."""
    categories: Mapping[str, Row]
    mean_of: frozenset[str] = frozenset()
    """Categories of the mean; none: those above, or without any whichever were tested."""


PFM = Paper(
    "mb_pfm",
    "MB-PFM's authors' log (ResNet-34 to ResNet-50, seed 888, last epoch); the paper's own tables "
    "are of another run and have no row for capsule",
    (97.447, 97.284, 93.025),
    {
        "bottle": (100.0, 98.41, 95.42),
        "cable": (98.91, 96.65, 94.21),
        "capsule": (93.58, 98.35, 91.74),
        "carpet": (99.96, 99.15, 96.86),
        "grid": (97.41, 98.76, 95.90),
        "hazelnut": (100.0, 99.10, 96.69),
        "leather": (100.0, 99.40, 98.78),
        "metal_nut": (99.85, 97.22, 94.62),
        "pill": (97.35, 97.29, 96.13),
        "screw": (92.48, 98.64, 93.37),
        "tile": (99.60, 96.28, 88.68),
        "toothbrush": (88.06, 98.68, 90.68),
        "transistor": (97.79, 87.64, 74.88),
        "wood": (99.39, 95.57, 92.65),
        "zipper": (97.32, 98.13, 94.77),
    },
)
AFRAD_MVTEC = Paper(
    "afrad:mvtec",
    "AFRAD, Table 1",
    (98.3, 96.9, 91.3),
    {
        "bottle": (100.0, 97.9, 93.5),
        "cable": (98.8, 96.5, 89.8),
        "capsule": (95.2, 98.8, 93.8),
        "hazelnut": (100.0, 98.1, 94.0),
        "metal_nut": (99.2, 96.2, 90.1),
        "pill": (97.7, 97.0, 95.1),
        "screw": (97.4, 99.4, 96.4),
        "toothbrush": (90.8, 98.3, 88.9),
        "transistor": (98.8, 94.3, 89.0),
        "zipper": (98.3, 98.2, 94.3),
        "carpet": (99.9, 98.4, 94.4),
        "grid": (99.1, 97.4, 92.0),
        "leather": (100.0, 98.2, 95.9),
        "tile": (100.0, 91.7, 78.1),
        "wood": (98.9, 92.4, 84.8),
    },
)
AFRAD_VISA = Paper(
    "afrad:visa",
    "AFRAD, Table 2",
    (90.6, 98.5, 87.7),
    {
        "pcb1": (95.4, 99.4, 91.1),
        "pcb2": (92.2, 98.1, 84.9),
        "pcb3": (88.0, 98.7, 84.7),
        "pcb4": (99.4, 97.7, 84.0),
        "macaroni1": (90.1, 99.4, 96.5),
        "macaroni2": (82.1, 97.7, 88.6),
        "capsules": (67.6, 98.5, 75.0),
        "candle": (97.0, 99.3, 94.9),
        "cashew": (91.4, 98.3, 89.0),
        "chewinggum": (99.2, 99.4, 87.1),
        "fryum": (87.7, 97.1, 82.1),
        "pipe_fryum": (97.0, 98.9, 94.3),
    },
)
_CIFAR10 = {"01234": 84.8, "56789": 81.2, "02468": 93.4, "13579": 90.2}
AFRAD_CIFAR10 = {
    normal: Paper(f"afrad:cifar10-{normal}", "AFRAD, Table 3", None, {normal: (auroc, None, None)})
    for normal, auroc in _CIFAR10.items()
}
SIMPLENET = Paper(
    "simplenet",
    "SimpleNet, each category at the best of 40 evaluations on its test photos, on the middle 288 "
    "of 329 pixels",
    (99.6, 98.1, None),
    {},
    frozenset(PFM.categories),
)
_TEXTURE = {
    "cloth": (67.53, 76.05, None),
    "wafer": (56.21, 60.15, None),
    "metal": (66.12, 73.76, None),  # without router and normalisation
}
ADAPTED_MOE = {
    name: Paper(
        f"adapted_moe:{name}", "Adapted-MoE, Table 3, averages of unseen subclasses", row, {}
    )
    for name, row in _TEXTURE.items()
}


def published(method: str, layout: str, categories: str) -> Paper | None:
    """What was published of a method on a data set.

    Args:
        method: `method.name` of a configuration.
        layout: Its `data.layout`.
        categories: Its `data.categories`, which choose a setting of CIFAR-10 and Texture-AD.
    """
    by_setting = {("afrad", "cifar10"): AFRAD_CIFAR10, ("adapted_moe", "texture_ad"): ADAPTED_MOE}
    if (method, layout) in by_setting:
        return by_setting[method, layout].get(categories)
    return {
        ("pfm", "mvtec_ad"): PFM,
        ("afrad", "mvtec_ad"): AFRAD_MVTEC,
        ("afrad", "visa"): AFRAD_VISA,
        ("simplenet", "mvtec_ad"): SIMPLENET,
    }.get((method, layout))


class Beside(NamedTuple):
    """A paper's figures for a run's page."""

    paper: Paper
    differences: tuple[str, ...]
    """Keys of the run that are not the published configuration's, in words."""
