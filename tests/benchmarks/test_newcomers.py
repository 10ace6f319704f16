"""A subclass is made known by some of its good photos, and judged by the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.ablation import prepare
from benchmarks.newcomers import ROWS, run_row, table
from configs import adapted_moe_ablation
from jaxad.core import InputError
from jaxad.data.synthetic import write_dataset


def small(row: str, root: Path) -> Any:
    """A row on synthetic parts: two categories are the subclasses of one detector."""
    config = adapted_moe_ablation.get_config(row)
    config.data.layout, config.data.root, config.data.image_size = "mvtec_ad", str(root), (32, 32)
    config.data.train_subclasses = config.data.test_subclasses = ""
    config.data.one_for_all, config.score.batch_size = True, 4
    own = config.method.get("expert", config.method)
    own.random_weights, own.share, own.reweighting = True, 0.3, 0
    if row == "moe-bank":
        config.method.router_width, config.train.steps, config.train.batch_size = 4, (2,), 4
    return config


def test_others_than_the_new_photos_are_judged(tmp_path: Path, capsys: Any) -> None:
    write_dataset(
        tmp_path, categories=("a", "b"), n_train=3, n_test_good=3, n_test_bad=3, size=(32, 32)
    )
    data = prepare(small("patchcore", tmp_path))
    found: dict[str, Any] = {}
    for name in ROWS:
        found |= run_row(small(name, tmp_path), data, (0, 2), 0)
    assert list(found) == ["patchcore", "moe-bank", "added"]
    for row in found.values():
        for k in (0, 2):
            assert [each["n_test"] for each in row[k]["categories"].values()] == [4, 4]
    assert found["added"][0] == found["moe-bank"][0]  # nothing is known yet
    assert found["added"][2] != found["moe-bank"][2]
    assert found["patchcore"][2] != found["patchcore"][0]
    assert f" of {2 * 16} patches" in capsys.readouterr().err  # of both new photos alone
    lines = table({name: {k: [each] for k, each in row.items()} for name, row in found.items()})
    assert lines.count("\n| added |") == 2
    with pytest.raises(InputError, match="a has 3 good photos: ask for fewer"):
        run_row(small("patchcore", tmp_path), data, (3,), 0)
