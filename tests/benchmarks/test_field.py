"""The field's cells are measured once, on features that are shared, and stand in one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import accuracy, field
from benchmarks.field import METHODS, SETS, joined, known, main, points, table
from benchmarks.field_pass import ROUNDS, Entry, groups, subject
from jaxad.config import parse_config
from jaxad.core import InputError
from jaxad.data.synthetic import write_dataset

SMALL = ("method.random_weights=True", "method.backbone=resnet18", "data.image_size=(64,64)")
SPADE, PADIM = "configs/spade.py:resnet18", "configs/padim.py"
TINY = {
    "padim": Entry(PADIM, (*SMALL, "method.levels=layer1", "method.dimensions=4")),
    "spade": Entry(
        SPADE,
        (*SMALL, "method.levels=layer1", "method.pooled=layer2", "method.neighbours=2"),
        drawn=False,
    ),
    "judge": Entry(
        SPADE,
        (*SMALL, "method.levels=()", "method.pooled=layer1", "method.neighbours=2"),
        drawn=False,
        maps=False,
    ),
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    write_dataset(root, categories=("x",), n_train=4, n_test_good=3, n_test_bad=6, size=(64, 64))
    return root


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = {
        "there": {"data.root": "{data}", "data.categories": "x"},
        "gone": {"data.root": "{data}/gone"},
    }
    for name, value in (("METHODS", TINY), ("SETS", sets)):
        monkeypatch.setattr(field, name, value)


def cell(*image: float, fps: float = 8.0, pixel: float | None = 0.9) -> dict[str, Any]:
    return {
        "config": PADIM,
        "changes": [],
        "metrics": [
            {"image_auroc": v, "pixel_auroc": pixel, "aupro_0.30": pixel and pixel - 0.1}
            for v in image
        ],
        "seconds": {"features": 12.3, "train": [5.0] * len(image)},
        "cpu": {"features": 9.1, "train": [4.0] * len(image), "image": [0.2, 0.1, 0.3]},
        "images_per_second": [fps, 2 * fps, 0.1],
        "megabyte": 45.4,
        "n_train": 209,
        "n_test": 83,
        "machine": {"date": "2026-11-29", "device": "cpu", "load": 1.5},
    }


def test_methods_that_read_the_same_share_a_pass(parts: Path) -> None:
    changes = [f"--config.data.root={parts}"]
    own = {name: subject(name, entry, changes, range(1)) for name, entry in TINY.items()}
    other = Entry(PADIM, (*SMALL, "method.levels=layer1", "data.image_size=(32,32)"))
    own["small"] = subject("small", other, changes, range(1))
    found = [[each.name for each in group] for group in groups([*own.values()])]
    assert found == [["spade", "padim", "judge"], ["small"]]


def test_cells_are_measured_once(
    parts: Path, tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    file = tmp_path / "field.json"
    asked = ["--suite", "field", "--data", str(parts), "--json", str(file)]
    assert accuracy.main([*asked, "--seeds", "1"]) == 0
    told = capsys.readouterr()
    assert "gone is left out" in told.err
    rows = {row["name"]: row for row in json.loads(file.read_text())["rows"]}
    assert list(rows) == list(TINY)
    assert str(parts) not in file.read_text()
    for name, row in rows.items():
        assert row["data"] == "there"
        assert f"| {name} |" in told.out
        assert (row["n_train"], row["n_test"], len(row["metrics"])) == (4, 9, 1)
        assert len(row["images_per_second"]) == ROUNDS
        assert (row["metrics"][0]["pixel_auroc"] is None) == (name == "judge")
        assert 0 <= row["metrics"][0]["image_auroc"] <= 1
    # Alone on features of its own, the second seed beside the first.
    alone = tmp_path / "alone.json"
    again = ["--data", str(parts), "--methods", "padim", "--sets", "there", "--seeds", "2"]
    assert main([*again, "--json", str(alone)]) == 0
    assert main([*again, "--json", str(file)]) == 0
    found = [known(one)["there", "padim"]["metrics"] for one in (alone, file)]
    for seeds in found:
        assert len(seeds) == 2
    for one, other in zip(*found):
        assert one == pytest.approx(other, abs=1e-4)
    assert found[0][0] != found[0][1]

    def no(*_: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(field, "measure", no)
    assert main([*again, "--json", str(file)]) == 0


def test_a_set_that_is_named_has_to_be_there(parts: Path, tiny: None, capsys: Any) -> None:
    assert main(["--data", str(parts), "--sets", "gone", "--seeds", "1"]) == 2
    assert "gone: no such folder" in capsys.readouterr().err


def test_a_table_has_means_and_deviations_of_seeds() -> None:
    rows = {
        ("bottle", "spade"): cell(0.9712),
        ("bottle", "padim"): cell(0.99, 1.0),
        ("tiles", "nearest"): cell(0.8, pixel=None),
    }
    first, second = table(rows).split("tiles: ")
    assert first.splitlines()[0] == "bottle: 209 photos learnt, 83 judged"
    rest = " | 8 | 0.200 | 12 + 5 | 9 + 4 | 45 |"
    assert first.splitlines()[4:6] == [
        "| padim | .9950 ± .0071 | .9000 ± .0000 | .8000 ± .0000 | 2" + rest,
        "| spade | .9712 | .9000 | .8000 | nothing drawn" + rest,
    ]
    assert "| nearest | .8000 | – | – | nothing drawn" + rest in second


def test_seeds_of_two_sittings_stand_in_one_cell() -> None:
    both = joined(cell(0.9, fps=1.0), cell(0.8, 0.7))
    assert [one["image_auroc"] for one in both["metrics"]] == [0.9, 0.8, 0.7]
    assert len(both["seconds"]["train"]) == len(both["cpu"]["train"]) == 3
    assert both["images_per_second"][0] == 8.0


def test_what_is_configured_otherwise_now_is_measured_anew(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "f.json"
    rows = [{"name": name, "data": "bottle", **cell(0.9)} for name in ("padim", "spade", "gone")]
    file.write_text(json.dumps({"benchmark": "field", "rows": rows}))
    assert set(known(file)) == {("bottle", "padim")}
    assert capsys.readouterr().err.count("configured otherwise") == 2
    assert known(None) == known(tmp_path / "absent.json") == {}
    file.write_text(json.dumps({"benchmark": "fps", "rows": []}))
    with pytest.raises(InputError, match="not a file of --suite field"):
        known(file)


def test_methods_with_a_map_on_every_set_are_drawn(tmp_path: Path) -> None:
    rows = {
        ("bottle", "padim"): cell(0.9, 1.0, fps=2.0),
        ("tiles", "padim"): cell(0.9, fps=8.0),
        ("bottle", "spade"): cell(0.9, fps=1.0),
        ("tiles", "spade"): cell(0.9, fps=1.0),
        ("bottle", "mb_pfm_lite"): cell(0.9),
        ("bottle", "nearest"): cell(0.9, pixel=None),
    }
    found = points(rows)
    assert [(row["name"], row["beaten"]) for row in found] == [("padim", False), ("spade", True)]
    assert found[0]["fps"] == pytest.approx(4.0)
    assert found[0]["metrics"]["bottle"]["image_auroc"] == pytest.approx(0.95)
    field.plot(rows, tmp_path / "field.png")
    with Image.open(tmp_path / "field.png") as image:
        assert image.size[0] > 500
    with pytest.raises(InputError, match="nothing to draw"):
        field.plot({}, tmp_path / "none.png")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_configuration(name: str) -> None:
    entry = METHODS[name]
    config = parse_config(["--config", entry.config, *(f"--config.{c}" for c in entry.changes)])
    assert config.method.name
    assert set(SETS) == {"bottle", "tiles", "elpv_mono", "elpv_poly", "deep_pcb"}
