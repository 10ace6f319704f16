"""What a report shows of one category, as plain data, and how the shown photos are chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jaxad.report.colour import colour_range


class Example(NamedTuple):
    """One shown photo."""

    name: str
    label: int
    """0 good, 1 defective."""
    image: np.ndarray
    """`(H, W, 3)` uint8 RGB."""
    map: np.ndarray
    """`(h, w)` float32 raw scores; any size of the photo's aspect."""
    mask: np.ndarray | None
    """`(h, w)` bool, True where defective, or None where unknown."""
    score: float


class CategoryView(NamedTuple):
    """One category of a report."""

    labels: np.ndarray
    """`(N,)` 0 or 1, of all test photos."""
    scores: np.ndarray
    """`(N,)` float, image scores of all test photos."""
    defects: Sequence[Example]
    """Defective photos of the highest scores, highest first."""
    missed: Sequence[Example]
    """Defective photos of the lowest scores, lowest first."""
    normal: Sequence[Example]
    """Good photos of the highest scores, highest first."""
    colours: tuple[float, float]
    """Scores at the two ends of the heatmap's colours, common to all photos of the category."""


class Selection(NamedTuple):
    """Indices of the test photos to show; no photo stands in two of the lists."""

    defects: np.ndarray
    missed: np.ndarray
    normal: np.ndarray


def select_examples(labels: npt.ArrayLike, scores: npt.ArrayLike, n: int = 6) -> Selection:
    """Choose the photos that say most: clear defects, defects nearly missed, false alarms.

    Where there are fewer than 2 n defective photos they are shared between the first two lists.
    Equal scores keep the order of the test set.

    Args:
        labels: `(N,)` 0 or 1.
        scores: `(N,)`.
        n: the most photos in a list.

    Returns:
        Three index arrays of at most `n` each, the telling photo first: highest-scoring defective,
        lowest-scoring defective, highest-scoring good.
    """
    truth, values = np.asarray(labels).astype(bool), np.asarray(scores)
    falling = np.argsort(-values, kind="stable")
    defective, normal = falling[truth[falling]], falling[~truth[falling]]
    top = min(n, (len(defective) + 1) // 2)
    bottom = min(n, len(defective) - top)
    return Selection(defective[:top], defective[len(defective) - bottom :][::-1], normal[:n])


def view_category(
    names: Sequence[str],
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    maps: np.ndarray,
    *,
    load: Callable[[int], np.ndarray],
    masks: np.ndarray | None = None,
    has_mask: npt.ArrayLike | None = None,
    n: int = 6,
) -> CategoryView:
    """Gather what a report shows of one category; only the chosen photos are loaded.

    Args:
        names: N file names as the page shows them.
        labels: `(N,)` 0 or 1.
        scores: `(N,)` image scores.
        maps: `(N, h, w)` float32 score maps.
        load: `load(i)` gives test photo i, `(H, W, 3)` uint8 RGB.
        masks: `(N, h, w)` bool, or None where the dataset has none.
        has_mask: `(N,)` bool, False where the mask is unknown; None: all are known.
        n: the most photos in each of the three lists.
    """
    truth, values = np.asarray(labels).astype(int), np.asarray(scores)
    known = np.ones(len(truth), bool) if has_mask is None else np.asarray(has_mask, bool)

    def example(i: int) -> Example:
        mask = masks[i] if masks is not None and known[i] else None
        return Example(names[i], int(truth[i]), load(i), maps[i], mask, float(values[i]))

    chosen = select_examples(truth, values, n)
    defects, missed, normal = ([example(int(i)) for i in indices] for indices in chosen)
    return CategoryView(truth, values, defects, missed, normal, colour_range(maps, truth))
