"""The comparison with anomalib, without anomalib: what is handed over, measured and written."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from benchmarks import anomalib_peer, readme
from benchmarks.anomalib_peer import feature_difference, main, metrics, speeds
from benchmarks.peers import page
from benchmarks.peers.photos import SIZE, Photos, Source, prepare, torch_state
from benchmarks.peers.processes import Worker, run
from jaxad.backbones.weights import init_backbone
from jaxad.config import parse_config
from jaxad.data.synthetic import write_dataset
from jaxad.errors import InputError
from jaxad.flags import make_parser
from jaxad.ops.fold import fold_batch_norm
from ports.torchvision_names import convert

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "compare.md"


def test_a_network_that_is_handed_over_is_ours_again_by_torchvisions_names() -> None:
    rng = np.random.default_rng(0)
    _, drawn = init_backbone("resnet18", jax.random.key(0))
    ours = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), drawn)
    state = torch_state(ours)
    assert state["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1)
    assert set(state) >= {"conv1.weight", "bn1.running_var", "layer3.1.bn2.bias"}
    back = convert("resnet18", state)
    folded = fold_batch_norm(back.variables, back.variant.epsilon)
    assert jax.tree.structure(folded) == jax.tree.structure(ours)
    for one, other in zip(jax.tree.leaves(folded), jax.tree.leaves(ours)):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_both_sides_read_every_nth_photo_at_one_size(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", n_train=5, n_test_good=4, n_test_bad=6, size=(40, 32))
    found = prepare(Source("mvtec_ad", "set", "plate", train=2, test=3), tmp_path, tmp_path / "out")
    assert found.train == 3 == len(list((tmp_path / "out/plate/train/good").iterdir()))
    # Every third of good, and of each kind of defect.
    kinds = {path.parent.name for path in found.test}
    assert "good" in kinds
    assert len(kinds) > 2
    assert [path.parent.name != "good" for path in found.test] == found.labels.tolist()
    assert found.masks.shape == (len(found.test), *SIZE)
    assert (found.masks.any((1, 2)) == found.labels).all()
    for path, mask in zip(found.test, found.masks):
        assert Image.open(path).size == SIZE[::-1]
        if path.parent.name != "good":
            written = tmp_path / "out/plate/ground_truth" / path.parent.name
            pixels = np.asarray(Image.open(written / f"{path.stem}_mask.png"))
            assert (pixels == 255 * mask).all()
    assert len(prepare(Source("mvtec_ad", "set", "plate"), tmp_path, tmp_path / "o", most=1).test)


def test_maps_of_both_go_through_the_same_metrics(tmp_path: Path) -> None:
    masks = np.zeros((3, 4, 4), bool)
    masks[1, :2] = masks[2, 3] = True
    photos = Photos(tmp_path, "c", 1, (), np.array([False, True, True]), masks)
    np.savez(tmp_path / "a.npz", maps=masks.astype(np.float32), scores=np.float32([0, 1, 0.5]))
    found = metrics(photos, tmp_path / "a.npz")
    assert [found[name] for name in page.METRICS] == [1.0, 1.0, 1.0]
    np.savez(tmp_path / "b.npz", maps=-masks.astype(np.float32), scores=np.float32([1, 2, 0]))
    found = metrics(photos, tmp_path / "b.npz")
    assert found["image_auroc"] == 0.5
    assert found["pixel_auroc"] == 0.0


def test_another_network_ends_the_run(tmp_path: Path) -> None:
    level = np.linspace(-1, 4, 20, dtype=np.float32)
    np.savez(tmp_path / "ours.npz", layer1=level, layer2=level)
    np.savez(tmp_path / "same.npz", layer2=level + np.float32(1e-5))
    np.savez(tmp_path / "other.npz", layer2=level + np.float32(1e-3))
    found = feature_difference(tmp_path / "same.npz", tmp_path / "ours.npz")
    assert found == pytest.approx(2.5e-6, rel=0.1)
    with pytest.raises(InputError, match="not the same network"):
        feature_difference(tmp_path / "other.npz", tmp_path / "ours.npz")


def test_every_way_has_its_turn_in_every_round() -> None:
    order: list[str] = []

    def timed(name: str, seconds: float) -> Any:
        return lambda: order.append(name) or seconds

    found = speeds({"a": timed("a", 2.0), "b": timed("b", 0.5)}, photos=4, rounds=2)
    assert "".join(order) == "abab"
    assert found == {
        "a": {"median": 2.0, "low": 2.0, "high": 2.0},
        "b": {"median": 8.0, "low": 8.0, "high": 8.0},
    }


def test_a_command_is_watched_with_its_children(tmp_path: Path) -> None:
    inner = "import time; x = b'1' * 60_000_000; time.sleep(1.2)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    found = run([sys.executable, "-c", outer], log=tmp_path / "log", environment=os.environ)
    assert found.seconds > 1.2
    assert 60 < found.megabyte < 200
    with pytest.raises(InputError, match="failed: no photos") as caught:
        run(
            [sys.executable, "-c", "print('hm'); exit('no photos')"],
            log=tmp_path / "log",
            environment=os.environ,
        )
    assert "hm" in (tmp_path / "log").read_text()
    assert len(str(caught.value).splitlines()) == 1


def test_a_worker_answers_in_its_own_process_until_it_dies(tmp_path: Path) -> None:
    program = (
        "from benchmarks.peers.lines import serve\n"
        "def double(x):\n    print('noise')\n    return 2 * x\n"
        "serve({'double': double, 'end': lambda: 1 / 0})"
    )
    worker = Worker([sys.executable, "-c", program], log=tmp_path / "log", environment=os.environ)
    try:
        assert worker.ask("double", x=4) == 8
        assert worker.ask("double", x=[1]) == [1, 1]
        with pytest.raises(InputError, match="ZeroDivisionError"):
            worker.ask("end")
        assert (tmp_path / "log").read_text().count("noise") == 2
    finally:
        worker.close()


def peer_row(library: str, method: str, runtime: str = "", **more: Any) -> dict[str, Any]:
    commands = {"command_seconds": 61.4, "megabyte": 1234.5, "others": 0.25}
    return {
        "data": "bottle",
        "library": library,
        "method": method,
        "runtime": runtime,
        "photos": {"train": 188, "calibration": 21, "test": 83},
        "metrics": dict(zip(page.METRICS, (1.0, 0.98765, 0.9))),
        **({} if runtime else {"training": {**commands, "fit_seconds": 40.0}}),
        **({} if runtime else {"prediction": commands}),
        **more,
    }


FOUND = {
    "benchmark": "anomalib_peer",
    "command": "python -m benchmarks.anomalib_peer",
    "machine": {
        **{"date": "2026-01-02", "processor": "some", "cores": 2, "python": "3.11.7"},
        **{"jax": "0.10.2", "device": "cpu"},
    },
    "versions": {"anomalib": "2.7.0", "torch": "2.14.1"},
    "feature_difference": 2e-6,
    "imports_megabyte": {"jaxad": 300.0, "anomalib": 700.0},
    "rounds": 3,
    "lines": {"anomalib": {"Python": 9}, "jaxad": {"Python": 8, "commands": 3}},
    "rows": [
        peer_row("jaxad", "simplenet_fast"),
        peer_row(
            "anomalib",
            "padim",
            own_metrics={"image_AUROC": 0.5, "pixel_F1Score": 0.25},
            images_per_second={"bare_8": {"median": 9.04, "low": 8.0, "high": 10.0}},
        ),
        peer_row("anomalib", "padim", "openvino"),
    ],
}


def test_the_page_has_what_was_measured(tmp_path: Path) -> None:
    file, target = tmp_path / "a.json", tmp_path / "page.md"
    file.write_text(json.dumps(FOUND))
    target.write_text("\n".join(["before", *readme.MARKERS["compare"], "after"]))
    assert readme.main([str(file), "--write", str(target)]) == 0
    lines = target.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    photos = "188 + 21 for the threshold; 83"
    assert f"| bottle, jaxad simplenet_fast | {photos} | 1.0000 | 0.9877 | 0.9000 | – |" in lines
    assert any(
        line.startswith("| bottle, anomalib padim, OpenVINO") and line.endswith("| – |")
        for line in lines
    )
    said = "image AUROC 0.5000, pixel F1 0.2500"
    assert f"| bottle, anomalib padim | {photos} | 1.0000 | 0.9877 | 0.9000 | {said} |" in lines
    assert "| bottle, anomalib padim | 61 s | 40 s | 1,234 MB | 61 s | 1,234 MB | 0.2 |" in lines
    assert "| anomalib padim | – | 9.0 (8.0–10.0) | – | – | – |" in lines
    assert "| jaxad | 8 | 3 |" in lines
    assert "| anomalib | 9 | – |" in lines


def test_rows_of_other_data_sets_stay_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.json"
    old = [{**row, "data": data} for row in FOUND["rows"] for data in ("magnetic_tile", "gone")]
    file.write_text(json.dumps({**FOUND, "rows": [*old, *FOUND["rows"]]}))
    made = init_backbone("resnet18", jax.random.key(0))
    photos = Photos(tmp_path, "c", 1, (tmp_path,) * 9, np.ones(9, bool), np.ones((9, 1, 1), bool))
    asked: list[tuple[Any, ...]] = []

    def measure(data: str, photos: Any, place: Any, *, timed: int, rounds: int) -> Any:
        asked.append((data, timed, rounds, place.peer, place.quick))
        return [peer_row("jaxad", "new")], {k: FOUND[k] for k in ("versions", "feature_difference")}

    monkeypatch.setattr(anomalib_peer, "load_backbone", lambda name: made)
    monkeypatch.setattr(anomalib_peer, "imports", lambda library, place: 1.0)
    monkeypatch.setattr(anomalib_peer, "prepare", lambda *a, **k: photos)
    monkeypatch.setattr(anomalib_peer, "measure", measure)
    arguments = ["--data", str(tmp_path), "--peer", "PYTHON", "--only", "bottle"]
    assert main([*arguments, "--rounds", "2", "--json", str(file)]) == 0
    assert asked == [("bottle", 9, 2, "PYTHON", False)]
    rows = json.loads(file.read_text())["rows"]
    assert [row["data"] for row in rows] == ["bottle"] + 3 * ["magnetic_tile"]
    assert rows[0]["method"] == "new"
    assert "| bottle, jaxad new |" in capsys.readouterr().out


def test_the_page_says_what_its_file_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    path = "benchmarks/results/anomalib.json"
    text = PAGE.read_text()
    if not Path(path).is_file():
        assert "Not measured yet." in text
        return
    kind, between = readme.tables(Path(path))
    assert readme.put(text, between, kind) == text
    counted = {
        library: {task: page.lines_of(script) for task, script in own.items()}
        for library, own in page.scripts(text).items()
    }
    assert json.loads(Path(path).read_text())["lines"] == counted


def test_lines_of_the_pages_scripts_are_counted() -> None:
    found = page.scripts(PAGE.read_text())
    assert {library: set(own) for library, own in found.items()} == {
        "anomalib": {"commands", "Python"},
        "jaxad": {"commands", "Python"},
    }
    assert page.lines_of("# why\n\na \\\n  b\nc\n") == 2
    for own in found.values():
        compile(own["Python"], "page", "exec")


def test_our_scripts_of_the_page_can_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs are stand-ins: commands reach them, with a configuration that is right."""
    ours = page.scripts(PAGE.read_text())["jaxad"]
    for command in ours["commands"].replace("\\\n", " ").splitlines():
        words = command.split()
        if words[0] == "jaxad":
            args, rest = make_parser().parse_known_args(words[1:])
            if args.command == "train":
                assert parse_config(rest).method.name == "simplenet"
    called: list[tuple[Any, ...]] = []
    for name in ("train.train", "models.open_judge", "predict.predict"):
        monkeypatch.setattr(f"jaxad.runs.{name}", lambda *a, **k: called.append((*a, k)))
    exec(compile(ours["Python"], "page", "exec"), {})
    trained, judge, predicted = called
    assert trained[0].data.categories == "bottle"
    assert judge == ({"workdir": Path("runs/bottle")},)
    assert predicted[:2] == (["new_photos"], Path("judged"))


@pytest.mark.parametrize("weights", [False, True])
def test_what_is_missing_is_one_line(
    weights: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("JAXAD_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(anomalib_peer, "imports", lambda library, place: 1.0)
    if weights:
        made = init_backbone("resnet18", jax.random.key(0))
        monkeypatch.setattr(anomalib_peer, "load_backbone", lambda name: made)
    arguments = ["--data", str(tmp_path), "--peer", sys.executable, "--work", str(tmp_path / "w")]
    assert main(arguments) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert ("mvtec_ad_256" if weights else "resnet18") in told
