"""A replicate that several processes train: the first one has the work directory, all have the run.

What the first process finds there decides what all of them do next, so it tells them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxad.normal import Normal
from jaxad.parallel import from_first
from jaxad.recipes.recipe import Backbones, Model
from jaxad.report.view import CategoryView
from jaxad.runs import checkpoint
from jaxad.runs.evaluator import Outcome
from jaxad.runs.keeper import TrainingKeeper
from jaxad.runs.outcomes import Outcomes
from jaxad.runs.processes import Words
from jaxad.runs.replicate import Replicate
from jaxad.runs.score_category import Scored
from jaxad.runs.workdir import shapes_of
from jaxad.training.feature_cache import HostFeatures
from jaxad.training.fit import Fit
from jaxad.training.keeping import Standing

_NOTHING = np.empty(0)
_ELSEWHERE = Scored({}, CategoryView(_NOTHING, _NOTHING, [], [], [], (0.0, 1.0)), 0.0, (0, 0.0))
"""What was measured, in a process that writes no results."""


class TogetherReplicate:
    """`Replicate` for one of several processes."""

    def __init__(
        self, inner: Replicate | None, config: Any, backbones: Backbones, words: Words
    ) -> None:
        """Set up.

        Args:
            inner: In the first process.
            config: Of the replicate.
            backbones: Its frozen networks.
            words: What the first process tells the others.
        """
        self.config, self.backbones, self.seed = config, backbones, config.train.seed
        self._inner, self._words = inner, words

    @property
    def results(self) -> dict[str, Any]:
        """Those that are written; none but in the first process."""
        return self._inner.results if self._inner else {}

    def log(self, **values: Any) -> None:
        """See `Replicate.log`."""
        if self._inner:
            self._inner.log(**values)

    def trained(self, name: str, model: Callable[[int], Model]) -> Fit | None:
        """See `Replicate.trained`."""
        found: list[Fit] = []

        def look() -> Any:
            there = self._inner and self._inner.trained(name, model)
            if not there:
                return None
            found.append(there)
            arrays = checkpoint.arrays_of(there.variables)
            return {"seconds": there.seconds, "subclasses": there.subclasses, "arrays": arrays}

        told = self._words.first(look)
        if told is None:
            return None
        names = tuple(told["subclasses"])
        built, shapes = shapes_of(names, self.config, self.backbones, model)
        shapes = checkpoint.grown(shapes, told["arrays"], built.detector.method.grows)
        variables = from_first(found[0].variables if found else _zeros(shapes))
        return Fit(built, variables, told["seconds"], names, None)

    def keeper(self, name: str) -> TogetherKeeper:
        """See `Replicate.keeper`."""
        return TogetherKeeper(self._inner.keeper(name) if self._inner else None, self._words)

    def save(self, name: str, fit: Fit, photos: Sequence[str]) -> None:
        """See `Replicate.save`."""
        if self._inner:
            self._inner.save(name, fit, photos)

    def outcomes(self, name: str) -> TogetherOutcomes:
        """See `Replicate.outcomes`."""
        inner = self._inner.outcomes(name) if self._inner else None
        return TogetherOutcomes(inner, self._words)

    def calibrated(self, name: str) -> bool:
        """See `Replicate.calibrated`."""
        return bool(self._words.first(lambda: bool(self._inner and self._inner.calibrated(name))))

    def calibrate(self, name: str, categories: Mapping[str, Normal]) -> None:
        """See `Replicate.calibrate`."""
        if self._inner:
            self._inner.calibrate(name, categories)

    def add(self, outcome: Outcome) -> None:
        """See `Replicate.add`."""
        if self._inner:
            self._inner.add(outcome)

    def finish(self) -> None:
        """See `Replicate.finish`."""
        if self._inner:
            self._inner.finish()


class TogetherKeeper:
    """`TrainingKeeper` for one of several processes, all of which have the whole state."""

    def __init__(self, inner: TrainingKeeper | None, words: Words) -> None:
        self._inner, self._words = inner, words

    def due(self, steps: int) -> bool:
        """See `Keeper.due`."""
        return self._inner is not None and self._inner.due(steps)

    def keep(self, standing: Standing, tree: Any) -> None:
        """See `Keeper.keep`."""
        if self._inner:
            self._inner.keep(standing, tree)

    def newest(self, like: Callable[[Standing], Any]) -> tuple[Standing, Any] | None:
        """See `Keeper.newest`."""
        found: list[Any] = []

        def look() -> Any:
            there = self._inner and self._inner.newest(like)
            if not there:
                return None
            found.append(there[1])
            return there[0]._asdict()

        told = self._words.first(look)
        if told is None:
            return None
        standing = Standing(**told)
        return standing, from_first(found[0] if found else _zeros(like(standing)))

    def features(self, shapes: Any) -> tuple[HostFeatures, bool] | None:
        """See `Keeper.features`: several processes do not keep them."""
        if self._inner and self._inner.wants_features:
            print("checkpoint.features: several processes compute them anew", file=sys.stderr)
        return None

    def keep_features(self) -> None:
        """See `Keeper.keep_features`."""

    def close(self) -> None:
        """See `TrainingKeeper.close`."""
        if self._inner:
            self._inner.close()

    def done(self) -> None:
        """See `TrainingKeeper.done`."""
        if self._inner:
            self._inner.done()


class TogetherOutcomes:
    """`Outcomes` for one of several processes, all of which score or pass over the same."""

    def __init__(self, inner: Outcomes | None, words: Words) -> None:
        self._inner, self._words = inner, words

    def keep(self, name: str, scored: Scored) -> None:
        """See `Outcomes.keep`."""
        if self._inner:
            self._inner.keep(name, scored)

    def kept(self, name: str) -> Scored | None:
        """See `Outcomes.kept`."""
        found: list[Scored] = []

        def look() -> bool:
            there = self._inner and self._inner.kept(name)
            found.extend([there] if there else [])
            return bool(there)

        if not self._words.first(look):
            return None
        return found[0] if found else _ELSEWHERE


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
