import numpy as np
import pytest

from jaxad.metrics import PixelStream, category_metrics, mean_metrics, pixel_metrics, stream_metrics

LABELS = [0, 1, 1]
SCORES = np.array([0.1, 0.9, 0.5], np.float32)
KEYS = [
    "image_auroc",
    "image_ap",
    "image_f1_max",
    "pixel_auroc",
    "pixel_ap",
    "aupro_0.30",
    "n_train",
    "n_calibration",
    "n_test",
]


def test_block_of_results_json() -> None:
    masks = np.zeros((3, 4, 4), bool)
    masks[1:, 0, 0] = True
    pixel = pixel_metrics(masks, masks.astype(np.float32))
    found = category_metrics(LABELS, SCORES, pixel, n_train=7, n_calibration=2)
    assert list(found) == KEYS
    counts = {"n_train": 7, "n_calibration": 2, "n_test": 3}
    assert found == {**dict.fromkeys(KEYS[:6], 1.0), **counts}


def test_without_masks_pixel_metrics_are_none() -> None:
    pixel = stream_metrics(PixelStream(48), limits=(0.3, 0.05))
    found = category_metrics(LABELS, SCORES, pixel, n_train=1)
    assert [*found] == [*KEYS[:6], "aupro_0.05", *KEYS[6:]]
    assert all(found[key] is None for key in ("pixel_auroc", "pixel_ap", "aupro_0.30"))
    assert found["image_auroc"] == 1.0


def test_images_without_a_known_mask_count_at_image_level_only() -> None:
    masks = np.zeros((2, 4, 4), bool)  # the third photo's mask is unknown
    masks[1, 0, 0] = True
    pixel = pixel_metrics(masks, 1 - masks.astype(np.float32))
    found = category_metrics(LABELS, SCORES, pixel, n_train=1)
    assert found["n_test"] == 3
    assert found["pixel_auroc"] == 0.0


def test_mean_is_over_the_categories_that_have_the_metric() -> None:
    mean = mean_metrics(
        {
            "bottle": {"image_auroc": 1.0, "pixel_auroc": 0.5, "aupro_0.30": None, "n_test": 3},
            "tile": {"image_auroc": 0.5, "pixel_auroc": None, "aupro_0.30": None, "n_test": 9},
        }
    )
    assert mean == {"image_auroc": pytest.approx(0.75), "pixel_auroc": 0.5, "aupro_0.30": None}
    assert mean_metrics({"tile": {"n_train": 3, "n_calibration": 2, "n_test": 1}}) == {}
    assert mean_metrics({}) == {}
