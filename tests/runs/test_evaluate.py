"""`jaxad evaluate`: what is finished is measured, what changed is said, damage is one line."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from configuring import configured
from conftest import Jaxad, files
from PIL import Image

from jaxad.core import InputError
from jaxad.data.synthetic import write_dataset
from jaxad.main import main
from jaxad.runs import checkpoint
from jaxad.runs.evaluate import evaluate
from jaxad.runs.evaluator import Evaluator
from jaxad.runs.train import train
from jaxad.runs.workdir import load

TIMES = ("seconds", "images_per_second")


def without_times(results: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in results.items() if key not in TIMES}


def results_of(workdir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workdir / "results.json").read_text())
    return found


def said(capsys: Any, workdir: Path, *changes: str) -> list[str]:
    """Evaluate by the command line: what it says beside progress and what is used."""
    capsys.readouterr()
    assert main(["evaluate", f"--workdir={workdir}", *changes]) == 0
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if " images in " not in line and "masks are used" not in line]


def refused(capsys: Any, workdir: Path, *changes: str) -> str:
    """… which has to refuse, in one line."""
    before = files(workdir)
    capsys.readouterr()
    assert main(["evaluate", f"--workdir={workdir}", *changes]) == 2
    lines = capsys.readouterr().err.splitlines()
    (line,) = [x for x in lines if "masks are used" not in x and "taken from" not in x]
    assert files(workdir) == before
    assert line.startswith("jaxad: ")
    assert len(line) < 700
    return line


@pytest.fixture
def own_parts(parts: Path, tmp_path: Path) -> Path:
    """A copy of the data, to be changed."""
    return Path(shutil.copytree(parts, tmp_path / "parts"))


def moved(root: Path) -> str:
    return f"--config.data.root={root}"


def test_the_same_again(trained: Path, capsys: Any) -> None:
    before = results_of(trained)
    shutil.rmtree(trained / "report")
    assert said(capsys, trained) == []
    assert without_times(results_of(trained)) == without_times(before)
    assert results_of(trained)["seconds"]["train"] == before["seconds"]["train"]
    assert (trained / "report" / "index.html").is_file()


def test_another_run_time_gives_the_same_results(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("onnx", reason="pip install 'jaxad[onnx]'")
    pytest.importorskip("onnxruntime", reason="pip install 'jaxad[onnx]'")
    change = "--config.score.runtime=onnxruntime"
    before = results_of(trained)
    assert said(capsys, trained, change) == []
    after = results_of(trained)
    assert after["environment"]["runtime"] == "onnxruntime"
    for name, metrics in before["categories"].items():
        assert after["categories"][name] == pytest.approx(metrics, abs=1e-3)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install 'jaxad[onnx]'" in refused(capsys, trained, change)


def test_a_work_directory_of_before_there_were_run_times(trained: Path, capsys: Any) -> None:
    stored = json.loads((trained / "config.json").read_text())
    del stored["config"]["score"]["runtime"]
    (trained / "config.json").write_text(json.dumps(stored))
    assert said(capsys, trained) == []
    assert results_of(trained)["environment"]["runtime"] == "xla"


def test_an_interrupted_run_is_measured_as_far_as_it_went(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    own = checkpoint.save

    def save(path: Path, variables: Any, about: Any = None) -> None:
        if path.name == "b" and path.parents[1].name == "1":
            raise KeyboardInterrupt
        own(path, variables, about)

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(KeyboardInterrupt):
        train(configured(parts, train__replicates=2), tmp_path)
    assert list(results_of(tmp_path)["categories"]) == ["a", "b"]
    second = tmp_path / "replicates" / "1"
    assert list(results_of(second)["categories"]) == ["a"]
    assert said(capsys, second) == ["'b' are not trained yet: not measured"]
    assert said(capsys, tmp_path) == ["'b' are not trained yet: not measured"]
    summary = results_of(tmp_path)["replicates"]
    assert (summary["count"], list(summary["categories"])) == (2, ["a"])
    each = [results_of(w)["categories"]["a"]["image_auroc"] for w in (tmp_path, second)]
    assert summary["mean"]["image_auroc"]["mean"] == pytest.approx(np.mean(each))
    assert load(second)[2].data.root == str(parts)
    shutil.rmtree(second / "checkpoints")
    assert said(capsys, tmp_path) == ["'a', 'b' are not trained yet: not measured"]
    shutil.rmtree(tmp_path / "checkpoints")
    capsys.readouterr()
    assert main(["evaluate", f"--workdir={tmp_path}"]) == 2
    assert "has no trained detector of this data, but none: train" in capsys.readouterr().err


def test_a_batch_that_the_devices_can_not_share(trained: Path) -> None:
    """4 devices here; trained with batches of 3 and 1, as on one device."""
    assert jax.local_device_count() == 4
    stored = json.loads((trained / "config.json").read_text())
    stored["config"]["train"]["batch_size"] = 3
    stored["config"]["score"]["batch_size"] = 1
    (trained / "config.json").write_text(json.dumps(stored))
    before = results_of(trained)["mean"]
    assert evaluate(trained)["mean"] == pytest.approx(before)


def test_data_that_has_moved(trained: Path, own_parts: Path, capsys: Any) -> None:
    before = results_of(trained)
    root = own_parts.rename(own_parts.with_name("elsewhere"))
    assert said(capsys, trained, moved(root)) == []
    assert without_times(results_of(trained)) == without_times(before)
    assert "gone: no such folder" in refused(capsys, trained, moved(root.with_name("gone")))


def test_a_folder_of_parts_keeps_its_name_where_it_is_renamed(
    parts: Path, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(parts / "a" / "train" / "good", tmp_path / "bolts" / "good")
    config = configured(tmp_path / "bolts", data__layout="folder", data__calibration=0.5)
    first = train(config, tmp_path / "w")
    assert list(first["categories"]) == ["bolts"]
    assert config.data.folder.category == ""  # what was given is left as it is
    told = capsys.readouterr().err
    assert "photos to calibrate are too few for a false-alarm rate of 0.05, which takes 19" in told
    (tmp_path / "bolts").rename(tmp_path / "screws")
    assert main(["evaluate", f"--workdir={tmp_path / 'w'}", moved(tmp_path / "screws")]) == 0
    assert "since training" not in capsys.readouterr().err
    assert results_of(tmp_path / "w")["categories"] == first["categories"]


def test_some_categories_are_written_beside(trained: Path, capsys: Any) -> None:
    before = results_of(trained)
    page = (trained / "report" / "index.html").read_bytes()
    assert said(capsys, trained, "--config.data.categories=b") == [
        "'a' are trained, but not in the data chosen"
    ]
    part = json.loads((trained / "results.part.json").read_text())
    assert part["part"] is True
    assert part["categories"] == {"b": before["categories"]["b"]}
    assert results_of(trained) == before
    assert (trained / "report" / "index.html").read_bytes() == page
    assert (trained / "report" / "part.html").is_file()
    assert "no category 'c'" in refused(capsys, trained, "--config.data.categories=c")


@pytest.mark.parametrize(
    "change",
    ["train.seed=1", "train.epochs=3", "method.learning_rate=1.0", "method.name=pfm"],
)
def test_keys_of_training_can_not_be_changed(change: str, trained: Path, capsys: Any) -> None:
    assert "belongs to the training" in refused(capsys, trained, f"--config.{change}")


@pytest.mark.parametrize("together", [False, True])
def test_a_category_that_came_after_training(
    together: bool, trained: Path, parts: Path, own_parts: Path, tmp_path: Path, capsys: Any
) -> None:
    workdir = trained
    if together:
        workdir = tmp_path / "together"
        train(configured(parts, data__one_for_all=True), workdir)
    before = results_of(workdir)
    shutil.copytree(own_parts / "a", own_parts / "c")
    assert said(capsys, workdir, moved(own_parts)) == [
        "since training: category 'c' is new",
        "'c' came after training, and are not measured",
    ]
    assert results_of(workdir)["categories"] == before["categories"]


def test_what_changed_of_the_data_is_said(trained: Path, own_parts: Path, capsys: Any) -> None:
    photos = sorted((own_parts / "a" / "test" / "good").iterdir())
    shutil.copy(sorted((own_parts / "b" / "test" / "good").iterdir())[0], photos[0])
    for photo in sorted((own_parts / "a" / "train" / "good").iterdir())[:2]:
        photo.unlink()
    mask = next(iter(sorted((own_parts / "b").rglob("*_mask.png"))))
    Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)
    found = said(capsys, trained, moved(own_parts))
    assert len(found) == 3
    assert all(line.startswith("since training: ") for line in found)
    assert found[0].startswith("since training: 2 training photos of 'a' are gone: ")
    assert found[1].startswith("since training: 1 test photos of 'a' changed: 'a/test/good/")
    assert found[2].startswith("since training: masks of 1 test photos of 'b' changed: ")
    # What the detector was trained on does not change any more.
    assert results_of(trained)["categories"]["a"]["n_train"] == 5


def test_a_category_that_is_gone(trained: Path, own_parts: Path, capsys: Any) -> None:
    before = results_of(trained)
    shutil.rmtree(own_parts / "b")
    assert said(capsys, trained, moved(own_parts)) == [
        "since training: category 'b' is not there any more",
        "'b' are trained, but not in the data chosen",
    ]
    assert results_of(trained) == before  # b's figures are kept
    part = json.loads((trained / "results.part.json").read_text())
    assert list(part["categories"]) == ["a"]


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"n_train": {"a": "x"}}', "[" * 100_000])
def test_a_damaged_record_of_the_data(text: str | None, trained: Path, capsys: Any) -> None:
    if text is None:
        (trained / "data.json").unlink()
    else:
        (trained / "data.json").write_text(text)
    assert "data.json" in refused(capsys, trained)


@pytest.mark.parametrize("value", [None, {}, {"version": 1}, {"version": 1, "categories": [3]}])
def test_a_damaged_fingerprint(value: Any, trained: Path, capsys: Any) -> None:
    kept = json.loads((trained / "data.json").read_text())
    (trained / "data.json").write_text(json.dumps({**kept, "fingerprint": value}))
    assert "the fingerprint of the data is damaged" in refused(capsys, trained)


DAMAGED_RESULTS: list[bytes] = [
    *(b"", b"{}", b"[]", b"null", b"3", b"[" * 100_000, b"\xff\xfe", b'{"seconds": 3}'),
    *(b'{"categories": []}', b'{"categories": {}, "seconds": []}', b'{"categories": null}'),
    b'{"categories": {"a": 3, "b": null}, "seconds": {"train": "x", "features": true}}',
    b'{"categories": {"a": {}}, "seconds": {"train": NaN, "features": 1' + b"0" * 400 + b"}}",
    b'{"categories": {}, "seconds": {"train": -1, "features": Infinity, "score": [1]}}',
]


def test_damaged_results_are_written_anew(
    trained: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are only read for two times and the categories' names."""
    before = results_of(trained)
    # The scores do not depend on it: no detector is run.
    found = evaluate(trained)["categories"]
    own = Evaluator.evaluate

    def cheap(self: Any, job: Any, *args: Any, **kwargs: Any) -> Any:
        outcome = own(self, job._replace(test={}), *args, **kwargs)
        metrics = {name: found[name] for name in job.test}
        return outcome._replace(metrics=metrics)

    monkeypatch.setattr(Evaluator, "evaluate", cheap)
    for content in DAMAGED_RESULTS:
        (trained / "results.json").write_bytes(content)
        capsys.readouterr()
        assert main(["evaluate", f"--workdir={trained}"]) == 0, content[:80]
        assert "Traceback" not in capsys.readouterr().err
        again = results_of(trained)
        assert again["categories"] == before["categories"], content[:80]
        assert again["seconds"]["train"] == 0
    # Where nothing says what was there, some categories do not pass for all of them.
    (trained / "results.json").write_bytes(b"\xff")
    assert evaluate(trained, ["--config.data.categories=a"])["part"] is True
    (trained / "results.json").unlink()
    (trained / "results.json").mkdir()
    assert main(["evaluate", f"--workdir={trained}"]) == 2


def test_weights_are_compared(trained: Path, capsys: Any) -> None:
    stored = json.loads((trained / "config.json").read_text())
    for weights, message in (
        ({"backbone": "other"}, "the backbone weights .* are not those that .* was trained with"),
        ({}, "has no SHA-256 of the weights of backbone"),
        ({**stored["weights"], "second": "0"}, "weights of second"),
    ):
        (trained / "config.json").write_text(json.dumps({**stored, "weights": weights}))
        with pytest.raises(InputError, match=message):
            evaluate(trained)
        with pytest.raises(InputError, match=message):
            load(trained, "a")


CONFIGS: list[tuple[str, Any]] = [
    *(("weights", value) for value in (None, [], 3, "x", {"backbone": None}, {"backbone": 3})),
    *(("config", value) for value in (None, [], 3, "x", {}, {"data": 3}, {"method": {}})),
    *(("format", value) for value in (None, 1, "2", [], {})),
    *(("config.data", value) for value in (3, None, [], {}, "x", {"root": {}})),
    *(("config.method", value) for value in (3, None, [], {}, {"name": 3}, {"name": None})),
    *(("config.method.name", value) for value in ("os.path", "x", "a.b", "", ["a"], {}, "a\0.b")),
    *(("config.data.image_size", value) for value in ((3,), (0, 9), (1e9, 1), "x", {}, None)),
    *(("config.data.folder", value) for value in (3, {}, {"normal": 3}, {"x": "y"})),
    *(("config.data.root", value) for value in ("\0", 3, None, "/nowhere", "\x1b[31m\nx" * 50)),
    *(("config.train.seed", value) for value in (-1, 2**64, "x", 1.5, True, float("nan"))),
    *(("config.train.unknown", 3), ("config.unknown", {"a": 3}), ("config.items", {"a": 3})),
    *(("config.data.get", 3), ("config.__class__", {"a": 3}), ("config._fields", {})),
    *(("config.a.b", 3), ("config.weights", {"a": 3}), ("config.weights", 3), ("config.", {})),
    *(("config.method.channels", value) for value in (0, 5, "x")),
]


@pytest.mark.parametrize(("place", "value"), CONFIGS)
def test_a_hostile_configuration_is_one_line(
    place: str, value: Any, trained_once: Path, tmp_path: Path, capsys: Any
) -> None:
    workdir = shutil.copytree(trained_once, tmp_path / "w")
    stored = json.loads((workdir / "config.json").read_text())
    *sections, leaf = place.split(".")
    inner = stored
    for section in sections:
        inner = inner.setdefault(section, {})
    inner[leaf] = value
    (workdir / "config.json").write_text(json.dumps(stored))
    line = refused(capsys, workdir)
    assert line.isprintable()
    if place == "config.data.root" and type(value) is str and "\0" not in value:
        return  # loading needs no data
    with pytest.raises(InputError):
        load(workdir, "a")


@pytest.mark.parametrize("content", [b"", b"x", b"[" * 100_000, b"\xff", b'{"a":' * 5000, b"null"])
def test_a_damaged_configuration_is_one_line(content: bytes, trained: Path, capsys: Any) -> None:
    (trained / "config.json").write_bytes(content)
    assert "config.json" in refused(capsys, trained)


@pytest.mark.parametrize(
    "name", ["results.json", "report", "checkpoints", "checkpoints/a", "config.json", "data.json"]
)
def test_links_that_lead_out_are_refused(name: str, trained: Path, tmp_path: Path) -> None:
    path = trained / name
    path.rename(tmp_path / "other")
    path.symlink_to(tmp_path / "other")
    before = files(tmp_path)
    with pytest.raises(InputError, match=r"is a link(, which no jaxad run| that leads out)"):
        evaluate(trained)
    changed = {key for key, value in files(tmp_path).items() if before.get(key) != value}
    assert not changed


def test_links_at_temporary_names_are_not_written_through(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for name in ("results.json.tmp", "report/index.html.tmp", "report/index.tmp", "results.tmp"):
        (trained / name).symlink_to(tmp_path / "mine")
    evaluate(trained)
    assert (tmp_path / "mine").read_text() == "mine"
    assert (trained / "results.json.tmp").is_symlink()


@pytest.mark.parametrize("victim", ["results.json", "index.html", "train.jsonl"])
def test_a_full_disk_is_one_line(
    victim: str, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Met while the victim is written; what was there before is whole."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    own, own_write = Path.replace, os.write

    def replace(self: Path, target: Any) -> Any:
        if Path(target).name == victim:
            raise full
        return own(self, target)

    def write(file: int, data: bytes) -> int:
        if Path(f"/proc/self/fd/{file}").resolve().name == victim:
            raise full
        return own_write(file, data)

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(os, "write", write)
    with pytest.raises(InputError, match=rf"{victim}.* \(No space left on device\): ") as refused:
        train(configured(parts, data__categories="a"), tmp_path)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.rglob("*.tmp"))
    assert not list(tmp_path.rglob(".saving*"))
    assert not (tmp_path / "report" / "index.html").exists()


def test_training_photos_alone(tmp_path: Path, capsys: Any) -> None:
    write_dataset(
        tmp_path / "parts", categories=("a",), n_train=4, n_test_good=0, n_test_bad=0, size=(32, 32)
    )
    results = train(configured(tmp_path / "parts"), tmp_path / "w")
    assert results["categories"] == {}
    assert load(tmp_path / "w")[1]["method"]["params"]["mean"].shape == (1, 4)
    capsys.readouterr()
    assert main(["evaluate", f"--workdir={tmp_path / 'w'}"]) == 0
    out = capsys.readouterr().out
    assert "there are no test photos, so nothing was measured" in out
    assert "None" not in out
    assert "report:" not in out
    # With good test photos alone there is a table of dashes, and what they mean.
    write_dataset(
        tmp_path / "parts", categories=("a",), n_train=4, n_test_good=2, n_test_bad=0, size=(32, 32)
    )
    assert main(["evaluate", f"--workdir={tmp_path / 'w'}"]) == 0
    table, meaning = capsys.readouterr().out.split("–: undefined, as ")
    assert " – " in table
    assert "without defects" in meaning


SIX_TRIES = """
import shutil, sys
from pathlib import Path
from jaxad.main import main
once = Path(sys.argv[1])
victims = sorted(p for p in (once / "checkpoints/a").rglob("*") if p.is_file() and p.stat().st_size)
for n in range(6):
    workdir = once.with_name(f"try{n}")
    shutil.copytree(once, workdir)
    victim = workdir / victims[n % len(victims)].relative_to(once)
    data = victim.read_bytes()
    victim.write_bytes(data[: len(data) // 2])
    assert main(["evaluate", f"--workdir={workdir}"]) == 2
"""


def test_a_refused_checkpoint_is_exactly_one_line(
    trained: Path, tmp_path: Path, jaxad: Jaxad
) -> None:
    """Threads of the library that reads it used to add up to 140 lines, by chance."""
    (tmp_path / "tries.py").write_text(SIX_TRIES)
    ran = jaxad(str(trained), run=str(tmp_path / "tries.py"))
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in ran.stderr.splitlines() if "masks are used" not in line]
    assert "taken from" in lines[0]
    assert len(lines) == 1 + 6
    assert all(line.startswith("jaxad: ") and "checkpoint" in line for line in lines[1:])


def test_the_report_draws_the_line_by_the_calibration(
    calibrated: Path, tmp_path: Path, capsys: Any
) -> None:
    workdir = Path(shutil.copytree(calibrated, tmp_path / "w", symlinks=True))
    assert said(capsys, workdir) == []
    page = (workdir / "report" / "index.html").read_text()
    assert page.count("at most 10 % of photos of normal parts") == 1  # "a" alone is calibrated
    assert page.count("for looking only") == 1
    results = results_of(workdir)
    (workdir / "calibration.json").write_text("{")
    (line,) = said(capsys, workdir)
    assert "calibration.json" in line
    assert line.endswith("; the report does without it")
    assert (workdir / "report" / "index.html").read_text().count("for looking only") == 2
    assert list(results.pop("decisions")) == ["a"]
    found = results_of(workdir)
    assert found.pop("decisions") == {}
    # Photos that came after training draw the line; of those of the data set there are none.
    counts = [of["categories"]["a"].pop("n_calibration") for of in (results, found)]
    assert counts == [40, 0]
    assert without_times(found) == without_times(results)
