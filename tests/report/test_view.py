import tracemalloc

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxad.report import ViewStream, select_examples
from jaxad.report.colour import colour_range
from jaxad.report.small import MOST, SIDE

rows = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.5, 1.0, 2.0, 8.0])), max_size=40
)


@hypothesis.given(rows, st.integers(0, 8))
@hypothesis.settings(max_examples=60, deadline=None)
def test_chosen_photos_are_the_extremes(rows: list[tuple[int, float]], n: int) -> None:
    labels = np.array([label for label, _ in rows], int)
    scores = np.array([score for _, score in rows], float)
    defects, missed, normal = select_examples(labels, scores, n)
    chosen = np.concatenate([defects, missed, normal]).tolist()
    assert len(chosen) == len(set(chosen))
    assert (labels[defects] == 1).all()
    assert (labels[missed] == 1).all()
    assert (labels[normal] == 0).all()
    assert len(normal) == min(n, np.sum(labels == 0))
    assert len(defects) + len(missed) == min(2 * n, labels.sum())
    assert 0 <= len(defects) - len(missed) <= 1
    falling = np.sort(scores[labels == 1])[::-1]
    assert scores[defects].tolist() == falling[: len(defects)].tolist()
    assert scores[missed].tolist() == falling[::-1][: len(missed)].tolist()
    assert scores[normal].tolist() == np.sort(scores[labels == 0])[::-1][:n].tolist()


def test_equal_scores_keep_the_order_of_the_test_set() -> None:
    found = select_examples([0, 0, 0, 1, 1, 1, 1], [1.0] * 7, 2)
    assert found.normal.tolist() == [0, 1]
    assert found.defects.tolist() == [3, 4]


def photos(count: int, size: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, maps and masks that can be told apart."""
    rng = np.random.default_rng(0)
    images = np.broadcast_to(np.arange(count)[:, None, None, None], (count, size, size, 3))
    maps = rng.normal(size=(count, size, size)).astype(np.float32)
    return images.astype(np.uint8), maps, rng.random(maps.shape) < 0.1


def test_a_view_shows_the_chosen_photos() -> None:
    labels, scores = [0, 1, 1, 1, 0], [0.5, 0.1, 0.9, 0.4, 0.2]
    images, maps, masks = photos(5)
    stream = ViewStream(list("abcde"), labels, n=1)
    stream.add(images, scores, maps, [masks[0], None, *masks[2:]])
    view = stream.view()
    assert [e.name for e in (*view.defects, *view.missed, *view.normal)] == ["c", "b", "a"]
    assert view.defects[0].score == 0.9
    assert view.defects[0].label == 1
    assert view.normal[0].label == 0
    np.testing.assert_array_equal(view.defects[0].image, images[2])
    np.testing.assert_array_equal(view.defects[0].map, maps[2])
    np.testing.assert_array_equal(view.defects[0].mask, masks[2])
    assert view.missed[0].mask is None  # known to be unknown
    assert view.labels.tolist() == labels
    assert view.scores.tolist() == scores
    assert view.colours == colour_range(maps, labels)


@hypothesis.given(rows, st.integers(0, 4), st.integers(1, 7))
@hypothesis.settings(max_examples=40, deadline=None)
def test_batches_of_any_size_show_the_same(
    rows: list[tuple[int, float]], n: int, size: int
) -> None:
    labels = np.array([label for label, _ in rows], int)
    scores = np.array([score for _, score in rows], float)
    names = [str(i) for i in range(len(rows))]
    images, maps, masks = photos(len(rows), 4)
    stream = ViewStream(names, labels, n=n)
    for i in range(0, len(rows), size):
        part = slice(i, i + size)
        stream.add(images[part], scores[part], maps[part], masks[part])
    view, chosen = stream.view(), select_examples(labels, scores, n)
    for shown, indices in zip((view.defects, view.missed, view.normal), chosen):
        assert [example.name for example in shown] == [names[i] for i in indices]
        for example, i in zip(shown, indices):
            assert (example.label, example.score) == (labels[i], scores[i])
            np.testing.assert_array_equal(example.image, images[i])
            np.testing.assert_array_equal(example.map, maps[i])
            np.testing.assert_array_equal(example.mask, masks[i])
    assert view.scores.tolist() == scores.tolist()
    assert view.colours == colour_range(maps, labels)


def test_what_is_shown_does_not_hold_its_batch() -> None:
    batch = photos(4)
    stream = ViewStream(list("abcd"), [0, 1, 0, 1], n=1)
    stream.add(batch[0], [1.0, 2.0, 3.0, 4.0], *batch[1:])
    view = stream.view()
    for shown in (*view.defects, *view.missed, *view.normal):
        assert shown.mask is not None
        for part, whole in zip((shown.image, shown.map, shown.mask), batch):
            assert not np.shares_memory(part, whole)


def test_what_is_not_shown_is_not_kept() -> None:
    """The memory of a long test set: few photos of their own memory, a sample of the scores."""
    images, maps, masks = photos(1, 512)
    count, batch = 360, 20
    labels = np.arange(count) % 2
    rng = np.random.default_rng(1)
    stream = ViewStream([""] * count, labels, n=2)
    tracemalloc.start()
    for _ in range(0, count, batch):
        every = [np.broadcast_to(x, (batch, *x.shape[1:])) for x in (images, maps, masks)]
        stream.add(every[0], rng.random(batch), *every[1:])
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    shown = 6 * 512 * 512 * (3 + 4 + 1) + MOST * SIDE**2 * (3 + 4)
    assert held < shown + 4 * 4_200_000 + 1e6  # 360 maps would be 380 MB
    view = stream.view()
    assert len(view.defects) == len(view.missed) == len(view.normal) == 2
    assert view.colours == pytest.approx(colour_range(maps, [0]), rel=0.1)
