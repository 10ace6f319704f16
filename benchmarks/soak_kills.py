"""Kill runs of `jaxad train` at many moments, start them again, compare their end with whole ones.

A kill aims at a kind of moment: while a checkpoint is written (a folder `.saving-*` is there),
while a detector is evaluated (it is trained, and results do not have it), or any. Which one it hit
is read from the work directory: after a SIGKILL, which leaves it as it was, before other signals.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.soak_runs import ROOT, SUBJECTS, command, environment
from jaxad.errors import InputError

TIMES = ("seconds", "images_per_second")
SAVE, EVALUATION, START, TRAINING = "save", "evaluation", "start", "training"
LIMIT = 300.0
"""Seconds after which a run counts as stuck."""
LEAVE = 10.0
"""Seconds that a killed process's own processes may take to notice."""


@dataclasses.dataclass(frozen=True)
class Kill:
    """One kill, and what was seen of it."""

    subject: str
    run: int
    aim: str
    hit: str
    after: float
    """Seconds after the start of its process."""
    code: int
    """Of its exit; minus the signal, if that ended it."""
    left: tuple[str, ...]
    """Processes that were there `LEAVE` seconds later, and shared memory."""


def moment(workdir: Path) -> str:
    """What a run was at, by its work directory."""
    # Others of these names are being deleted.
    if _found(workdir, "*/.saving-*/new*", "*/*/.saving-*/new*", "*/*/.saving-features"):
        return SAVE
    if _trained(workdir) > _measured(workdir):
        return EVALUATION
    log = workdir / "train.jsonl"
    steps = '"step"' in log.read_text() if log.is_file() else False
    return TRAINING if steps else START


def _found(workdir: Path, *patterns: str) -> set[Path]:
    """What is there of these names; folders may go while they are looked at."""
    found: set[Path] = set()
    for pattern in patterns:
        with suppress(FileNotFoundError):
            found.update(workdir.glob(pattern))
    return found


def _trained(workdir: Path) -> int:
    return len(_found(workdir, "checkpoints/[!.]*/jaxad.json"))


def _measured(workdir: Path) -> int:
    """Detectors whose figures are in the results and in the report, each of one category or all."""
    try:
        results = json.loads((workdir / "results.json").read_text())
        page = (workdir / "report" / "index.html").read_text()
        config = json.loads((workdir / "config.json").read_text())["config"]
    except (OSError, ValueError):
        return 0
    shown = [name for name in results["categories"] if f"<h2>{name}</h2>" in page]
    if config["data"]["one_for_all"]:
        return int(len(shown) == len(results["categories"]) > 0)
    return len(shown)


def differences(workdir: Path, whole: Path) -> list[str]:
    """What differs between two finished work directories, times aside; nothing where all is well.

    Names of files, every bit of the trained arrays, results, calibration, and the log of all steps.
    """
    found = []
    ours, theirs = _names(workdir), _names(whole)
    found += [f"{name} is there" for name in sorted(ours - theirs)]
    found += [f"{name} is not there" for name in sorted(theirs - ours)]
    if _results(workdir) != _results(whole):
        found.append("results.json differs")
    calibrations = [workdir / "calibration.json", whole / "calibration.json"]
    if len({path.read_bytes() if path.is_file() else b"" for path in calibrations}) > 1:
        found.append("calibration.json differs")
    if _log(workdir) != _log(whole):
        found.append("train.jsonl differs")
    for folder in sorted(whole.glob("checkpoints/*")):
        if not _same_arrays(workdir / "checkpoints" / folder.name, folder):
            found.append(f"the arrays of {folder.name} differ")
    return found


def _names(workdir: Path) -> set[str]:
    """Of all but orbax's own files, whose names are drawn."""
    every = (path.relative_to(workdir) for path in workdir.rglob("*"))
    return {p.as_posix() for p in every if p.parts[0] != "checkpoints" or len(p.parts) < 3}


def _results(workdir: Path) -> Any:
    try:
        found = json.loads((workdir / "results.json").read_text())
    except (OSError, ValueError) as error:
        return str(error)
    return {name: value for name, value in found.items() if name not in TIMES}


def _log(workdir: Path) -> list[dict[str, Any]]:
    """Of every line, what does not depend on the clock or the machine's load."""
    kept = ("detector", "phase", "step", "steps", "loss", "holdout")
    lines = (workdir / "train.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k in kept} for line in lines]


def _same_arrays(one: Path, other: Path) -> bool:
    import jax
    import orbax.checkpoint as ocp

    trees = []
    for path in (one, other):
        if not path.is_dir():
            return False
        with ocp.StandardCheckpointer() as checkpointer:
            trees.append(checkpointer.restore(path.absolute()))
    leaves, structures = zip(*map(jax.tree.flatten, trees))
    return structures[0] == structures[1] and all(
        np.asarray(a).dtype == np.asarray(b).dtype
        and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(*leaves, strict=True)
    )


class Soak:
    """Runs of one subject, one after the other."""

    def __init__(
        self, name: str, data: dict[str, Path], root: Path, *, rng: np.random.Generator
    ) -> None:
        """Set up.

        Args:
            name: Of the subject.
            data: Folders of photos, by layout.
            root: Where runs lie.
            rng: Draws the moments.
        """
        self.name, self._data, self._root, self._rng = name, data, root / name, rng
        self._environment = environment(root / "compiled")
        self._seconds = 0.0
        self.whole = self._root / "whole"

    def undisturbed(self) -> list[str]:
        """Run twice without a kill, the second time with programs from the cache; what differs."""
        for workdir in (self.whole, self._root / "whole2"):
            start = time.monotonic()
            self._finish(self._start(workdir), workdir)
            self._seconds = time.monotonic() - start
        return differences(self._root / "whole2", self.whole)

    def run(
        self, number: int, aims: list[str], sign: signal.Signals, say: Callable[[Kill], None]
    ) -> tuple[list[Kill], list[str]]:
        """Run to the end, with a kill for every aim that can be met; takes those from `aims`.

        Returns:
            The kills, and how the end differs from that of an undisturbed run.
        """
        workdir = self._root / str(number)
        kills: list[Kill] = []
        while True:
            before = _shared_memory()
            start = time.monotonic()
            process = self._start(workdir)
            try:
                met = bool(aims) and self._meet(aims[0], workdir, process, start)
            except BaseException:  # the soak is stopped itself
                process.kill()
                raise
            if not met:
                self._finish(process, workdir)
                # The machine may have been slower before: moments are drawn within a run.
                self._seconds = min(self._seconds, time.monotonic() - start)
                return kills, differences(workdir, self.whole)
            after, hit = time.monotonic() - start, moment(workdir)
            process.send_signal(sign)
            code = process.wait(LIMIT)
            if code == 0:  # it was through
                return kills, differences(workdir, self.whole)
            if sign == signal.SIGKILL:  # which is seen in what it leaves
                hit = moment(workdir)
            kills.append(
                Kill(
                    *(self.name, number, aims.pop(0), hit, round(after, 3), code),
                    tuple(_left(process.pid, before)),
                )
            )
            say(kills[-1])

    def _meet(
        self, aim: str, workdir: Path, process: subprocess.Popen[bytes], start: float
    ) -> bool:
        """Wait for a moment of the kind that is aimed at; False if the run ends before."""
        delay: float
        if aim == SAVE:
            seen: set[Path] = set()
            wanted, delay = int(self._rng.integers(1, 9)), self._rng.uniform(0, 0.02)

            def here() -> bool:
                seen.update(_found(workdir, "*/.saving-*", "*/*/.saving-*"))
                return len(seen) >= wanted
        elif aim == EVALUATION:
            delay = self._rng.uniform(0, 1.5)

            def here() -> bool:
                return _trained(workdir) > _measured(workdir)
        else:
            at, delay = self._rng.uniform(0, self._seconds), 0.0

            def here() -> bool:
                return time.monotonic() - start >= at

        while not here():
            if process.poll() is not None:
                return False
            time.sleep(0.001)
        end = time.monotonic() + delay
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.001)
        return process.poll() is None

    def _start(self, workdir: Path) -> subprocess.Popen[bytes]:
        workdir.parent.mkdir(parents=True, exist_ok=True)
        with workdir.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(
                command(SUBJECTS[self.name], self._data, workdir),
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _finish(self, process: subprocess.Popen[bytes], workdir: Path) -> None:
        try:
            code = process.wait(LIMIT)
        finally:
            process.kill()
        if code:
            said = workdir.with_suffix(".log").read_text(errors="replace").splitlines()
            raise InputError(f"{self.name}: exit code {code}: {said[-1] if said else 'no word'}")


def _left(session: int, before: set[str]) -> list[str]:
    """Processes of a session, and shared memory, that are not gone within `LEAVE` seconds."""
    end = time.monotonic() + LEAVE
    while True:
        found = [name for name, of in _sessions() if of == session]
        found += sorted(_shared_memory() - before)  # that of others, too, as long as it is there
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.05)


def _sessions() -> list[tuple[str, int]]:
    """Every process that runs, and its session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(")")
        except OSError:  # it has ended
            continue
        state, _, _, session = rest.split()[:4]
        if state not in "ZX":
            found.append((name.partition("(")[2], int(session)))
    return found


def _shared_memory() -> set[str]:
    """What lies in shared memory: semaphores are there, too."""
    try:
        return set(os.listdir("/dev/shm"))  # noqa: PTH208 - names
    except OSError:
        return set()


def plan(count: int, subjects: Sequence[str]) -> dict[str, list[str]]:
    """Share kills out: as many of each aim, in turn over the subjects."""
    aims: Mapping[str, list[str]] = {name: [] for name in subjects}
    kinds = (SAVE, EVALUATION, "any")
    for number in range(count):
        turn, which = divmod(number, len(subjects))
        aims[subjects[which]].append(kinds[(turn + which) % len(kinds)])
    return dict(aims)


def missing(kills: Sequence[Kill], least: int) -> list[str]:
    """The aims that were not hit often enough."""
    hits = [kill.hit for kill in kills]
    return [aim for aim in (SAVE, EVALUATION) for _ in range(least - hits.count(aim))]
