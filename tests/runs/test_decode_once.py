"""Which runs decode their photos once, and that it changes nothing but the time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from configuring import configured as tiny

from jaxad.core import InputError
from jaxad.data import prepared
from jaxad.data.jobs import Job
from jaxad.data.manifest import Manifest, Record
from jaxad.data.pipeline import batches
from jaxad.data.reading import Reading
from jaxad.data.synthetic import write_dataset
from jaxad.data.write_prepared import write_prepared
from jaxad.runs.dataset import jobs_of, read_dataset
from jaxad.runs.decode_once import decoded_once, reads_of
from jaxad.runs.evaluate import evaluate
from jaxad.runs.train import train
from jaxad.runs.workdir import load

SIZE = (32, 48)
READING = Reading(SIZE, "bilinear")
FORM: dict[str, Any] = {"image_size": SIZE, "resample": "bilinear"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "parts"
    write_dataset(
        root, categories=("disc",), n_train=10, n_test_good=2, n_test_bad=3, size=(48, 48)
    )
    return root


def configured(dataset: Path, **train: Any) -> Any:
    return tiny(
        dataset,
        data__image_size=SIZE,
        data__prepared="auto",
        train__epochs=2,
        **{f"train__{name}": value for name, value in train.items()},
    )


def test_how_often_a_run_reads_a_photo() -> None:
    """10 training images and 5 to test."""
    photos = {"train": 10, "test": 5}
    assert reads_of(**photos, seen=None, replicates=1, networks=1) == 1
    assert reads_of(**photos, seen=24, replicates=1, networks=1) == (24 + 5) / 15
    # Random networks of replicates differ, so that each has features of its own.
    assert reads_of(**photos, seen=None, replicates=3, networks=3) == 3
    assert reads_of(**photos, seen=None, replicates=3, networks=1) == (10 + 3 * 5) / 15
    assert reads_of(**photos, seen=24, replicates=3, networks=1) == 3 * (24 + 5) / 15


def test_photos_are_decoded_before_where_it_pays(dataset: Path, tmp_path: Path) -> None:
    files = read_dataset(configured(dataset))
    own = tmp_path / ".prepared"

    def decoded(wish: Any, reads: float) -> Any:
        return decoded_once(files, READING, wish, lambda: own, reads=reads)

    with decoded("auto", 1.4) as found:
        assert found == files
    with decoded("auto", 1.5) as found:
        assert all(Path(r.prepared).is_relative_to(own) for r in found.records)
        for a, b in zip(*(batches(m, batch_size=8, **FORM) for m in (found, files))):
            np.testing.assert_array_equal(a["image"], b["image"])
    with decoded("off", 99) as found:
        assert found == files
    assert not any(tmp_path.iterdir())
    for _ in range(2):
        with decoded(tmp_path / "kept", 0) as found:
            assert found == prepared.find(files, tmp_path / "kept", size=SIZE, resample="bilinear")
            assert found is not None


def test_photos_decoded_for_a_run_go_with_it(dataset: Path, tmp_path: Path) -> None:
    files = read_dataset(configured(dataset))
    with (
        pytest.raises(KeyboardInterrupt),
        decoded_once(files, READING, "auto", lambda: tmp_path / ".prepared", reads=2),
    ):
        raise KeyboardInterrupt
    assert not any(tmp_path.iterdir())


def test_a_full_disk_only_costs_time(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    files = read_dataset(configured(dataset))
    need = prepared.nbytes(len(files), SIZE)
    usage = shutil.disk_usage(tmp_path)._replace(free=2 * need - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with decoded_once(files, READING, "auto", lambda: tmp_path / ".prepared", reads=40) as found:
        assert found == files
    assert capsys.readouterr().err.startswith("decoding every photo 40 times: decoded ones")


def test_an_empty_name_is_refused(dataset: Path, tmp_path: Path) -> None:
    config = configured(dataset)
    config.data.prepared = ""
    with pytest.raises(InputError, match=r"data\.prepared is '': give a text, not empty"):
        train(config, tmp_path / "w")


def test_training_is_the_same_to_the_bit(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From files and prepared for the run; and evaluated again from a folder."""
    written: list[Any] = []
    read: list[str] = []
    own_read = prepared.read

    def write(data: Manifest, folder: Path, **options: Any) -> Manifest:
        written.append(folder)
        return write_prepared(data, folder, **options)

    def counted(record: Record, **options: Any) -> Any:
        read.append(record.path)
        return own_read(record, **options)

    monkeypatch.setattr("jaxad.runs.decode_once.write_prepared", write)
    monkeypatch.setattr(prepared, "read", counted)
    found = []
    for name in ("off", "auto"):
        config = configured(dataset, feature_cache="off")
        config.data.prepared = name
        workdir = tmp_path / name
        results = train(config, workdir)
        assert sorted(path.name for path in workdir.iterdir()) == [
            *("checkpoints", "config.json", "data.json", "jaxad.json", "report"),
            *("results.json", "train.jsonl"),
        ]
        _, variables, _ = load(workdir)
        found.append((results["categories"], variables["method"]))
    assert written == [tmp_path / "auto" / ".prepared"]
    assert len(read) >= 2 * 10 + 5
    assert found[0][0] == found[1][0]
    jax.tree.map(np.testing.assert_array_equal, found[0][1], found[1][1])

    stored = json.loads((workdir / "config.json").read_text())
    stored["config"]["data"]["prepared"] = str(tmp_path / "kept")
    (workdir / "config.json").write_text(json.dumps(stored))
    write_prepared(read_dataset(config), tmp_path / "kept", size=SIZE, resample="bilinear")
    read.clear()
    assert evaluate(workdir)["categories"] == found[0][0]
    assert len(read) == 5


def test_jobs_keep_where_photos_are(dataset: Path, tmp_path: Path) -> None:
    config = configured(dataset)
    found = write_prepared(read_dataset(config), tmp_path, size=SIZE)
    (job,) = jobs_of(found, config)
    assert isinstance(job, Job)
    assert all(r.prepared for r in (*job.train, *job.test["disc"]))
