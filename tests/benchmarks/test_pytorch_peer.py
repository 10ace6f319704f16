"""The comparison with PyTorch: equal outputs first, then times of those that are equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

torch = pytest.importorskip(
    "torch", reason="PyTorch is the benchmarks' peer only: pip install -e .[peer]"
)
torch.set_num_threads(1)  # their barriers spin, which a busy machine does not forgive

from benchmarks import pytorch_peer  # noqa: E402
from benchmarks.detectors import configure  # noqa: E402
from benchmarks.pytorch_peer import difference, main, table, within  # noqa: E402

SMALL = {"source": "resnet18", "target": "resnet18", "latent": (20, 30, 40), "levels": (2,)}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    def smaller(name: str, *, image_size: tuple[int, int] | None) -> Any:
        config = configure(name, image_size=image_size)
        config.method.update(SMALL)
        return config

    monkeypatch.setattr(pytorch_peer, "configure", smaller)


def arguments(*variants: str) -> list[str]:
    run = ["--only", "mb_pfm", "--batch", "2", "--pairs", "1", "--size", "32", "64"]
    return [*run, "--variants", *variants]


def test_equal_variants_are_timed_against_ours(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "peer.json"
    wanted = arguments("eager", "jit channels_last", "bfloat16 channels_last")
    assert main([*wanted, "--json", str(file)]) == 0
    written = json.loads(file.read_text())
    assert written["machine"]["torch"] == torch.__version__
    rows = {(row["library"], row["variant"], row["dtype"]): row for row in written["rows"]}
    for variant in ("eager", "jit channels_last"):
        row = rows["pytorch", variant, "float32"]
        assert row["equal"]
        assert row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
    narrow = rows["pytorch", "bfloat16 channels_last", "bfloat16"]
    assert 1e-4 < narrow["map_difference"] < 0.2
    assert narrow["milliseconds"] > 0
    ours = rows["jaxad", "", "float32"]
    assert ours["ratio"] == rows["pytorch", ours["against"], "float32"]["ratio"]
    assert 1e-4 < rows["jaxad", "", "bfloat16"]["map_difference"] < 0.2
    assert "pytorch jit channels_last" in capsys.readouterr().out


def test_a_peer_that_differs_is_not_timed(
    small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make = pytorch_peer.torch_detector

    def spoilt(name: str, config: Any, detector: Any, variables: Any) -> Any:
        method = jax.tree.map(lambda leaf: leaf * np.float32(1.01), variables["method"])
        return make(name, config, detector, {**variables, "method": method})

    monkeypatch.setattr(pytorch_peer, "torch_detector", spoilt)
    assert main(arguments("eager")) == 1
    told = next(line for line in capsys.readouterr().out.splitlines() if "eager" in line)
    assert "NOT EQUAL" in told
    assert told.count("–") == 3


def test_differences_are_relative_to_the_map() -> None:
    ours = (np.asarray([[[1.0, -4.0]]]), np.asarray([2.0]))
    theirs = (np.asarray([[[1.0, -3.0]]]), np.asarray([1.5]))
    assert difference(theirs, ours) == (0.25, 0.125)
    assert difference(ours, ours) == (0, 0)
    assert not within({"map_difference": float("nan"), "image_difference": 0.0}, 1.0)
    assert not within({"map_difference": 0.0, "image_difference": 2e-4}, 1e-4)


def test_what_can_not_be_compiled_says_why() -> None:
    base = {"subject": "mb_pfm", "batch": 1, "library": "pytorch", "dtype": "float32"}
    text = table([{**base, "variant": "compile", "note": "RuntimeError: no compiler"}])
    assert "| pytorch compile | float32 | RuntimeError: no compiler | – | – | – |" in text
