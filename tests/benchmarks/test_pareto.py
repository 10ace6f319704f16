"""Points of MB-PFM are put together from levels that are trained once, and judged side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import pareto
from benchmarks.pareto import Point, beaten, configure, known, main, scores
from jaxad.config import load_file
from jaxad.core import InputError


def row(fps: float, *values: float) -> dict[str, Any]:
    metrics = {data: dict(zip(pareto.METRICS, values)) for data in pareto.DATA}
    return {"fps": fps, "metrics": metrics}


def test_a_point_is_beaten_by_a_faster_one_that_loses_nothing() -> None:
    slow = row(5.0, 0.9, 0.8, 0.7)
    assert beaten(slow, [slow, row(6.0, 0.8995, 0.8, 0.7)])
    assert not beaten(slow, [slow, row(6.0, 0.95, 0.95, 0.69)])
    assert not beaten(slow, [slow, row(4.0, 0.95, 0.95, 0.95)])


def test_points_share_levels() -> None:
    a, b = Point(latent=(64, 128, 200), smoothing=2.0), Point(latent=(64, 0, 200))
    assert [piece.latent for piece in a.pieces()] == [(64, 0, 0), (0, 128, 0), (0, 0, 200)]
    assert set(b.pieces()) < set(a.pieces())
    assert set(a._replace(steps=(200, 900, 1200), top_share=0.1).pieces()) ^ set(a.pieces()) == {
        Point(latent=(0, 128, 0), steps=(1, steps, 1)) for steps in (300, 900)
    }
    assert not set(a.pieces()) & set(a._replace(size=224).pieces())
    assert a.group() == b.group() != a._replace(target="resnet18").group()


def test_a_point_names_the_configuration() -> None:
    config = configure(Point(size=224, latent=(64, 0, 200), smoothing=2.0), ["train.seed=3"])
    assert tuple(config.data.image_size) == (224, 224)
    assert tuple(config.method.levels) == (1, 3)
    assert (config.method.latent[0], config.method.latent[2]) == (64, 200)
    assert (config.method.smoothing, config.train.seed) == (2.0, 3)


@pytest.mark.parametrize("name", ["fast", "lite"])
def test_named_points_are_the_configurations_that_are_shipped(name: str) -> None:
    shipped = load_file(str(Path(pareto.__file__).parents[1] / "configs" / f"mb_pfm_{name}.py"))
    shipped.train.cache_dtype, shipped.data.calibration = "float16", 0.0
    assert configure(pareto.POINTS[name]).to_dict() == shipped.to_dict()


def test_scores_are_the_mean_of_the_levels() -> None:
    fine, coarse = np.full((40, 4, 4), 2.0, np.float32), np.full((40, 2, 2), 1.0, np.float32)
    fine[39] = 5.0
    maps, image = scores([fine, coarse], Point(size=8, top_share=0.5))
    assert maps.shape == (40, 8, 8)
    np.testing.assert_allclose(image[[0, 39]], [1.5, 3.0], rtol=1e-6)


def test_every_point_is_measured_and_what_is_known_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fine = Point(latent=(40, 0, 0))  # networks end after their first level
    points = {"fast": fine, "smooth": fine._replace(smoothing=2.0)}
    monkeypatch.setattr(pareto, "POINTS", points)
    monkeypatch.setattr(pareto, "DATA", pareto.DATA[:1])
    out = tmp_path / "pareto.json"
    assert main(["--fake", "--only", *points, "--pairs", "1", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["name"] for row in rows] == list(points)
    for row in rows:
        assert row["fps"] > 0
        assert all(0 <= v <= 1 for found in row["metrics"].values() for v in found.values())
    assert rows[0]["ratio"]["median"] == 1
    assert rows[0]["metrics"] != rows[1]["metrics"]
    assert {line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()[2:]} == {
        f"| {name}" for name in points
    }
    assert set(known(out)) == set(points)
    monkeypatch.setitem(points, "smooth", fine._replace(smoothing=3.0))
    assert set(known(out)) == {"fast"}


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    assert known(None) == known(tmp_path / "absent.json") == {}
    (tmp_path / "x.json").write_text("[1")
    with pytest.raises(InputError, match=r"x\.json"):
        known(tmp_path / "x.json")
