"""Settings are chosen by what is held out of training, and by no test photo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import choose
from jaxad.data.jobs import Job
from jaxad.data.manifest import Record
from jaxad.data.reading import Reading
from jaxad.data.synthetic import write_dataset
from jaxad.errors import InputError


def rows(**values: list[float]) -> Any:
    return {
        name: {str(n): {"image_auroc": v, "pixel_auroc": v} for n, v in enumerate(own)}
        for name, own in values.items()
    }


def test_the_best_is_chosen_unless_an_earlier_one_is_as_good() -> None:
    assert choose.chosen(rows(simple=[0.5, 0.6, 0.7], better=[0.6, 0.7, 0.8])) == "better"
    # By less than a standard error of the parts' differences.
    assert choose.chosen(rows(simple=[0.5, 0.6, 0.7], luck=[0.4, 0.6, 0.9])) == "simple"
    assert choose.chosen(rows(best=[0.9, 0.9], other=[0.8, 0.8])) == "best"
    assert choose.chosen(rows(one=[0.5], two=[0.6])) == "two"


def records(kinds: list[str]) -> tuple[Record, ...]:
    return tuple(Record(f"{n}.png", "c", kind, "train", "good", "") for n, kind in enumerate(kinds))


def test_parts_are_subclasses_or_shares() -> None:
    found = choose.parts(Job("c", records(["b", "a", "b"]), {}), 5)
    assert {name: own.tolist() for name, own in found.items()} == {"a": [1], "b": [0, 2]}
    found = choose.parts(Job("c", records([""] * 7), {}), 3)
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(7))
    assert sorted(len(own) for own in found.values()) == [2, 2, 3]
    with pytest.raises(InputError, match="2 training photos can not make 3 parts"):
        choose.parts(Job("c", records([""] * 2), {}), 3)


def test_settings_have_names_of_their_own() -> None:
    assert choose.settings(["a: x.y=1 x.z=(1,2)", "b:", "c: config=nearest x.y=1"]) == {
        "a": (None, ["--config.x.y=1", "--config.x.z=(1,2)"]),
        "b": (None, []),
        "c": ("nearest", ["--config.x.y=1"]),
    }
    for wrong in (["x.y=1"], [": x=1"], ["a: x=1", "a: x=2"]):
        with pytest.raises(InputError, match="a name of its own"):
            choose.settings(wrong)


def test_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Left-out photos alone are judged, and each without having been trained on."""
    write_dataset(tmp_path / "data", categories=["washer"], n_train=8, size=(64, 64))
    trained: list[set[str]] = []
    own = choose.Trainer.fit

    def fit(self: Any, job: Job, *args: Any, **kwargs: Any) -> Any:
        assert len(next(iter(kwargs["cache"].values()))) == len(job.train)
        trained.append({record.path for record in job.train})
        return own(self, job, *args, **kwargs)

    monkeypatch.setattr(choose.Trainer, "fit", fit)
    small = {
        "data.root": tmp_path / "data", "data.image_size": "64,64", "data.calibration": 0,
        "score.batch_size": 8,
    }  # fmt: skip
    out = tmp_path / "choice.json"
    argv = ["choose", "--config", "configs/simplenet_fast.py", "--folds", "2", "--seeds", "1"]
    argv += [f"--config.{key}={value}" for key, value in small.items()]
    small_simplenet = (
        "method.backbone=resnet18 method.random_weights=True method.embedding=16 method.hidden=8 "
        "train.steps=2, train.positions=16,"
    )
    other = "config=patchcore:resnet18 method.share=0.1 method.random_weights=True"
    argv += ["--try", f"one: {small_simplenet}", "--try", f"two: {other}"]
    monkeypatch.setattr("sys.argv", [*argv, "--json", str(out)])
    choose.main()
    found = json.loads(out.read_text())
    assert list(found["rows"]) == ["one", "two"]
    assert f"chosen: {found['chosen']}" in capsys.readouterr().out
    for row in found["rows"].values():
        assert all(0 <= v <= 1 for part in row.values() for v in part.values())
    assert len(trained) == 4
    assert not trained[0] & trained[1]
    assert trained[:2] == trained[2:]


def test_pieces_go_by_the_photo_s_place(tmp_path: Path) -> None:
    written = write_dataset(tmp_path / "data", categories=["washer"], n_train=5, size=(64, 64))
    made = written.select(split="train")
    reading = choose.Pasted((64, 64), "bilinear")
    plain = Reading((64, 64), "bilinear")

    def of(reading: Reading, size: int) -> Any:
        seen = list(reading.batches(made, size, with_masks=True))
        return {
            key: np.concatenate([batch[key][batch["_mask"]] for batch in seen])
            for key in ("image", "mask")
        }

    two, four = of(reading, 2), of(reading, 4)
    for key in two:
        np.testing.assert_array_equal(two[key], four[key])
    changed = (two["image"] != of(plain, 4)["image"]).any(-1)
    assert changed.any(axis=(1, 2)).all()
    assert not (changed & ~two["mask"]).any()
