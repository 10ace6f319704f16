"""Training one detector: features once, then phase after phase of steps.

A `Trainer` trains detector after detector of one configuration. What it compiles for the first one
serves all others: frozen networks, initialisation, steps.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxad.core import InputError, Variables
from jaxad.data.augment import augmented
from jaxad.data.jobs import Job
from jaxad.data.manifest import Manifest
from jaxad.data.reading import Reading
from jaxad.errors import Stopped
from jaxad.memory import free_memory
from jaxad.ops.precision import rounded
from jaxad.parallel import DataParallel, free_device_memory
from jaxad.recipes.recipe import Backbones, Model, Phase, named_key
from jaxad.training import feature_cache, phases, sampling, subclasses
from jaxad.training.compiled import Programs
from jaxad.training.course import Budget, Course, Log, say, seen, with_trained
from jaxad.training.extract import Extractor, pooled
from jaxad.training.keeping import Keeper, Standing
from jaxad.training.profiling import Profile, profiled
from jaxad.training.state import TrainState
from jaxad.training.telemetry import reporter


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


@dataclasses.dataclass(frozen=True)
class Passes:
    """See `jaxad.core.Images`."""

    begin: Callable[[], Iterator[Any]]
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return self.begin()


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
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Set up; nothing is computed.

        Args:
            backbones: The frozen networks.
            model: Builds the detector for a number of subclasses; the same object for the same.
            budget: How it is trained.
            reading: How photos are read.
            parallel: Over which devices.
            capacity: Training images of the largest detector, for which the cache is made.
            check: Called between steps and batches; may raise `Stopped`.
        """
        self.budget, self.reading, self.parallel = budget, reading, parallel
        self.model, self._check = model, check
        self._extractor = Extractor(
            backbones._replace(variables=rounded(backbones.variables, budget.dtype)),
            model(0).detector,
            reading,
            parallel,
            batch_size=budget.score_batch,
            capacity=capacity,
            dtype=budget.cache_dtype,
            check=check,
        )
        self.extract, self.shapes = self._extractor.extract, self._extractor.shapes
        # Chosen once: a detector must not depend on what memory others have left.
        place = feature_cache.cache_place(
            "off" if budget.augment else budget.feature_cache,
            feature_cache.nbytes(self.shapes, capacity, dtype=budget.cache_dtype),
            # A cache is shared by the devices.
            device=free_device_memory() * (parallel.device_count // parallel.processes),
            host=free_memory(),
        )
        # Several processes keep all features on every host, and send their rows of a step.
        self.place = "host" if place == "device" and parallel.processes > 1 else place
        """Where features are kept: "device", "host" or "off"."""
        computing = phases.Computing(parallel, budget.parts, budget.dtype)
        self.programs = Programs(model, self.shapes, computing)
        self._shares = parallel.device_count * budget.parts
        """What shares a batch, at one time or one after the other."""

    def fit(
        self,
        job: Job,
        root: Path,
        log: Log,
        *,
        seed: int,
        cache: Any = None,
        keeper: Keeper | None = None,
        profile: Profile | None = None,
    ) -> Fit:
        """Train one detector, phase after phase, on the job's normal images.

        Args:
            job: What it learns.
            root: Folder of the job's records.
            log: Called with what is to be kept of the training.
            seed: Of all that is drawn.
            cache: The features of the training images, if they are there already.
            keeper: Keeps the training between its steps, and says where it goes on.
            profile: Steps of the first phase to be traced.

        Raises:
            InputError: Training diverges, or what was kept is of other devices.
            Stopped: `check` has raised it; what can be kept is.
        """
        budget, seconds = self.budget, {"features": 0.0, "train": 0.0}
        course = Course(job, root, log, seed, keeper, seconds)
        start = time.monotonic()
        if cache is None and self.place != "off":
            cache = self._features(course)
        course.cache = cache
        seconds["features"] = time.monotonic() - start

        def normal_images(index: sampling.Index) -> Iterator[Any]:
            return self._extractor.images(job.train, root, cache, index)

        found = self._subclasses(job, normal_images, seed)
        # Without subclasses to learn the method is built for none.
        course.count = 0 if budget.clusters is None else len(found.names)
        model = self.model(course.count)
        held, course.groups = sampling.split(
            found,
            [record.category for record in job.train],
            holdout=budget.holdout,
            balanced=budget.balanced,
            seed=seed,
        )

        def labelled_images(
            index: sampling.Index, check: Callable[[], None] = self._check
        ) -> Iterator[Any]:
            """The same in pairs with what is known of the image."""
            for number, features in zip(index, normal_images(index)):
                check()
                yield features, {"subclass": found.of[[number]]}

        def held_out(n: int, trained: Variables) -> dict[str, float]:
            """What is measured while phase n goes on, which is not stopped for it."""
            whole = with_trained(course.variables, self.parallel.local(trained))
            stream = labelled_images(held, lambda: None)
            return phases.holdout(self.programs.holdout(course.count, n), whole, stream)

        trained = np.unique(np.concatenate([part for group in course.groups for part in group]))
        images = Passes(lambda: labelled_images(trained), len(trained))
        method = model.detector.method
        course.began = time.monotonic()
        standing, opt_state = self._begin(course, model)
        if method.observe is not None and not (standing.phase or standing.step):
            course.variables = method.observe(course.variables, images)
        for n, phase in enumerate(model.phases):
            if n < standing.phase:
                continue
            if n > standing.phase:
                standing, opt_state = Standing(n, 0, 0, 0, {}), None
                course.keep(n, 0, 0, 0, None)
            self._run(
                n,
                phase,
                course,
                standing,
                opt_state,
                held_out=functools.partial(held_out, n) if len(held) else None,
                profile=profile if n == 0 else None,
            )
        variables = course.variables
        if method.finalize is not None:
            variables = method.finalize(variables, images)
        jax.block_until_ready(variables)
        seconds["train"] = time.monotonic() - course.began
        return Fit(model, variables, seconds, found.names, cache)

    def _features(self, course: Course) -> Any:
        """The features of the training images: kept from before, or computed."""
        job, keeper = course.job, course.keeper
        place = keeper and keeper.features(self._extractor.host_shapes(len(job.train)))
        cache, there = place or (None, False)
        if not there:
            cache = self.extract(Manifest(course.root, job.train), job.name, into=cache)
            if place and keeper:
                keeper.keep_features()
        return self.parallel.held.put(cache) if self.place == "device" else cache

    def _begin(self, course: Course, model: Model) -> tuple[Standing, Any]:
        """Where the training begins, or goes on: its variables, and the optimizer's state."""
        programs = self.programs

        def like(standing: Standing) -> Any:
            n, step, steps, *_ = standing
            if n >= len(model.phases) or step > steps:
                raise InputError("there is no such phase or step")
            tree = {"variables": programs.variables(course.count)}
            if step:
                tree["opt_state"] = programs.state(model.phases[n], steps).opt_state
            return tree

        kept = course.keeper and course.keeper.newest(like)
        if not kept:
            course.variables = programs.init(course.count)(jax.random.key(course.seed))
            return Standing(0, 0, 0, 0, {}), None
        standing, tree = kept
        course.variables = tree["variables"]
        course.seconds["features"] += standing.seconds.get("features", 0.0)
        course.began -= standing.seconds.get("train", 0.0)
        return standing, tree.get("opt_state")

    def _run(
        self,
        n: int,
        phase: Phase,
        course: Course,
        standing: Standing,
        opt_state: Any,
        *,
        held_out: Callable[[Variables], dict[str, float]] | None,
        profile: Profile | None,
    ) -> None:
        """Take the steps of phase `n` that are left; what it trains is replaced in `variables`."""
        budget, parallel, keeper = self.budget, self.parallel, course.keeper
        groups, cache, turns, done = course.groups, course.cache, len(course.groups), standing.step
        batch = sampling.batch_elements(budget.batch_size, turns, self._shares)
        steps = sampling.steps_of(phase.steps, groups, epochs=budget.epochs, batch=batch)
        if done and (steps, batch) != (standing.steps, standing.batch):
            raise InputError(
                f"{course.job.name} was trained in batches of {standing.batch} so far, which "
                f"{parallel.device_count} devices make {batch}: go on with as many devices as "
                "before, or begin anew by --overwrite"
            )
        place = (
            "off" if cache is None else "device" if _on_device(cache, phase.features) else "host"
        )
        each = seen(phase, batch, turns=turns, shares=self._shares, place=place)
        if not done:
            devices = parallel.device_count
            say(phase, steps, each, budget=budget, groups=groups, devices=devices, log=course.log)
        start, step = self.programs.step(course.count, n, steps, turns, batch, place)
        part = self.programs.part(phase, course.variables)
        state = TrainState(np.int32(done), part, opt_state) if done else start(part)  # type: ignore[arg-type]
        state = parallel.replicate(state)
        rng = parallel.replicate(training_key(course.seed, phase.name))
        report = reporter(
            phase.name,
            steps,
            title=f"train {course.job.name} {phase.name}",
            log_every=budget.log_every,
            log=course.log,
            seen=each,
            done=done,
        )
        every = budget.log_every
        measure = held_out and phases.now_and_then(held_out, steps, every=every, done=done)

        stop: list[Stopped] = []

        def due(since: int) -> bool:
            try:
                self._check()  # once a step, on every process
            except Stopped as stopped:
                if not since or keeper is None:
                    raise
                stop.append(stopped)
            return bool(stop) or (keeper is not None and since > 0 and keeper.due(since))

        def pause(state: TrainState) -> None:
            course.keep(n, int(state.step), steps, batch, state)
            if stop:
                raise stop[0]

        frozen, batches = self._batches(phase, course, place, batch, steps, done)
        sharded = map(parallel.shard, batches)
        with profiled(step, profile, done=done) as traced:
            state = phases.run(
                traced,
                state,
                frozen,
                sharded,
                rng,
                report,
                measure=measure,
                pause=pause,
                due=due,
            )
        course.variables = with_trained(course.variables, parallel.local(state.variables))

    def _batches(
        self, phase: Phase, course: Course, place: str, batch: int, steps: int, done: int
    ) -> tuple[Any, Iterator[Any]]:
        """What all steps read of devices, and the batches of those that are left.

        What steps that were taken before have drawn is drawn again, and left out.
        """
        cache, shares = course.cache, self._shares
        draw = sampling.draws(course.seed, phase.name)
        if cache is not None and phase.positions:
            _, height, width, _ = self.shapes[phase.features[0]].shape
            stream = sampling.position_stream(
                course.groups,
                size=phase.positions,
                per_image=height * width,
                devices=shares,
                draw=draw,
            )
        else:
            stream = sampling.image_stream(
                course.groups, size=self.budget.batch_size, devices=shares, draw=draw
            )
        left = itertools.islice(stream, done, steps)
        own = self.parallel.own
        if place == "device":
            frozen = {name: cache[name] for name in phase.features}
            blocks = phases.blocks(left, steps, done=done)
            return frozen, (jax.tree.map(lambda rows: rows[own(len(rows))], b) for b in blocks)
        batches: Iterator[Any]
        if place == "host":
            frozen, take = {}, phases.taker(phase)
            batches = (
                {**take(cache, index[own(len(index))]), "element": _elements(index, own)}
                for index in left
            )
        else:
            frozen, order = self._extractor.frozen, [*left]
            chosen = tuple(course.job.train[i] for index in order for i in index[own(batch)])
            each = batch // self.parallel.processes
            read = self.reading.batches(Manifest(course.root, chosen), each) if chosen else ()

            changed = functools.partial(
                augmented, kinds=self.budget.augment, seed=course.seed, phase=phase.name
            )

            def batch_of(step: int, index: sampling.Index, images: Any) -> dict[str, Any]:
                element = _elements(index, own)
                if self.budget.augment:
                    images = changed(images, step=step, places=element.tolist())
                return {"image": images, "element": element}

            batches = (
                batch_of(step, index, found["image"])
                for step, (index, found) in enumerate(zip(order, read), done)
            )
        return frozen, batches

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


def training_key(seed: int, phase: str) -> jax.Array:
    """The key of a phase's draws and losses; that of initialisation is `jax.random.key(seed)`."""
    return named_key(seed, f"train/{phase}")


def _elements(index: sampling.Index, own: Callable[[int], slice]) -> sampling.Index:
    """The places in the batch of all devices that this process gives."""
    return np.arange(len(index), dtype=np.int32)[own(len(index))]


def _on_device(cache: Any, names: tuple[str, ...]) -> bool:
    return isinstance(cache[names[0]], jax.Array)
