"""The tables of docs/speed.md and docs/accuracy.md are those of the measurements that they name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.compare import read
from benchmarks.readme import MARKERS, accuracy_section, main, put, section
from jaxad.errors import InputError

START, END = MARKERS["speed"]
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
        put(text, "tables", "speed")


def test_a_file_of_one_benchmark_alone_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "fps.json"
    source.write_text(json.dumps({"benchmark": "fps", "machine": MACHINE, "rows": []}))
    assert main([str(source)]) == 2
    assert "not a file of benchmarks.run_all" in capsys.readouterr().err


SIMPLENET = [
    {"subject": subject, "batch": batch, "dtype": "float32", "map_difference": 1e-6, **side}
    for subject in ("afrad", "simplenet", "simplenet_rewritten")
    for batch in (1, 8)
    for side in (
        {"library": "pytorch", "variant": "jit", "milliseconds": 90.0},
        {"library": "jaxad", "variant": "", "milliseconds": 80.0, "against": "jit"}
        | {"ratio": ratio(1.5 if subject == "simplenet" else 1.1)},
    )
]
TRAINED = [
    {"name": "fast", "library": "jaxad", "seconds": 100.0, "metrics": {"image_auroc": 1.0}},
    *(
        {"name": f"reference, {form}", "library": "pytorch", "epochs": 200}
        | {"seconds": 6000.0, "ratio": 60.0, **steps}
        for form, steps in (("cached", {"extrapolated_from_steps": 5}), ("uncached", {}))
    ),
]


def test_rows_say_what_is_compared() -> None:
    """Both peers of SimpleNet, that of equal arithmetic first; what was not run says so."""
    found = {
        "machine": MACHINE,
        "command": "python -m benchmarks.run_all --json FILE",
        "benchmarks": {
            "pytorch_peer": {"machine": {"torch": "2.13.0"}, "rows": SIMPLENET},
            "training": {"machine": {"pairs": 7}, "rows": TRAINED},
        },
    }
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section("results.json", found).splitlines()
        if line.startswith("|")
    ]
    assert [(row[0], row[1], row[4]) for row in rows[2:8]] == [
        ("afrad", "1", "1.10 (1.00–1.20)"),
        ("afrad", "8", "1.10 (1.00–1.20)"),
        ("simplenet; the peer rewritten to the same arithmetic", "1", "1.10 (1.00–1.20)"),
        ("simplenet; the peer rewritten to the same arithmetic", "8", "1.10 (1.00–1.20)"),
        ("simplenet; the peer unfolds as its reference, more arithmetic", "1", "1.50 (1.40–1.60)"),
        ("simplenet; the peer unfolds as its reference, more arithmetic", "8", "1.50 (1.40–1.60)"),
    ]
    ours, cached, uncached = rows[10:]
    assert ours == ["training bottle to the bar, our fast recipe", "100 s", "image_auroc 1.0000"]
    assert cached == [
        "reference, cached: the authors' recipe in pytorch, 200 epochs",
        "≈ 6,000 s, not run: 5 timed steps extrapolated",
        "60 times our fast recipe, another one",
    ]
    assert uncached[1] == "≈ 6,000 s, not run: 7 timed steps extrapolated"


def accuracy_row(name: str, date: str, **categories: float | None) -> dict[str, object]:
    metrics = dict.fromkeys(("image_auroc", "image_ap", "image_f1_max", "aupro_0.30"), 0.5)
    return {
        "name": name,
        "config": "configs/mb_pfm_fast.py",
        "command": "jaxad train",
        "machine": {**MACHINE, "date": date},
        "wall_seconds": 90.0,
        "categories": {
            category: {**metrics, "pixel_auroc": value, "n_train": 20, "n_test": 30}
            for category, value in categories.items()
        },
    }


ACCURACY = {
    "benchmark": "accuracy",
    "rows": [
        accuracy_row("bottle", "2026-01-02", bottle=0.98765),
        accuracy_row("elpv", "2026-01-05", mono=None, poly=None),
    ],
}


def test_accuracy_has_a_table_of_its_own(tmp_path: Path) -> None:
    file, speed, target = tmp_path / "a.json", tmp_path / "all.json", tmp_path / "README.md"
    file.write_text(json.dumps(ACCURACY))
    speed.write_text(json.dumps(FOUND))
    both = [*MARKERS["accuracy"], "between", *MARKERS["speed"]]
    target.write_text("\n".join(both))
    assert main([str(file), str(speed), "--write", str(target)]) == 0
    text = target.read_text()
    assert "2026-01-02 to 2026-01-05: some processor, 2 cores, Python 3.11.7, jax 0.10.2 (" in text
    config = "`configs/mb_pfm_fast.py`"
    assert text.splitlines()[6:9] == [
        f"| MVTec AD bottle | {config} | 0.5000 | 0.5000 | 0.5000 | 0.9877 | 0.5000 | 20 / 30 "
        "| 1.5 min |",
        f"| ELPV mono | {config} | 0.5000 | 0.5000 | 0.5000 | – | 0.5000 | 20 / 30 | 1.5 min |",
        f"| ELPV poly | {config} | 0.5000 | 0.5000 | 0.5000 | – | 0.5000 | 20 / 30 | same |",
    ]
    assert text.index("between") > text.index("ELPV poly")
    assert text.index("| pfm | 8 |") > text.index("between")


def test_files_of_something_else_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.json"
    for text in ('{"benchmark": "accuracy", "rows": [{}]}', "{}", '{"command": 1}', "[", "[1]"):
        file.write_text(text)
        assert main([str(file)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("kind", ["accuracy", "speed"])
def test_a_page_says_what_its_file_says(kind: str) -> None:
    file = {"accuracy": "accuracy.json", "speed": "xeon_2_cores.json"}[kind]
    path = f"benchmarks/results/{file}"
    if not (ROOT / path).is_file():
        pytest.skip(f"{path} has not been measured yet")
    text = (ROOT / "docs" / f"{kind}.md").read_text()
    assert f"`{path}`" in text.partition(MARKERS[kind][0])[2].partition(MARKERS[kind][1])[0]
    make = {"accuracy": accuracy_section, "speed": section}[kind]
    assert put(text, make(path, read(ROOT / path)), kind) == text


def test_the_rows_of_the_readme_stand_in_the_pages() -> None:
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| ")]
    pages = "".join((ROOT / "docs" / f"{kind}.md").read_text() for kind in MARKERS)
    figures = [row for row in rows if re.search(r"\d", row.partition("|")[2].partition("|")[2])]
    assert len(figures) == 8  # with the heads
    assert [row for row in figures if row not in pages] == []
