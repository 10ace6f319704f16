"""What jaxad shows to the outside: its names, its types, and what a wheel has."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import jaxad
from jaxad.config import load_file, shipped

ROOT = Path(__file__).parents[1]


def test_public_names_are_there_and_shown() -> None:
    assert list(jaxad.__all__) == sorted(jaxad.__all__)
    assert set(jaxad.__all__) <= set(dir(jaxad))
    for name in jaxad.__all__:
        assert getattr(jaxad, name) is not None
    for name, home in jaxad._HOME.items():
        assert getattr(jaxad, name) is getattr(importlib.import_module(home), name)
    assert {*jaxad._HOME, "__version__"} == set(jaxad.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        jaxad.nothing  # noqa: B018


def test_importing_jaxad_imports_nothing_else() -> None:
    """The command line answers `--help` at once."""
    script = (
        "import sys, jaxad, jaxad.main; jaxad.main.make_parser(); dir(jaxad);"
        "print({'jax', 'numpy', 'flax', 'orbax', 'PIL'} & set(sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "set()\n"


def test_a_wheel_has_types_rooms_and_configurations() -> None:
    assert (ROOT / "jaxad" / "py.typed").is_file()
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert "jaxad" in wheel["targets"]["wheel"]["packages"]
    assert wheel["targets"]["wheel"]["force-include"] == {"configs": "jaxad/configs"}
    # What git ignores is left out of a wheel.
    rooms = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "jaxad").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    assert "jaxad/runs/train.py" in rooms
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", *rooms], cwd=ROOT, capture_output=True, text=True
    )
    if ignored.returncode != 128:  # git is there, and this is a checkout
        assert ignored.stdout == ""


def test_configurations_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    assert "mb_pfm_lite" in names
    assert all(shipped(name) is not None for name in names)
    monkeypatch.chdir(tmp_path)
    assert load_file("mb_pfm_lite").method.name == "pfm"
    assert shipped("nothing") is None
