"""Is anything slower than it was? Two JSON files of the same benchmark, or of `run_all`.

    python -m benchmarks.compare OLD NEW [--tolerance 0.1]

Every rate and every time that both files have is compared, rows matched by what they are about
(name, batch, dtype, ...). The ratio is speed now over speed before: 1.2 is 20 % faster. The exit
code is 1 if anything of ours has a ratio under 1 - tolerance, 2 for a file that is of no use.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import markdown
from jaxad.errors import InputError

ABOUT = (
    *("name", "data", "subject", "what", "form", "library", "variant", "dtype", "resident"),
    *("batch", "size", "width", "n", "images", "workers"),
)
"""Keys that tell what a row is about; all else in it was measured, or describes."""
RATES = {"fps", "gflops", "ratio", "faster", "speedup"}
TIMES = {"ms", "milliseconds", "seconds"}
"""Words of a key that make its value a rate or a time."""
UNJUDGED = (
    *("paper_", "brief_", "build_", "compile_", "latency_p95"),
    *("ms_per_image", "seconds_per_image"),
)
"""Starts of keys that are not ours, said twice, or too much at the mercy of chance to be judged."""


OTHER = ("machine", "peaks")
"""Parts of a file that tell of the machine."""


BENCHMARKS = ("fps",)
"""Benchmarks whose name is that of a rate."""


class Value(NamedTuple):
    """One rate or time of a file."""

    speed: float
    """Higher is faster: the rate, or one over the time."""
    shown: float
    ours: bool


def speed(key: str, value: float) -> float | None:
    """Turn a measured value into a speed, by its key; None if it is neither rate nor time."""
    words = set(key.split("_"))
    if key.startswith(UNJUDGED) or words & {"low", "high"} or not value > 0:
        return None
    if "per_second" in key or words & RATES:
        return value
    return 1 / value if words & TIMES else None


def values(tree: Any) -> dict[tuple[str, str], Value]:
    """(row, key) -> what can be compared in a benchmark's JSON."""
    found: dict[tuple[str, str], Value] = {}
    for row, key, value, ours in _walk(tree, (), "", True):
        fast = speed(key, value)
        if fast is None:
            continue
        # Rows that say the same of themselves are told apart by their order.
        number, label = 1, row
        while (label, key) in found:
            number += 1
            label = f"{row} ({number})"
        found[label, key] = Value(fast, value, ours)
    return found


def _walk(
    tree: Any, row: tuple[str, ...], unit: str, ours: bool
) -> Iterator[tuple[str, str, float, bool]]:
    """(row, key, number, whether it is ours) of all numbers under named keys.

    Several rounds, as a list or as {"median": ..., "low": ..., "high": ...}, count as their median,
    under the nearest key around them that is a rate or a time: `unit`.
    """
    if isinstance(tree, list):
        if tree and all(isinstance(one, int | float) for one in tree):
            yield " ".join(row), unit, statistics.median(tree), ours
        for one in tree:
            if isinstance(one, dict):
                yield from _walk(one, row, unit, ours)
    elif isinstance(tree, dict):
        row = (*row, *(_text(name, tree[name]) for name in ABOUT if _simple(tree.get(name))))
        ours = ours and tree.get("library", "jaxad") == "jaxad"
        for name, value in tree.items():
            if name in (*OTHER, *ABOUT) or isinstance(value, bool) or value is None:
                continue
            if isinstance(value, int | float):
                yield " ".join(row), unit if name == "median" else name, float(value), ours
            elif speed(name, 1.0) is not None and name not in BENCHMARKS:
                yield from _walk(value, row, name, ours)
            else:
                inner = row if name in ("rows", "benchmarks", "results") else (*row, name)
                yield from _walk(value, inner, unit, ours)


def _simple(value: Any) -> bool:
    """Whether a value can tell what a row is about."""
    if isinstance(value, list):
        return all(isinstance(x, int) for x in value)
    return isinstance(value, str | int) and value != ""


def _text(name: str, value: Any) -> str:
    if isinstance(value, list):
        return "x".join(map(str, value))
    return value if isinstance(value, str) else f"{name} {value}"


def read(path: Path) -> dict[str, Any]:
    """Read a benchmark's JSON; that of one alone takes the form of `run_all`'s.

    Raises:
        InputError: No such file, or it is not a benchmark's.
    """
    try:
        tree = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}): give a file of --json") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: not a benchmark's JSON: give a file of --json")
    if "benchmark" in tree:
        tree = {"machine": tree.get("machine"), "benchmarks": {tree["benchmark"]: tree}}
    return tree


def earlier(path: Path | None, **kinds: type) -> list[Any] | None:
    """Parts of a file that a command wrote in an earlier sitting, None where there is no file.

    Args:
        path: The file that is gone on with.
        **kinds: Name of a part -> what it is.

    Raises:
        InputError: It is not a file of that command.
    """
    if path is None or not path.exists():
        return None
    try:
        tree = json.loads(path.read_text())
    except (OSError, ValueError):
        tree = None
    if not isinstance(tree, dict) or not all(isinstance(tree.get(k), t) for k, t in kinds.items()):
        raise InputError(f"{path}: not a file of this command: choose another --json")
    return [tree[name] for name in kinds]


def compare(
    old: dict[tuple[str, str], Value], new: dict[tuple[str, str], Value]
) -> list[tuple[str, str, Value, Value, float]]:
    """(row, key, old, new, ratio) of all that both have, slowest first."""
    both = [(*at, old[at], new[at], new[at].speed / old[at].speed) for at in old if at in new]
    return sorted(both, key=lambda line: line[-1])


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 if something is slower, 2 for a bad file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.1, help="share that may be lost")
    args = parser.parse_args(argv)
    try:
        trees = [read(path) for path in (args.old, args.new)]
        old, new = (values(tree) for tree in trees)
        lines = compare(old, new)
        if not lines:
            raise InputError(f"{args.old} and {args.new} have no rate or time in common")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    machines = [_machine(tree.get("machine")) for tree in trees]
    if machines[0] != machines[1]:
        print(f"not the same machine: {machines[0]} | {machines[1]}", file=sys.stderr)
    slower = [line for line in lines if line[2].ours and line[-1] < 1 - args.tolerance]
    print(
        markdown(
            ("row", "key", "old", "new", "ratio", ""),
            [
                (row, key, f"{a.shown:.4g}", f"{b.shown:.4g}", f"{r:.2f}", _verdict(a, r, args))
                for row, key, a, b, r in lines
            ],
        )
    )
    print(
        f"{len(lines)} compared, {len(slower)} slower by more than {args.tolerance:.0%}; "
        f"{len(old) - len(lines)} only in OLD, {len(new) - len(lines)} only in NEW"
    )
    return 1 if slower else 0


def _verdict(value: Value, ratio: float, args: argparse.Namespace) -> str:
    if not value.ours:
        return "peer"
    if ratio < 1 - args.tolerance:
        return "SLOWER"
    return "faster" if ratio > 1 + args.tolerance else ""


def _machine(head: Any) -> str:
    """What decides about speed in the head of a JSON."""
    if not isinstance(head, dict):
        return str(head)
    return ", ".join(str(head.get(key)) for key in ("device", "processor", "cores", "XLA_FLAGS"))


if __name__ == "__main__":
    sys.exit(main())
