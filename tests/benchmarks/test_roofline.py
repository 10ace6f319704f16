"""Peaks, at sizes that take no time: every row is a rate, and bytes and operations are counted."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from benchmarks import roofline
from benchmarks.roofline import Sizes, best_seconds, main, measure, peaks

TINY = Sizes(matmul=(32, 64), batch=1, mbyte=4)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "SPAN", 0.001)
    monkeypatch.setattr(roofline, "QUICK", TINY)


def test_every_row_has_a_rate() -> None:
    rows = measure(roofline.DTYPES, sizes=TINY, pairs=1)
    assert [(row["what"], row.get("dtype")) for row in rows] == [
        *(
            (what, dtype)
            for dtype in ("float32", "bfloat16")
            for what in ("matmul", "convolution 3x3", "convolution 1x1")
        ),
        ("memory copy", None),
        ("host to device", None),
    ]
    for row in rows:
        assert row.get("gflops", row.get("gbyte_per_second")) > 0
    assert rows[0]["shape"] in ("32 x 32 x 32", "64 x 64 x 64")


def test_operations_and_bytes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(run: object, *, pairs: int) -> float:
        run(2)  # type: ignore[operator]
        return 1.0

    monkeypatch.setattr(roofline, "best_seconds", counted)  # each takes one second
    assert roofline.matmul("float32", 100, pairs=1) == pytest.approx(2e6 / 1e9)
    work = 2 * 3 * 32 * 32 * 9 * 128 * 128
    found = roofline.convolution("convolution 3x3", "float32", batch=3, pairs=1)
    assert found == pytest.approx(work / 1e9)
    assert roofline.copy(mbyte=4, pairs=1) == pytest.approx(2 * 4e6 / 1e9)
    assert roofline.host_to_device(mbyte=4, pairs=1) == pytest.approx(4e6 / 1e9)


def test_the_best_round_counts() -> None:
    calls: list[int] = []

    def run(n: int) -> None:
        calls.append(n)
        time.sleep(0.02 if len(calls) == 3 else 0.002)

    assert 0.001 < best_seconds(run, pairs=3) < 0.02
    assert len(calls) == 5  # two that are not counted


def test_peaks_are_what_others_divide_by() -> None:
    found = peaks("bfloat16", sizes=TINY, pairs=1)
    assert found.keys() == {"gflops", "gbyte_per_second"}
    assert min(found.values()) > 0


def test_the_program_prints_a_table_and_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "roofline.json"
    assert main(["--quick", "--pairs", "1", "--dtype", "float32", "--json", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    written = json.loads(out.read_text())
    assert written["benchmark"] == "roofline"
    assert written["machine"]["device"] == "cpu"
    assert len(lines) == 2 + len(written["rows"]) == 7
    assert lines[2].startswith("| matmul | float32 |")
