"""An exported file against its work directory: the same scores, at which speed?

    python -m benchmarks.exported --workdir W [W ...] --python VENV/bin/python [--json FILE]

Every W is exported, then read by `--python`, which needs jax and numpy alone and scores photos of
the data set in batches of 1, 3 and 8; differences from `make_scorer` are in parts of the spread of
the maps. Both are then timed in turn in this process; a speed over 1 means that the file is faster.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxad.export
from benchmarks.measure import interleave, machine, markdown, ratio
from jaxad.errors import InputError
from jaxad.files import write_json
from jaxad.runs.export import export, photos_of, subject_of
from jaxad.scorer import make_scorer

ROOT = Path(__file__).resolve().parents[1]
BATCHES = (1, 3, 8)
ALONE = """
import sys, importlib.util, numpy as np, jax
there = [n for n in ("flax", "optax", "safetensors", "flatbuffers") if importlib.util.find_spec(n)]
import jaxad.export
detector = jaxad.export.load(sys.argv[1])
images = np.load(sys.argv[2])
found = {"verify": detector.verify(), "versions": f"jax {jax.__version__}, numpy {np.__version__}",
         "there": ", ".join(there)}
for n in map(int, sys.argv[4:]):
    parts = [detector.score(images[i:i + n]) for i in range(0, len(images) - n + 1, n)]
    found[f"map{n}"] = np.concatenate([np.asarray(p.map) for p in parts])
    found[f"image{n}"] = np.concatenate([np.asarray(p.image) for p in parts])
np.savez(sys.argv[3], **found)
"""


def compare(workdir: Path, detector: str | None, python: str, *, pairs: int) -> dict[str, Any]:
    """Export a detector of a work directory, and measure."""
    subject = subject_of(workdir, detector, ())
    images = photos_of(subject)
    with tempfile.TemporaryDirectory() as folder:
        file, photos, out = (Path(folder) / name for name in ("w.jaxad", "i.npy", "o.npz"))
        told = export(workdir, file, detector=detector)
        np.save(photos, images)
        command = [python, "-c", ALONE, str(file), str(photos), str(out), *map(str, BATCHES)]
        subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
        alone = dict(np.load(out))
        loaded = jaxad.export.load(file)
    row: dict[str, Any] = {
        "method": subject.config.method.name,
        "networks": ", ".join(own.name for own in subject.detector.backbones.values()),
        "pixels": subject.reading.size[0],
        "mb": round(told["bytes"] / 1e6, 1),
        "with": str(alone["versions"]),
        "beside": str(alone["there"]),
        "verify": float(alone["verify"]),
    }
    for count in BATCHES:
        scorer = make_scorer(
            subject.detector, subject.variables, batch_size=count, size=subject.reading.size
        )
        whole = range(0, len(images) - count + 1, count)
        want = [jax.device_get(scorer.score(images[i : i + count])) for i in whole]
        maps, scores = (np.concatenate([one[i] for one in want]) for i in (0, 1))
        spread = np.ptp(maps)
        row[f"map_{count}"] = float(np.abs(alone[f"map{count}"] - maps).max() / spread)
        row[f"image_{count}"] = float(np.abs(alone[f"image{count}"] - scores).max() / spread)
        seconds = interleave(
            {
                "file": functools.partial(wait, loaded.score, images[:count]),
                "workdir": functools.partial(wait, scorer.score, images[:count]),
            },
            pairs=pairs,
        )
        row[f"ms_{count}"] = round(1e3 * statistics.median(seconds["file"]) / count, 1)
        row[f"speed_{count}"] = round(ratio(seconds["workdir"], seconds["file"])["median"], 2)
    return row


def wait(score: Callable[[Any], Any], images: np.ndarray) -> None:
    """Score, and wait for it."""
    jax.block_until_ready(score(images))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    heads = ["method", "networks", "pixels", "MB"]
    heads += [f"{kind}, batch {n}" for n in BATCHES for kind in ("differ by", "speed")]
    lines = [
        [
            *(str(row[key]) for key in ("method", "networks", "pixels", "mb")),
            *(
                text
                for n in BATCHES
                for text in (
                    f"{max(row[f'map_{n}'], row[f'image_{n}']):.0e}",
                    f"{row[f'speed_{n}']:.2f}",
                )
            ),
        ]
        for row in rows
    ]
    return markdown(heads, lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, nargs="+", required=True)
    parser.add_argument("--detector", help="where a work directory has several")
    parser.add_argument("--python", default=sys.executable, help="of jax and numpy alone")
    parser.add_argument("--pairs", type=int, default=7, help="rounds of timing")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    try:
        rows = [compare(w, args.detector, args.python, pairs=args.pairs) for w in args.workdir]
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(table(rows))
    if args.json:
        write_json(args.json, {"machine": machine(), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
