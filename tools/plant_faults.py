"""Plant known faults one at a time in a copy of the project, and see which the tests miss.

    python tools/plant_faults.py              # all of them
    python tools/plant_faults.py methods      # those of tools/faults/methods.toml
    python tools/plant_faults.py methods -k "decay"

A fault is one replacement in one file, `[[fault]]` with `name`, `file`, `old` (stands there exactly
once), `new` and `tests` (what pytest is given: files, or single tests). The tests have to fail; a
fault that they pass has survived, and the exit code is 1. Tests that can not even be collected
judge nothing: that is reported, too.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FAULTS = ROOT / "tools" / "faults"
SLOW = ("jax", "flax.linen", "optax", "orbax.checkpoint", "scipy.stats", "hypothesis", "PIL.Image")
"""What most tests import, and none of it starts a thread or reads a setting that tests change."""
CAUGHT, PASSED = 1, 0
"""pytest's exit codes for failed and for passed tests; all others say that nothing was judged."""


def copy_of_project(to: Path) -> Path:
    """Copy what git tracks or would track, and link what lies beside the project for its tests."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    copy = to / "project"
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    shared = ROOT.parent / "shared"
    if shared.is_dir():
        (to / "shared").symlink_to(shared)
    return copy


def run_tests(tests: Sequence[str], copy: Path) -> tuple[int, str]:
    """Give tests of the copy to pytest; its exit code, and what it said.

    In a fork of this process, which has imported the packages that take seconds, none of ours.
    """
    said = copy.parent / "said.txt"
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.read_text()
    code = 3  # pytest's own for "internal error"
    try:
        with said.open("w") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
        os.chdir(copy)
        sys.path[:] = [str(copy), *sys.path[1:]]
        os.environ["PYTHONPATH"] = str(copy)
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        sys.dont_write_bytecode = True
        # What the sound code compiles serves all faults that change no program.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(copy.parent / "compiled")
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def judge(fault: dict[str, Any], copy: Path) -> str:
    """Plant one fault and run its tests; "" if they caught it, else what happened."""
    path = copy / fault["file"]
    sound = path.read_text()
    if sound.count(fault["old"]) != 1:
        return f"`old` stands {sound.count(fault['old'])} times in {fault['file']}, not once"
    path.write_text(sound.replace(fault["old"], fault["new"]))
    try:
        code, said = run_tests(fault["tests"], copy)
    finally:
        path.write_text(sound)
    if code == CAUGHT:
        return ""
    if code == PASSED:
        return "survived: no test failed"
    return f"judged nothing: pytest ended with {code}: {said.strip()[-200:]}"


def main() -> int:
    """Judge the faults asked for; 1 if one survived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rooms", nargs="*", help="names of files in tools/faults; all by default")
    parser.add_argument("-k", default="", help="only faults whose name has this in it")
    args = parser.parse_args()
    files = [FAULTS / f"{room}.toml" for room in args.rooms] or sorted(FAULTS.glob("*.toml"))
    faults = [
        {**fault, "room": file.stem}
        for file in files
        for fault in tomllib.loads(file.read_text())["fault"]
        if args.k in fault["name"]
    ]
    for package in SLOW:
        import_module(package)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_of_project(Path(folder))
        for number, fault in enumerate(faults, 1):
            start = time.monotonic()
            wrong = judge(fault, copy)
            failed += bool(wrong)
            print(
                f"{number}/{len(faults)} {fault['room']}: {fault['name']}: {wrong or 'caught'} "
                f"({time.monotonic() - start:.0f} s)",
                flush=True,
            )
    print(f"{len(faults)} faults, {failed} not caught")
    return 1 if failed or not faults else 0


if __name__ == "__main__":
    sys.exit(main())
