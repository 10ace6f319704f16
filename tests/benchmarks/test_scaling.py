"""The model on paper says what it should, and the measured table has what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import scaling
from benchmarks.scaling import Machine, main, paper, times

FREE = Machine(flops=1e12, near=1e30, far=1e30, node=8, call=0.0)


def test_without_links_and_calls_to_wait_for_everything_scales() -> None:
    found = times(1e9, 1e9, 16, FREE)
    assert (found["weak_1_ms"], found["weak_256_ms"]) == (16, 16)
    assert found["weak_256_efficiency"] == 1
    assert found["published_batch_pays_up_to"] == 16
    assert found["limit"] == "compute"


def test_slow_links_and_calls_are_what_limits() -> None:
    slow = times(1e9, 1e9, 16, FREE._replace(far=1e9, near=1e30))
    assert slow["limit"] == "sums of gradients"
    # Twice nearly all of the gradient goes over the link.
    assert slow["weak_256_ms"] == pytest.approx(16 + 2000 * 255 / 256, abs=0.01)
    assert slow["weak_8_efficiency"] == 1
    called = times(1e9, 1e9, 16, FREE._replace(call=1.0))
    assert (called["limit"], called["published_batch_pays_up_to"]) == ("calls", 1)


def test_a_step_s_operations_are_those_of_the_method_s_gradient() -> None:
    small, large = (paper("simplenet", size=(side, side)) for side in (64, 128))
    # A map of four times as many positions, and a gradient of as many bytes.
    assert large["gflop_per_image"] == pytest.approx(4 * small["gflop_per_image"], rel=0.05)
    assert large["gradient_megabytes"] == small["gradient_megabytes"] > 1


def test_the_table_has_every_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scaling, "measure", lambda devices, processes, *, quick: 10.0 * devices)
    main(["--json", str(tmp_path / "x.json")])
    rows = json.loads((tmp_path / "x.json").read_text())["rows"]
    assert [(row["devices"], row["processes"]) for row in rows] == list(scaling.CASES)
    assert {row["of_one_device"] for row in rows} == {1.0}
    assert rows[2]["images_per_second"] == 200
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(rows)
