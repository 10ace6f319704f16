"""Training checkpoints: a detector's training as it stands, so that a killed run goes on.

`training/NAME/PHASE-STEP/` is a checkpoint like that of a finished detector, with the arrays of all
that steps depend on. It is written by a thread while the next steps run; the step before it waits
only for the copy to the host. `training/NAME/features/` are the features of the frozen networks,
where `checkpoint.features` wants them kept.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxad.core import InputError
from jaxad.files import confined, refusal
from jaxad.runs import checkpoint, record
from jaxad.training.feature_cache import HostFeatures
from jaxad.training.keeping import Standing, standing_of

TRAINING = "training"
FEATURES = "features"


class When(NamedTuple):
    """How often a training is kept; the keys below `checkpoint` have the units."""

    every_minutes: float
    every_steps: int
    keep: int
    features: bool


class TrainingKeeper:
    """The training checkpoints of one detector; see `training.keeping.Keeper`."""

    def __init__(
        self,
        claimed: record.Record,
        name: str,
        when: When,
        *,
        log_size: Callable[[], int],
        go_on: Callable[[int], None],
    ) -> None:
        """Set up; nothing is written.

        Args:
            claimed: Of the work directory.
            name: Of the detector.
            when: How often, and how many.
            log_size: Bytes of the log so far.
            go_on: Called with its size at the time from which the training goes on.
        """
        self._claimed, self._name, self._when = claimed, name, when
        self._log_size, self._go_on = log_size, go_on
        self._thread = ThreadPoolExecutor(1, "keeper")
        self._writing: Future[None] | None = None
        self._last = time.monotonic()

    @property
    def wants_features(self) -> bool:
        """Whether features are to be kept."""
        return self._when.features

    def due(self, steps: int) -> bool:
        """See `Keeper.due`."""
        minutes = (time.monotonic() - self._last) / 60
        every = self._when
        return 0 < every.every_steps <= steps or 0 < every.every_minutes <= minutes

    def keep(self, standing: Standing, tree: Any) -> None:
        """See `Keeper.keep`; waits until the one before is written."""
        self._wait()
        about = {**standing._asdict(), "log": self._log_size()}
        path = self._folder() / f"{standing.phase}-{standing.step}"
        self._writing = self._thread.submit(self._write, path, tree, about)
        self._last = time.monotonic()

    def newest(self, like: Callable[[Standing], Any]) -> tuple[Standing, Any] | None:
        """See `Keeper.newest`; one that is damaged is named and passed over."""
        for path in reversed(self._kept()):
            try:
                about = checkpoint.about(path)
                standing = standing_of(about)
                tree = checkpoint.restore(path, like(standing))
                size = about.get("log")
                if type(size) is not int or size < 0:
                    raise InputError("it does not say how long the log was")
            except InputError as error:
                print(f"{path} can not be used ({error}): the one before is", file=sys.stderr)
                continue
            self._go_on(size)
            print(
                f"{self._name}: goes on after step {standing.step} of phase {standing.phase + 1}",
                file=sys.stderr,
            )
            return standing, tree
        self._go_on(-1)
        return None

    def features(self, shapes: Any) -> tuple[HostFeatures, bool] | None:
        """See `Keeper.features`: one memory-mapped file a level."""
        if not self._when.features:
            return None
        try:
            return self._features(shapes)
        except InputError as error:
            print(f"{error}; features are not kept", file=sys.stderr)
            return None

    def _features(self, shapes: Any) -> tuple[HostFeatures, bool]:
        whole, about = self._folder() / FEATURES, _shapes(shapes)
        if record.is_whole(whole):
            try:
                checkpoint.check_files(whole)
                if checkpoint.about(whole) == about:
                    return {
                        name: np.load(whole / f"{n}.npy", mmap_mode="r", allow_pickle=False)
                        for n, name in enumerate(sorted(shapes))
                    }, True
            except (InputError, OSError, ValueError) as error:
                print(f"{whole} can not be used ({error}): computed anew", file=sys.stderr)
        beside = self._beside()
        shutil.rmtree(beside, ignore_errors=True)
        self._shapes, place = about, {}
        try:
            beside.mkdir(parents=True)
            for n, (name, leaf) in enumerate(sorted(shapes.items())):
                place[name] = _room(beside / f"{n}.npy", leaf)
        except OSError as error:
            shutil.rmtree(beside, ignore_errors=True)
            raise refusal("write", whole, error) from error
        return place, False

    def keep_features(self) -> None:
        """See `Keeper.keep_features`."""
        whole = self._folder() / FEATURES
        try:
            if whole.exists():
                record.clear_checkpoint(whole)
            checkpoint.seal(self._beside(), self._shapes)
            self._beside().replace(whole)
        except (InputError, OSError) as error:
            print(f"{error}; training goes on", file=sys.stderr)

    def close(self) -> None:
        """Wait for what is being written."""
        self._wait()
        self._thread.shutdown()

    def done(self) -> None:
        """Delete all: the detector is finished."""
        self.close()
        try:
            self._claimed.drop(TRAINING, self._name)
        except InputError as error:
            print(f"{error}", file=sys.stderr)

    def _folder(self) -> Path:
        return self._claimed.tree(TRAINING, self._name)

    def _beside(self) -> Path:
        return self._folder() / f"{record.UNFINISHED}{FEATURES}"

    def _kept(self) -> list[Path]:
        """Those that are whole, the newest last."""
        folder = confined(self._claimed.folder, TRAINING, self._name)
        if not folder.is_dir():
            return []
        found = [path for path in folder.iterdir() if record.SAVE.fullmatch(path.name)]
        whole = [path for path in found if record.is_whole(path) and not path.is_symlink()]
        return sorted(whole, key=lambda path: tuple(map(int, path.name.split("-"))))

    def _write(self, path: Path, tree: Any, about: dict[str, Any]) -> None:
        checkpoint.save(path, tree, about)
        for old in self._kept()[: -self._when.keep]:
            record.clear_checkpoint(old)

    def _wait(self) -> None:
        """Say what could not be written: training goes on, and the next time may do better."""
        if self._writing is None:
            return
        try:
            self._writing.result()
        except (InputError, OSError) as error:
            print(f"{error}; training goes on", file=sys.stderr)
        self._writing = None


def _room(path: Path, leaf: Any) -> Any:
    """Make a memory-mapped array for which the disk has room.

    Without it the process would be killed when it writes there, and could not say why.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=leaf.dtype, shape=leaf.shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _shapes(shapes: Any) -> dict[str, Any]:
    return {name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in sorted(shapes.items())}
