"""Which subclass each training image is of: as labelled, or found by k-means."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxad.core import InputError
from jaxad.data.manifest import Record

MOST = 8
"""Clusters that the silhouette chooses among: 2 to this many."""


class Subclasses(NamedTuple):
    """The subclasses of a detector's training images."""

    names: tuple[str, ...]
    of: np.ndarray[Any, Any]
    """`(N,)` int32, the subclass of each image."""

    @property
    def members(self) -> list[np.ndarray[Any, Any]]:
        """The images of each subclass."""
        return [np.flatnonzero(self.of == k) for k in range(len(self.names))]


def one_for_all(count: int) -> Subclasses:
    """All images are of one kind."""
    return Subclasses(("",), np.zeros(count, np.int32))


def labelled(records: Sequence[Record]) -> Subclasses | None:
    """Subclasses as the data set has them, within their category where there are several.

    Returns None where it does not tell at least two apart.

    Raises:
        InputError: Some images have one and others have none.
    """
    names = [record.subclass for record in records]
    if len({record.category for record in records}) > 1:
        names = [f"{record.category}/{record.subclass}".rstrip("/") for record in records]
    known = [bool(record.subclass) for record in records]
    if any(known) and not all(known):
        raise InputError(
            f"{known.count(False)} of {len(known)} training images have no subclass "
            f"(first: {records[known.index(False)].path}): name it in the manifest, or in none"
        )
    unique, of = np.unique(names, return_inverse=True)
    if len(unique) < 2:
        return None
    return Subclasses(tuple(str(name) for name in unique), of.astype(np.int32))


def clustered(pooled: np.ndarray[Any, Any], *, count: int, seed: int) -> Subclasses:
    """Subclasses by k-means on one feature vector an image, `(N, C)`.

    Args:
        pooled: The images' features, averaged over positions.
        count: How many; 0: the number from 2 to `MOST` with the largest silhouette.
        seed: Of k-means' starts.

    Raises:
        InputError: There are fewer images than clusters.
    """
    from sklearn.cluster import KMeans  # heavy, and only needed here
    from sklearn.metrics import silhouette_score

    if len(pooled) <= max(count, 2):
        raise InputError(
            f"{len(pooled)} training images can not make {max(count, 2)} subclasses: label them "
            "in a manifest, or set method.moe=False"
        )
    x = pooled.astype(np.float64)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)

    def of(k: int) -> np.ndarray[Any, Any]:
        found: np.ndarray[Any, Any] = KMeans(k, n_init=10, random_state=seed).fit_predict(x)
        return found

    distinct = len(np.unique(x, axis=0))
    if distinct < 2 or count == 1:
        return Subclasses(("cluster0",), np.zeros(len(x), np.int32))
    most = min(count or MOST, distinct, len(x) - 1)
    tried = {k: of(k) for k in range(min(count or 2, most), most + 1)}
    value = {k: silhouette_score(x, y) for k, y in tried.items()}
    best = max(value, key=lambda k: value[k])
    print(f"subclasses by k-means: {best} (silhouette {value[best]:.2f})", file=sys.stderr)
    return Subclasses(tuple(f"cluster{k}" for k in range(best)), tried[best].astype(np.int32))


def find(
    records: Sequence[Record],
    pooled: Callable[[], np.ndarray[Any, Any]],
    *,
    clusters: int,
    seed: int,
) -> Subclasses:
    """The labels, or clusters where there are none, or `clusters` > 0 asks for them.

    Args:
        records: The training images.
        pooled: Computes their features, only if these are needed.
        clusters: See `clustered`.
        seed: Of k-means.
    """
    known = None if clusters else labelled(records)
    return known or clustered(pooled(), count=clusters, seed=seed)
