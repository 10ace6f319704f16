"""The benchmark of lines for subclasses: what it counts, and what it is of no use for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.promise_routed import main, rates
from jaxad.calibration import Calibration
from jaxad.files import write_json
from jaxad.normal import Normal


def wide(*spreads: float, count: int = 120) -> Normal:
    """Scores of subclasses of several spreads."""
    rng, kinds = np.random.default_rng(0), np.repeat(np.arange(len(spreads)), count)
    scores = (rng.random(len(kinds)) * np.asarray(spreads)[kinds]).astype(np.float32)
    return Normal(scores, scores, ("",) * len(kinds), tuple(map(str, kinds)))


def test_one_line_gives_the_wider_subclass_the_false_alarms() -> None:
    narrow, broad, both = rates(wide(1, 5), 0.1, splits=40)
    assert [row["photos"] for row in (narrow, broad, both)] == [120, 120, 240]
    assert narrow["one_line"] == 0
    assert broad["one_line"] > 0.15
    for row in (narrow, broad, both):
        assert 0.06 < row["own_line"] < 0.11
        assert row["has_own"] == 1


def test_the_command_reads_a_calibration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Calibration({"tile": wide(1, 2, count=40)}, 0.1)
    write_json(tmp_path / "calibration.json", {"format": 1, "detectors": {"tile": own.to_json()}})
    assert main([str(tmp_path), "--splits", "3"]) == 0
    assert "| tile | all | 80 |" in capsys.readouterr().out
    alone = Calibration({"tile": own.categories["tile"]._replace(routed=())}, 0.1)
    write_json(tmp_path / "calibration.json", {"format": 1, "detectors": {"tile": alone.to_json()}})
    assert main([str(tmp_path)]) == 2
    assert "no calibration that knows subclasses" in capsys.readouterr().err
