"""The check of the promise passes where it is kept, and would fail where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import promise

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("confidence", [None, 0.9])
@pytest.mark.parametrize("rate", [0.05, 0.1])
def test_scores_of_one_kind_keep_it(rate: float, confidence: float | None) -> None:
    kept = promise.check(RNG.gamma(2.0, size=300), rate, confidence=confidence)
    assert kept is not None
    assert (kept.calibrated, kept.later) == (150, 150)
    assert kept.inside
    if confidence is None:
        assert kept.expected <= rate


@pytest.mark.parametrize("confidence", [None, 0.9])
def test_a_threshold_that_is_too_low_is_found(
    confidence: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def low(scores: np.ndarray, rate: float, *, confidence: float | None) -> float:
        return float(np.quantile(scores, 1 - 1.5 * rate))

    monkeypatch.setattr(promise, "threshold", low)
    kept = promise.check(RNG.gamma(2.0, size=300), 0.1, confidence=confidence)
    assert kept is not None
    assert not kept.inside


def test_too_few_photos_are_not_judged() -> None:
    assert promise.check(np.arange(100.0), 0.01, confidence=None) is None
    assert promise.check(np.arange(120.0), 0.01, confidence=None) is not None


def test_the_command_prints_and_draws(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    held, tested = RNG.random(200), RNG.random(40)
    rows = promise.rows_of("MB-PFM", "bottle", held, tested)
    assert [row["rate"] for row in rows] == [0.01, 0.05, 0.1, 0.05, 0.1]
    monkeypatch.setattr(promise, "measure", lambda data, runs: rows)
    plot = tmp_path / "p.png"
    assert promise.main(["--data=x", f"--plot={plot}", f"--json={tmp_path / 'p.json'}"]) == 0
    assert "MB-PFM" in capsys.readouterr().out
    assert plot.stat().st_size > 1000
    rows[0]["inside"] = False
    assert promise.main(["--data=x"]) == 1
