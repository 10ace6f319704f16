"""jaxad beside anomalib: the same photos, split and ResNet-18, each in its own environment.

    python -m benchmarks.anomalib_peer --data FOLDER --peer VENV/bin/python [--work DIR]
        [--only NAME ...] [--full] [--rounds 3] [--quick] [--json FILE] [--write docs/compare.md]

FOLDER holds `mvtec_ad_256/` and `magnetic_tile/`, as for `benchmarks.accuracy`; VENV has anomalib
(docs/compare.md says how it is made). Photos are written once, at 256 x 256, for both sides; the
weights of jaxad's ResNet-18 are handed over, and a feature that differs by more than 1e-5 ends the
run. Commands are run as users do, in turn, ours and theirs; maps of both go through jaxad's exact
metrics. Photos a second are those of bottle, in rounds: every way of every side once a round. What
stands in DIR is not trained again, and rows of other data sets stay in FILE, so that a run can be
stopped, or split.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import readme
from benchmarks.compare import read
from benchmarks.measure import machine
from benchmarks.peers import page
from benchmarks.peers.photos import Photos, Source, prepare, torch_state
from benchmarks.peers.processes import ROOT, Worker, working
from benchmarks.peers.sides import (
    BATCH,
    OURS,
    SUBJECTS,
    THEIRS,
    Place,
    Subject,
    commands,
    imports,
    worker,
)
from jaxad.backbones import load_backbone
from jaxad.errors import InputError
from jaxad.files import write_json
from jaxad.metrics.image import image_metrics
from jaxad.metrics.pixel import pixel_metrics

SOURCES = {
    "bottle": Source("mvtec_ad", "mvtec_ad_256", "bottle", train=3),
    "magnetic_tile": Source("manifest", "magnetic_tile", "magnetic_tile", train=15, test=4),
}
"""Every third training photo of the bottles and so on, or anomalib's PatchCore would choose its
coreset for long: its time grows with the square of the photos."""
TIMED_ON = "bottle"
TOLERANCE = 1e-5
"""Of features, of a level's largest."""
TIMED = 24
"""Photos of a round."""
FEW = 40
"""Of a split and kind that `--quick` takes: jaxad holds 20 back for its threshold."""
PAGE = ROOT / "docs" / "compare.md"


def metrics(photos: Photos, file: Path) -> dict[str, float | None]:
    """Measure one side's maps and scores."""
    with np.load(file) as found:
        maps, scores = found["maps"], found["scores"]
    return {**image_metrics(photos.labels, scores), **pixel_metrics(photos.masks, maps)}


def feature_difference(theirs: Path, ours: Path) -> float:
    """Largest difference of features, of the largest of their level.

    Raises:
        InputError: It is too large: not the same network.
    """
    with np.load(theirs) as one, np.load(ours) as other:
        found = max(
            float(np.abs(one[level] - other[level]).max() / np.abs(other[level]).max())
            for level in one.files
        )
    if not found <= TOLERANCE:
        raise InputError(f"features of both ResNet-18s differ by {found:.1e}: not the same network")
    return found


Timed = Callable[[], float]


def ways(asked: Worker, subject: Subject, photos: Sequence[str], folder: Path) -> dict[Any, Timed]:
    """(run time, way) -> seconds to do it once; compiled before."""

    def bare(batch: int, openvino: bool) -> Timed:
        return lambda: asked.ask("bare", photos=photos, batch=batch, openvino=openvino)

    def job(batch: int, pictures: bool, **more: bool) -> Timed:
        given = {"folder": str(folder), "batch": batch, "pictures": pictures, **more}
        return lambda: asked.ask("job", **given)

    found: dict[Any, Timed] = {}
    for runtime in page.RUNTIMES:
        for batch in (1, BATCH):
            found[runtime, f"bare_{batch}"] = bare(batch, bool(runtime))
            asked.ask("bare", photos=photos[:batch], batch=batch, openvino=bool(runtime))
    for batch in (1, BATCH):
        found["", f"job_{batch}"] = job(batch, False)
    found["", f"pictures_{BATCH}"] = job(BATCH, True)
    if subject.library == OURS:
        for batch in (1, BATCH):
            found["openvino", f"job_{batch}"] = job(batch, False, openvino=True)
    return found


def speeds(every: Mapping[Any, Timed], *, photos: int, rounds: int) -> dict[Any, dict[str, float]]:
    """Photos a second of everything: once a round, in turn."""
    found: dict[Any, list[float]] = {key: [] for key in every}
    for _ in range(rounds):
        for key, timed in every.items():
            found[key].append(photos / timed())
    return {
        key: {"median": statistics.median(each), "low": min(each), "high": max(each)}
        for key, each in found.items()
    }


def measure(
    data: str, photos: Photos, place: Place, *, timed: int, rounds: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All rows of a data set, and what all rows share."""
    _flat(place.work / data / "test", photos.test)
    _flat(place.work / data / "timed", photos.test[:: max(len(photos.test) // timed, 1)][:timed])
    rows: dict[tuple[Subject, str], dict[str, Any]] = {}
    shared: dict[str, Any] = {}
    for subject in SUBJECTS:
        row, facts = commands(data, subject, photos, place)
        print(f"{page.name(row)}: {row['training']}, {row['prediction']}", flush=True)
        shared |= {key: facts.pop(key) for key in ("versions", "threads") if key in facts}
        rows[subject, ""] = {**row, **facts}
        rows[subject, "openvino"] = {
            **{key: row[key] for key in ("data", "library", "method", "photos")},
            "runtime": "openvino",
        }
    workers = {subject: worker(subject, place.folder(data, subject), place) for subject in SUBJECTS}
    test = [str(path) for path in photos.test]
    every: dict[Any, Timed] = {}
    with working(workers.values()):
        differences = []
        for subject, asked in workers.items():
            folder = place.folder(data, subject)
            file = folder.with_name(f"{folder.name}.features.npz")
            asked.ask("features", photos=test[:BATCH], to=str(file))
            if subject.library == OURS:
                ours = file
            else:
                differences.append(feature_difference(file, ours))
            for runtime in page.RUNTIMES:
                out = folder.with_name(f"{folder.name}{runtime}.npz")
                asked.ask("score", photos=test, to=str(out), openvino=bool(runtime))
                rows[subject, runtime]["metrics"] = metrics(photos, out)
            if timed and rounds:
                some = [str(path) for path in sorted((place.work / data / "timed").iterdir())]
                own = ways(asked, subject, some, place.work / data / "timed")
                every |= {(subject, *key): each for key, each in own.items()}
        shared["feature_difference"] = max(differences)
        # What is compared runs one after the other: one way of all, then the next way.
        every = dict(sorted(every.items(), key=lambda one: list(page.WAYS).index(one[0][-1])))
        for (subject, runtime, way), found in speeds(every, photos=timed, rounds=rounds).items():
            rows[subject, runtime].setdefault("images_per_second", {})[way] = found
    return list(rows.values()), shared


def _flat(folder: Path, photos: Sequence[Path]) -> None:
    """Copy photos of several folders into one."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for path in photos:
        shutil.copyfile(path, folder / f"{path.parent.name}_{path.name}")


def compare(args: argparse.Namespace, place: Place) -> dict[str, Any]:
    """Measure all that was asked for; written to `args.json` after every data set."""
    place.work.mkdir(parents=True, exist_ok=True)
    _, variables = load_backbone("resnet18")
    state: dict[str, Any] = torch_state(variables)
    np.savez(place.work / "resnet18.npz", **state)
    asked = "".join(f" --{flag}" for flag in ("full", "quick") if getattr(args, flag))
    result: dict[str, Any] = {
        "benchmark": "anomalib_peer",
        "command": f"python -m benchmarks.anomalib_peer --data FOLDER --peer PYTHON{asked}",
        "machine": machine(),
        "rounds": args.rounds,
        "lines": {
            library: {task: page.lines_of(script) for task, script in own.items()}
            for library, own in page.scripts(PAGE.read_text()).items()
        },
        "imports_megabyte": {library: imports(library, place) for library in (OURS, THEIRS)},
        "rows": _others(args.json, args.only),
    }
    for name in args.only:
        root = place.work / name / "photos"
        source = SOURCES[name]._replace(train=1, test=1) if args.full else SOURCES[name]
        photos = prepare(source, args.data, root, most=FEW if args.quick else 0)
        timed, rounds = min(TIMED, len(photos.test)), args.rounds if name == TIMED_ON else 0
        rows, shared = measure(name, photos, place, timed=timed, rounds=rounds)
        result["rows"] = sorted(
            result["rows"] + rows, key=lambda row: list(SOURCES).index(row["data"])
        )
        result |= shared
        if args.json:
            write_json(args.json, result)
    return result


def _others(path: Path | None, only: Sequence[str]) -> list[dict[str, Any]]:
    """Rows that a file has of data sets that are not measured now."""
    if path is None or not path.exists():
        return []
    rows = read(path)["benchmarks"].get("anomalib_peer", {}).get("rows", [])
    return [row for row in rows if row["data"] in SOURCES and row["data"] not in only]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables; 2 for what a user can mend."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--peer", required=True, help="Python of an environment with anomalib")
    parser.add_argument("--work", type=Path, help="folder of what is trained; goes on from it")
    parser.add_argument("--only", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--full", action="store_true", help="all photos: hours for PatchCore")
    parser.add_argument("--quick", action="store_true", help="few photos and steps: that it runs")
    parser.add_argument("--rounds", type=int, default=3, help="of timing; 0: none")
    parser.add_argument("--json", type=Path, help="write all rows here")
    parser.add_argument("--write", type=Path, help="Markdown file that gets the tables")
    args = parser.parse_args(argv)
    if args.write and not args.json:
        parser.error("--write names the file of --json: give both")
    with tempfile.TemporaryDirectory() as temporary:
        place = Place((args.work or Path(temporary)).resolve(), args.peer, args.quick)
        try:
            result = compare(args, place)
        except InputError as error:
            print(error, file=sys.stderr)
            return 2
    if args.write:
        return readme.main([str(args.json), "--write", str(args.write)])
    print(page.section(str(args.json), {"benchmarks": {"anomalib_peer": result}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
