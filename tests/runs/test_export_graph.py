"""A work directory's graph for other run times scores as it does, and says what belongs to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import files

import jaxad
from jaxad.calibration import from_json
from jaxad.main import main
from jaxad.runs.calibrations import read_calibrations
from jaxad.scorer import make_scorer

ort = pytest.importorskip("onnxruntime", reason="needs jaxad[onnx]")
ov = pytest.importorskip("openvino", reason="needs jaxad[openvino]")


def scores(workdir: Path, images: np.ndarray) -> Any:
    detector, variables, _ = jaxad.load(workdir, "a")
    return make_scorer(detector, variables, batch_size=2, size=(24, 32)).score(images)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (2, 24, 32, 3), np.uint8)


def test_onnx_scores_and_says_what_it_is(
    calibrated: Path, images: np.ndarray, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "a.onnx"
    before = files(calibrated)
    command = ["export", f"--workdir={calibrated}", "--detector=a", "--to=onnx"]
    assert main([*command, f"--out={out}", "--batch-size=2"]) == 0
    assert "images of noise score as in" in capsys.readouterr().out
    assert files(calibrated) == before
    session = ort.InferenceSession(out, providers=["CPUExecutionProvider"])
    found = session.run(["map", "image"], {"images": images})
    for own, want in zip(found, scores(calibrated, images)):
        np.testing.assert_allclose(own, want, rtol=1e-4, atol=1e-4)
    said = session.get_modelmeta().custom_metadata_map
    assert (said["detector"], said["categories"], said["upright"]) == ("a", '["a"]', "true")
    limits = from_json(json.loads(said["calibration"])).limits("a")
    assert limits.score == read_calibrations(calibrated)["a"].limits("a").score


def test_openvino_scores(calibrated: Path, images: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / "a.xml"
    command = ["export", f"--workdir={calibrated}", "--detector=a", "--to=openvino"]
    assert main([*command, f"--out={out}", "--batch-size=2"]) == 0
    compiled = ov.Core().compile_model(out, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({"images": images})
    for name, want in scores(calibrated, images)._asdict().items():
        np.testing.assert_allclose(found[name], want, rtol=1e-4, atol=1e-4)


def test_what_can_not_be_written_is_one_line(calibrated: Path, tmp_path: Path, capsys: Any) -> None:
    command = ["export", f"--workdir={calibrated}", "--detector=a"]
    (tmp_path / "there.onnx").write_text("mine")
    for more, message in (
        (["--to=onnx", f"--out={tmp_path / 'a.xml'}"], "ends in .onnx"),
        (["--to=openvino", f"--out={tmp_path / 'a.onnx'}"], "ends in .xml"),
        (["--to=onnx", f"--out={tmp_path / 'there.onnx'}"], "is there already"),
        (["--to=onnx", f"--out={tmp_path / 'no' / 'a.onnx'}"], "make it first"),
        (["--to=onnx", f"--out={tmp_path / 'a.onnx'}", "--batch-size=0"], "must be 1 or more"),
        (["--to=onnx", f"--out={tmp_path / 'a.onnx'}", "--config.train.seed=3"], "training"),
    ):
        assert main([*command, *more]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.glob("*.*")) == ["there.onnx"]
    assert (tmp_path / "there.onnx").read_text() == "mine"


def test_predict_judges_alike_by_another_run_time(
    calibrated: Path, parts: Path, tmp_path: Path
) -> None:
    tables = []
    for runtime in ("xla", "openvino"):
        out = tmp_path / runtime
        command = ["predict", f"--workdir={calibrated}", "--category=a", f"--runtime={runtime}"]
        assert main([*command, str(parts / "a" / "test"), f"--out={out}"]) == 0
        tables.append((out / "predictions.csv").read_text().splitlines())
    header = tables[0][0].split(",")
    rows = [[line.split(",") for line in table[1:]] for table in tables]
    assert len(rows[0]) == 5
    place = header.index("score")
    for one, other in zip(*rows, strict=True):
        assert float(one[place]) == pytest.approx(float(other[place]), rel=1e-4)
        assert one[header.index("decision")] == other[header.index("decision")]
