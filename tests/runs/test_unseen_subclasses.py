"""A run on unseen subclasses, from photos in the layout of Texture-AD to results and report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from configuring import configured

from jaxad.config import load_config
from jaxad.data.synthetic import write_dataset
from jaxad.runs.dataset import jobs_of, read_dataset
from jaxad.runs.train import train


def test_each_unseen_subclass_has_its_results(tmp_path: Path) -> None:
    root = tmp_path / "textures"
    write_dataset(
        root,
        layout="texture_ad",
        categories=("cloth",),
        subclasses=("1", "2", "3", "4"),
        n_train=2,
        n_test_good=2,
        n_test_bad=2,
        size=(48, 48),
    )
    config = configured(root, data__layout="texture_ad")
    config.data.train_subclasses, config.data.test_subclasses = "1,2", "3,4"
    results = train(config, tmp_path / "w")
    assert list(results["categories"]) == ["cloth-3", "cloth-4"]
    for metrics in results["categories"].values():
        assert (metrics["n_train"], metrics["n_test"]) == (4, 4)
    each = [metrics["image_auroc"] for metrics in results["categories"].values()]
    assert results["mean"]["image_auroc"] == pytest.approx(sum(each) / 2)
    assert [path.name for path in (tmp_path / "w" / "checkpoints").iterdir()] == ["cloth"]
    page = (tmp_path / "w" / "report" / "index.html").read_text()
    assert re.search(r'id="category-2" class="category">\s*<h2>cloth-4</h2>', page)
    kept, _ = load_config(tmp_path / "w" / "config.json")
    assert [list(job.test) for job in jobs_of(read_dataset(kept), kept)] == [["cloth-3", "cloth-4"]]
    assert json.loads((tmp_path / "w" / "results.json").read_text())["mean"] == results["mean"]
