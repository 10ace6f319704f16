"""`python -m ports list|convert|fetch|verify`. Flags only; the jobs are in their own modules.

Exit code 0 when the job was done, 2 for unusable arguments or input (one line on standard error),
130 when interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from jaxad.errors import InputError
from ports.convert import convert, weights_folder
from ports.fetch import fetch
from ports.listing import architecture_table, source_table
from ports.namings import NAMINGS
from ports.verify import verify


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        print(_run(_parser().parse_args(argv)), flush=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has read enough; Python would flush once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _run(args: argparse.Namespace) -> str:
    match args.command:
        case "list":
            return source_table() if args.sources else architecture_table(weights_folder())
        case "convert":
            return convert(args.architecture, args.file, naming=args.naming, out=args.out)
        case "fetch":
            return fetch(args.architecture, recipe=args.recipe, naming=args.naming, out=args.out)
        case _:
            levels = args.levels.split(",") if args.levels else None
            return verify(args.weights, image=args.image, levels=levels)


class _Parser(argparse.ArgumentParser):
    """Raises InputError where argparse would print its usage and leave."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see python -m ports --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m ports", description="Public ImageNet weights for jaxad.")
    commands = parser.add_subparsers(dest="command", required=True)

    one = commands.add_parser("list", help="architectures, and where their weights come from")
    one.add_argument("--sources", action="store_true", help="every public file that is known")

    one = commands.add_parser("convert", help="turn one weight file into ours")
    _add_output(one)
    one.add_argument("file", metavar="FILE", nargs="?", help=".pth, .safetensors, .npz or .h5")

    one = commands.add_parser("fetch", help="download an official file, verify and convert it")
    _add_output(one)
    one.add_argument("--recipe", help="how it was trained, e.g. IMAGENET1K_V2; see list --sources")

    one = commands.add_parser("verify", help="check a converted file and say what it holds")
    one.add_argument("weights", metavar="NAME", help="an architecture, or a converted file")
    one.add_argument("--image", metavar="FILE", help="describe the features of this photo")
    one.add_argument("--levels", metavar="A,B", help="these levels only")
    return parser


def _add_output(one: argparse.ArgumentParser) -> None:
    one.add_argument("architecture", metavar="ARCH", help="a name of `python -m ports list`")
    one.add_argument("--naming", choices=NAMINGS, help="framework that named the arrays")
    one.add_argument("--out", metavar="PATH", help="file to write (default: NAME.safetensors)")


if __name__ == "__main__":
    sys.exit(main())
