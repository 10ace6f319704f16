"""Rows of accuracy are gathered in one file, whatever is measured when."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import accuracy
from benchmarks.accuracy import SETTINGS, main

METRICS = {
    "image_auroc": 1.0,
    "image_ap": 0.5,
    "image_f1_max": 0.25,
    "pixel_auroc": None,
    "aupro_0.30": None,
    "n_train": 3,
    "n_test": 4,
}


@pytest.fixture(autouse=True)
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Path]]:
    calls: list[tuple[Any, Path]] = []

    def train(config: Any, workdir: Path, *, overwrite: bool) -> dict[str, Any]:
        calls.append((config, workdir))
        assert overwrite
        return {"method": config.method.name, "categories": {"bottle": dict(METRICS)}}

    monkeypatch.setattr(accuracy, "train", train)
    return calls


def test_settings_are_written_as_they_come_and_none_is_lost(
    tmp_path: Path, trained: list[tuple[Any, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "accuracy.json"
    common = ["--data", str(tmp_path / "data"), "--runs", str(tmp_path / "runs"), "--json"]
    assert main([*common, str(file), "--only", "simplenet"]) == 0
    assert main([*common, str(file), "--only", "bottle_lite", "bottle"]) == 0
    written = json.loads(file.read_text())
    assert written["benchmark"] == "accuracy"
    assert [row["name"] for row in written["rows"]] == ["bottle", "bottle_lite", "simplenet"]
    row = written["rows"][0]
    assert row["categories"] == {"bottle": METRICS}
    assert row["config"] == "configs/mb_pfm_fast.py"
    assert row["machine"]["cores"] >= 1
    assert str(tmp_path) not in file.read_text()
    assert row["command"] == (
        "jaxad train --config configs/mb_pfm_fast.py --workdir RUNS/bottle "
        "--config.data.root=FOLDER/mvtec_ad_256 --config.data.categories=bottle "
        "--config.data.calibration=0"
    )
    config, workdir = trained[-1]
    assert workdir == tmp_path / "runs" / "bottle"
    assert config.data.root == f"{tmp_path}/data/mvtec_ad_256"
    assert "| MVTec AD bottle | `configs/mb_pfm_fast.py` | 1.0000 |" in capsys.readouterr().out


def test_a_file_of_something_else_is_told_before_hours_of_work(
    tmp_path: Path, trained: list[tuple[Any, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "speed.json"
    for text in ('{"benchmark": "fps", "rows": []}', "{}", "["):
        file.write_text(text)
        assert main(["--data", "x", "--json", str(file)]) == 2
        assert "speed.json" in capsys.readouterr().err
        assert file.read_text() == text
    assert not trained


def test_every_setting_has_a_configuration() -> None:
    for path, _ in SETTINGS.values():
        assert Path(path.partition(":")[0]).is_file()
