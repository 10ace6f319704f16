import hypothesis
import numpy as np
from hypothesis import strategies as st

from jaxad.report import select_examples, view_category

rows = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.5, 1.0, 2.0, 8.0])), max_size=40
)


@hypothesis.given(rows, st.integers(0, 8))
@hypothesis.settings(max_examples=200, deadline=None)
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


def test_only_the_chosen_photos_are_loaded() -> None:
    labels, scores = [0, 1, 1, 1, 0], [0.5, 0.1, 0.9, 0.4, 0.2]
    loaded: list[int] = []

    def load(i: int) -> np.ndarray:
        loaded.append(i)
        return np.full((8, 8, 3), i, np.uint8)

    maps = np.random.default_rng(0).normal(size=(5, 8, 8)).astype(np.float32)
    masks = np.zeros((5, 8, 8), bool)
    view = view_category(
        list("abcde"),
        labels,
        scores,
        maps,
        load=load,
        masks=masks,
        has_mask=[True, False, True, True, True],
        n=1,
    )
    assert sorted(loaded) == [0, 1, 2]
    assert [e.name for e in (*view.defects, *view.missed, *view.normal)] == ["c", "b", "a"]
    assert view.defects[0].score == 0.9
    assert view.defects[0].image[0, 0, 0] == 2
    np.testing.assert_array_equal(view.defects[0].map, maps[2])
    assert view.defects[0].mask is not None
    assert view.missed[0].mask is None  # known to be unknown
    assert view.labels.tolist() == labels
    assert view.colours[0] < view.colours[1]
