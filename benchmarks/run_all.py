"""Run every benchmark, each in a process of its own, and gather their numbers in one file.

    python -m benchmarks.run_all --json FILE [--data FOLDER | --fake] [--quick]
                                 [--only NAME ...]

Tables are printed as they come. A benchmark that fails does not stop the others: the end says which
failed, and the exit code is then 1. What can not run here (no PyTorch, no data) is skipped, with
the reason. FOLDER holds the data sets (`mvtec_ad_256/`); `--fake` needs neither weights nor data;
`--quick` shows within minutes that everything runs, at sizes that say nothing of speed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxad.files import write_json

ROOT = Path(__file__).resolve().parents[1]


class Module(NamedTuple):
    """A benchmark, run as `python -m PROGRAM ... --json FILE`."""

    program: str
    quick: tuple[str, ...] = ()
    """What makes it short."""
    data: bool = False
    """Whether it needs weights and `--data FOLDER`, or `--fake`."""
    always: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    """Packages beside jaxad's own."""


SMALL = ("--batch", "1", "--pairs", "2", "--size", "64", "64")
MODULES = {
    "roofline": Module("benchmarks.roofline", ("--quick", "--pairs", "2")),
    "fps": Module("benchmarks.fps", ("--only", "afrad_fast", *SMALL)),
    "pytorch_peer": Module(
        "benchmarks.pytorch_peer",
        ("--only", "simplenet_rewritten", "--variants", "eager", *SMALL),
        needs=("torch",),
    ),
    "training": Module("benchmarks.training", ("--pairs", "1"), data=True, needs=("torch",)),
    "input": Module(
        "benchmarks.input", ("--images", "24", "--native", "200", "--size", "64", "--pairs", "2")
    ),
    "metrics": Module(
        "benchmarks.metrics",
        ("--images", "16", "--size", "64", "--pairs", "2", "--memory", "32"),
        always=("--memory",),
    ),
    "scaling": Module("benchmarks.scaling", ("--quick",)),
    "experts": Module("benchmarks.experts", ("--pairs", "1")),
    "backbones": Module("benchmarks.backbones", ("--only", "resnet18"), always=("--markdown",)),
}
"""By name, in the order in which they run."""


def missing(module: Module, *, source: Sequence[str]) -> str | None:
    """Why a benchmark can not run here; None if it can.

    Args:
        module: The benchmark.
        source: Of data: `("--data", FOLDER)`, `("--fake",)` or ().
    """
    absent = [name for name in module.needs if importlib.util.find_spec(name) is None]
    if absent:
        return f"it needs the package {', '.join(absent)}"
    return "it needs --data FOLDER, or --fake" if module.data and not source else None


def command(module: Module, out: Path, *, quick: bool, source: Sequence[str]) -> list[str]:
    """The command that runs a benchmark."""
    options = [*module.always]
    options += module.quick if quick else ()
    options += source if module.data else ()
    return [sys.executable, "-m", module.program, *options, "--json", str(out)]


def run(module: Module, *, quick: bool, source: Sequence[str]) -> tuple[Any, str | None]:
    """Run a benchmark; returns its JSON (None if it wrote none), and why it failed, if it did."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        code = subprocess.run(command(module, out, quick=quick, source=source), cwd=ROOT).returncode
        try:
            found = json.loads(out.read_text())
        except (OSError, ValueError):
            return None, f"exit code {code}" if code else "it wrote no JSON"
    return found, f"exit code {code}" if code else None


def without_folders(words: Sequence[str]) -> list[str]:
    """The words of a command, of paths only the last part: where they lie is nobody's business."""
    return [Path(word).name if os.sep in word else word for word in words]


def machine() -> Any:
    """What this runs on, asked in another process: one that holds no device while others run."""
    program = "import json; from benchmarks.measure import machine; print(json.dumps(machine()))"
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(told.stdout)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for; 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="write all numbers here")
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--data", type=Path, help="folder of the data sets; weights are converted")
    given.add_argument("--fake", action="store_true", help="no weights or data are there")
    parser.add_argument("--quick", action="store_true", help="short runs that show that all works")
    parser.add_argument("--only", nargs="+", choices=MODULES, default=list(MODULES))
    args = parser.parse_args(argv)
    if not args.json.absolute().parent.is_dir():
        parser.error(f"--json {args.json}: there is no such folder")
    source: tuple[str, ...] = ("--fake",) if args.fake else ()
    if args.data:
        source = ("--data", str(args.data.absolute()))
    skipped: dict[str, str] = {}
    failed: dict[str, str] = {}
    results: dict[str, Any] = {
        "machine": machine(),
        "command": " ".join(
            ["python -m benchmarks.run_all", *without_folders(argv or sys.argv[1:])]
        ),
        "benchmarks": {},
        "skipped": skipped,
        "failed": failed,
    }
    for name in args.only:
        print(f"\n## {name}\n", flush=True)
        reason = missing(MODULES[name], source=source)
        if reason:
            skipped[name] = reason
            print(f"skipped: {reason}", flush=True)
        else:
            start = time.monotonic()
            found, why = run(MODULES[name], quick=args.quick, source=source)
            if found is not None:
                results["benchmarks"][name] = found
            if why:
                failed[name] = why
            print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        write_json(args.json, results)
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}", file=sys.stderr)
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
