"""The command line: `jaxad train|evaluate|data`. Flags only; the jobs are in their own rooms.

Exit code 0 when the job was done, 2 for unusable arguments or input (one line on standard error),
130 when interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxad.errors import InputError


def _train(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from jaxad.config import parse_config
    from jaxad.runs.train import train

    results = train(parse_config(rest), args.workdir, overwrite=args.overwrite)
    _print_results(results, args.workdir)


def _evaluate(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from jaxad.runs.evaluate import evaluate

    _print_results(evaluate(args.workdir, rest), args.workdir)


def _print_results(results: dict[str, Any], workdir: Path) -> None:
    from jaxad.report.table import fitting, format_table

    encoding = sys.stdout.encoding
    lines = []
    if results["categories"]:
        lines.append(format_table(results, encoding=encoding))
    else:
        lines.append("trained; there are no test photos, so nothing was measured")
    for name, value in results.get("replicates", {}).get("mean", {}).items():
        if value is not None:
            count = results["replicates"]["count"]
            lines.append(f"{name} of {count} replicates: {value['mean']:.4f} ± {value['sd']:.4f}")
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in results["seconds"].items())
    speed = results["images_per_second"]
    lines.append(seconds + ("" if speed is None else f"; scoring {speed} images a second"))
    if results["categories"]:
        page = "part.html" if results.get("part") else "index.html"
        lines.append(f"report: {workdir / 'report' / page}")
    print("\n".join(fitting(line, encoding) for line in lines))


def _data_check(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from jaxad.data.check import check_dataset

    text, usable = check_dataset(args.root, layout=args.layout or "", decode=args.decode)
    print(text)
    if not usable:
        raise InputError(f"{args.root} can not be used as it is: see the problems above")


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of everything but the configuration."""
    parser = argparse.ArgumentParser(prog="jaxad", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser(
        "train",
        help="train and evaluate a detector for every category",
        usage="jaxad train --config FILE[:ARGUMENT] --workdir DIR [--overwrite] [--config.a.b=V …]",
        description="FILE is a configuration, or the name of one that comes with jaxad, such as "
        "mb_pfm_lite. docs/configuration.md lists its keys.",
    )
    train.add_argument("--workdir", type=Path, required=True, help="folder to make")
    train.add_argument("--overwrite", action="store_true", help="replace a run in --workdir")
    train.set_defaults(run=_train, takes_config=True)

    evaluate = commands.add_parser(
        "evaluate",
        help="score and measure a trained detector again",
        usage="jaxad evaluate --workdir DIR [--config.data.root=DIR …]",
        description="Keys below data, score and report may differ from training's: where photos "
        "are now, which categories are wanted.",
    )
    evaluate.add_argument("--workdir", type=Path, required=True, help="folder of `jaxad train`")
    evaluate.set_defaults(run=_evaluate, takes_config=True)

    data = commands.add_parser("data", help="look at a data set").add_subparsers(required=True)
    check = data.add_parser("check", help="count images and list every problem")
    check.add_argument("root")
    check.add_argument("--layout", help="default: guessed from the folder")
    check.add_argument("--decode", action="store_true", help="decode every image, not only headers")
    check.set_defaults(run=_data_check, takes_config=False)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = make_parser()
    try:
        args, rest = parser.parse_known_args(arguments)
        if rest and not args.takes_config:
            parser.error(f"unknown argument {rest[0]}")
        args.run(args, rest)
    except SystemExit as stop:  # argparse's own: --help or an unusable flag
        return int(stop.code or 0)
    except InputError as error:
        print(f"jaxad: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxad: interrupted", file=sys.stderr)
        return 130
    return 0
