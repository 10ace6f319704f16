"""Exact image and pixel metrics in numpy, scipy and scikit-learn."""

from jaxad.metrics.image import f1_max, image_metrics, presorted
from jaxad.metrics.pixel import (
    aupro,
    pixel_ap,
    pixel_auroc,
    pixel_metrics,
    pro_curve,
    stream_curve,
    stream_metrics,
)
from jaxad.metrics.regions import Regions, label_regions
from jaxad.metrics.stream import PixelStream
from jaxad.metrics.summary import category_metrics, mean_metrics

__all__ = [
    "PixelStream",
    "Regions",
    "aupro",
    "category_metrics",
    "f1_max",
    "image_metrics",
    "label_regions",
    "mean_metrics",
    "pixel_ap",
    "pixel_auroc",
    "pixel_metrics",
    "presorted",
    "pro_curve",
    "stream_curve",
    "stream_metrics",
]
