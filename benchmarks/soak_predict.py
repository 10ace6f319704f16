"""A long `jaxad predict`: its memory, and whether kills lose or repeat a photo.

See `benchmarks.soak`. The photos are a few hundred drawn ones under many names (hard links), every
1,000th of them damaged, 10,000 in a folder; the detector is a small SimpleNet of random networks.
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.soak_memory import Sample, resident
from benchmarks.soak_runs import ROOT, SUBJECTS, command, environment
from jaxad.data.synthetic import write_dataset
from jaxad.errors import InputError
from jaxad.files import read_json

DRAWN = 300
FOLDER = 10_000
"""Photos in one."""
DAMAGED = 1000
PAUSE = 0.1


def prepare(root: Path, data: dict[str, Path]) -> Path:
    """Train and calibrate a small detector; its work directory."""
    workdir, found = root / "w", SUBJECTS["simplenet"]
    changes = {**found.changes, "data.categories": "washer", "score.batch_size": "32"}
    write_dataset(
        root / "normal",
        categories=("washer",),
        n_train=100,
        n_test_good=1,
        n_test_bad=0,
        size=(40, 40),
        seed=1,
    )
    normal = root / "normal" / "washer" / "train" / "good"
    calibrate = [sys.executable, "-m", "jaxad", "calibrate", "--workdir", str(workdir), str(normal)]
    for line in (command(found._replace(changes=changes), data, workdir), calibrate):
        done = subprocess.run(
            line, cwd=ROOT, env=environment(root / "compiled"), capture_output=True, text=True
        )
        if done.returncode:
            raise InputError(f"{' '.join(line[2:4])} ended so: {done.stderr.strip()[-300:]}")
    return workdir


def write_photos(root: Path, count: int) -> Path:
    """Write the photos of a job; the folder that they lie in."""
    drawn = root / "drawn"
    write_dataset(
        drawn,
        categories=("washer",),
        n_train=DRAWN,
        n_test_good=1,
        n_test_bad=30,
        size=(40, 40),
        seed=2,
    )
    files = sorted((drawn / "washer").rglob("*.png"))
    files = [path for path in files if "ground_truth" not in path.parts]
    damaged = drawn / "damaged.png"
    damaged.write_bytes(files[0].read_bytes()[:200])
    photos = root / "photos"
    for number in range(count):
        if number % FOLDER == 0:
            folder = photos / f"{number // FOLDER:03}"
            folder.mkdir(parents=True)
        source = damaged if number % DAMAGED == DAMAGED - 1 else files[number % len(files)]
        os.link(source, folder / f"{number:07}.png")
    return photos


class Job:
    """One table, by as many processes as it takes."""

    def __init__(self, root: Path, workdir: Path, photos: Path, name: str) -> None:
        """Set up."""
        self._root, self._name, self.out = root, name, root / name
        self._line = [sys.executable, "-m", "jaxad", "predict", "--workdir", str(workdir)]
        self._line += [str(photos), "--out", str(self.out)]

    def done(self) -> int:
        """Photos in shards."""
        try:
            return sum(
                shard["rows"] for shard in read_json(self.out / "predictions.json")["shards"]
            )
        except InputError:
            return 0

    def run(self, more: float | None = None, later: float = 0.0) -> tuple[list[Sample], float]:
        """Run one process; its memory over photos, and seconds.

        Args:
            more: Photos after which it is killed, at the next shard; None: it runs to its end.
            later: Seconds after that.
        """
        samples: list[Sample] = []
        before, met = self.done(), None
        with (self._root / f"{self._name}.log").open("ab") as log:
            start = time.monotonic()
            process = subprocess.Popen(
                self._line,
                cwd=ROOT,
                env=environment(self._root / "compiled"),
                stdout=log,
                stderr=log,
            )
            try:
                while process.poll() is None:
                    samples.append(Sample(self.done(), resident(process.pid)))
                    if more is not None and met is None and self.done() - before >= more:
                        met = time.monotonic()
                    if met is not None and time.monotonic() - met >= later:
                        process.send_signal(signal.SIGKILL)
                    time.sleep(PAUSE)
            finally:
                process.kill()
            took = time.monotonic() - start
        if process.returncode not in (0, -signal.SIGKILL):
            said = (self._root / f"{self._name}.log").read_text().splitlines()[-1:]
            raise InputError(f"predict ended with {process.returncode}: {said}")
        return [s for s in samples if s.done and s.megabyte], took


def measure(
    root: Path, data: dict[str, Path], *, photos: int, kills: int, rng: np.random.Generator
) -> dict[str, Any]:
    """A job that nobody disturbs, and one that is killed at moments that are drawn."""
    workdir, folder = prepare(root, data), write_photos(root, photos)
    whole = Job(root, workdir, folder, "whole")
    samples, seconds = whole.run()
    most = max(sample.megabyte for sample in samples)
    print(f"undisturbed: {seconds:.0f} s, {most:.0f} MB at most", flush=True)
    killed = Job(root, workdir, folder, "killed")
    when: list[dict[str, Any]] = []
    while len(when) < kills:
        before = killed.done()
        share = (photos - before) / (kills - len(when) + 1)
        _, took = killed.run(more=rng.uniform(0.2, 1.2) * share, later=rng.uniform(0, 3))
        when.append({"after": round(took, 1), "from": before, "to": killed.done()})
        print(f"killed after {took:.1f} s, {killed.done()} of {photos} in the table", flush=True)
    killed.run()
    summary = read_json(whole.out / "predictions.json")["summary"]
    tables = [(job.out / "predictions.csv").read_bytes() for job in (whole, killed)]
    rows = list(csv.DictReader(tables[1].decode().splitlines()))
    paths = {row["path"] for row in rows}
    there = {str(path) for path in folder.rglob("*.png")}
    wrong = []
    if tables[0] != tables[1]:
        wrong.append("the tables differ")
    if len(rows) != len(paths) or paths != there:
        wrong.append(f"{len(rows)} rows of {len(paths)} photos, {len(there)} are there")
    if sum(row["decision"] == "error" for row in rows) != photos // DAMAGED:
        wrong.append("damaged photos are not told as they are")
    return {
        "photos": photos,
        "seconds": round(seconds, 1),
        "photos_per_second": summary["photos_per_second"],
        "counts": {kind: summary[kind] for kind in ("good", "anomalous", "errors")},
        "kills": when,
        "wrong": wrong,
        "samples": samples,
    }
