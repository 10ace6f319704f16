"""PatchCore's search in its bank: bounds against plain products, and against anomalib's.

    python -m benchmarks.bank_search --workdir DIR --photos FOLDER [--peer VENV/bin/python
        --peer-model FOLDER] [--timed 16] [--rounds 3] [--json FILE]

DIR is what `jaxad train --config patchcore:resnet18` wrote, FOLDER has photos to score. The peer
gets the very members of this bank, so that it need not choose them (docs/compare.md says how its
environment is made; `--peer-model` is a PatchCore that `benchmarks.anomalib_peer` has trained).
Photos lie in memory, maps come back as NumPy arrays, all ways run in turn. Beside photos a second
stand the seconds of cores that a photo takes: others on the machine hardly change these.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxad
from benchmarks.measure import machine, markdown
from benchmarks.peers.processes import Worker, working
from benchmarks.peers.sides import THEIRS, Place
from jaxad.data.images import decode_image
from jaxad.data.listing import images_below
from jaxad.errors import InputError
from jaxad.files import write_json
from jaxad.scorer import make_scorer

BATCHES = (1, 8)
Way = Callable[[], tuple[float, float]]
"""Scores all photos once: seconds, and seconds of cores."""


def ours(workdir: Path, photos: np.ndarray) -> tuple[dict[str, Way], np.ndarray, dict[str, Any]]:
    """Our ways by name, the bank's members, and what is to be said of them."""
    detector, variables, config = jaxad.load(workdir)
    size = tuple(config.data.image_size)
    members = np.asarray(variables["method"]["bank"]["members"])
    folded = jax.jit(detector.fold)(variables)
    bank = {k: v for k, v in folded["method"]["bank"].items() if k not in ("basis", "bounds")}
    plain = {**variables, "method": {**variables["method"], "bank": bank}}
    ways: dict[str, Way] = {}
    maps = {}
    for batch in BATCHES:
        for name, own in (("bounds", variables), ("plain products", plain)):
            score = make_scorer(detector, own, batch_size=batch, size=size).score

            def run(score: Any = score, batch: int = batch) -> list[np.ndarray]:
                return [np.asarray(score(photos[i : i + batch]).map)
                        for i in range(0, len(photos), batch)]  # fmt: skip

            maps[name, batch] = np.concatenate(run())

            def timed(run: Any = run) -> tuple[float, float]:
                start, spent = time.perf_counter(), time.process_time()
                run()
                return time.perf_counter() - start, time.process_time() - spent

            ways[f"jaxad, {name}, batch {batch}"] = timed
    apart = [np.abs(maps["bounds", b] - maps["plain products", b]).max() for b in BATCHES]
    facts = {
        "members": list(members.shape),
        "largest_difference": float(max(apart) / np.ptp(maps["plain products", 1])),
    }
    return ways, members, facts


def theirs(worker: Worker, photos: Sequence[str]) -> dict[str, Way]:
    """Their ways by name."""

    def way(batch: int) -> Way:
        def timed() -> tuple[float, float]:
            spent = worker.ask("spent")
            seconds = worker.ask("bare", photos=photos, batch=batch)
            return seconds, worker.ask("spent") - spent

        return timed

    return {f"anomalib, batch {batch}": way(batch) for batch in BATCHES}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run all ways in turn."""
    every = images_below(args.photos)
    paths = every[:: max(1, len(every) // args.timed)][: args.timed]
    if not paths:
        raise InputError(f"{args.photos} has no photos")
    size = (256, 256)
    photos = np.stack([decode_image(path, size=size, resample="bilinear") for path in paths])
    ways, members, facts = ours(args.workdir, photos)
    with tempfile.TemporaryDirectory() as folder:
        workers = []
        if args.peer:
            np.save(Path(folder) / "bank.npy", members)
            command = [args.peer, "-m", "benchmarks.peers.anomalib_run", "serve", "patchcore"]
            workers.append(
                Worker(
                    [*command, "--out", str(args.peer_model)],
                    log=Path(folder) / "peer.log",
                    environment=Place(Path(folder), args.peer).environment(THEIRS),
                )
            )
        with working(workers):
            for worker in workers:
                worker.ask("bank", members=str(Path(folder) / "bank.npy"))
                ways |= theirs(worker, [str(path) for path in paths])
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
            loads = [os.getloadavg()[0]]
            for number in range(args.rounds + 1):
                for name, way in ways.items():
                    one = way()
                    if number:  # the first round warms up
                        found[name].append(one)
                loads.append(os.getloadavg()[0])
    rows = [
        {
            "name": name,
            "images_per_second": statistics.median(len(paths) / s for s, _ in each),
            "low": min(len(paths) / s for s, _ in each),
            "high": max(len(paths) / s for s, _ in each),
            "core_seconds_per_image": statistics.median(c / len(paths) for _, c in each),
        }
        for name, each in found.items()
    ]
    facts |= {"photos": len(paths), "rounds": args.rounds, "load": loads}
    return {"benchmark": "bank_search", "machine": machine(), **facts, "rows": rows}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table; 2 for what a user can mend."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="a trained PatchCore")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos to score")
    parser.add_argument("--peer", help="Python of an environment with anomalib")
    parser.add_argument("--peer-model", type=Path, help="its trained PatchCore")
    parser.add_argument("--timed", type=int, default=16, help="photos of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write all numbers here")
    args = parser.parse_args(argv)
    if bool(args.peer) != bool(args.peer_model):
        parser.error("--peer and --peer-model belong together")
    try:
        result = measure(args)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    rows = [
        [
            row["name"],
            f"{row['images_per_second']:.1f} ({row['low']:.1f}-{row['high']:.1f})",
            f"{row['core_seconds_per_image']:.3f}",
        ]
        for row in result["rows"]
    ]
    print(markdown(["way", "photos a second", "seconds of cores a photo"], rows))
    print(f"load {min(result['load']):.1f} to {max(result['load']):.1f}")
    if args.json:
        write_json(args.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
