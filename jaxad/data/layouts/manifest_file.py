"""Layout `manifest`: a CSV file says everything; see `jaxad.data.manifest` for its columns."""

from __future__ import annotations

import os
from pathlib import Path

from jaxad.data.manifest import Manifest, read_csv
from jaxad.errors import InputError


def scan(root: str | os.PathLike[str]) -> Manifest:
    """Read `root/manifest.csv`, or `root` itself where it is a CSV file.

    Paths in the file are relative to the folder that holds it.

    Raises:
      InputError: no manifest there, or not in its form.
    """
    path = Path(root)
    if path.is_dir():
        path = path / "manifest.csv"
        if not path.is_file():
            raise InputError(f"{root}: holds no manifest.csv: give the CSV file as data.root")
    return read_csv(path)
