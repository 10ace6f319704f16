"""Time to the bar: the arithmetic of the estimate, and that both sides train alike."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from benchmarks.golden_peer import small
from benchmarks.reference_recipe import Cost, Runs, costs, recipe_seconds, row_of
from benchmarks.training import BAR, main, our_command, reached, table
from jaxad.core import InputError

NO_TORCH = "PyTorch is the benchmarks' peer only: pip install -e .[peer]"


def test_uncached_pays_features_in_every_epoch_and_cached_once() -> None:
    cost = Cost(step=2.0, features=3.0)
    uncached = recipe_seconds(cost, images=20, batch=8, epochs=10, cached=False)
    assert uncached == {
        "once_seconds": 0.0,
        "per_epoch_seconds": 2.5 * 5,
        "seconds": 10 * 2.5 * 5,
    }
    cached = recipe_seconds(cost, images=20, batch=8, epochs=10, cached=True)
    assert cached == {"once_seconds": 7.5, "per_epoch_seconds": 5.0, "seconds": 7.5 + 50.0}
    one = {"images": 20, "batch": 8, "epochs": 1}
    assert recipe_seconds(cost, **one, cached=True)["seconds"] == pytest.approx(
        recipe_seconds(cost, **one, cached=False)["seconds"]
    )
    with pytest.raises(InputError, match="20, 0, 10: use 1 or more"):
        recipe_seconds(cost, images=20, batch=0, epochs=10, cached=True)


def test_the_bar_is_reached_by_every_metric_or_not() -> None:
    assert reached(dict(BAR), BAR)
    for name in BAR:
        assert not reached({**BAR, name: BAR[name] - 1e-4}, BAR)
        assert not reached({**BAR, name: None}, BAR)
        assert not reached({key: value for key, value in BAR.items() if key != name}, BAR)


def test_the_command_is_the_users_own() -> None:
    command = our_command(Path("data"), Path("run"), fake=False)
    assert command[1:5] == ["-m", "jaxad", "train", "--config"]
    assert "--config.data.categories=bottle" in command
    assert not any("random" in word or "steps" in word for word in command)
    assert any("random_weights=True" in w for w in our_command(Path("a"), Path("b"), fake=True))


def test_a_row_and_its_table() -> None:
    row = row_of("pytorch", "contiguous", Cost(0.5, 0.25), timed_steps=7, epochs=200, cached=False)
    assert row["seconds"] == pytest.approx(209 / 8 * 0.75 * 200)
    lines = table(
        [
            {"library": "jaxad", "name": "fast", "seconds": 100.0, "ratio": 1.0},
            {**row, "ratio": 39.2},
        ]
    )
    head, _, first, second = lines.splitlines()
    assert head.count("|") == first.count("|") == second.count("|")
    assert "fast" in first
    assert [cell.strip() for cell in first.split("|")][-3:-1] == ["measured", "1.0"]
    told = ["3918.8", "extrapolated from 7 steps", "39.2"]
    assert [cell.strip() for cell in second.split("|")][-4:-1] == told


def test_costs_are_medians_by_recipe() -> None:
    calls: list[str] = []
    found = costs(
        {"a b": Runs(lambda: time.sleep(0.02), lambda: calls.append("features"))}, pairs=3
    )
    assert list(found) == ["a b"]
    assert found["a b"].step > 0.015 > found["a b"].features
    assert len(calls) > 3  # and before that, to warm up


def test_without_data_it_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "--data --fake" in capsys.readouterr().err


def test_all_of_it_runs_on_drawn_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    import benchmarks.training as training

    torch.set_num_threads(1)
    monkeypatch.setattr(training, "configure", lambda name, **_: small("mb_pfm", size=(64, 64)))
    file = tmp_path / "training.json"
    assert main(["--fake", "--pairs", "1", "--epochs_to_bar", "3", "--json", str(file)]) == 0
    written = json.loads(file.read_text())
    rows = {f"{row['library']} {row['name']}": row for row in written["rows"]}
    assert list(rows) == [
        "jaxad fast",
        *("pytorch reference, uncached", "pytorch reference, cached"),
        *("jaxad reference, uncached", "jaxad reference, cached"),
    ]
    assert written["machine"]["fake"]
    assert rows["jaxad fast"]["ratio"] == 1
    assert "reached" not in rows["jaxad fast"]
    for row in list(rows.values())[1:]:
        assert row["epochs"] == 3
        assert row["extrapolated_from_steps"] == 1
        assert row["ratio"] == pytest.approx(row["seconds"] / rows["jaxad fast"]["seconds"])
    assert "reference, uncached" in capsys.readouterr().out
