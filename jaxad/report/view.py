"""What a report shows of one category, as plain data, and how the shown photos are chosen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jaxad.report.colour import colour_range, colour_sample
from jaxad.report.small import MOST, Small, shrink, stacked


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
    number: int = -1
    """Which of the category's test photos it is; -1 where that is not known."""


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
    names: Sequence[str] = ()
    """N file names; none: the page has no table of all photos."""
    kinds: Sequence[str] = ()
    """N defect types, as labelled; "good" for a good photo."""
    small: Small | None = None
    """Small pictures."""
    pro: np.ndarray | None = None
    """`(2, P)` float64: points of the PRO curve, false-positive rate and overlap."""
    taken: Sequence[str] = ()
    """Names of the subclasses that the detector took the N photos for; none if it knows none."""


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


class ViewStream:
    """Gathers what a report shows of one category while its photos are scored, batch by batch.

    Of photos, maps and masks only those are kept that may still be shown, at most 3 n, small
    pictures of at most `small.MOST`, and a sample of the scores.
    """

    def __init__(
        self,
        names: Sequence[str],
        labels: npt.ArrayLike,
        *,
        n: int = 6,
        kinds: Sequence[str] = (),
    ) -> None:
        """Begin with what is known before any score.

        Args:
            names: N file names as the page shows them.
            labels: `(N,)` 0 or 1.
            n: the most photos in each of the three lists.
            kinds: N defect types; none: "good" and "defective".
        """
        self._names, self._labels, self._n = names, np.asarray(labels).astype(int), n
        self._kinds = kinds or [("good", "defective")[label] for label in self._labels.tolist()]
        self._scores = np.empty(0)
        self._small: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._kept: dict[int, Example] = {}
        self._sample: list[np.ndarray] = []

    def add(
        self,
        images: np.ndarray,
        scores: npt.ArrayLike,
        maps: np.ndarray,
        masks: Sequence[np.ndarray | None] | np.ndarray,
    ) -> None:
        """Take the next photos, in the order of the names.

        Args:
            images: `(B, H, W, 3)` uint8 RGB.
            scores: `(B,)` image scores.
            maps: `(B, h, w)` float32 score maps.
            masks: `(B, h, w)` bool, or a list with None where a mask is unknown.
        """
        done = len(self._scores)
        self._scores = np.append(self._scores, np.asarray(scores, np.float64))
        self._sample.append(colour_sample(maps, images=len(self._names)))

        def example(i: int) -> Example:
            mask = masks[i - done]
            return Example(
                self._names[i],
                int(self._labels[i]),
                images[i - done].copy(),  # a view would keep the whole batch
                maps[i - done].copy(),
                None if mask is None else mask.copy(),
                float(self._scores[i]),
                i,
            )

        # A share of `MOST` for each list; where all photos are fewer, all have a small picture.
        most = MOST // 3 if len(self._names) > MOST else MOST
        self._kept = {i: self._kept.get(i) or example(i) for i in self._extremes(self._kept, done)}
        self._small = {
            i: self._small.get(i) or shrink(images[i - done], maps[i - done])
            for i in self._extremes(self._small, done, most)
        }

    def _extremes(self, kept: Iterable[int], done: int, n: int | None = None) -> list[int]:
        """Who may still be shown, of those that are kept and those that are new.

        Who is not among the extremes of those seen so far is not among those of all.
        """
        seen = np.array([*sorted(kept), *range(done, len(self._scores))], int)
        chosen = select_examples(
            self._labels[seen], self._scores[seen], self._n if n is None else n
        )
        found: list[int] = seen[np.concatenate(chosen)].tolist()
        return found

    def view(self) -> CategoryView:
        """What the report shows, once all photos have come."""
        labels, scores = self._labels[: len(self._scores)], self._scores
        defects, missed, normal = (
            [self._kept[i] for i in indices.tolist()]
            for indices in select_examples(labels, scores, self._n)
        )
        sample = np.concatenate(self._sample or [np.empty((0, 1), np.float32)])
        return CategoryView(
            *(labels, scores, defects, missed, normal, colour_range(sample, labels)),
            names=self._names[: len(scores)],
            kinds=self._kinds[: len(scores)],
            small=stacked(self._small),
        )
