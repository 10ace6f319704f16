"""The plot shows every detector in its colour, and bad files are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

from benchmarks.plots import COLOURS, around, draw, draw_pareto, main, powers
from jaxad.errors import InputError

PEAKS = {"float32": {"gflops": 1000.0, "gbyte_per_second": 20.0}}
NAMES = ("pfm", "afrad", "simplenet")
MEASURED = [
    {
        **{"name": name, "batch": batch, "dtype": "float32", "fps": 10.0 * (1 + n) * batch},
        **{"gflop_per_image": 5.0, "gbyte_per_image": 0.2 / batch},
    }
    for n, name in enumerate(NAMES)
    for batch in (1, 8)
]
SKIPPED = {"name": "b_pfm", "batch": 1, "dtype": "float32", "skipped": "memory"}


def pixels(image: Image.Image, colour: str) -> np.ndarray[Any, Any]:
    """(row, column) of the pixels of a colour."""
    return np.argwhere((np.asarray(image) == ImageColor.getrgb(colour)).all(axis=-1))


def test_each_detector_is_in_both_panels_in_its_colour() -> None:
    image = draw([*MEASURED, SKIPPED], PEAKS, "here")
    for colour in COLOURS[: len(NAMES)]:
        columns = pixels(image, colour)[:, 1]
        assert (columns < 520).sum() > 25
        assert ((columns > 600) & (columns < 1050)).sum() > 10
        assert (columns > 1080).sum() > 50  # the legend
    assert not len(pixels(image, COLOURS[len(NAMES)]))  # what was skipped is not drawn


def test_faster_is_higher_and_larger_batches_are_to_the_right() -> None:
    image = draw(MEASURED, PEAKS, "here")
    heights = []
    for colour in COLOURS[: len(NAMES)]:
        found = pixels(image, colour)
        found = found[found[:, 1] < 520]
        left, right = found[found[:, 1].argmin()], found[found[:, 1].argmax()]
        assert right[0] < left[0]
        heights.append(right[0])
    assert heights == sorted(heights, reverse=True)


def test_without_counts_of_work_there_is_no_roofline() -> None:
    bare = [{k: row[k] for k in ("name", "batch", "dtype", "fps")} for row in MEASURED]
    image = draw(bare, {}, "here")
    columns = pixels(image, COLOURS[0])[:, 1]
    assert not ((columns > 600) & (columns < 1050)).any()
    with pytest.raises(InputError, match="nothing to draw"):
        draw([SKIPPED], PEAKS, "here")


def test_ranges() -> None:
    assert around([3.0, 400.0], 10) == (1.0, 1000.0)
    assert around([8], 2) == (8.0, 16.0)
    assert powers((1.0, 1000.0), 10) == [1.0, 10.0, 100.0, 1000.0]


def points(*each: tuple[float, float, bool]) -> list[dict[str, Any]]:
    """Rows of `pareto`: (fps, metric of both data sets, whether another beats it)."""
    return [
        {
            **{"name": "", "fps": fps, "beaten": beaten},
            "metrics": {"bottle": {"auroc": value + 0.01}, "tile": {"auroc": value - 0.01}},
        }
        for fps, value, beaten in each
    ]


def test_a_faster_point_is_to_the_right_a_better_one_higher_a_beaten_one_open() -> None:
    def centre(*point: Any) -> tuple[np.ndarray[Any, Any], int]:
        others = points((4.0, 0.8, True), (16.0, 0.9, True))
        found = pixels(draw_pareto([*points(point), *others], "here"), COLOURS[0])
        other = pixels(draw_pareto(others, "here"), COLOURS[0])
        new = np.array([x for x in found.tolist() if x not in other.tolist()])
        return new.mean(axis=0), len(new)

    slow, fast, good = centre(5, 0.85, False), centre(9, 0.85, False), centre(5, 0.88, False)
    assert fast[0][1] > slow[0][1] + 20
    assert good[0][0] < slow[0][0] - 20
    assert centre(5, 0.85, True)[1] < slow[1]
    with pytest.raises(InputError, match="nothing to draw"):
        draw_pareto([{"name": "a", "metrics": {}}], "here")


@pytest.mark.parametrize("alone", [True, False])
def test_the_program_writes_a_png(tmp_path: Path, alone: bool) -> None:
    fps = {"benchmark": "fps", "machine": {"device": "cpu"}, "peaks": PEAKS, "rows": MEASURED}
    tree = fps if alone else {"machine": {"device": "cpu"}, "benchmarks": {"fps": fps}}
    (tmp_path / "fps.json").write_text(json.dumps(tree))
    out = tmp_path / "fps.png"
    assert main([str(tmp_path / "fps.json"), "--out", str(out)]) == 0
    with Image.open(out) as image:
        assert image.format == "PNG"
        assert image.size == (1240, 500)


def test_the_program_draws_pareto_too(tmp_path: Path) -> None:
    tree = {"benchmark": "pareto", "machine": {}, "rows": points((4.0, 0.8, False))}
    (tmp_path / "pareto.json").write_text(json.dumps(tree))
    assert main([str(tmp_path / "pareto.json"), "--out", str(tmp_path / "pareto.png")]) == 0
    with Image.open(tmp_path / "pareto.png") as image:
        assert image.format == "PNG"


@pytest.mark.parametrize("tree", [{"benchmarks": {}}, {"benchmark": "fps", "rows": [SKIPPED]}])
def test_a_file_without_rates_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tree: Any
) -> None:
    (tmp_path / "x.json").write_text(json.dumps(tree))
    assert main([str(tmp_path / "x.json"), "--out", str(tmp_path / "x.png")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "x.png").exists()
