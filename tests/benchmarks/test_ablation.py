"""Ablations: rows are what they say, and the table says what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import ablation
from benchmarks.ablation import Data, header, line, means, prepare, run_row
from configs import adapted_moe_ablation
from configs.afrad_ablation import ROWS, get_config
from jaxad.config import check_config, flat
from jaxad.data.jobs import Job
from jaxad.data.manifest import Record
from jaxad.data.synthetic import write_dataset
from jaxad.errors import InputError


def small(row: str, root: Path) -> Any:
    """A row on synthetic parts: two categories are the subclasses of one detector."""
    config = adapted_moe_ablation.get_config(row)
    config.data.layout, config.data.root, config.data.image_size = "mvtec_ad", str(root), (64, 64)
    config.data.train_subclasses = config.data.test_subclasses = ""
    config.data.one_for_all = True
    m, train = config.method, config.train
    m.random_weights, m.embedding, m.hidden, m.router_width = True, 8, 4, 4
    train.steps, train.positions, train.batch_size = (2, 2), (8,), 4
    train.holdout, config.score.batch_size = 0.34, 4
    return config


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Data]:
    root = tmp_path_factory.mktemp("data") / "parts"
    write_dataset(
        root, categories=("a", "b"), n_train=3, n_test_good=2, n_test_bad=3, size=(64, 64), seed=0
    )
    return root, prepare(small("none", root))


def test_features_of_the_test_images_are_all_there(data: tuple[Path, Data]) -> None:
    test = data[1].test
    assert list(test) == ["a", "b"]
    for one in test.values():
        assert one.labels.tolist().count(1) == 3
        assert one.masks[one.labels == 1].any(axis=(1, 2)).all()
        assert one.n_train == 3
        assert all(len(x) == 5 and np.isfinite(x).all() for x in one.found.values())


@pytest.fixture(scope="module")
def plain(data: tuple[Path, Data]) -> dict[str, Any]:
    """One row under two seeds, and the first once more."""
    return run_row(small("none", data[0]), data[1], [0, 1, 0])


def test_a_row_is_measured_for_every_seed(plain: dict[str, Any]) -> None:
    first, second, again = plain["seeds"]
    assert first != second
    assert again == first  # a seed's result does not depend on the others
    for seed in (first, second):
        assert {(m["n_train"], m["n_test"]) for m in seed["categories"].values()} == {(3, 5)}
        assert seed["mean"]["pixel_auroc"] == pytest.approx(
            np.mean([c["pixel_auroc"] for c in seed["categories"].values()])
        )
    cells = [cell.strip() for cell in line("full", plain).strip("|").split("|")]
    assert cells[0] == "full"
    scores = [seed["mean"]["image_auroc"] for seed in plain["seeds"]]
    assert cells[1] == f"{np.mean(scores):.4f} ± {np.std(scores, ddof=1):.4f}"
    assert len(cells) == 1 + 3 + 2 + 2


def test_a_row_with_experts_tells_how_many_are_routed_right(
    data: tuple[Path, Data], plain: dict[str, Any]
) -> None:
    root, shared = data
    found = run_row(small("moe-tta-norm", root), shared, [0])
    assert found["parameters"] > plain["parameters"]
    assert 0 <= found["seeds"][0]["holdout_routed_right"] <= 1
    assert 0 <= found["seeds"][0]["mean"]["aupro_0.30"] <= 1


def test_subclasses_that_were_learnt_and_others_have_means_of_their_own() -> None:
    values = {"c-x": 0.2, "c-y": 0.4, "c-z": 0.9}
    categories = {name: dict.fromkeys(ablation.METRICS, v) for name, v in values.items()}
    learnt = dict(zip(values, (True, True, False)))
    found = means(categories, learnt)
    assert {kind: round(one["image_auroc"], 6) for kind, one in found.items()} == {
        "mean": 0.5,
        "seen": 0.3,
        "unseen": 0.9,
    }
    assert list(means(categories, dict.fromkeys(values, False))) == ["mean"]
    row = {"seeds": [{**found, "categories": categories}], "parameters": 0, "seconds_per_seed": 1}
    kinds = [f"{kind}: {metric}" for kind in ("seen", "unseen") for metric in ablation.METRICS]
    assert header(row) == ["row", *kinds, *values, "parameters", "time"]
    cells = [cell.strip() for cell in line("full", row).strip("|").split("|")]
    assert len(cells) == len(header(row))
    assert cells[1] == "0.3000 ± 0.0000"
    assert cells[4] == "0.9000 ± 0.0000"


def test_a_subclass_is_known_by_the_training_photos() -> None:
    def records(split: str, kinds: str) -> tuple[Record, ...]:
        return tuple(Record(f"{split}{k}.png", "c", k, split, "good", "") for k in kinds)

    job = Job("c", records("train", "xy"), {f"c-{k}": records("test", k) for k in "yz"})
    assert ablation.seen(job) == {"c-y": True, "c-z": False}


def test_rows_that_a_file_holds_are_not_run_again(
    data: tuple[Path, Data], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    root, shared = data
    suite = (lambda row, folder: small(row, Path(folder)), ["none", "norm"])
    monkeypatch.setattr(ablation, "SUITES", {"adapted_moe": suite})
    monkeypatch.setattr(ablation, "prepare", lambda config: shared)
    out = tmp_path / "rows.json"
    argv = ["ablation", "adapted_moe", "--data", str(root), "--seeds", "1", "--json", str(out)]
    monkeypatch.setattr("sys.argv", [*argv, "--rows", "norm"])
    ablation.main()
    first = json.loads(out.read_text())["rows"]["norm"]
    ran: list[str] = []

    def run(config: Any, *args: Any) -> dict[str, Any]:
        ran.append(config.method.normalise_embedding)
        return {**first}

    monkeypatch.setattr(ablation, "run_row", run)
    monkeypatch.setattr("sys.argv", argv)
    capsys.readouterr()
    ablation.main()
    assert ran == [False]  # "none" alone
    found = json.loads(out.read_text())
    assert found["rows"]["norm"] == first
    assert str(root) not in out.read_text()
    lines = capsys.readouterr().out.splitlines()
    assert [text.split(" | ")[0] for text in lines] == ["| row", lines[1], "| none", "| norm"]
    monkeypatch.setattr("sys.argv", [*argv, "--config.train.seed=1"])
    with pytest.raises(InputError, match="its rows were run with no changes"):
        ablation.main()
    out.write_text("[]")
    with pytest.raises(InputError, match="not a file of this command"):
        ablation.main()


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


def test_every_row_of_adapted_moe_changes_what_it_says() -> None:
    for row, changes in adapted_moe_ablation.ROWS.items():
        config = adapted_moe_ablation.get_config(row)
        check_config(config)
        method = flat(config.method.to_dict())
        assert {key: method[key] for key in changes} == changes
        assert config.data.test_subclasses == "exp5,exp6"
    with pytest.raises(ValueError, match="rows are none"):
        adapted_moe_ablation.get_config("all")
    switches = {
        row: tuple(c[k] for k in ("moe", "adaption", "normalise_patches"))
        for row, c in adapted_moe_ablation.TABLE3.items()
    }
    assert len(set(switches.values())) == 8
    assert switches["none"] == (False, False, False)
    assert switches["moe-tta-norm"] == (True, True, True)


@pytest.mark.parametrize("name", ["afrad_ablation", "adapted_moe_ablation"])
def test_stored_rows_count_their_training_images(name: str) -> None:
    stored = json.loads((Path(__file__).parents[2] / f"benchmarks/results/{name}.json").read_text())
    for suite in [stored] if "rows" in stored else stored.values():
        for row in suite["rows"].values():
            for seed in row["seeds"]:
                assert all(m["n_train"] > 0 < m["n_test"] for m in seed["categories"].values())
