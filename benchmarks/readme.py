"""Write the README's tables of speed from what `benchmarks.run_all` measured.

    python -m benchmarks.readme FILE [--write README.md]

FILE is the JSON of `run_all`. Prints the tables; `--write` puts them between the two markers of a
Markdown file instead. What was not measured has no table. A test keeps the README equal to the file
that it names.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare import read
from benchmarks.fps import number
from benchmarks.measure import markdown
from jaxad.errors import InputError

START, END = "<!-- speed: written by benchmarks.readme -->", "<!-- end of speed -->"
Benchmark = dict[str, Any]
DASH = "–"


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
    for subject, batch in dict.fromkeys((row["subject"], row["batch"]) for row in rows):
        own = [row for row in rows if (row["subject"], row["batch"]) == (subject, batch)]
        ours = {row["dtype"]: row for row in own if row["library"] == "jaxad" and "ratio" in row}
        if "float32" not in ours:
            continue
        us = ours["float32"]
        them = next(row for row in own if row.get("variant") == us["against"])
        equal = max(row.get("map_difference", 0) for row in own if row["dtype"] == "float32")
        lines.append(
            (
                subject,
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
    """Seconds of the whole command, and of the reference's recipe in PyTorch."""
    fast, *others = found["rows"]
    said = ", ".join(f"{name} {value:.4f}" for name, value in fast["metrics"].items())
    lines = [("training bottle to the bar", f"{fast['seconds']:.0f} s", said)]
    for row in others:
        what = f"{row['name']} recipe in {row['library']}, {row['epochs']} epochs"
        lines.append((what, f"{row['seconds']:,.0f} s", f"{row['ratio']:.1f} times as long"))
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


def put(text: str, between: str) -> str:
    """Replace what stands between the markers of a file.

    Raises:
        InputError: They are not there, in this order.
    """
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise InputError(f"no place for the tables: write the lines {START} and {END}")
    return f"{before}{START}\n\n{between}\n\n{END}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print or write; 2 for a file that is of no use."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="of `run_all --json`")
    parser.add_argument("--write", type=Path, help="Markdown file with both markers")
    args = parser.parse_args(argv)
    try:
        found = read(args.file)
        if "command" not in found:
            raise InputError(f"{args.file}: not a file of benchmarks.run_all")
        text = section(args.file.as_posix(), found)
        if args.write:
            try:
                text = put(args.write.read_text(), text)
            except OSError as error:
                raise InputError(f"{args.write}: {error.strerror}") from error
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if not args.write:
        print(text)
        return 0
    partial = args.write.with_name(args.write.name + ".partial")
    partial.write_text(text)
    partial.replace(args.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
