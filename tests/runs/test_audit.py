"""`jaxad audit`: exact rows equal results.json, two folders are compared, what lacks is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from configuring import configured
from conftest import files

from jaxad.core import InputError
from jaxad.data.pipeline import batches
from jaxad.data.synthetic import write_dataset
from jaxad.main import main
from jaxad.metrics.audit import audit as audit_arrays
from jaxad.runs import audit_photos
from jaxad.runs.audit import audit
from jaxad.runs.dataset import read_dataset
from jaxad.runs.train import train
from jaxad.runs.workdir import load
from jaxad.scorer import make_scorer


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One category with enough photos of each kind for intervals."""
    root = tmp_path_factory.mktemp("data") / "more"
    write_dataset(root, categories=("a",), n_train=4, n_test_good=6, n_test_bad=6, size=(40, 48))
    return root


@pytest.fixture(scope="module")
def two(more: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Work directories of these photos: one of two replicates, and one of another method."""
    root = tmp_path_factory.mktemp("two")
    train(configured(more, train__replicates=2, data__calibration=0.0), root / "one")
    train(configured(more, method__channels=2), root / "other")
    return root / "one", root / "other"


def exact(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        name: {row["key"]: row["value"] for row in rows if row["key"]}
        for name, rows in found["categories"].items()
    }


def figures(workdir: Path) -> dict[str, dict[str, Any]]:
    stored = json.loads((workdir / "results.json").read_text())["categories"]
    return {
        name: {key: value for key, value in own.items() if not key.startswith("n_")}
        for name, own in stored.items()
    }


def test_exact_rows_are_those_of_the_results(
    calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = Path(shutil.copytree(calibrated, tmp_path / "w"))
    before = files(workdir)
    assert main(["audit", f"--workdir={workdir}"]) == 0
    told = capsys.readouterr()
    assert "results.json has it" not in told.err
    found = json.loads((workdir / "audit.json").read_text())
    assert exact(found) == figures(workdir)
    assert list(found["categories"]) == ["a", "b"]
    for rows in found["categories"].values():
        for row in rows:
            assert (row["value"] is None) == bool(row["why"])
            assert row["convention"] in told.out
            assert row["low"] is None  # too few photos
    # "a" is calibrated, "b" is not.
    kinds = [
        {r["convention"]: r["why"] for r in rows if r["metric"] == "false alarms"}
        for rows in found["categories"].values()
    ]
    assert kinds == [
        {"conformal threshold, 10 % false alarms": ""},
        {"conformal threshold": "it has no calibration: jaxad calibrate"},
    ]
    after = files(workdir)
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == {"audit.json", "jaxad.json", "report/index.html"}
    page = (workdir / "report" / "index.html").read_text()
    assert "Audit: one detector, every convention" in page
    assert page.count("figures of one detector, from") == 2 * 2  # label and title of each plot
    assert "audit.json" in json.loads((workdir / "jaxad.json").read_text())["wrote"]


def test_two_folders_and_seeds_are_compared(
    two: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    before = files(other)
    command = ["audit", f"--workdir={one}", f"--against={other}", "--resamples=100"]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert files(other) == before
    found = json.loads((one / "audit.json").read_text())
    assert exact(found) == figures(one)
    rows = found["categories"]["a"]
    replicate = figures(one / "replicates" / "1")["a"]
    for row in rows:
        if row["key"]:
            assert row["low"] <= row["high"]
            both = [row["value"], replicate[row["key"]]]
            assert row["seeds"]["count"] == 2
            assert row["seeds"]["mean"] == pytest.approx(np.mean(both))
            assert row["seeds"]["sd"] == pytest.approx(np.std(both, ddof=1))
            assert row["seeds"]["best"] == max(both)
    assert "best seed" in told
    mine, theirs = figures(one)["a"], figures(other)["a"]
    for row in found["against"]["categories"]["a"]:
        assert row["value"] == mine[row["metric"]] - theirs[row["metric"]]
        assert row["low"] <= row["high"]
        assert 0 <= row["share"] <= 1
    assert f"less that of {other}" in told
    # Maps in a file instead of memory: the same rows, and nothing stays of it.
    monkeypatch.setattr(audit_photos, "MOST", 1)
    names = set(files(one))
    again = audit(one, against=other, resamples=100)
    assert "a file in" in capsys.readouterr().err
    assert again["categories"] == found["categories"]
    assert set(files(one)) == names


def test_arrays_give_the_rows_of_the_job(more: Path, two: tuple[Path, Path]) -> None:
    other = two[1]
    detector, variables, config = load(other)
    manifest = read_dataset(config).select(split="test")
    size = config.data.image_size
    own = detector.backbones["backbone"].preprocess.resize
    (batch,) = batches(manifest, image_size=size, batch_size=len(manifest), resample=own)
    scorer = make_scorer(detector, variables, batch_size=4, size=size)
    scored = [scorer.score(batch["image"][n : n + 4]) for n in (0, 4, 8)]
    maps, scores = (np.concatenate([np.asarray(each[k]) for each in scored]) for k in (0, 1))
    rows = audit_arrays(maps, batch["mask"], batch["label"], scores, resamples=50)
    job = audit(other, resamples=50)["categories"]["a"]
    names = [(row["metric"], row["convention"]) for row in rows]
    assert names == [(row["metric"], row["convention"]) for row in job[: len(rows)]]
    for row, own in zip(rows, job):
        if "bilinearly" not in row["convention"]:  # arrays come without such masks
            assert (row["value"], row["low"]) == (own["value"], own["low"])


def test_only_a_category_leaves_the_page_of_all(trained: Path) -> None:
    page = (trained / "report" / "index.html").read_bytes()
    found = audit(trained, category="b", resamples=0)
    assert list(found["categories"]) == ["b"]
    assert found["page"] == "part.html"
    assert (trained / "report" / "index.html").read_bytes() == page
    assert exact(found)["b"] == pytest.approx(figures(trained)["b"], abs=1e-6)


def test_a_figure_that_moved_is_said(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = json.loads((trained / "results.json").read_text())
    results["categories"]["a"]["image_auroc"] = 0.25
    (trained / "results.json").write_text(json.dumps(results))
    audit(trained, resamples=0)
    (line,) = [
        line for line in capsys.readouterr().err.splitlines() if "results.json has it" in line
    ]
    assert line.startswith("a: image_auroc is ")
    assert "not 0.25" in line
    assert json.loads((trained / "results.json").read_text()) == results


def test_what_can_not_be_audited_is_one_line(
    trained: Path, two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, _ = two
    cases = [
        (["--category=nothing"], "nothing"),
        (["--resamples=-1"], "--resamples"),
        ([f"--against={tmp_path / 'none'}"], "train first"),
        ([f"--against={one}"], "is judged on other photos"),
        (["--config.train.epochs=3"], "belongs to the training"),
    ]
    before = files(trained)
    for arguments, said in cases:
        assert main(["audit", f"--workdir={trained}", *arguments]) == 2, arguments
        assert said in capsys.readouterr().err.splitlines()[-1]
    assert files(trained) == before
    shutil.rmtree(trained / "checkpoints")
    assert main(["audit", f"--workdir={trained}"]) == 2
    assert "no trained detector" in capsys.readouterr().err
    with pytest.raises(InputError, match="no folder"):
        audit(tmp_path / "none")


def test_photos_without_masks_have_image_figures_alone(tmp_path: Path, more: Path) -> None:
    root = Path(shutil.copytree(more, tmp_path / "data"))
    shutil.rmtree(root / "a" / "ground_truth")
    train(configured(root), tmp_path / "w")
    rows = audit(tmp_path / "w", resamples=20)["categories"]["a"]
    for row in rows:
        pixel = row["metric"].startswith(("pixel", "AUP"))
        if pixel:
            assert row["why"].startswith("needs masks")
        elif row["key"]:
            assert row["low"] is not None
