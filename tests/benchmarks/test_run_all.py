"""All benchmarks in one file: what fails is told and stops nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import run_all
from benchmarks.run_all import MODULES, Module, command, main, missing

GOOD = """
import json, pathlib, sys
print("table of", sys.argv[1:-2])
pathlib.Path(sys.argv[-1]).write_text(json.dumps({"rows": [{"name": "a", "fps": 1.0}]}))
"""
LATE = GOOD + "sys.exit(1)\n"
BROKEN = "raise SystemExit('no such thing')\n"


@pytest.fixture(autouse=True)
def _fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("good", GOOD), ("late", LATE), ("broken", BROKEN)):
        (tmp_path / f"fake_{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    modules = {
        "absent": Module("fake_good", needs=("no_such_package",)),
        "broken": Module("fake_broken"),
        "late": Module("fake_late"),
        "good": Module("fake_good", quick=("--short",), data=True, always=("--all",)),
    }
    monkeypatch.setattr(run_all, "MODULES", modules)
    monkeypatch.setattr(run_all, "machine", lambda: {"device": "here"})


def test_a_failure_stops_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "all.json"
    assert main(["--json", str(out), "--quick", "--data", str(tmp_path)]) == 1
    written = json.loads(out.read_text())
    assert written["machine"] == {"device": "here"}
    assert str(tmp_path) not in written["command"]
    assert written["command"].startswith("python -m benchmarks.run_all --json all.json --quick")
    assert set(written["benchmarks"]) == {"late", "good"}  # what was measured before it failed too
    assert written["failed"] == {"broken": "exit code 1", "late": "exit code 1"}
    assert written["skipped"] == {"absent": "it needs the package no_such_package"}
    said = capfd.readouterr()
    assert f"table of ['--all', '--short', '--data', '{tmp_path}']" in said.out
    assert said.err.splitlines()[-3:] == [
        "skipped absent: it needs the package no_such_package",
        "failed: broken: exit code 1",
        "failed: late: exit code 1",
    ]


def test_what_is_asked_for_is_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "all.json"
    assert main(["--json", str(out), "--fake", "--only", "good"]) == 0
    assert json.loads(out.read_text())["benchmarks"]["good"]["rows"] == [{"name": "a", "fps": 1.0}]
    assert "table of ['--all', '--fake']" in capfd.readouterr().out


def test_without_data_what_needs_it_is_skipped(tmp_path: Path) -> None:
    out = tmp_path / "all.json"
    assert main(["--json", str(out), "--only", "good"]) == 0
    written = json.loads(out.read_text())
    assert written["skipped"] == {"good": "it needs --data FOLDER, or --fake"}
    assert written["benchmarks"] == {}


def test_a_folder_that_is_not_there_is_told_before_hours_of_work(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--json", str(tmp_path / "no" / "all.json")])
    assert stopped.value.code == 2


def test_the_real_modules() -> None:
    assert list(MODULES)[:2] == ["roofline", "fps"]
    for name, module in MODULES.items():
        assert module.program == f"benchmarks.{name}"
        found = command(module, Path("x.json"), quick=True, source=("--fake",))
        assert found[:3] == [sys.executable, "-m", module.program]
        assert found[-2:] == ["--json", "x.json"]
    assert MODULES["pytorch_peer"].needs == ("torch",)
    assert missing(MODULES["fps"], source=()) is None


def test_the_machine_is_asked_in_another_process() -> None:
    # `machine` itself, which the other tests replace.
    program = "from benchmarks.run_all import machine; import sys; m = machine(); "
    program += "assert 'jax' not in sys.modules; print(m['cores'])"
    told = subprocess.run([sys.executable, "-c", program], cwd=run_all.ROOT, capture_output=True)
    assert told.returncode == 0, told.stderr
    assert int(told.stdout) >= 1
