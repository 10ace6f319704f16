"""Training one detector: features once, then phase after phase of steps.

A `Trainer` trains detector after detector of one configuration. What it compiles for the first one
serves all others: frozen networks, initialisation, steps.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.core import Variables
from jaxad.data.jobs import Job
from jaxad.data.manifest import Manifest
from jaxad.data.reading import Reading
from jaxad.memory import free_memory
from jaxad.ops.precision import rounded
from jaxad.parallel import DataParallel, free_device_memory
from jaxad.recipes.recipe import Backbones, Model, Phase, named_key
from jaxad.training import feature_cache, phases, sampling, subclasses
from jaxad.training.extract import Extractor, pooled
from jaxad.training.profiling import Profile, profiled
from jaxad.training.state import init_state
from jaxad.training.telemetry import reporter

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


class Fit(NamedTuple):
    """What training one detector yields."""

    model: Model
    variables: Variables
    """The method's own."""
    seconds: dict[str, float]
    subclasses: tuple[str, ...]
    """Names of the subclasses that were learnt by themselves; none: `("",)`."""
    cache: Any
    """The features of the training images, if they were kept."""


class Trainer:
    """Trains the detectors of one configuration; every program is compiled once for all of them."""

    def __init__(
        self,
        backbones: Backbones,
        model: Callable[[int], Model],
        budget: Budget,
        reading: Reading,
        parallel: DataParallel,
        *,
        capacity: int,
    ) -> None:
        """Set up; nothing is computed.

        Args:
            backbones: The frozen networks.
            model: Builds the detector for a number of subclasses; the same object for the same.
            budget: How it is trained.
            reading: How photos are read.
            parallel: Over which devices.
            capacity: Training images of the largest detector, for which the cache is made.
        """
        self.budget, self.reading, self.parallel = budget, reading, parallel
        self._model = model
        self._computing = phases.Computing(parallel, budget.parts, budget.dtype)
        self._extractor = Extractor(
            backbones._replace(variables=rounded(backbones.variables, budget.dtype)),
            model(0).detector,
            reading,
            parallel,
            batch_size=budget.score_batch,
            capacity=capacity,
            dtype=budget.cache_dtype,
        )
        self.extract, self.shapes = self._extractor.extract, self._extractor.shapes
        # Chosen once: a detector must not depend on what memory others have left.
        self.place = feature_cache.cache_place(
            budget.feature_cache,
            feature_cache.nbytes(self.shapes, capacity, dtype=budget.cache_dtype),
            device=free_device_memory(),
            host=free_memory(),
        )
        """Where features are kept: "device", "host" or "off"."""
        # By what a program depends on: another detector of the same shapes asks for the same.
        self._init = functools.cache(self._make_init)
        self._optimizer = functools.cache(self._describe_optimizer)
        self._steps: dict[Any, tuple[Callable[..., Any], Callable[..., Any]]] = {}
        self._holdout = functools.cache(
            lambda count, n: phases.holdout_program(self._model(count).phases[n])
        )

    def fit(
        self,
        job: Job,
        root: Path,
        log: Log,
        *,
        seed: int,
        cache: Any = None,
        profile: Profile | None = None,
    ) -> Fit:
        """Train one detector, phase after phase, on the job's normal images.

        Args:
            job: What it learns.
            root: Folder of the job's records.
            log: Called with what is to be kept of the training.
            seed: Of all that is drawn.
            cache: The features of the training images, if they are there already.
            profile: Steps of the first phase to be traced.
        """
        budget, seconds = self.budget, {"features": 0.0, "train": 0.0}
        start = time.monotonic()
        if cache is None and self.place != "off":
            cache = self.extract(Manifest(root, job.train), job.name)
            if self.place == "device":
                cache = self.parallel.replicate(cache)
        seconds["features"] = time.monotonic() - start

        def normal_images(index: sampling.Index) -> Iterator[Any]:
            return self._extractor.images(job.train, root, cache, index)

        found = self._subclasses(job, normal_images, seed)
        # Without subclasses to learn the method is built for none.
        count = 0 if budget.clusters is None else len(found.names)
        model = self._model(count)
        held, groups = sampling.split(
            found,
            [record.category for record in job.train],
            holdout=budget.holdout,
            balanced=budget.balanced,
            seed=seed,
        )

        def labelled_images(index: sampling.Index) -> Iterator[Any]:
            """The same in pairs with what is known of the image."""
            for number, features in zip(index, normal_images(index)):
                yield features, {"subclass": found.of[[number]]}

        start = time.monotonic()
        variables = self._init(count)(jax.random.key(seed))

        def held_out(n: int, before: Variables, part: Variables) -> dict[str, float]:
            whole = _with_part(before, part)
            return phases.holdout(self._holdout(count, n), whole, labelled_images(held))

        for n, phase in enumerate(model.phases):
            variables = self._run(
                n,
                phase,
                count,
                variables,
                job,
                root,
                cache,
                groups,
                log,
                seed,
                held_out=functools.partial(held_out, n, variables) if len(held) else None,
                profile=profile if n == 0 else None,
            )
        method = model.detector.method
        if method.finalize is not None:
            trained = np.unique(np.concatenate([part for group in groups for part in group]))
            variables = method.finalize(variables, labelled_images(trained))
        jax.block_until_ready(variables)
        seconds["train"] = time.monotonic() - start
        return Fit(model, variables, seconds, found.names, cache)

    def _run(
        self,
        n: int,
        phase: Phase,
        count: int,
        variables: Variables,
        job: Job,
        root: Path,
        cache: Any,
        groups: list[sampling.Group],
        log: Log,
        seed: int,
        *,
        held_out: Callable[[Variables], dict[str, float]] | None = None,
        profile: Profile | None = None,
    ) -> Variables:
        """Take the steps of phase `n`; returns `variables` with what it trains replaced."""
        budget, parallel, turns = self.budget, self.parallel, len(groups)
        # What shares a batch, at one time or one after the other.
        shares = parallel.device_count * budget.parts
        batch = sampling.batch_elements(budget.batch_size, turns, shares)
        steps = sampling.steps_of(phase.steps, groups, epochs=budget.epochs, batch=batch)
        place = (
            "off" if cache is None else "device" if _on_device(cache, phase.features) else "host"
        )
        seen = self._say(phase, steps, batch, groups, place, log)
        start, step = self._step(count, n, steps, turns, batch, place)
        part = _part(variables, phase.method, self.shapes)
        state = parallel.replicate(start(part))
        rng = parallel.replicate(training_key(seed, phase.name))
        report = reporter(
            phase.name,
            steps,
            title=f"train {job.name} {phase.name}",
            log_every=budget.log_every,
            log=log,
            seen=seen,
        )
        measure = held_out and phases.now_and_then(held_out, steps, every=budget.log_every)
        draw = sampling.draws(seed, phase.name)
        if cache is not None and phase.positions:
            _, height, width, _ = cache[phase.features[0]].shape
            stream = sampling.position_stream(
                groups,
                size=phase.positions,
                per_image=height * width,
                devices=shares,
                draw=draw,
            )
        else:
            stream = sampling.image_stream(
                groups, size=budget.batch_size, devices=shares, draw=draw
            )
        frozen: Any = {}
        if place == "device":
            frozen = {name: cache[name] for name in phase.features}
            batches: Iterator[Any] = phases.blocks(stream, steps)
        elif place == "host":
            take = phases.taker(phase)
            batches = (take(cache, index) for index in itertools.islice(stream, steps))
        else:
            frozen = self._extractor.frozen
            order = np.concatenate(list(itertools.islice(stream, steps)))
            chosen = Manifest(root, tuple(job.train[i] for i in order))
            batches = ({"image": found["image"]} for found in self.reading.batches(chosen, batch))
        if place != "device":
            batches = map(_with_elements, batches)
        with profiled(step, profile) as step:
            state = phases.run(
                step, state, frozen, map(parallel.shard, batches), rng, report, measure
            )
        return _with_part(variables, state.variables)

    def _subclasses(
        self, job: Job, normal_images: Callable[[sampling.Index], Iterator[Any]], seed: int
    ) -> subclasses.Subclasses:
        if self.budget.clusters is None:
            return subclasses.one_for_all(len(job.train))
        everything = np.arange(len(job.train))
        return subclasses.find(
            job.train,
            lambda: np.concatenate([pooled(found) for found in normal_images(everything)]),
            clusters=self.budget.clusters,
            seed=seed,
        )

    def _make_init(self, count: int) -> Callable[..., Variables]:
        method = self._model(count).detector.method

        def init_method(rng: Any) -> Variables:
            return method.init(rng, _zeros(self.shapes))

        return jax.jit(init_method)

    def _step(
        self, count: int, n: int, steps: int, turns: int, batch: int, place: str
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """What begins a phase, and its step.

        Where epochs make the number of steps, and no schedule looks at it, one program serves all.
        """
        key = (count, n, self._optimizer(count, n, steps), turns, batch, place)
        if key not in self._steps:
            self._steps[key] = self._make_step(count, n, steps, turns, batch, place)
        return self._steps[key]

    def _describe_optimizer(self, count: int, n: int, steps: int) -> str:
        """All that an optimizer computes for a phase of so many steps, as text."""
        method = self._model(count).phases[n].method
        optimizer = method.optimizer(steps)
        rates = {} if method.schedules is None else method.schedules(steps)
        params = _shapes_of(method, self.shapes)["params"]

        def all_of(params: Any, step: Any) -> Any:
            told = {name: rate(step) if callable(rate) else rate for name, rate in rates.items()}
            return optimizer.update(params, optimizer.init(params), params), told

        with jax.numpy_dtype_promotion("standard"):
            traced = jax.make_jaxpr(all_of)(params, jnp.zeros((), jnp.int32))
        return f"{traced.jaxpr} {[np.asarray(value).tolist() for value in traced.consts]}"

    def _make_step(
        self, count: int, n: int, steps: int, turns: int, batch: int, place: str
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        detector, every = self._model(count)
        phase = every[n]

        @jax.jit
        def start_phase(part: Variables) -> Any:
            return init_state(part, phase.method.optimizer(steps))

        if place == "off":
            step = phases.image_step(
                phase, steps, detector, groups=turns, batch=batch, computing=self._computing
            )
        else:
            make = phases.device_step if place == "device" else phases.cached_step
            step = make(phase, steps, groups=turns, computing=self._computing)
        return start_phase, step

    def _say(
        self,
        phase: Phase,
        steps: int,
        batch: int,
        groups: list[sampling.Group],
        place: str,
        log: Log,
    ) -> dict[str, int]:
        """Say what a step sees: where subclasses and devices share it, more than was asked for.

        Returns:
            How many "images" and "positions" it reads; images that were kept as features are not
            read again for the positions that are drawn of all of them.
        """
        devices, turns = self.parallel.device_count, len(groups)
        if phase.positions and place == "off":  # as many of each image
            seen = phases.positions_each(phase, batch) * batch
            log(phase=phase.name, steps=steps, positions_per_step=seen, images_per_step=batch)
            return {"images": batch, "positions": seen}
        if phase.positions:
            seen = sampling.batch_elements(phase.positions, turns, devices * self.budget.parts)
            log(phase=phase.name, steps=steps, positions_per_step=seen)
            return {"positions": seen}
        epochs = steps * batch / sampling.epoch_images(groups)
        log(phase=phase.name, steps=steps, images_per_step=batch, epochs=round(epochs, 3))
        if batch != self.budget.batch_size:
            print(
                f"{phase.name}: {steps} steps of {batch} images, {epochs:.4g} epochs: "
                f"train.batch_size={self.budget.batch_size} does not go round {turns} "
                f"subclasses on {devices} devices"
                + (f" in {self.budget.parts} parts" if self.budget.parts > 1 else ""),
                file=sys.stderr,
            )
        return {"images": batch}


def training_key(seed: int, phase: str) -> jax.Array:
    """The key of a phase's draws and losses; that of initialisation is `jax.random.key(seed)`."""
    return named_key(seed, f"train/{phase}")


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _part(variables: Variables, method: Any, shapes: Any) -> Variables:
    """What of the variables a part of the method has."""
    return {
        collection: {name: variables[collection][name] for name in levels}
        for collection, levels in _shapes_of(method, shapes).items()
    }


def _with_part(variables: Variables, part: Variables) -> Variables:
    """The variables with those of a part of the method in their places."""
    new = {name: {**variables.get(name, {}), **levels} for name, levels in part.items()}
    return {**variables, **new}


def _shapes_of(method: Any, shapes: Any) -> Any:
    """The method's variables without their values; nothing is computed."""
    return jax.eval_shape(lambda rng: method.init(rng, _zeros(shapes)), jax.random.key(0))


def _with_elements(batch: dict[str, Any]) -> dict[str, Any]:
    """Add every element's place in the batch of all devices."""
    count = len(next(iter(batch.values())))
    return {**batch, "element": np.arange(count, dtype=np.int32)}


def _on_device(cache: Any, names: tuple[str, ...]) -> bool:
    return isinstance(cache[names[0]], jax.Array)
