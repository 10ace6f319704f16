"""The field: every method on every set, by the same pixels, metrics and clock.

    python -m benchmarks.accuracy --suite field --data FOLDER [--methods NAME ...] [--sets NAME ...]
        [--seeds 3] [--json FILE] [--plot PNG]

FOLDER holds the sets (`benchmarks.sets`). A cell is one method on one set: metrics for each seed
(one where nothing is drawn), seconds to train, photos a second, what the detector holds; seconds of
the clock, and those that this process computed, which hardly depend on what else the machine does.
All normal photos are learnt, the last step counts. Methods that read the same network at the same
size share one pass over the photos, training and test. FILE is written after every pass; a cell
that it holds is not measured again, only for seeds that are missing, so a table can be made over
several sittings. The table is of all that FILE holds. Sets that are not there are left out and
said, unless --sets names them.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.ablation import METRICS
from benchmarks.compare import read
from benchmarks.field_pass import Cell, Entry, Photos, groups, measure, subject
from benchmarks.measure import markdown
from benchmarks.pareto import beaten
from benchmarks.plots import draw_pareto
from benchmarks.sets import SETS, flags
from jaxad.errors import InputError
from jaxad.files import write_bytes, write_json
from jaxad.runs.dataset import jobs_of, read_dataset, reading_of

METHODS = {
    "mb_pfm_fast": Entry("configs/mb_pfm_fast.py"),
    "mb_pfm_lite": Entry("configs/mb_pfm_lite.py"),
    "afrad_fast": Entry("configs/afrad_fast.py"),
    "simplenet_fast": Entry("configs/simplenet_fast.py"),
    "rd4ad": Entry("configs/rd4ad.py:resnet18"),
    "uniad": Entry("configs/uniad.py:cpu"),
    "stfpm": Entry("configs/stfpm.py:fast"),
    "patchcore_10": Entry("configs/patchcore.py:resnet18"),
    "patchcore_1": Entry("configs/patchcore.py:resnet18", ("method.share=0.01",)),
    "padim": Entry("configs/padim.py"),
    "spade": Entry("configs/spade.py:resnet18", drawn=False),
    "nearest": Entry("configs/nearest.py", drawn=False, maps=False),
}
"""Rows of the table, in its order; PatchCore's end in the percents of patches that it keeps."""

Rows = dict[tuple[str, str], Cell]
"""(set, method) -> cell."""


def joined(before: Cell | None, now: Cell) -> Cell:
    """A cell with the seeds of before and those of now; all else is of now."""
    if before is None:
        return now
    times = {
        of: {**now[of], "train": before[of]["train"] + now[of]["train"]}
        for of in ("seconds", "cpu")
    }
    return {**now, **times, "metrics": before["metrics"] + now["metrics"]}


def known(path: Path | None) -> Rows:
    """The cells of an earlier sitting, as far as their methods are still the same.

    Raises:
        InputError: The file is not one of ours.
    """
    if path is None or not path.exists():
        return {}
    tree = read(path)["benchmarks"].get("field")
    if tree is None:
        raise InputError(f"{path}: not a file of --suite field: choose another --json")
    found = {}
    for row in tree["rows"]:
        entry = METHODS.get(row["name"])
        if entry is None or (entry.config, [*entry.changes]) != (row["config"], row["changes"]):
            print(
                f"{row['name']} on {row['data']} was configured otherwise: left out",
                file=sys.stderr,
            )
            continue
        found[row.pop("data"), row.pop("name")] = row
    return found


def ordered(rows: Rows) -> list[Cell]:
    """Rows as they stand in a file: set by set, methods in their order."""
    order = [(data, name) for data in SETS for name in METHODS]
    return [{"name": at[1], "data": at[0], **rows[at]} for at in order if at in rows]


HEAD = (
    *("method", "image AUROC", "pixel AUROC", "AUPRO@0.3", "seeds", "images/s", "CPU s an image"),
    *("features + training, s", "CPU s", "MB"),
)


def table(rows: Rows) -> str:
    """Markdown, one table a set: means and standard deviations over seeds, medians of times."""

    def metric(row: Cell, name: str) -> str:
        values = [one[name] for one in row["metrics"]]
        if None in values:
            return "–"
        mean = f"{statistics.mean(values):.4f}".removeprefix("0")
        if len(values) == 1:
            return mean
        return f"{mean} ± {statistics.stdev(values):.4f}".replace("± 0", "± ")

    def seconds(found: Cell) -> str:
        return f"{found['features']:.0f} + {statistics.median(found['train']):.0f}"

    every, parts = ordered(rows), []
    for data in dict.fromkeys(row["data"] for row in every):
        own = [row for row in every if row["data"] == data]
        parts.append(f"{data}: {own[0]['n_train']} photos learnt, {own[0]['n_test']} judged\n")
        lines = [
            (
                row["name"],
                *(metric(row, name) for name in METRICS),
                len(row["metrics"]) if METHODS[row["name"]].drawn else "nothing drawn",
                f"{statistics.median(row['images_per_second']):.3g}",
                f"{statistics.median(row['cpu']['image']):.3f}",
                seconds(row["seconds"]),
                seconds(row["cpu"]),
                f"{row['megabyte']:.0f}",
            )
            for row in own
        ]
        parts.append(markdown(HEAD, lines) + "\n")
    return "\n".join(parts)


def points(rows: Rows) -> list[Cell]:
    """Methods for a Pareto plot: those with all metrics on every set that has masks.

    Photos a second are the geometric mean over the sets.
    """
    full = {
        at: row
        for at, row in rows.items()
        if all(one[metric] is not None for one in row["metrics"] for metric in METRICS)
    }
    sets = [data for data in SETS if any(at[0] == data for at in full)]
    found: list[Cell] = []
    for name in METHODS:
        own = {data: full[data, name] for data in sets if (data, name) in full}
        if not sets or len(own) < len(sets):
            continue
        rates = [statistics.median(row["images_per_second"]) for row in own.values()]
        metrics = {
            data: {m: statistics.mean(one[m] for one in row["metrics"]) for m in METRICS}
            for data, row in own.items()
        }
        fps = statistics.geometric_mean(rates)
        found.append({"name": name, "fps": fps, "metrics": metrics})
    return [{**row, "beaten": beaten(row, found)} for row in found]


def plot(rows: Rows, path: Path) -> None:
    """Draw `points`.

    Raises:
        InputError: There are none, or the file can not be written.
    """
    last = [*rows.values()][-1]["machine"] if rows else {}
    title = f"{last.get('device')}, {last.get('date')}"
    file = io.BytesIO()
    draw_pareto(points(rows), title).save(file, "PNG", optimize=True)
    write_bytes(path, file.getvalue())


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing; print the table of all that is there."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy --suite field", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", required=True, help="folder of the sets")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--sets", nargs="+", choices=SETS, help="default: all that are there")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="goes on from what it holds")
    parser.add_argument("--plot", type=Path, help="PNG: accuracy over speed, means of all sets")
    args = parser.parse_args(argv)
    if args.seeds < 1:
        parser.error("--seeds is 1 or more")
    try:
        rows = known(args.json)
        for data in args.sets or SETS:
            todo = []
            for name in args.methods:
                there = len(rows[data, name]["metrics"]) if (data, name) in rows else 0
                missing = range(there, args.seeds if METHODS[name].drawn else 1)
                if missing:
                    todo.append(subject(name, METHODS[name], flags(SETS[data], args.data), missing))
            if not todo:
                continue
            try:
                manifest = read_dataset(todo[0].config)
            except InputError as error:
                if args.sets:
                    raise
                print(f"{data} is left out: {error}", file=sys.stderr)
                continue
            for group in groups(todo):
                config = group[0].config
                (job,) = jobs_of(manifest, config)
                photos = Photos(job, manifest.root, reading_of(config, group[0].backbones))
                for name, row in measure(group, photos).items():
                    rows[data, name] = joined(rows.get((data, name)), row)
                if args.json:
                    write_json(args.json, {"benchmark": "field", "rows": ordered(rows)})
        print(table(rows))
        if args.plot:
            plot(rows, args.plot)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
