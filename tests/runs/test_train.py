"""Training by the job: what is compiled, what is written, and by which names."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from configuring import configured
from conftest import Jaxad, files, untimed
from PIL import Image

from jaxad.core import InputError
from jaxad.data.synthetic import write_dataset
from jaxad.runs.evaluate import evaluate
from jaxad.runs.programs import counted_programs
from jaxad.runs.train import train
from jaxad.runs.workdir import load

TIMES = ("seconds", "images_per_second")


def log_of(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "train.jsonl").read_text().splitlines()]


def test_two_categories_compile_no_more_than_one(parts: Path, tmp_path: Path, jaxad: Jaxad) -> None:
    """In processes of their own, that have compiled nothing before."""
    config = tmp_path / "c.py"
    config.write_text(
        "from configuring import configured\n"
        f"def get_config():\n    return configured({str(parts)!r})"
    )
    counts = []
    for names in ("a", "a,b"):
        ran = jaxad(
            "train",
            f"--workdir={tmp_path / names}",
            f"--config={config}",
            f"--config.data.categories={names}",
        )
        assert ran.returncode == 0, ran.stderr
        (said,) = re.findall(r"^(\d+) programs compiled in [\d.]+ s$", ran.stderr, re.MULTILINE)
        counts.append(int(said))
    assert 0 < counts[1] <= counts[0]


def test_programs_are_counted_by_their_names() -> None:
    def one_of_a_kind(x: Any) -> Any:
        return x + 3

    with counted_programs() as programs:
        jax.jit(one_of_a_kind)(np.ones(7, np.float32))
        jax.jit(one_of_a_kind)(np.ones(9, np.float32))
    before = programs.names.total()
    assert programs.names["jit(one_of_a_kind)"] == 2
    assert programs.seconds > 0
    jax.jit(one_of_a_kind)(np.ones(11, np.float32))
    assert programs.names.total() == before  # it has stopped listening


@pytest.mark.parametrize("place", ["off", "host", "device"])
def test_detector_after_detector_and_replicate_after_replicate(
    place: str, parts: Path, tmp_path: Path
) -> None:
    """Every cache trains all of them: the frozen networks outlive the first one's steps."""
    config = configured(parts, train__feature_cache=place, train__replicates=2)
    config.method.random_weights = False
    results = train(config, tmp_path / "w")
    assert list(results["categories"]) == ["a", "b"]
    assert results["replicates"]["count"] == 2
    config.train.seed, config.train.replicates = config.train.seed + 1, 1
    config.data.categories = "b"
    alone = train(config, tmp_path / "alone")
    second = json.loads((tmp_path / "w" / "replicates" / "1" / "results.json").read_text())
    assert alone["categories"]["b"] == second["categories"]["b"]
    both = [results["mean"]["pixel_auroc"], second["mean"]["pixel_auroc"]]
    assert both[0] != both[1]
    found = results["replicates"]["mean"]["pixel_auroc"]
    assert found["mean"] == pytest.approx(np.mean(both))
    assert found["sd"] == pytest.approx(np.std(both, ddof=1))
    again = evaluate(tmp_path / "w")
    assert {**again, "seconds": 0, "images_per_second": 0} == {
        **results,
        "seconds": 0,
        "images_per_second": 0,
    }


def test_same_seed_gives_the_same_results_and_another_seed_others(
    parts: Path, trained_once: Path, tmp_path: Path
) -> None:
    before = json.loads((trained_once / "results.json").read_text())
    again = train(configured(parts), tmp_path / "w")
    assert again["categories"] == before["categories"]
    assert untimed(tmp_path / "w" / "train.jsonl") == untimed(trained_once / "train.jsonl")
    train(configured(parts, train__seed=1), tmp_path / "w", overwrite=True)
    assert untimed(tmp_path / "w" / "train.jsonl") != untimed(trained_once / "train.jsonl")


@pytest.mark.parametrize("place", ["host", "device", "off"])
@pytest.mark.parametrize("steps", [(2,), ()])
def test_every_cache_and_kind_of_batch_trains(
    place: str, steps: tuple[int, ...], parts: Path, tmp_path: Path
) -> None:
    config = configured(parts, data__categories="a", train__feature_cache=place)
    config.train.steps, config.train.positions = steps, (16,) if steps else ()
    config.train.parallel = "jit" if place == "device" else "pmap"
    config.train.epochs = 2
    results = train(config, tmp_path)
    assert results["mean"]["image_auroc"] is not None
    assert log_of(tmp_path)[-1]["step"] == (2 if steps else 4)  # twice five images, by four


@pytest.mark.parametrize(("parallel", "positions"), [("pmap", (16,)), ("jit", ())])
def test_host_and_device_cache_are_the_same_training(
    parallel: str,
    positions: tuple[int, ...],
    parts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jaxad.training.phases.BLOCK", 2)  # the third step is a block of its own
    losses, scores = [], []
    for place in ("host", "device"):
        config = configured(parts, data__categories="a", train__feature_cache=place)
        config.train.parallel, config.train.log_every = parallel, 1
        config.train.steps, config.train.positions = (3,), positions
        scores.append(train(config, tmp_path / place)["mean"])
        losses.append([line["loss"] for line in log_of(tmp_path / place) if "loss" in line])
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)


def test_a_cache_of_half_the_memory_trains_nearly_the_same(parts: Path, tmp_path: Path) -> None:
    losses = []
    for dtype in ("float32", "float16"):
        config = configured(parts, data__categories="a", train__cache_dtype=dtype)
        train(config, tmp_path / dtype)
        losses.append(log_of(tmp_path / dtype)[-1]["loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_one_detector_for_all_categories(parts: Path, tmp_path: Path) -> None:
    config = configured(parts, data__one_for_all=True, train__sampling="balanced")
    results = train(config, tmp_path)
    assert list(results["categories"]) == ["a", "b"]
    assert [c["n_train"] for c in results["categories"].values()] == [5, 5]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["all"]


def test_results_are_of_every_detector(trained_once: Path) -> None:
    results = json.loads((trained_once / "results.json").read_text())
    assert list(results["categories"]) == ["a", "b"]
    assert list(results) == [
        *("method", "dataset", "categories", "mean", "seconds", "images_per_second"),
        *("environment", "decisions"),
    ]
    both = [results["categories"][name]["image_auroc"] for name in ("a", "b")]
    assert results["mean"]["image_auroc"] == pytest.approx(np.mean(both))
    page = (trained_once / "report" / "index.html").read_text()
    assert all(f"<h2>{name}</h2>" in page for name in ("a", "b"))
    listed = json.loads((trained_once / "jaxad.json").read_text())["wrote"]
    assert sorted(listed) == [
        *("checkpoints/a/", "checkpoints/b/", "config.json", "data.json", "report/index.html"),
        *("results.json", "train.jsonl"),
    ]
    assert [line.get("detector") for line in log_of(trained_once)] == [None, *"aaa", *"bbb"]


def test_a_new_run_has_nothing_of_the_old_one(parts: Path, trained: Path) -> None:
    train(configured(parts, data__categories="b"), trained, overwrite=True)
    assert [path.name for path in (trained / "checkpoints").iterdir()] == ["b"]
    assert list(json.loads((trained / "results.json").read_text())["categories"]) == ["b"]
    assert {line.get("detector") for line in log_of(trained)} == {None, "b"}


def test_a_run_that_was_killed_before_it_had_anything_gives_way_to_another(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("jaxad.training.fit.Trainer.fit", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(configured(parts), tmp_path)
    assert (tmp_path / "config.json").exists()
    train(configured(parts, data__categories="a"), tmp_path)
    assert len(load(tmp_path)) == 3
    with pytest.raises(InputError, match="holds a run"):
        train(configured(parts), tmp_path)


@pytest.mark.skipif(os.fsencode("\udce9") != b"\xe9", reason="names are bytes on this system")
def test_names_with_bytes_that_are_no_text(tmp_path: Path) -> None:
    """Of a defect: trained, measured, shown. Of a category: one line, before all work."""
    root = tmp_path / "parts"
    write_dataset(root, categories=("a",), n_train=4, n_test_good=2, n_test_bad=2, size=(32, 32))
    defect = next(p for p in sorted((root / "a" / "test").iterdir()) if p.name != "good")
    for folder in (root / "a" / "test", root / "a" / "ground_truth"):
        (folder / defect.name).rename(folder / os.fsdecode(b"caf\xe9"))
    results = train(configured(root), tmp_path / "w")
    assert results["categories"]["a"]["n_test"] == 4
    again = evaluate(tmp_path / "w")
    assert again["categories"] == results["categories"]
    page = (tmp_path / "w" / "report" / "index.html").read_bytes()
    assert b"caf\\udce9" in page
    for name in (os.fsdecode(b"caf\xe9"), "a\nb", "a\x1b[31m"):
        (root / "a").rename(root / name)
        with pytest.raises(InputError, match="can not name a folder: rename it"):
            train(configured(root), tmp_path / "other")
        (root / name).rename(root / "a")
    assert not (tmp_path / "other").exists()
    # Checkpoints can not be written to such a folder: found before all work.
    with pytest.raises(InputError, match="bytes in its name that are no UTF-8: choose another"):
        train(configured(root), tmp_path / os.fsdecode(b"w\xe9"))
    assert not (tmp_path / os.fsdecode(b"w\xe9")).exists()


@pytest.fixture
def own_parts(parts: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(parts, tmp_path / "parts"))


def test_a_corrupt_photo_is_named(own_parts: Path, tmp_path: Path) -> None:
    victim = sorted((own_parts / "a" / "train" / "good").iterdir())[3]
    victim.write_bytes(victim.read_bytes()[:200])
    with pytest.raises(InputError, match=victim.name):
        train(configured(own_parts), tmp_path / "w")


def test_training_that_diverges_is_one_line(parts: Path, tmp_path: Path) -> None:
    config = configured(parts, data__categories="a", method__learning_rate=1e30)
    with pytest.raises(InputError, match="training diverged: the loss of phase 'all' is inf"):
        train(config, tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_a_mask_of_another_size_is_named(own_parts: Path, tmp_path: Path) -> None:
    mask = next(iter(sorted(own_parts.glob("a/ground_truth/*/*.png"))))
    Image.open(mask).resize((20, 20)).save(mask)
    # Found in the headers, before anything is computed or written.
    with pytest.raises(InputError, match=mask.name):
        train(configured(own_parts), tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_missing_masks_are_counted_and_left_out_of_pixel_metrics(
    own_parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = sorted(own_parts.glob("a/ground_truth/*/*.png"))
    masks[0].unlink()
    config = configured(own_parts, data__categories="a")
    assert train(config, tmp_path / "w")["mean"]["pixel_auroc"] is not None
    assert "a: 1 of 3 defective images have no mask" in capsys.readouterr().err
    for mask in masks[1:]:
        mask.unlink()
    metrics = evaluate(tmp_path / "w")["categories"]["a"]
    assert metrics["image_auroc"] is not None
    assert metrics["pixel_auroc"] is None


def test_a_work_directory_that_is_a_file(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/w", "x" * 300):
        for job in (
            lambda w: train(configured(parts), w),
            evaluate,
            load,
        ):
            with pytest.raises(InputError):
                job(tmp_path / place)
    assert files(tmp_path) == {"file": b"mine"}


def test_a_line_says_how_training_goes(parts: Path, tmp_path: Path) -> None:
    config = configured(parts, data__categories="a", train__epochs=4, train__holdout=0.2)
    config.train.log_every = 2
    train(config, tmp_path)
    *_, line, last = log_of(tmp_path)
    assert set(line) == {
        *("detector", "phase", "step", "steps", "loss", "gradient_norm", "holdout"),
        *("steps_per_second", "images_per_second", "memory_peak_bytes"),
    }  # the tiny recipe tells no learning rate
    assert (line["step"], last["step"], last["steps"]) == (2, 4, 4)
    assert line["images_per_second"] == pytest.approx(4 * line["steps_per_second"])
    assert 10**7 < line["memory_peak_bytes"] < 10**12
    assert line["gradient_norm"] > 0


def test_steps_are_traced_into_a_folder_that_overwrite_clears(parts: Path, tmp_path: Path) -> None:
    config = configured(parts, train__epochs=2, train__profile=(2, 2))
    train(config, tmp_path)
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert "profile/" in json.loads((tmp_path / "jaxad.json").read_text())["wrote"]
    train(configured(parts, data__categories="a"), tmp_path, overwrite=True)
    assert not trace.exists()
    (tmp_path / "other" / "profile").mkdir(parents=True)
    with pytest.raises(InputError, match="profile is there and was not written by a jaxad run"):
        train(config, tmp_path / "other")


@pytest.mark.parametrize("changes", [{"train__accumulate": 2}, {"train__dtype": "bfloat16"}])
@pytest.mark.parametrize("place", ["host", "off"])
def test_parts_and_half_precision_train_nearly_the_same(
    changes: dict[str, Any], place: str, parts: Path, tmp_path: Path
) -> None:
    losses = []
    for n, more in enumerate(({}, changes)):
        config = configured(parts, data__categories="a", train__feature_cache=place, **more)
        config.train.batch_size = 8
        train(config, tmp_path / str(n))
        losses.append(log_of(tmp_path / str(n))[-1]["loss"])
    half = "train__dtype" in changes
    assert losses[1] == pytest.approx(losses[0], rel=2e-2 if half else 1e-5)
    assert (losses[0] != losses[1]) or not half
