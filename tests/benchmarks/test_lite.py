"""The lite MB-PFM is chosen by photos that were left out of training, and by no test photo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import choose, lite
from benchmarks.pareto import Point
from benchmarks.training import FAKE
from jaxad.data.jobs import Job
from jaxad.data.synthetic import write_dataset

FINE = Point(latent=(40, 0, 0))  # networks end after their first level


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two candidates, two sets of drawn parts; the arguments that name them."""
    write_dataset(
        tmp_path / "parts", categories=("a", "b"), n_train=6, n_test_good=1, size=(64, 64)
    )
    shared = {"data.root": "{data}/parts", **FAKE}
    sets = {name: {**shared, "data.categories": name} for name in ("a", "b")}
    monkeypatch.setattr(lite, "SETS", sets)
    monkeypatch.setattr(
        lite, "CANDIDATES", {"as it is": FINE, "smooth": FINE._replace(smoothing=4.0)}
    )
    return ["--data", str(tmp_path), "--sets", "a", "b"]


def test_left_out_photos_alone_are_judged_and_a_level_is_trained_once(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    trained: list[Job] = []
    own = choose.Trainer.fit

    def fit(self: Any, job: Job, *args: Any, **kwargs: Any) -> Any:
        assert len(next(iter(kwargs["cache"].values()))) == len(job.train) == 4  # of 6
        trained.append(job)
        return own(self, job, *args, **kwargs)

    monkeypatch.setattr(choose.Trainer, "fit", fit)
    out = tmp_path / "lite.json"
    assert lite.main([*small[:-1], "--json", str(out)]) == 0
    assert len(trained) == 1  # both candidates are made of it
    first = json.loads(out.read_text())["sets"]["a"]
    assert first["as it is"] != first["smooth"]
    assert lite.main([*small, "--json", str(out)]) == 0
    assert len(trained) == 2  # the first set was not run again
    found = json.loads(out.read_text())
    assert found["sets"]["a"] == first
    assert all(0 <= v <= 1 for row in found["sets"]["b"].values() for v in row.values())
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"chosen: {found['chosen']}"
    assert [line.split(" | ")[0] for line in lines[-3:-1]] == ["| as it is", "| smooth"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1", "not a file of this command"),
        ("[]", "not a file of this command"),
        ('{"sets": [], "candidates": {}}', "not a file of this command"),
        ('{"sets": {}, "candidates": {}}', "of other candidates"),
    ],
)
def test_another_file_is_refused(
    small: list[str], tmp_path: Path, text: str, said: str, capsys: Any
) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    assert lite.main([*small, "--json", str(path)]) == 2
    assert f"{path}: {said}" in capsys.readouterr().err
    assert path.read_text() == text


def test_candidates_share_their_levels() -> None:
    pieces = {piece for point in lite.CANDIDATES.values() for piece in point.pieces()}
    assert len(lite.CANDIDATES) == 18
    assert len(pieces) == 5  # the last level of both networks is one
    assert {point.group() for point in lite.CANDIDATES.values()} == {
        ("resnet18", "resnet50_keras", 224)
    }
