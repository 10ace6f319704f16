"""Frames per second of a small detector: rows hold what the table and the plot need."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from benchmarks import detectors, fps, roofline
from benchmarks.detectors import Subject, build, configure
from benchmarks.fps import plan, why
from benchmarks.work import count

SMALL = Subject(
    "configs/mb_pfm_fast.py",
    ("method.target=resnet18", "method.levels=(1,)", "method.latent=(4,4,4)"),
    14.5,
    "GTX 1660",
)


@functools.cache
def small() -> Any:
    """The detector and its variables, built once."""
    return build(configure("small", image_size=(64, 64)))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(detectors.SUBJECTS):
        monkeypatch.delitem(detectors.SUBJECTS, name)
    monkeypatch.setitem(detectors.SUBJECTS, "small", SMALL)
    monkeypatch.setattr(fps, "build", lambda config: small())
    monkeypatch.setattr(fps, "SPAN", 0.01)
    tiny = roofline.Sizes(matmul=(64,), batch=1, mbyte=1)
    monkeypatch.setattr(fps, "peaks", lambda dtype: roofline.peaks(dtype, sizes=tiny, pairs=1))


def run(out: Path, *arguments: str) -> tuple[int, Any]:
    code = fps.main(["--size", "64", "64", "--pairs", "2", "--json", str(out), *arguments])
    return code, json.loads(out.read_text())


def test_rows_hold_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, written = run(tmp_path / "fps.json", "--batch", "1", "2")
    assert code == 0
    assert written["benchmark"] == "fps"
    assert written["machine"]["device"] == "cpu"
    assert [(row["batch"], row["dtype"]) for row in written["rows"]] == [
        (1, "float32"),
        (2, "float32"),
    ]
    for row in written["rows"]:
        assert row["name"] == "small"
        assert row["size"] == [64, 64]
        assert row["device"] == "cpu"
        assert (row["paper_fps"], row["paper_device"]) == (14.5, "GTX 1660")
        assert row["fps_low"] <= row["fps"] <= row["fps_high"]
        assert row["fps_with_copies"] > 0
        assert row["ms_per_image"] == pytest.approx(1e3 / row["fps"])
        peak = written["peaks"]["float32"]["gflops"]
        assert row["fraction_of_peak"] == pytest.approx(row["gflop_per_image"] * row["fps"] / peak)
        assert row["compile_seconds"] > 0
    one, two = written["rows"]
    assert 0 < one["latency_p50_ms"] <= one["latency_p95_ms"]
    assert "latency_p50_ms" not in two
    assert one["gflop_per_image"] == pytest.approx(two["gflop_per_image"], rel=0.02)
    assert one["gbyte_per_image"] > two["gbyte_per_image"]  # weights are read once a batch
    lines = capsys.readouterr().out.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| small | 1 | float32 |")
    assert lines[2].endswith("| 14.5 fps, GTX 1660 |")


def test_what_does_not_fit_has_a_row_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fps, "free_memory", lambda: 1_000_000)
    code, written = run(tmp_path / "fps.json", "--batch", "2")
    assert code == 0  # no fault of ours
    assert written["rows"][0]["skipped"].startswith("memory: about ")
    assert "| memory: about " in capsys.readouterr().out


def test_what_is_refused_by_the_device_has_a_row_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scorer(*args: object, batch_size: int, **options: object) -> None:
        if batch_size == 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory: 7 GiB\nmore")
        raise ValueError("a bug")

    monkeypatch.setattr(fps, "make_scorer", scorer)
    code, written = run(tmp_path / "fps.json", "--batch", "1", "2")
    bug, full = written["rows"]
    assert code == 1
    assert bug["error"] == "ValueError: a bug"
    assert full["skipped"] == "memory: RESOURCE_EXHAUSTED: Out of memory: 7 GiB"


def test_a_subject_that_can_not_be_built_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(config: object) -> None:
        raise ValueError("can not be built")

    monkeypatch.setattr(fps, "build", broken)
    code, written = run(tmp_path / "fps.json", "--batch", "1", "2")
    assert code == 1
    assert [row["error"] for row in written["rows"]] == ["ValueError: can not be built"] * 2


def test_no_time_is_no_fault(tmp_path: Path) -> None:
    code, written = run(tmp_path / "fps.json", "--batch", "1", "2", "--time-limit", "0.001")
    assert code == 0
    assert [row["skipped"] for row in written["rows"]] == ["no time left"] * 2


def test_the_most_important_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(detectors.SUBJECTS, "other", Subject("configs/afrad.py"))
    names, batches, dtypes = ("other", "small"), (1, 8, 32), ("float32", "bfloat16")
    calm = plan(names, batches, dtypes, hurry=False)
    assert [name for name, _ in calm] == ["small", "other"]  # of papers first
    every = {(d, b) for d in dtypes for b in batches}
    assert all(set(combinations) == every for _, combinations in calm)
    hurry = plan(names, batches, dtypes, hurry=True)
    assert [name for name, _ in hurry] == ["small", "other"] * 2
    assert hurry[0][1] == hurry[1][1] == [("bfloat16", 32), ("bfloat16", 1)]
    assert {*hurry[0][1], *hurry[2][1]} == every
    assert len(hurry[0][1]) + len(hurry[2][1]) == len(every)


def test_a_failure_is_told_in_one_line() -> None:
    assert why(MemoryError("no room")) == {"skipped": "memory: no room"}
    assert why(ValueError("first\nsecond")) == {"error": "ValueError: first"}


def test_bytes_are_those_of_products_and_of_what_is_alive() -> None:
    class Two:
        """Two matrix products, the first one's operand used again at the end."""

        @staticmethod
        def score(variables: Any, images: jax.Array) -> jax.Array:
            x = images.astype(jnp.float32).reshape(len(images), -1)
            y = jax.jit(jnp.dot)(x, variables["a"])
            return jax.lax.map(lambda row: variables["b"] @ row, y)

    found = count(Two, {"a": jnp.ones((12, 5)), "b": jnp.ones((7, 5))}, size=(2, 2))  # type: ignore[arg-type]
    weights, each = 4 * 12 * 5, 4 * (12 + 5)
    assert found.moved == (weights, each + 4 * (7 * 5 + 5 + 7))
    assert found.gbyte("moved", batch=3, dtype="bfloat16") == pytest.approx(
        (found.moved[0] + 3 * found.moved[1]) / 2e9
    )


def test_memory_held_is_more_than_variables_and_less_than_everything() -> None:
    detector, variables = small()
    work = count(detector, variables, size=(64, 64))
    fixed = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    assert work.held[0] >= fixed
    image, largest = 64 * 64 * 3, 4 * 32 * 32 * 64  # after the stem
    assert image + largest < work.held[1] < 20 * largest
    assert work.moved[1] > 2 * largest
