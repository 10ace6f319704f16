"""What tests of the jobs share: a data set and runs of a recipe that compiles in moments."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from configuring import configured

from jaxad.data.synthetic import write_dataset
from jaxad.runs.calibrate import calibrate
from jaxad.runs.train import train

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories."""
    root = tmp_path_factory.mktemp("data") / "parts"
    write_dataset(
        root, categories=("a", "b"), n_train=5, n_test_good=2, n_test_bad=3, size=(32, 32)
    )
    return root


@pytest.fixture(scope="session")
def trained_once(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory of both categories: to be looked at, not changed."""
    workdir = tmp_path_factory.mktemp("trained") / "w"
    train(configured(parts), workdir)
    return workdir


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(trained_once, tmp_path / "w", symlinks=True))


@pytest.fixture(scope="session")
def calibrated(trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two detectors, "a" of which is calibrated: to be looked at, not changed."""
    root = tmp_path_factory.mktemp("calibrated")
    write_dataset(
        root, categories=("a",), n_train=40, n_test_good=1, n_test_bad=0, size=(32, 32), seed=3
    )
    workdir = Path(shutil.copytree(trained_once, root / "w", symlinks=True))
    calibrate(workdir, root / "a" / "train" / "good", category="a", false_alarm=0.1)
    return workdir


Jaxad = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def jaxad(tmp_path_factory: pytest.TempPathFactory) -> Jaxad:
    """Run the command line (or a script) in a process; what one compiles serves the next."""
    cache = str(tmp_path_factory.mktemp("compiled"))

    def jaxad(*arguments: str, run: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        own = {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        path = os.pathsep.join([str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [sys.executable, *([run] if run else ["-m", "jaxad"]), *arguments],
            env={**os.environ, "PYTHONPATH": path, "XLA_FLAGS": "", **own, **env},
            capture_output=True,
            text=True,
            errors="surrogateescape",
        )

    return jaxad


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder and its content."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def untimed(log: Path) -> list[dict[str, Any]]:
    """The lines of a train.jsonl without what differs from one run to the next."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    ends = ("_per_second", "_bytes")
    return [{k: v for k, v in line.items() if not k.endswith(ends)} for line in lines]
