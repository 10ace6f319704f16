import re
import xml.etree.ElementTree as ET

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxad.metrics import image_metrics
from jaxad.report.line import count
from jaxad.report.plots import (
    histogram_svg,
    p_values_svg,
    pr_svg,
    pro_svg,
    roc_svg,
    steps_svg,
)

rows = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.one_of(st.floats(-1e6, 1e6), st.sampled_from([0.0, 1.0, 1.0 + 1e-15, 1e30])),
    ),
    min_size=1,
    max_size=50,
)


def bars(svg: str, kind: str) -> int:
    tree = ET.fromstring(svg)
    titles = [rect[0].text or "" for rect in tree.iter("rect") if rect.get("class") == kind]
    return sum(int(title.split()[0]) for title in titles)


@hypothesis.given(rows)
@hypothesis.settings(max_examples=50, deadline=None)
def test_histogram_counts_every_photo(rows: list[tuple[int, float]]) -> None:
    labels, scores = map(np.array, zip(*rows))
    svg = histogram_svg(labels, scores)
    assert bars(svg, "good") == np.sum(labels == 0)
    assert bars(svg, "bad") == np.sum(labels == 1)
    for rect in ET.fromstring(svg).iter("rect"):
        x, y, w, h = (float(rect.get(name, "nan")) for name in ("x", "y", "width", "height"))
        assert 0 <= x < x + w <= 360
        assert 0 <= y <= y + h <= 250


def test_an_outlier_does_not_squeeze_the_histogram() -> None:
    scores = np.append(np.linspace(0, 1, 99), 1000)
    svg = histogram_svg(np.zeros(100, int), scores)
    assert len(list(ET.fromstring(svg).iter("rect"))) > 10
    assert "≥" in svg
    assert bars(svg, "good") == 100


@pytest.mark.parametrize("threshold", [-5.0, 2.0, 700.0])
def test_the_line_stands_where_it_lies(threshold: float) -> None:
    scores = np.append(np.linspace(0, 1, 99), 1000)
    svg = histogram_svg(np.zeros(100, int), scores, threshold)
    low, high = (float(n) for n in ET.fromstring(svg).attrib["data-scale"].split(","))
    assert low <= threshold <= high < 1000
    assert bars(svg, "good") == 100


def test_roc_curve_shows_the_metric() -> None:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    svg = roc_svg(labels, scores)
    assert f"AUROC {image_metrics(labels, scores)['image_auroc']:.4f}" in svg
    line = next(ET.fromstring(svg).iter("polyline")).get("points", "")
    points = np.array([[float(v) for v in pair.split(",")] for pair in line.split()])
    (x0, y0), (x1, y1) = points[0], points[-1]
    fpr, tpr = (points[:, 0] - x0) / (x1 - x0), (points[:, 1] - y0) / (y1 - y0)
    assert np.trapezoid(tpr, fpr) == pytest.approx(0.75, abs=1e-3)


def shares(svg: str, name: str = "curve") -> np.ndarray:
    """Points of a line, as shares of the plot."""
    root = ET.fromstring(svg)
    line = next(e for e in root.iter("polyline") if e.get("class") == name).get("points", "")
    points = np.array([[float(v) for v in pair.split(",")] for pair in line.split()])
    left, right, bottom, top = (348 - 294, 348.0, 210.0, 14.0)
    return (points - [left, bottom]) / [right - left, top - bottom]


def test_the_area_below_precision_over_recall_is_the_metric() -> None:
    labels, scores = np.array([0, 0, 1, 1, 0, 1]), np.array([0.1, 0.4, 0.35, 0.8, 0.5, 0.5])
    svg = pr_svg(labels, scores, count(labels, scores, 0.45))
    ap = image_metrics(labels, scores)["image_ap"]
    assert f"AP {ap:.4f}" in svg
    x, y = shares(svg).T
    assert np.trapezoid(y, x) == pytest.approx(ap, abs=2e-3)
    (mark,) = ET.fromstring(svg).iter("circle")
    place = [(float(mark.get("cx", "")) - 54) / 294, (210 - float(mark.get("cy", ""))) / 196]
    assert place == pytest.approx([2 / 3, 2 / 3], abs=1e-3)  # 2 of 3 found, 1 false alarm
    assert "needs both" in pr_svg(np.ones(3), np.arange(3.0))


def test_pro_curve_ends_at_its_limit() -> None:
    svg = pro_svg(np.array([[0, 0.1, 0.3], [0, 0.8, 0.9]]), 0.7125)
    np.testing.assert_allclose(shares(svg), [[0, 0], [1 / 3, 0.8], [1, 0.9]], atol=1e-3)
    assert "AUPRO 0.7125" in svg
    assert ">0.3<" in svg
    for none in ((None, 0.5), (np.zeros((2, 2)), None)):
        assert "needs masks" in pro_svg(*none)


def test_calibration_and_test_photos_as_steps() -> None:
    svg = steps_svg(np.array([0.0, 1.0]), np.array([2.0, 2.0, 4.0]), 1.0)
    np.testing.assert_allclose(
        shares(svg, "reference"),
        [[0, 0], [0, 0.5], [0.25, 0.5], [0.25, 1], [1, 1]],
        atol=1e-3,
    )
    good = shares(svg)
    assert good[good[:, 0] < 0.49][:, 1].max() == pytest.approx(0, abs=1e-3)
    assert good[np.isclose(good[:, 0], 0.5, atol=1e-3)][:, 1].max() == pytest.approx(
        2 / 3, abs=1e-3
    )
    assert "<svg" in steps_svg(np.ones(3), np.empty(0), 1.0)
    assert bars(p_values_svg(np.array([0.05, 0.06, 1.0])), "good") == 3


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_roc_curve(label: int) -> None:
    assert "needs both" in roc_svg(np.full(3, label), np.arange(3.0))
    assert "<svg" in histogram_svg(np.full(3, label), np.arange(3.0))
    assert "no test photos" in histogram_svg(np.array([]), np.array([]))


def test_plots_are_labelled_for_readers_who_do_not_see_them() -> None:
    labels, scores = np.array([0, 1]), np.array([0.0, 1.0])
    for svg in (roc_svg(labels, scores), histogram_svg(labels, scores)):
        root = ET.fromstring(svg)
        assert root.get("role") == "img"
        assert re.search(r"\w+ \w+", root.get("aria-label", ""))
