import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxad.errors import InputError
from jaxad.metrics import f1_max, image_metrics, presorted

photos = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.1, 0.2, 0.5, 4.0])),
    min_size=2,
    max_size=30,
).filter(lambda rows: {label for label, _ in rows} == {0, 1})


def test_ties_count_one_half() -> None:
    found = image_metrics([0, 0, 1, 1, 0, 1], [0.1, 0.4, 0.35, 0.8, 0.4, 0.4])
    assert found["image_auroc"] == pytest.approx(2 / 3, abs=1e-15)
    assert found["image_ap"] == pytest.approx(0.7, abs=1e-15)


def test_best_f1_and_its_threshold() -> None:
    assert f1_max([0, 1, 1, 1], [0.1, 0.5, 0.9, 1.0]) == (1.0, 0.5)
    value, threshold = f1_max([0, 1, 1, 1], [0.1, 0.5, 0.9, 0.1])
    assert value == pytest.approx(6 / 7, abs=1e-15)
    assert threshold == 0.1


def test_of_equal_best_f1_the_lowest_threshold_counts() -> None:
    # One of two defects and no false alarm, or both defects and two false alarms: 2/3 either way.
    assert f1_max([1, 0, 0, 1], [4.0, 3.0, 2.0, 1.0]) == (2 / 3, 1.0)


def test_presorted_good_and_bad() -> None:
    assert presorted([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], share=0.2) == (1.0, 1.0)
    assert presorted([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], share=0.0) == (0.5, 0.5)
    # Those that lie on a threshold still need a look.
    assert presorted([0, 0, 1, 1], [0.2, 0.4, 0.4, 0.8], share=0.0) == (0.5, 0.5)
    assert presorted([1, 1], [0.1, 0.4]) == (None, None)
    with pytest.raises(InputError, match="share is 20"):
        presorted([0, 1], [0.1, 0.4], share=20)


@hypothesis.given(photos)
@hypothesis.settings(max_examples=60, deadline=None)
def test_metrics_by_counting_pairs_and_thresholds(rows: list[tuple[int, float]]) -> None:
    labels, scores = map(np.array, zip(*rows))
    found = image_metrics(labels, scores.astype(np.float32))
    good, bad = scores[labels == 0], scores[labels == 1]
    order = np.sign(bad[:, None] - good[None, :])
    assert found["image_auroc"] == pytest.approx(np.mean((order + 1) / 2), abs=1e-12)
    f1, previous, precision_sum = [], 0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        flagged = scores >= threshold
        hits = np.sum(flagged & (labels == 1))
        f1.append(2 * hits / (flagged.sum() + len(bad)))
        precision_sum += (hits - previous) / len(bad) * hits / flagged.sum()
        previous = hits
    assert found["image_f1_max"] == pytest.approx(max(f1), abs=1e-12)
    assert found["image_ap"] == pytest.approx(precision_sum, abs=1e-12)


def test_f1_where_the_highest_scores_are_all_wrong() -> None:
    # At the first threshold precision and recall are both 0; 0/0 must not win as NaN.
    assert f1_max([0, 0, 1], [3.0, 2.0, 1.0]) == (0.5, 1.0)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_metric(label: int) -> None:
    assert image_metrics([label] * 3, [0.1, 0.2, 0.3]) == {
        "image_auroc": None,
        "image_ap": None,
        "image_f1_max": None,
    }


def test_no_photos() -> None:
    assert set(image_metrics([], []).values()) == {None}


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="image 1 is nan"):
        image_metrics([0, 1], [0.1, np.nan])
    with pytest.raises(InputError, match="image 0 is inf"):
        image_metrics([0, 1], [np.inf, 0.1])
    with pytest.raises(InputError, match=r"shape \(2,\).*\(3,\)"):
        image_metrics([0, 1], [0.1, 0.2, 0.3])
    with pytest.raises(InputError, match="one number an image"):
        image_metrics([[0, 1]], [[0.1, 0.2]])
    with pytest.raises(InputError, match="0 \\(good\\) or 1"):
        image_metrics([0, 2], [0.1, 0.2])
    with pytest.raises(InputError, match="every label is 0"):
        f1_max([0, 0], [0.1, 0.2])
