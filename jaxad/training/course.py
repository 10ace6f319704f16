"""The training of one detector as it goes: its budget, what it has so far, what its steps see."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxad.core import Variables
from jaxad.data.jobs import Job
from jaxad.recipes.recipe import Phase
from jaxad.training import phases, sampling
from jaxad.training.keeping import Keeper, Standing, on_host
from jaxad.training.state import TrainState

Log = Callable[..., None]


@dataclasses.dataclass(frozen=True)
class Budget:
    """How a detector is trained; the keys below `train` have the units."""

    epochs: int
    batch_size: int
    balanced: bool
    holdout: float
    feature_cache: str
    cache_dtype: str
    log_every: int
    score_batch: int
    """Images a program call in passes without gradient."""
    clusters: int | None
    """Subclasses to find, 0 for those that are labelled; None: the method learns none."""
    parts: int = 1
    """Of a step's batch, computed one after the other."""
    dtype: str = "float32"
    """In which networks compute, frozen or trained."""
    augment: tuple[str, ...] = ()
    """How photos are changed at random in every step, see `jaxad.data.augment`: features are then
    computed in every step."""


@dataclasses.dataclass
class Course:
    """The training of one detector: what it goes through its phases with."""

    job: Job
    root: Path
    log: Log
    seed: int
    keeper: Keeper | None
    seconds: dict[str, float]
    cache: Any = None
    groups: list[sampling.Group] = dataclasses.field(default_factory=list)
    count: int = 0
    variables: Variables = dataclasses.field(default_factory=dict)
    began: float = 0.0
    """When its steps did, without those before it was stopped."""

    def keep(self, n: int, step: int, steps: int, batch: int, state: TrainState | None) -> None:
        """Keep all that steps depend on; without a state: the start of phase n."""
        if self.keeper is None:
            return
        own = {} if state is None else state.variables
        tree = {"variables": with_trained(self.variables, own)}
        if state is not None:
            tree["opt_state"] = state.opt_state
        seconds = {**self.seconds, "train": time.monotonic() - self.began}
        self.keeper.keep(Standing(n, step, steps, batch, seconds), on_host(tree))


def seen(phase: Phase, batch: int, *, turns: int, shares: int, place: str) -> dict[str, int]:
    """How many "images" and "positions" a step reads, rounded up to what shares them.

    Images that were kept as features are not read again for the positions that are drawn of all.

    Args:
        phase: What is trained.
        batch: Images of a step.
        turns: Subclasses.
        shares: Devices times parts of a batch.
        place: Where features are: "device", "host" or "off".
    """
    if not phase.positions:
        return {"images": batch}
    if place == "off":  # as many of each image
        return {"positions": phases.positions_each(phase, batch) * batch, "images": batch}
    return {"positions": sampling.batch_elements(phase.positions, turns, shares)}


def say(
    phase: Phase,
    steps: int,
    each: Mapping[str, int],
    *,
    budget: Budget,
    groups: list[sampling.Group],
    devices: int,
    log: Log,
) -> None:
    """Say what a step sees, which is `each`."""
    told = {f"{what}_per_step": count for what, count in each.items()}
    if "positions" in each:
        log(phase=phase.name, steps=steps, **told)
        return
    batch = each["images"]
    epochs = steps * batch / sampling.epoch_images(groups)
    log(phase=phase.name, steps=steps, **told, epochs=round(epochs, 3))
    if batch != budget.batch_size:
        print(
            f"{phase.name}: {steps} steps of {batch} images, {epochs:.4g} epochs: "
            f"train.batch_size={budget.batch_size} does not go round {len(groups)} "
            f"subclasses on {devices} devices"
            + (f" in {budget.parts} parts" if budget.parts > 1 else ""),
            file=sys.stderr,
        )


def with_trained(variables: Variables, trained: Variables) -> Variables:
    """The variables with those that a phase has trained in their places."""
    changed = {name: {**variables.get(name, {}), **levels} for name, levels in trained.items()}
    return {**variables, **changed}
