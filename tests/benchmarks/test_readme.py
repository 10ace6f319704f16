"""The README's tables of speed are those of the measurement that it names."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.compare import read
from benchmarks.readme import END, START, main, put, section
from jaxad.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
MACHINE = {
    "date": "2026-01-02",
    "device": "cpu",
    "processor": "some processor",
    "cores": 2,
    "python": "3.11.7",
    "jax": "0.10.2",
}


def ratio(median: float) -> dict[str, float]:
    return {"median": median, "low": median - 0.1, "high": median + 0.1}


def fps_row(batch: int, **measured: float) -> dict[str, object]:
    about = {"name": "pfm", "batch": batch, "dtype": "float32", "size": [256, 256]}
    return {**about, "paper_fps": 23.5, "paper_device": "GTX 1660", **measured}


def peer_row(library: str, dtype: str, **more: object) -> dict[str, object]:
    about = {"subject": "pfm", "batch": 8, "library": library, "variant": "", "dtype": dtype}
    return {**about, **more}


FOUND = {
    "machine": MACHINE,
    "command": "python -m benchmarks.run_all --json FILE",
    "benchmarks": {
        "fps": {
            "rows": [
                fps_row(
                    1,
                    fps=10.0,
                    fps_with_copies=9.0,
                    latency_p50_ms=100.0,
                    latency_p95_ms=120.0,
                    gflop_per_image=5.0,
                    fraction_of_peak=0.25,
                ),
                {**fps_row(8), "skipped": "memory"},
            ]
        },
        "pytorch_peer": {
            "machine": {"torch": "2.13.0"},
            "rows": [
                peer_row("pytorch", "float32", variant="jit", milliseconds=160.0)
                | {"ratio": ratio(2), "map_difference": 1e-6},
                peer_row("pytorch", "float32", variant="eager", brief_milliseconds=200.0),
                peer_row("jaxad", "float32", milliseconds=80.0, against="jit", ratio=ratio(2)),
                peer_row("jaxad", "bfloat16", milliseconds=80.0, against="x", ratio=ratio(0.5)),
            ],
        },
        "metrics": {
            "images": 120,
            "size": 256,
            "seconds": {"streamed": [0.3, 0.5, 0.4]},
            "ratio": {"streamed": ratio(9)},
            "many": {"images": 2000, "bytes": 640_000_000},
        },
    },
}


def test_what_was_measured_stands_in_the_tables() -> None:
    text = section("results.json", FOUND)
    assert "2026-01-02: some processor, 2 cores, Python 3.11.7, jax 0.10.2, PyTorch 2.13" in text
    assert (
        "| pfm | 256 × 256 | 10 | – | 9 | 100 / 120 | 5.0 | 25% | 23.5, GTX 1660 |"
        in text.splitlines()
    )
    assert (
        "| pfm | 8 | 10 ms an image | 20 ms (jit) | 2.00 (1.90–2.10) | 0.50 | 1e-06 |"
        in text.splitlines()
    )
    assert "| 0.40 s | 9.0 times as fast (8.9–9.1) |" in text
    assert "| the same of 2,000 images, streamed | 640 MB |" in text
    assert "training" not in text


def test_tables_are_put_between_the_markers_and_nowhere_else(tmp_path: Path) -> None:
    source, target = tmp_path / "all.json", tmp_path / "README.md"
    source.write_text(json.dumps(FOUND))
    target.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    assert main([str(source), "--write", str(target)]) == 0
    once = target.read_text()
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert "old" not in once
    assert main([str(source), "--write", str(target)]) == 0
    assert target.read_text() == once
    assert {path.name for path in tmp_path.iterdir()} == {"all.json", "README.md"}


@pytest.mark.parametrize("text", ["", START, f"{END} {START}"])
def test_without_a_place_for_them_the_file_stays_as_it_is(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "all.json", tmp_path / "README.md"
    source.write_text(json.dumps(FOUND))
    target.write_text(text)
    assert main([str(source), "--write", str(target)]) == 2
    assert target.read_text() == text
    assert "no place for the tables" in capsys.readouterr().err
    with pytest.raises(InputError):
        put(text, "tables")


def test_a_file_of_one_benchmark_alone_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "fps.json"
    source.write_text(json.dumps({"benchmark": "fps", "machine": MACHINE, "rows": []}))
    assert main([str(source)]) == 2
    assert "not a file of benchmarks.run_all" in capsys.readouterr().err


def test_the_readme_says_what_its_file_says() -> None:
    text = (ROOT / "README.md").read_text()
    named = re.search(r"\(`(benchmarks/results/\S+\.json)`\)", text.partition(START)[2])
    assert named, "the README names no file of measurements"
    assert put(text, section(named[1], read(ROOT / named[1]))) == text
