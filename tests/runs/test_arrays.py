"""Photos in memory: the detector of `jaxad train`, and docs/arrays.md as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from configuring import configured
from conftest import ROOT, files
from PIL import Image

import jaxad
from jaxad.core import InputError
from jaxad.runs.train import train
from jaxad.runs.workdir import load


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 24, 32, 3), np.uint8)


def test_it_is_the_detector_of_train(photos: np.ndarray, tmp_path: Path) -> None:
    good = tmp_path / "data" / "a" / "train" / "good"
    good.mkdir(parents=True)
    for n, own in enumerate(photos):
        Image.fromarray(own).save(good / f"{n}.png")
    config = configured(tmp_path / "data", train__epochs=3, method__random_weights=False)
    train(config, tmp_path / "w")
    _, expected, _ = load(tmp_path / "w")
    config.data.image_size = (99, 7)  # that of the photos counts
    lines: list[dict[str, Any]] = []
    detector, variables = jaxad.fit(config, photos, log=lambda **line: lines.append(line))
    assert tuple(config.data.image_size) == (99, 7)
    for own, other in zip(jax.tree.leaves(variables), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(own, other)
    assert detector.score(variables, photos[:2]).map.shape == (2, 24, 32)
    assert any("loss" in line for line in lines)
    another = jaxad.fit(config, photos, seed=5)[1]
    differ = (
        np.any(np.asarray(a) != np.asarray(b))
        for a, b in zip(jax.tree.leaves(another["method"]), jax.tree.leaves(variables["method"]))
    )
    assert any(differ)


def test_nothing_is_written_or_said(
    photos: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    jaxad.fit(configured(tmp_path), photos)
    assert files(tmp_path) == {}
    assert capsys.readouterr() == ("", "")
    jaxad.fit(configured(tmp_path), photos, progress=True)
    assert "train photos all" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"images_u8": np.zeros((2, 8, 8, 3))}, "float64"),
        ({"images_u8": np.zeros((2, 8, 8), np.uint8)}, "shape"),
        ({"images_u8": np.zeros((0, 8, 8, 3), np.uint8)}, "above 0"),
        ({"subclasses": ["a"]}, "1 subclasses for 9 photos"),
        ({"seed": -1}, "train.seed"),
        ({"config": "no_such_configuration"}, "no such file"),
    ],
)
def test_unusable_arrays_are_refused(
    photos: np.ndarray, tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    arguments = {"config": configured(tmp_path), "images_u8": photos, **changed}
    with pytest.raises(InputError, match=told):
        jaxad.fit(**arguments)


def test_the_python_of_the_docs_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a configuration of this name that trains in moments."""
    (tmp_path / "small.py").write_text(
        "from configuring import configured\n"
        "from pathlib import Path\n\n"
        "def get_config():\n"
        "    return configured(Path('.'))\n"
    )
    monkeypatch.setattr("jaxad.config.shipped", lambda name: tmp_path / "small.py")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/arrays.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    rng = np.random.default_rng(0)
    masks = np.zeros((12, 24, 32), bool)
    masks[:6, 4:14, 6:20] = True
    test = rng.integers(0, 256, (12, 24, 32, 3), np.uint8)
    test[masks] = 255
    names: dict[str, Any] = {
        "normal_u8": rng.integers(0, 256, (4, 24, 32, 3), np.uint8),
        "held_out_u8": rng.integers(0, 256, (19, 24, 32, 3), np.uint8),
        "test_u8": test,
        "masks": masks,
    }
    exec("\n".join(blocks), names)  # our own text
    assert names["anomalous"].dtype == bool
    assert names["marked"].shape == masks.shape
    assert (names["p_values"] <= 1).all()
    assert "AUPRO@0.30 exact" in capsys.readouterr().out
