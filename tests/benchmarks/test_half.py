"""Both types train the same seeds, and their differences are those of pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import half


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    configs: list[Any] = []

    def train(config: Any, workdir: Path) -> dict[str, Any]:
        configs.append(config)
        value = 0.5 + 0.1 * config.train.seed + (0.01 if config.train.dtype == "bfloat16" else 0)
        return {"mean": dict.fromkeys(half.METRICS, value)}

    monkeypatch.setattr(half, "train", train)
    return configs


def test_pairs_of_runs(
    trained: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "half.json"
    arguments = ["--data", str(tmp_path), "--only", "simplenet", "--seeds", "2"]
    assert half.main([*arguments, "--json", str(file)]) == 0
    found = [(c.train.dtype, c.train.seed) for c in trained]
    assert found == [(dtype, seed) for seed in (0, 1) for dtype in half.DTYPES]
    assert {tuple(c.data.image_size) for c in trained} == {(64, 64)}
    assert {c.data.root for c in trained} == {str(tmp_path / "mvtec_ad_256")}
    out = capsys.readouterr().out
    assert "| float32 | 0.5500 ± 0.0707 |" in out
    assert "| bfloat16 | 0.5600 ± 0.0707 |" in out
    assert "| +0.0100 (+0.0100 to +0.0100) |" in out
    (row,) = json.loads(file.read_text())["rows"]
    assert (row["config"], len(row["runs"])) == ("configs/simplenet_fast.py", 4)


@pytest.mark.parametrize("name", half.SETTINGS)
def test_every_configuration_is_one(name: str, trained: list[Any], tmp_path: Path) -> None:
    assert half.main(["--fake", "--only", name, "--seeds", "1"]) == 0
    assert half.main(["--data", str(tmp_path), "--only", name, "--seeds", "1"]) == 0
    assert trained[0].method.random_weights
    assert not trained[-1].method.random_weights
