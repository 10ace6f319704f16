"""Resamples: the same for the same photos, and figures of weights as of copies."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import auc, precision_recall_curve

from jaxad.metrics.bootstrap import draws, image_figures, interval
from jaxad.metrics.image import image_metrics


def test_every_resample_has_as_many_of_each_kind() -> None:
    labels = np.array([0, 1, 1, 0, 1, 1])
    weights = draws(labels, 50)
    assert (weights[:, labels == 0].sum(axis=1) == 2).all()
    assert (weights[:, labels == 1].sum(axis=1) == 4).all()
    assert len(np.unique(weights, axis=0)) > 10
    np.testing.assert_array_equal(weights[:20], draws(labels, 20))
    assert (weights != draws(labels, 50, seed=1)).any()


def test_weights_are_copies_of_photos() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([0, 1] * 10)
    scores = np.round(rng.normal(labels, 1))  # with ties between the kinds
    weights = draws(labels, 30)
    found = image_figures(labels, scores, weights)
    for n, own in enumerate(weights):
        copies = np.repeat(np.arange(20), own)
        exact = image_metrics(labels[copies], scores[copies])
        assert found.auroc[n] == pytest.approx(exact["image_auroc"])
        assert found.ap[n] == pytest.approx(exact["image_ap"])
        assert found.f1_max[n] == pytest.approx(exact["image_f1_max"])
        precision, recall, _ = precision_recall_curve(labels[copies], scores[copies])
        assert found.ap_trapezoid[n] == pytest.approx(auc(recall, precision))


def test_an_interval_is_the_middle_of_the_resamples() -> None:
    assert interval(np.arange(1001.0)) == (25, 975)
    assert interval(np.array([0.5, np.nan])) == (None, None)
    assert interval(np.zeros(0)) == interval(None) == (None, None)
