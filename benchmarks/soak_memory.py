"""Whether memory grows over many steps and many scored photos; see `benchmarks.soak`.

As a program of its own it scores: `python -m benchmarks.soak_memory WORKDIR DATA IMAGES`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

from benchmarks.plots import COLOURS, FINE, HEIGHT, LEFT, PANEL, Axes
from benchmarks.soak_runs import ROOT, SUBJECTS, Subject, command, environment
from jaxad.errors import InputError

BATCH = 32
CATEGORY = 500
"""Photos that are measured together: a category's pixels are kept until it is."""
WARM = 0.1
"""Share of the work that is warm-up; memory then, until twice of it, is what growth is over."""
PAUSE = 0.05
"""Seconds between two looks."""


class Sample(NamedTuple):
    """A process, looked at."""

    done: int
    """Steps or photos."""
    megabyte: float
    """Resident, 1e6 bytes."""


def resident(process: int | str = "self") -> float:
    """Resident memory of a process, 1e6 bytes; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    sizes = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
    return int(sizes[0]) * 1024 / 1e6 if sizes else 0.0


def growth(samples: Sequence[Sample]) -> float:
    """Largest memory after the warm-up over that at its end, less 1.

    Raises:
        InputError: There are too few samples.
    """
    end = samples[-1].done if samples else 0
    base = [s.megabyte for s in samples if WARM * end < s.done <= 2 * WARM * end]
    after = [s.megabyte for s in samples if s.done > 2 * WARM * end]
    if not base or not after:
        raise InputError("too few samples to tell growth by: ask for more steps and images")
    return max(after) / statistics.median(base) - 1


def subject(steps: int) -> Subject:
    """SimpleNet as it is killed, with so many steps, saved twenty times on the way."""
    found = SUBJECTS["simplenet"]
    more = {
        "train.steps": f"({steps},)",
        "train.log_every": str(max(steps // 200, 1)),
        "checkpoint.every_steps": str(max(steps // 20, 1)),
        "data.categories": "washer",
    }
    return found._replace(changes={**found.changes, **more})


def training(root: Path, data: dict[str, Path], *, steps: int) -> list[Sample]:
    """Train, and look at the process; its work directory is `root / "w"`."""
    workdir = root / "w"
    process = subprocess.Popen(
        command(subject(steps), data, workdir),
        cwd=ROOT,
        env=environment(root / "compiled"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    samples = []
    log = workdir / "train.jsonl"
    try:
        while process.poll() is None:
            lines = log.read_text().splitlines() if log.is_file() else []
            done = max((json.loads(line).get("step", 0) for line in lines[-3:] if line), default=0)
            if 0 < done < steps:  # then it evaluates, which is another work
                samples.append(Sample(done, resident(process.pid)))
            time.sleep(PAUSE)
        _, said = process.communicate()
    finally:
        process.kill()
    if process.returncode:
        raise InputError(f"training ended with {process.returncode}: {said.strip()[-300:]}")
    return samples


def scoring(root: Path, data: dict[str, Path], *, images: int) -> list[Sample]:
    """Score photos over and over with what `training` has trained, in a process of its own."""
    parts = [str(root / "w"), str(data["mvtec_ad"]), str(images)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak_memory", *parts],
        cwd=ROOT,
        env=environment(root / "compiled"),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise InputError(f"scoring ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return [Sample(int(a), float(b)) for a, b in map(str.split, done.stdout.splitlines())]


def _score(workdir: Path, root: Path, images: int) -> None:
    """Evaluate categories of `CATEGORY` photos, and print how many are scored, and the memory."""
    import itertools

    from jaxad.data.layouts import mvtec_ad
    from jaxad.data.reading import Reading
    from jaxad.runs.score_category import score_category
    from jaxad.runs.workdir import load
    from jaxad.scorer import make_scorer

    detector, variables, config = load(workdir)
    size = tuple(config.data.image_size)
    scorer = make_scorer(detector, variables, batch_size=BATCH, size=size)
    tested = [record for record in mvtec_ad.scan(root).records if record.split == "test"]
    for done in range(0, images, CATEGORY):
        records = list(itertools.islice(itertools.cycle(tested), min(CATEGORY, images - done)))
        score_category(
            f"{done}",
            records,
            root,
            scorer.score,
            reading=Reading(size, "lanczos"),
            batch_size=BATCH,
            examples=2,
            n_train=1,
        )
        print(done + len(records), resident(), flush=True)


def draw(parts: Mapping[str, Sequence[Sample]], title: str) -> Image.Image:
    """Memory over the work that is done, one panel for each part."""
    gap = 100
    whole = LEFT + (PANEL + gap) * len(parts)
    image = Image.new("RGB", (FINE * whole, FINE * HEIGHT), "white")
    canvas = ImageDraw.Draw(image)
    for number, (name, samples) in enumerate(parts.items()):
        end, top = samples[-1].done, max(s.megabyte for s in samples) * 1.2 / 1e3
        axes = Axes(
            canvas,
            LEFT + number * (PANEL + gap),
            (0.0, float(end)),
            (0.0, top),
            linear=True,
            linear_x=True,
        )
        head = f"{title}: {100 * growth(samples):+.1f} %" if not number else ""
        head = head or f"{100 * growth(samples):+.1f} %"
        axes.frame(head, name, "GB resident", [end * i / 4 for i in range(5)])
        axes.line([(s.done, s.megabyte / 1e3) for s in samples], COLOURS[number], 4)
    return image.resize((whole, HEIGHT), Image.Resampling.BOX)


if __name__ == "__main__":
    _score(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
