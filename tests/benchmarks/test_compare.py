"""The guard: rows find each other, rates and times are told apart, and what is slower is found."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.compare import main, speed, values

FPS: dict[str, Any] = {
    "benchmark": "fps",
    "machine": {"device": "cpu", "processor": "x", "cores": 2, "XLA_FLAGS": ""},
    "peaks": {"float32": {"gflops": 60.0, "gbyte_per_second": 20.0}},
    "rows": [
        {
            **{"name": name, "batch": batch, "dtype": "float32", "size": [64, 64]},
            **{"fps": 10.0 * batch, "fps_low": 9.0, "ms_per_image": 100.0 / batch},
            **{"gflop_per_image": 5.0, "paper_fps": 14.5, "compile_seconds": 3.0},
            **({"latency_p50_ms": 90.0, "latency_p95_ms": 95.0} if batch == 1 else {}),
        }
        for name in ("pfm", "afrad")
        for batch in (1, 8)
    ],
}


def files(tmp_path: Path, *trees: Any) -> list[str]:
    paths = [tmp_path / f"{number}.json" for number in range(len(trees))]
    for path, tree in zip(paths, trees):
        path.write_text(json.dumps(tree))
    return [str(path) for path in paths]


def test_what_is_judged() -> None:
    found = values(FPS)
    assert ("pfm float32 batch 8 64x64", "fps") in found
    assert {key for _, key in found} == {"fps", "latency_p50_ms"}
    assert len(found) == 6


@pytest.mark.parametrize(
    ("key", "sign"),
    [
        *((key, 1) for key in ("fps", "fps_with_copies", "gflops", "images_per_second", "ratio")),
        *((key, -1) for key in ("milliseconds", "latency_p50_ms", "gather_ms", "seconds")),
        *((key, 0) for key in ("paper_fps", "gflop_per_image", "fps_low", "map_difference")),
        *((key, 0) for key in ("compile_seconds", "image_auroc", "brief_milliseconds")),
    ],
)
def test_rates_and_times(key: str, sign: int) -> None:
    slow, fast = speed(key, 2.0), speed(key, 4.0)
    if sign == 0:
        assert slow is fast is None
    else:
        assert slow is not None
        assert fast is not None
        assert (fast - slow) * sign > 0
    assert speed(key, float("nan")) is None
    assert speed(key, 0.0) is None


def test_nothing_is_slower_than_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files(tmp_path, FPS, FPS)]) == 0
    out = capsys.readouterr().out
    assert "6 compared, 0 slower" in out
    assert "SLOWER" not in out


def test_what_is_slower_is_found_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = copy.deepcopy(FPS)
    new["rows"].reverse()  # the order of rows does not matter
    new["rows"][0]["fps"] *= 0.8  # afrad, batch 8
    new["rows"][1]["latency_p50_ms"] *= 1.05  # within the tolerance
    new["rows"][2]["fps"] *= 2
    paths = files(tmp_path, FPS, new)
    assert main(paths) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| fps afrad float32 batch 8 64x64 | fps | 80 | 64 | 0.80 | SLOWER |"
    assert lines[-2].endswith("| 2.00 | faster |")
    assert "6 compared, 1 slower by more than 10%" in lines[-1]
    assert main([*paths, "--tolerance", "0.25"]) == 0


@given(st.floats(0.5, 2), st.floats(0.01, 0.4))
def test_the_tolerance_is_what_may_be_lost(factor: float, tolerance: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        old, new = ({"rows": [{"name": "a", "seconds": s}]} for s in (1.0, 1 / factor))
        code = main([*files(Path(folder), old, new), "--tolerance", str(tolerance)])
    assert code == int(1 / (1 / factor) < 1 - tolerance)


def test_one_benchmark_alone_is_compared_with_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = {"machine": FPS["machine"], "benchmarks": {"fps": FPS, "other": {"rows": []}}}
    assert main(files(tmp_path, FPS, every)) == 0
    assert "6 compared" in capsys.readouterr().out


def test_a_peer_that_is_slower_is_shown_and_not_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def tree(theirs: float, ours: float) -> Any:
        row = {"subject": "mb_pfm", "batch": 1}
        return {
            "rows": [
                {**row, "library": "pytorch", "variant": "eager", "milliseconds": theirs},
                {**row, "library": "jaxad", "variant": "", "ratio": {"median": ours, "low": 1.0}},
            ]
        }

    assert main(files(tmp_path, tree(100, 1.2), tree(300, 1.2))) == 0
    assert "| 100 | 300 | 0.33 | peer |" in capsys.readouterr().out
    assert main(files(tmp_path, tree(100, 1.2), tree(100, 0.9))) == 1


def test_rows_that_say_the_same_of_themselves_are_told_apart() -> None:
    found = values({"rows": [{"name": "a", "seconds": 1.0}, {"name": "a", "seconds": 2.0}]})
    assert [value.shown for value in found.values()] == [1.0, 2.0]


def test_rows_under_names() -> None:
    found = values({"rows": {"PNG": {"images_per_second": 5.0, "faster": {"median": 2.0}}}})
    assert set(found) == {("PNG", "images_per_second"), ("PNG", "faster")}


def test_rounds_count_as_their_median() -> None:
    summary = {"median": 3.0, "low": 2.0, "high": 4.0}
    found = values({"seconds": {"whole": [2.0, 1.0, 9.0]}, "ratio": {"whole": summary}})
    assert {at: value.shown for at, value in found.items()} == {
        ("whole", "seconds"): 2.0,
        ("whole", "ratio"): 3.0,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "not JSON"), ("[1]", "not a benchmark's"), ("{}", "no rate or time"), (None, "No such")],
)
def test_bad_files_are_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, said: str
) -> None:
    (good,) = files(tmp_path, FPS)
    bad = tmp_path / "bad.json"
    if text is not None:
        bad.write_text(text)
    assert main([good, str(bad)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(bad) in line
    assert said in line


def test_another_machine_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = {**FPS, "machine": {**FPS["machine"], "cores": 64}}
    assert main(files(tmp_path, FPS, other)) == 0
    assert "not the same machine" in capsys.readouterr().err
