"""Exact pixel metrics against hand-computed vectors, scikit-learn and a plain global sort."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from jaxad.errors import InputError
from jaxad.metrics import (
    PixelStream,
    Regions,
    aupro,
    label_regions,
    pixel_ap,
    pixel_auroc,
    pixel_metrics,
    pro_curve,
    stream_curve,
    stream_metrics,
)

CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
# Worked out by hand: two images of 4 × 5, three regions (two diagonal pixels are one of them).
V1_MASKS = np.array(
    [
        [[0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]],
        [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1]],
    ],
    bool,
)
V1_MAPS = np.array(
    [
        [[0.1, 0.2, 0.1, 0, 0.3], [0.2, 0.9, 0.4, 0.1, 0], [0.1, 0.3, 0.6, 0.2, 0.1],
         [0, 0.5, 0.2, 0.1, 0]],
        [[0.8, 0.7, 0.4, 0.1, 0.2], [0.7, 0.2, 0.3, 0.1, 0], [0.1, 0.2, 0.1, 0.3, 0.5],
         [0, 0.1, 0.6, 0.2, 0.4]],
    ],
    np.float32,
)  # fmt: skip


def brute_curve(masks: np.ndarray, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One global sort of all pixels, written down as MVTec's official definition reads."""
    overlap = np.zeros(masks.shape)
    regions = 0
    for mask, share in zip(masks, overlap):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        for number in range(1, count + 1):
            share[labels == number] = 1 / np.sum(labels == number)
        regions += count
    order = np.argsort(-maps, axis=None, kind="stable")
    scores = maps.reshape(-1)[order]
    fpr = np.cumsum(~masks.reshape(-1)[order]) / np.sum(~masks)
    pro = np.cumsum(overlap.reshape(-1)[order]) / regions
    last_of_tie = np.append(scores[1:] != scores[:-1], True)
    fpr = np.concatenate([[0], fpr[last_of_tie], [1]])
    return fpr, np.minimum(np.concatenate([[0], pro[last_of_tie], [1]]), 1)


def brute_aupro(masks: np.ndarray, maps: np.ndarray, limit: float) -> float:
    fpr, pro = brute_curve(masks, maps)
    area = 0.0
    for x0, x1, y0, y1 in zip(fpr, fpr[1:], pro, pro[1:]):
        if x1 <= limit:
            area += (x1 - x0) * (y0 + y1) / 2
        elif x0 < limit:
            y = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            area += (limit - x0) * (y0 + y) / 2
    return area / limit


def scenes() -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    """Masks and maps; few levels of score give many ties, tiny and large scores among them."""

    def build(shape: tuple[int, int, int]) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
        few = st.sampled_from([-3.0, -0.0, 0.0, 0.1, 0.25, 1e-30, 7.5, 3e30])
        many = st.floats(-100, 100, width=32)
        maps = st.one_of(
            hnp.arrays(np.float32, shape, elements=few, fill=st.nothing()),
            hnp.arrays(np.float32, shape, elements=many, fill=st.nothing()),
        )
        return st.tuples(hnp.arrays(bool, shape, fill=st.nothing()), maps)

    shapes = st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7))
    return shapes.flatmap(build)


def smooth_scene(seed: int, count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    masks = ndimage.gaussian_filter(rng.normal(size=(count, 32, 32)), (0, 3, 3)) > 0.12
    masks[0] = False
    noise = ndimage.gaussian_filter(rng.normal(size=masks.shape), (0, 2, 2))
    return masks, (noise + 0.1 * masks).astype(np.float32)


def test_hand_computed_scene() -> None:
    for limit, expected in [(0.3, 0.8314484126984126), (0.05, 0.55), (1.0, 0.9440104166666666)]:
        assert aupro(V1_MASKS, V1_MAPS, limit=limit) == pytest.approx(expected, abs=1e-14)
    assert pixel_auroc(V1_MASKS, V1_MAPS) == 0.935546875
    assert pixel_ap(V1_MASKS, V1_MAPS) == pytest.approx(0.8209403820816865, abs=1e-14)


def test_hand_computed_curve() -> None:
    fpr, pro = pro_curve(V1_MASKS, V1_MAPS)
    expected = [
        (0, 0), (0, 1 / 6), (0, 1 / 4), (0, 5 / 12), (1 / 32, 7 / 12), (1 / 16, 3 / 4),
        (1 / 8, 11 / 12), (1 / 4, 11 / 12), (15 / 32, 1), (1, 1),
    ]  # fmt: skip
    np.testing.assert_allclose(np.stack([fpr, pro], axis=1), expected, atol=1e-14)
    assert np.interp(26 / 32, fpr, pro) == 1  # the point inside the last level stretch


def test_four_connectivity_would_differ() -> None:
    four, count = ndimage.label(V1_MASKS, np.array([np.zeros((3, 3)), CROSS, np.zeros((3, 3))]))
    regions = Regions(four, np.bincount(four.reshape(-1))[1:])
    assert (count, len(label_regions(V1_MASKS).areas)) == (4, 3)
    assert aupro(V1_MASKS, V1_MAPS, regions=regions) == pytest.approx(0.8670758928571428, abs=1e-14)


def test_anomalib_ramps() -> None:
    ramp = (np.arange(2800, dtype=np.float32) / 2800).reshape(1, 400, 7)
    one, three = np.zeros((2, 1, 400, 7), bool)
    one[..., 3] = True
    three[..., [1, 3, 5]] = True
    assert aupro(one, ramp, limit=1 / 3) == pytest.approx(0.166665625, abs=5e-10)
    assert aupro(three, ramp, limit=1 / 3) == pytest.approx(0.166666146, abs=5e-10)
    both = aupro(np.concatenate([one, three]), np.concatenate([ramp, ramp]), limit=1 / 3)
    assert both == pytest.approx(0.166666016, abs=5e-10)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
def test_overlap_at_a_threshold_on_a_staircase(threshold: float) -> None:
    # Five regions on rows 1, 3, 5, 7, 9; row i scores i / 10 + 0.05.
    masks = np.zeros((1, 10, 5), bool)
    for step in range(5):
        masks[0, 2 * step + 1, : step + 1] = True
    maps = np.broadcast_to((np.arange(10) / 10 + 0.05)[:, None], (1, 10, 5)).astype(np.float32)
    flagged = maps >= threshold
    fpr, pro = pro_curve(masks, flagged.astype(np.float32))
    at = np.mean(flagged[~masks])
    assert pro[fpr == at][0 if not flagged.any() else -1] == pytest.approx(1 - threshold)


@hypothesis.given(scenes())
@hypothesis.settings(max_examples=80, deadline=None)
def test_matches_scikit_learn_and_a_plain_global_sort(
    scene: tuple[np.ndarray, np.ndarray],
) -> None:
    masks, maps = scene
    found = pixel_metrics(masks, maps, limits=(0.05, 0.3, 1.0))
    if masks.all() or not masks.any():
        assert set(found.values()) == {None}
        return
    labels, scores = masks.reshape(-1), maps.reshape(-1)
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert found["pixel_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    for limit in (0.05, 0.3, 1.0):
        assert found[f"aupro_{limit:.2f}"] == pytest.approx(
            brute_aupro(masks, maps, limit), abs=1e-12
        )
    fpr, pro = pro_curve(masks, maps)
    assert (fpr[0], pro[0], fpr[-1], pro[-1]) == (0, 0, 1, 1)
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(pro) >= 0).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_single_metrics_and_precomputed_regions_agree(seed: int) -> None:
    masks, maps = smooth_scene(seed)
    together = pixel_metrics(masks, maps, regions=label_regions(masks))
    assert list(together) == ["pixel_auroc", "pixel_ap", "aupro_0.30"]
    assert together == {
        "pixel_auroc": pixel_auroc(masks, maps),
        "pixel_ap": pixel_ap(masks, maps),
        "aupro_0.30": aupro(masks, maps),
    }
    assert together["aupro_0.30"] == pytest.approx(brute_aupro(masks, maps, 0.3), abs=1e-12)


def test_one_outlier_changes_nothing() -> None:
    masks, maps = smooth_scene(3)
    before = aupro(masks, maps)
    highest = np.where(masks, -np.inf, maps).argmax()  # the normal pixel that is first anyway
    maps.reshape(-1)[highest] = maps.max() + 1
    first = aupro(masks, maps)
    maps.reshape(-1)[highest] = 1e6 * maps.max()
    assert aupro(masks, maps) == first
    assert first == pytest.approx(before, abs=1 / (~masks).sum() / 0.3)


@hypothesis.given(st.integers(0, 2**31))
@hypothesis.settings(max_examples=20, deadline=None)
def test_only_the_order_of_scores_matters(seed: int) -> None:
    masks, maps = smooth_scene(seed, count=2)
    hypothesis.assume(masks.any())
    ranks = np.unique(maps, return_inverse=True)[1].reshape(maps.shape).astype(np.float32)
    assert pixel_metrics(masks, maps) == pixel_metrics(masks, ranks)


def test_a_ring_is_covered_at_most_once() -> None:
    masks = np.zeros((1, 32, 32), bool)
    masks[0, 8:16, 8:16] = True
    masks[0, 10:14, 10:14] = False  # 48 pixels around a hole of 16
    maps = np.zeros(masks.shape, np.float32)
    maps[0, 8:16, 8:16] = 1  # the detector fires on the hole as well
    fpr, pro = pro_curve(masks, maps)
    assert pro.max() == 1
    assert fpr[pro == 1][0] == 16 / (1024 - 48)
    assert label_regions(masks).areas.tolist() == [48]


def test_counts_beyond_two_to_the_24() -> None:
    # 16.8 million normal pixels at the top, then the defects: a float32 counter would stop at
    # 2**24 and call the false-positive rate of the last step equal to that of the one before.
    width, strips = 4100, 10
    ones, none = np.ones((1, 410, width), np.float32), np.zeros((1, 410, width), bool)
    masks, maps = none.copy(), ones.copy()
    masks[0, -1, ::2] = True  # regions of one pixel, 2050 of them
    maps[0, -1] = np.arange(width, 0, -1) / (width + 1)  # defect, normal, defect, normal ...
    defects = width // 2
    normal = strips * none.size - defects
    assert normal > 2**24

    def stream() -> PixelStream:
        filled = PixelStream(strips * none.size)
        for _ in range(strips - 1):
            filled.add(none, ones)
        filled.add(masks, maps)
        return filled

    above = normal - defects + np.arange(defects)  # normal pixels before each defect
    ranking = stream().rank()
    assert ranking is not None
    assert ranking.normal == normal
    np.testing.assert_array_equal(ranking.above, above)
    np.testing.assert_array_equal(ranking.reached, above)
    found = stream_metrics(stream(), limits=(1.0,))
    assert found["pixel_auroc"] == np.sum(normal - above) / (normal * defects)
    assert found["aupro_1.00"] == pytest.approx(np.mean(1 - above / normal), rel=1e-9)


def test_constant_maps_are_chance() -> None:
    masks = V1_MASKS
    maps = np.full(masks.shape, 0.5, np.float32)
    found = pixel_metrics(masks, maps)
    assert found["pixel_auroc"] == 0.5
    assert found["pixel_ap"] == masks.mean()
    assert found["aupro_0.30"] == pytest.approx(0.15)


def test_perfect_and_reversed_maps() -> None:
    perfect = V1_MASKS.astype(np.float32)
    assert pixel_metrics(V1_MASKS, perfect) == {
        "pixel_auroc": 1.0,
        "pixel_ap": 1.0,
        "aupro_0.30": 1.0,
    }
    worst = pixel_metrics(V1_MASKS, -perfect)
    assert worst["pixel_auroc"] == 0.0
    assert worst["aupro_0.30"] == 0.0


@pytest.mark.parametrize("value", [False, True])
def test_pixels_of_one_kind_have_no_metric(value: bool) -> None:
    masks = np.full((2, 4, 4), value)
    maps = np.linspace(0, 1, 32, dtype=np.float32).reshape(2, 4, 4)
    assert pixel_metrics(masks, maps) == {
        "pixel_auroc": None,
        "pixel_ap": None,
        "aupro_0.30": None,
    }
    assert pixel_auroc(masks, maps) is None
    assert pixel_ap(masks, maps) is None
    assert aupro(masks, maps) is None
    with pytest.raises(InputError, match="both normal and defective"):
        pro_curve(masks, maps)


def test_no_images() -> None:
    empty = np.zeros((0, 4, 4), bool)
    assert set(pixel_metrics(empty, empty.astype(np.float32)).values()) == {None}


def test_bad_input_is_named() -> None:
    broken = V1_MAPS.copy()
    broken[1, 2, 3] = np.nan
    with pytest.raises(InputError, match="score map 1 holds NaN"):
        pixel_metrics(V1_MASKS, broken)
    with pytest.raises(InputError, match=r"resize the masks"):
        pixel_metrics(V1_MASKS[:, :2], V1_MAPS)
    with pytest.raises(InputError, match="binarise"):
        pixel_metrics(V1_MASKS.astype(np.uint8) * 255, V1_MAPS)
    with pytest.raises(InputError, match="limit is 30"):
        pixel_metrics(V1_MASKS, V1_MAPS, limits=(0.3, 30))
    with pytest.raises(InputError, match="limit is 0"):
        aupro(V1_MASKS, V1_MAPS, limit=0)
    with pytest.raises(InputError, match="other masks"):
        aupro(V1_MASKS, V1_MAPS, regions=label_regions(~V1_MASKS))
    with pytest.raises(InputError, match="labelled for shape"):
        aupro(V1_MASKS, V1_MAPS, regions=label_regions(V1_MASKS[:1]))


@pytest.mark.parametrize("points", [3, 20, 10_000])
def test_the_drawn_pro_curve_lies_on_the_exact_one(points: int) -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((4, 40, 40), bool)
    masks[1:3, 5:20, 8:30] = masks[3, 2, 2] = True
    maps = (rng.normal(size=masks.shape) + 1.5 * masks).astype(np.float32)
    stream = PixelStream(masks.size)
    stream.add(masks, maps)
    metrics, curve = stream_curve(stream, points=points)
    assert metrics == pixel_metrics(masks, maps)
    assert curve is not None
    fpr, pro = pro_curve(masks, maps)
    assert 2 <= curve.shape[1] <= points + 2
    assert (np.diff(curve) >= 0).all()
    assert (curve[0, 0], curve[0, -1]) == (0, 0.3)
    for x, y in curve.T:  # between the lowest and the highest point at this rate
        assert np.interp(x - 1e-9, fpr, pro) - 1e-6 <= y <= np.interp(x + 1e-9, fpr, pro) + 1e-6
    area = np.trapezoid(curve[1], curve[0]) / 0.3
    assert area == pytest.approx(
        metrics["aupro_0.30"], abs={3: 0.2, 20: 0.02, 10_000: 1e-9}[points]
    )
    assert stream_curve(PixelStream(4))[1] is None
