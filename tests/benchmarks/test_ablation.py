"""AFRAD's ablation: every row is a program that runs, and the table says what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.ablation import Data, line, prepare, run_row
from configs.afrad_ablation import ROWS, get_config
from jaxad.data.synthetic import write_dataset


def small(row: str, root: Path) -> Any:
    """A row on synthetic parts: the same decoders, on ResNet-18's stages and 4 x 4 tokens."""
    config = get_config(f"{row}-small")
    config.data.root, config.data.image_size = str(root), (64, 64)
    m, train = config.method, config.train
    m.backbone, m.random_weights = "resnet18", True
    m.levels = ("layer1", "layer2", "layer3", "layer4")
    m.width, m.decoder_width, m.local_kernels = (4, 4, 4, 4), 8, (3,)  # others compile for long
    train.steps, train.batch_size, config.score.batch_size = (2,), 2, 4
    return config


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Data]:
    root = tmp_path_factory.mktemp("data") / "parts"
    write_dataset(
        root, categories=("a", "b"), n_train=3, n_test_good=2, n_test_bad=3, size=(64, 64), seed=0
    )
    return root, prepare(small("table5-row5", root))


def test_features_of_the_test_images_are_all_there(data: tuple[Path, Data]) -> None:
    test = data[1].test
    assert list(test) == ["a", "b"]
    for one in test.values():
        assert one.labels.tolist().count(1) == 3
        assert one.masks[one.labels == 1].any(axis=(1, 2)).all()
        assert all(len(x) == 5 and np.isfinite(x).all() for x in one.found.values())


def test_a_row_is_measured_for_every_seed(data: tuple[Path, Data]) -> None:
    root, shared = data
    row = run_row(small("table5-row5", root), shared, [0, 1])
    assert len(row["seeds"]) == 2
    assert row["seeds"][0] != row["seeds"][1]
    for seed in row["seeds"]:
        assert seed["mean"]["pixel_auroc"] == pytest.approx(
            np.mean([c["pixel_auroc"] for c in seed["categories"].values()])
        )
    again = run_row(small("table5-row5", root), shared, [1])
    assert again["seeds"][0] == row["seeds"][1]  # a seed's result does not depend on the others
    cells = [cell.strip() for cell in line("full", row).strip("|").split("|")]
    assert cells[0] == "full"
    scores = [seed["mean"]["image_auroc"] for seed in row["seeds"]]
    assert cells[1] == f"{np.mean(scores):.4f} ± {np.std(scores, ddof=1):.4f}"
    assert len(cells) == 1 + 3 + 2 + 2


@pytest.mark.parametrize("row", ["table5-row4", "grid-32"])
def test_rows_that_change_the_program_run(row: str, data: tuple[Path, Data]) -> None:
    root, shared = data
    found = run_row(small(row, root), shared, [0])
    assert 0 <= found["seeds"][0]["mean"]["aupro_0.30"] <= 1


def test_every_row_changes_what_it_says() -> None:
    for row, changes in ROWS.items():
        for size in ("", "-fast", "-small"):
            if row.startswith("grid") and not size:
                with pytest.raises(ValueError, match=f"use {row}-fast"):
                    get_config(row)
                continue
            method = get_config(row + size).method
            assert {key: method[key] for key in changes} == changes
    with pytest.raises(ValueError, match="rows are table5-row1"):
        get_config("table8-row1")
