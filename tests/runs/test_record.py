"""A run never destroys what it did not write, and a stranger's record can not make it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from configuring import configured
from conftest import files

from jaxad.core import InputError
from jaxad.runs import record
from jaxad.runs.checkpoint import save
from jaxad.runs.replicates import folders
from jaxad.runs.train import train

NAMES = ("config.json", "train.jsonl", "results.json", "report/index.html", "checkpoints/a")


def run(folder: Path) -> None:
    """Write what a run writes, without training."""
    claimed = record.claim(folder, NAMES, overwrite=False)
    for name in NAMES[:-1]:
        claimed.file(*name.split("/")).write_text("ours")
    save(claimed.tree("checkpoints", "a"), {"params": {"x": np.ones(1)}})


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("once") / "w"
    run(folder)
    return folder


@pytest.fixture
def workdir(once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(once, tmp_path / "w"))


@pytest.mark.parametrize(
    "name",
    [*NAMES, "report", "checkpoints", "config.json/x", "checkpoints/a/x", "report/index.html/x"],
)
def test_a_folder_of_somebody_else_is_refused(name: str, tmp_path: Path) -> None:
    """`--overwrite` does not help: there is no record of a run."""
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"was not written by a jaxad run: move it away"):
            record.claim(tmp_path, NAMES, overwrite=overwrite)
    assert files(tmp_path) == {name: b"mine"}


def test_training_into_a_folder_of_somebody_else_touches_nothing(
    parts: Path, tmp_path: Path
) -> None:
    mine = {"report/report.tex": b"x", "replicates/1/notes": b"y", "config.json": b"{}"}
    for name, content in mine.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json is there and was not written"):
        train(configured(parts, train__replicates=2), tmp_path, overwrite=True)
    assert files(tmp_path) == mine
    (tmp_path / "config.json").unlink()
    train(configured(parts, train__replicates=2, data__categories="a"), tmp_path)
    assert [folder.name for folder in folders(tmp_path)[1:]] == ["1"]
    mine.pop("config.json")
    assert mine.items() <= files(tmp_path).items()
    train(configured(parts, data__categories="b"), tmp_path, overwrite=True)
    assert mine.items() <= files(tmp_path).items()
    assert folders(tmp_path) == [tmp_path]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("checkpoints", "config.json", "data.json", "jaxad.json", "replicates", "report"),
        *("results.json", "train.jsonl"),
    ]


def test_files_beside_ours_survive_overwriting(workdir: Path) -> None:
    (workdir / "notes.txt").write_text("mine")
    (workdir / "report" / "figure.png").write_text("mine")
    record.claim(workdir, NAMES, overwrite=True)
    assert set(files(workdir)) == {"jaxad.json", "notes.txt", "report/figure.png"}
    run(workdir)  # nothing is in the way of the new one


@pytest.mark.parametrize("name", ["notes.txt", "d/notes.txt", "link"])
def test_files_within_a_checkpoint_survive_overwriting(name: str, workdir: Path) -> None:
    path = workdir / "checkpoints" / "a" / name
    if name == "link":
        path.symlink_to("/")
    else:
        path.write_text("mine")
    before = files(workdir)
    with pytest.raises(InputError, match=rf"{name} is there and was not written by a jaxad run"):
        record.claim(workdir, NAMES, overwrite=True)
    assert files(workdir) == before
    path.unlink()
    record.claim(workdir, NAMES, overwrite=True)
    assert set(files(workdir)) == {"jaxad.json"}


@pytest.mark.parametrize("lost", ["checkpoints/a", "results.json"])
def test_a_run_goes_only_when_asked(lost: str, workdir: Path) -> None:
    """Also where only its results or only its detectors are left."""
    path = workdir / lost
    path.rename(workdir / "away")
    before = files(workdir)
    with pytest.raises(InputError, match="holds a run: choose another --workdir or add"):
        record.claim(workdir, NAMES, overwrite=False)
    assert files(workdir) == before


def test_a_run_that_had_no_results_yet_gives_way(tmp_path: Path) -> None:
    claimed = record.claim(tmp_path, NAMES, overwrite=False)
    claimed.file("config.json").write_text("ours")
    claimed.tree("checkpoints", "a")
    (tmp_path / "checkpoints" / ".saving-0123456789abcdef" / "new").mkdir(
        parents=True
    )  # killed in between
    (tmp_path / "checkpoints" / ".saving-0123456789abcdef" / "new" / "x").write_text("ours")
    claimed.tree(".prepared").mkdir()
    (tmp_path / ".prepared" / "x").write_text("ours")
    record.claim(tmp_path, NAMES, overwrite=False)
    assert set(files(tmp_path)) == {"jaxad.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["jaxad.json"]


def test_a_file_where_a_folder_was_is_found_before_all_is_deleted(workdir: Path) -> None:
    (workdir / "results.json").unlink()
    (workdir / "results.json").mkdir()
    (workdir / "results.json" / "mine").write_text("mine")
    before = files(workdir)
    with pytest.raises(InputError, match=r"results\.json is there and was not written"):
        record.claim(workdir, NAMES, overwrite=True)
    assert files(workdir) == before


@pytest.mark.parametrize(
    "entry",
    [
        *("notes.txt", "", "/", ".", "./", "..", "../", "../x/", "/etc/", "checkpoints/", "a/../b"),
        *("checkpoints/../", "checkpoints/./", "checkpoints/../../x/", "replicates/../", "report/"),
        *("checkpoints/a/b/", "replicates/x/", "replicates/1/config.json", "jaxad.json", "x\n"),
        *(".git/", ".prepared", "checkpoints/a", "checkpoints/\0/", 3, None, ["a"]),
    ],
)
def test_a_hostile_record_deletes_nothing(entry: object, workdir: Path) -> None:
    (workdir / "notes.txt").write_text("mine")
    listed = json.loads((workdir / "jaxad.json").read_text())
    listed["wrote"].append(entry)
    (workdir / "jaxad.json").write_text(json.dumps(listed))
    before = files(workdir.parent)
    with pytest.raises(InputError, match=r"jaxad\.json names") as refused:
        record.claim(workdir, NAMES, overwrite=True)
    assert "\n" not in str(refused.value)
    assert files(workdir.parent) == before


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', '{"format": 2, "wrote": []}', "[" * 100_000, "\xff"]
)
def test_a_damaged_record_is_named(text: str, workdir: Path) -> None:
    (workdir / "jaxad.json").write_text(text, encoding="latin-1")
    before = files(workdir)
    with pytest.raises(InputError, match=r"jaxad\.json .*choose another folder"):
        record.claim(workdir, NAMES, overwrite=True)
    assert files(workdir) == before


@pytest.mark.parametrize("name", ["report", "checkpoints", "checkpoints/a", "replicates"])
def test_links_are_not_followed(name: str, workdir: Path) -> None:
    """Wherever they lead: here to files that have the right names."""
    other = workdir.parent / "other"
    run(other)
    listed = json.loads((workdir / "jaxad.json").read_text())
    listed["wrote"].append("replicates/1/")
    (workdir / "jaxad.json").write_text(json.dumps(listed))
    path = workdir / name
    if path.exists():
        path.rename(workdir / "away")
    target = other.parent if name == "replicates" else other / name
    for to in (target, Path(os.path.relpath(target, path.parent)), workdir / "away"):
        path.symlink_to(to)
        before = files(other)
        with pytest.raises(InputError, match="link"):
            record.claim(workdir, NAMES, overwrite=True)
        assert files(other) == before
        path.unlink()


def test_links_of_replicates_in_a_circle_end(workdir: Path) -> None:
    listed = json.loads((workdir / "jaxad.json").read_text())
    listed["wrote"].append("replicates/1/")
    (workdir / "jaxad.json").write_text(json.dumps(listed))
    (workdir / "replicates").mkdir()
    (workdir / "replicates" / "1").symlink_to("..")
    with pytest.raises(InputError, match="is a link"):
        record.claim(workdir, NAMES, overwrite=True)


def test_a_file_of_ours_that_is_now_a_link_goes_and_its_target_stays(workdir: Path) -> None:
    (workdir / "results.json").rename(workdir.parent / "kept")
    (workdir / "results.json").symlink_to(workdir.parent / "kept")
    record.claim(workdir, NAMES, overwrite=True)
    assert (workdir.parent / "kept").read_text() == "ours"
    assert not (workdir / "results.json").is_symlink()


@pytest.mark.parametrize("place", ["file", "file/w", "x" * 300, "w" + "/x" * 3000])
def test_a_work_directory_that_can_not_be_made(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="can not make the folder"):
        record.claim(tmp_path / place, NAMES, overwrite=True)
    assert files(tmp_path) == {"file": b"mine"}
