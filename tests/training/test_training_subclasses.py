"""Which subclass an image is of: as labelled, or as k-means finds."""

from __future__ import annotations

import numpy as np
import pytest

from jaxad.core import InputError
from jaxad.data.manifest import Record
from jaxad.training.subclasses import clustered, find, labelled


def test_labels_are_subclasses_within_their_category() -> None:
    def record(category: str, subclass: str) -> Record:
        return Record("x.png", category, subclass, "train", "good")

    found = labelled([record("a", "2"), record("a", "1"), record("a", "2")])
    assert found is not None
    assert found.names == ("1", "2")
    assert found.of.tolist() == [1, 0, 1]
    assert [list(m) for m in found.members] == [[1], [0, 2]]
    both = labelled([record("a", "1"), record("b", "1"), record("b", "1")])
    assert both is not None
    assert both.names == ("a/1", "b/1")
    kinds = labelled([record("a", ""), record("b", "")])
    assert kinds is not None
    assert kinds.names == ("a", "b")
    assert labelled([record("a", ""), record("a", "")]) is None
    assert labelled([record("a", "1"), record("a", "1")]) is None
    with pytest.raises(InputError, match="1 of 2 training images have no subclass"):
        labelled([record("a", "1"), record("a", "")])


def test_the_silhouette_finds_how_many_clusters_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rng = np.random.default_rng(0)
    centres = 5 * rng.normal(size=(4, 12))
    truth = rng.integers(0, 4, 60)
    x = centres[truth] + 0.1 * rng.normal(size=(60, 12))
    found = clustered(x.astype(np.float32), count=0, seed=0)
    assert len(found.names) == 4
    assert len({(a, b) for a, b in zip(truth, found.of)}) == 4  # the same partition
    assert "4 (silhouette" in capsys.readouterr().err
    again = clustered(x.astype(np.float32), count=0, seed=0)
    np.testing.assert_array_equal(found.of, again.of)
    assert len(clustered(x, count=2, seed=0).names) == 2
    with pytest.raises(InputError, match="2 training images can not make 2 subclasses"):
        clustered(x[:2], count=0, seed=0)
    # Images that are all the same are one subclass, not two of which one is empty.
    same = clustered(np.ones((5, 3)), count=0, seed=0)
    assert (same.names, same.of.tolist()) == (("cluster0",), [0] * 5)
    # One that is asked for is one.
    assert clustered(x, count=1, seed=0).of.tolist() == [0] * 60


def test_features_are_computed_only_where_labels_do_not_tell() -> None:
    def record(subclass: str) -> Record:
        return Record("x.png", "a", subclass, "train", "good")

    def never() -> np.ndarray:
        raise AssertionError("not needed")

    two = [record("1"), record("2"), record("1")]
    assert find(two, never, clusters=0, seed=0).names == ("1", "2")
    x = np.concatenate([np.eye(4)[[0, 0, 0, 1, 1, 1]]])
    found = find(two * 2, lambda: x, clusters=2, seed=0)
    assert found.names == ("cluster0", "cluster1")
    assert len(set(found.of[:3].tolist())) == len(set(found.of[3:].tolist())) == 1
    assert len(find([record("")] * 6, lambda: x, clusters=0, seed=0).names) == 2
