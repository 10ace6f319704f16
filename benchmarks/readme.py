"""Write the tables of docs/speed.md, accuracy.md and compare.md from what was measured.

    python -m benchmarks.readme FILE ... [--write docs/speed.md]

A FILE is the JSON of `run_all` (speed), `accuracy` or `anomalib_peer` (compare). Prints the tables;
`--write` puts them between the two markers of a Markdown file instead. What was not measured has no
table. A test keeps these pages equal to the files that they name.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import accuracy
from benchmarks.compare import read
from benchmarks.fps import number
from benchmarks.measure import markdown
from benchmarks.peers import page
from jaxad.errors import InputError
from jaxad.files import write_text

MARKERS = {
    kind: (f"<!-- {kind}: written by benchmarks.readme -->", f"<!-- end of {kind} -->")
    for kind in ("accuracy", "speed", "compare")
}
"""Between them stand the tables."""
Benchmark = dict[str, Any]
DASH = "–"
REWRITTEN = "_rewritten"
PEERS = {
    "simplenet_rewritten": "simplenet; the peer rewritten to the same arithmetic",
    "simplenet": "simplenet; the peer unfolds as its reference, more arithmetic",
}
"""What the peer computes, where there is more than one."""


def machine_line(file: str, found: Benchmark) -> str:
    """What ran on what, and when."""
    m = found["machine"]
    parts = [m["processor"], f"{m['cores']} cores"]
    if m["device"] != "cpu":
        parts.insert(0, m["device"])
    peer = found["benchmarks"].get("pytorch_peer")
    parts += [f"Python {m['python']}", f"jax {m['jax']}"]
    parts += [f"PyTorch {peer['machine']['torch']}"] if peer else []
    roofs = [
        f"{row['what']} {row['gflops']:.0f} GFLOP/s"
        for row in found["benchmarks"].get("roofline", {"rows": []})["rows"]
        if row.get("dtype") == "float32"
    ]
    measured = f" Measured peaks in float32: {', '.join(roofs)}." if roofs else ""
    return f"`{found['command']}`, {m['date']}: {', '.join(parts)} (`{file}`).{measured}"


def fps_table(found: Benchmark) -> str:
    """One row a detector, float32 (where measured, else the first dtype)."""
    dtypes = [row["dtype"] for row in found["rows"]]
    dtype = "float32" if "float32" in dtypes else dtypes[0]
    rows = [row for row in found["rows"] if row["dtype"] == dtype]
    batches = sorted({row["batch"] for row in rows})
    lines = []
    for name in dict.fromkeys(row["name"] for row in rows):
        own = {row["batch"]: row for row in rows if row["name"] == name}
        last = next((own[b] for b in reversed(batches) if "fps" in own.get(b, {})), None)
        if last is None:
            continue
        share, first = last.get("fraction_of_peak"), own.get(1, {})
        gflop = last["gflop_per_image"]
        wait = (first.get("latency_p50_ms"), first.get("latency_p95_ms"))
        paper = f"{last['paper_fps']:g}, {last['paper_device']}" if last["paper_fps"] else DASH
        lines.append(
            (
                name,
                "{} × {}".format(*last["size"]),
                *(number(own[b]["fps"]) if "fps" in own.get(b, {}) else DASH for b in batches),
                number(last["fps_with_copies"]),
                DASH if None in wait else "{:.0f} / {:.0f}".format(*wait),
                DASH if gflop is None else f"{gflop:.1f}",
                DASH if share is None else f"{share:.0%}",
                paper,
            )
        )
    head = ("detector", "pixels", *(f"images/s, batch {b}" for b in batches), "with copies")
    tail = ("latency p50 / p95, ms", "GFLOP / image", "of peak", "paper's images/s")
    return markdown((*head, *tail), lines)


def peer_table(found: Benchmark) -> str:
    """One row a detector and batch size: ours against the fastest of PyTorch, and in bfloat16."""
    rows = found["rows"]
    lines = []
    about = dict.fromkeys((row["subject"], row["batch"]) for row in rows)
    order = list(dict.fromkeys(subject.removesuffix(REWRITTEN) for subject, _ in about))
    # The comparison of equal arithmetic comes first.
    for subject, batch in sorted(
        about,
        key=lambda at: (order.index(at[0].removesuffix(REWRITTEN)), not at[0].endswith(REWRITTEN)),
    ):
        own = [row for row in rows if (row["subject"], row["batch"]) == (subject, batch)]
        ours = {row["dtype"]: row for row in own if row["library"] == "jaxad" and "ratio" in row}
        if "float32" not in ours:
            continue
        us = ours["float32"]
        them = next(row for row in own if row.get("variant") == us["against"])
        equal = max(row.get("map_difference", 0) for row in own if row["dtype"] == "float32")
        lines.append(
            (
                PEERS.get(subject, subject),
                batch,
                f"{us['milliseconds'] / batch:.0f} ms an image",
                f"{them['milliseconds'] / batch:.0f} ms ({us['against']})",
                "{median:.2f} ({low:.2f}–{high:.2f})".format(**us["ratio"]),
                f"{ours['bfloat16']['ratio']['median']:.2f}" if "bfloat16" in ours else DASH,
                f"{equal:.0e}",
            )
        )
    head = ("detector", "batch", "jaxad", "PyTorch's best", "ratio (quartiles)")
    return markdown((*head, "in bfloat16", "maps differ by"), lines)


def training_lines(found: Benchmark) -> list[tuple[str, str, str]]:
    """Seconds of our whole command, and what the reference's recipe would take."""
    fast, *others = found["rows"]
    said = ", ".join(f"{name} {value:.4f}" for name, value in fast["metrics"].items())
    lines = [("training bottle to the bar, our fast recipe", f"{fast['seconds']:.0f} s", said)]
    for row in others:
        steps = row.get("extrapolated_from_steps", found["machine"]["pairs"])
        what = f"{row['name']}: the authors' recipe in {row['library']}, {row['epochs']} epochs"
        seconds = f"≈ {row['seconds']:,.0f} s, not run: {steps} timed steps extrapolated"
        lines.append((what, seconds, f"{row['ratio']:.0f} times our fast recipe, another one"))
    return lines


def input_lines(found: Benchmark) -> list[tuple[str, str, str]]:
    """Photos a second of every form."""
    return [
        (f"reading {name}", f"{row['images_per_second']:,.0f} images/s", _times(row["faster"]))
        for name, row in found["rows"].items()
    ]


def metrics_lines(found: Benchmark) -> list[tuple[str, str, str]]:
    """Seconds of the exact pixel metrics, memory of a long stream."""
    of = f"exact pixel metrics of {found['images']} images of {found['size']}²"
    lines = [
        (f"{of}, {name}", f"{statistics.median(each):.2f} s", _times(found["ratio"][name]))
        for name, each in found["seconds"].items()
    ]
    many = found["many"]
    if many:
        what = f"the same of {many['images']:,} images, streamed"
        lines.append((what, f"{many['bytes'] / 1e6:.0f} MB", "all memory beyond the program's own"))
    return lines


def _times(ratio: dict[str, float]) -> str:
    return "{median:.1f} times as fast ({low:.1f}–{high:.1f})".format(**ratio)


def section(file: str, found: Benchmark) -> str:
    """All tables."""
    benchmarks = found["benchmarks"]
    parts = [machine_line(file, found)]
    for name, table in (("fps", fps_table), ("pytorch_peer", peer_table)):
        if name in benchmarks:
            parts.append(table(benchmarks[name]))
    lines: list[tuple[str, str, str]] = []
    for name, of in (
        ("training", training_lines),
        ("input", input_lines),
        ("metrics", metrics_lines),
    ):
        if name in benchmarks:
            lines += of(benchmarks[name])
    if lines:
        parts.append(markdown(("what", "measured", ""), lines))
    return "\n\n".join(parts)


def accuracy_section(file: str, found: Benchmark) -> str:
    """The table of accuracy, and what it was measured on."""
    rows = found["benchmarks"]["accuracy"]["rows"]
    machines = [row["machine"] for row in rows]
    dates = sorted({m["date"] for m in machines})
    where = dict.fromkeys(
        f"{'' if m['device'] == 'cpu' else m['device'] + ', '}{m['processor']}, "
        f"{m['cores']} cores, Python {m['python']}, jax {m['jax']}"
        for m in machines
    )
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    said = f"`python -m benchmarks.accuracy --data FOLDER --json FILE`, {when}: {'; '.join(where)}"
    return f"{said} (`{file}`).\n\n{accuracy.table(rows)}"


def put(text: str, between: str, kind: str) -> str:
    """Replace what stands between the markers of a file.

    Args:
        text: Of the file.
        between: The tables.
        kind: "accuracy", "speed" or "compare".

    Raises:
        InputError: The markers are not there, in this order.
    """
    start, end = MARKERS[kind]
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise InputError(f"no place for the tables: write the lines {start} and {end}")
    return f"{before}{start}\n\n{between}\n\n{end}{after}"


def tables(path: Path) -> tuple[str, str]:
    """(kind, Markdown) of a file.

    Raises:
        InputError: It is of no use.
    """
    found, name = read(path), path.as_posix()
    try:
        if "accuracy" in found["benchmarks"]:
            return "accuracy", accuracy_section(name, found)
        if "anomalib_peer" in found["benchmarks"]:
            return "compare", page.section(name, found)
        if "command" in found:
            return "speed", section(name, found)
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path} lacks {error}: measure it again") from error
    raise InputError(f"{path}: not a file of benchmarks.run_all or benchmarks.accuracy")


def main(argv: Sequence[str] | None = None) -> int:
    """Print or write; 2 for a file that is of no use."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="of --json")
    parser.add_argument("--write", type=Path, help="Markdown file with the markers")
    args = parser.parse_args(argv)
    try:
        found = [tables(path) for path in args.files]
        if not args.write:
            print("\n\n".join(text for _, text in found))
            return 0
        try:
            text = args.write.read_text("utf-8")
        except (OSError, ValueError) as error:
            raise InputError(f"{args.write} can not be read: {error}") from error
        for kind, between in found:
            text = put(text, between, kind)
        write_text(args.write, text)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
