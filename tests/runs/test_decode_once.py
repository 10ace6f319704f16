"""Which runs decode their photos once, and that it changes nothing but the time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxad.config import load_file
from jaxad.core import InputError
from jaxad.data import prepared
from jaxad.data.manifest import Manifest, Record
from jaxad.data.pipeline import batches
from jaxad.data.synthetic import write_dataset
from jaxad.runs.evaluate import Job, evaluate, jobs, read_dataset
from jaxad.recipes.recipe import Phase
from jaxad.runs.decode_once import readable, reads_of
from jaxad.runs.train import train
from jaxad.runs.workdir import load

ROOT = Path(__file__).parents[1]
SIZE = (32, 48)
FORM: dict[str, Any] = {"image_size": SIZE, "resample": "bilinear"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "parts"
    write_dataset(
        root, categories=("disc",), n_train=10, n_test_good=2, n_test_bad=3, size=(48, 48)
    )
    return root


def configured(dataset: Path, **train: Any) -> Any:
    config = load_file(str(ROOT / "configs" / "simplenet.py"))
    config.data.root, config.data.image_size = str(dataset), SIZE
    m = config.method
    m.backbone, m.random_weights, m.embedding, m.hidden = "resnet18", True, 16, 8
    config.train.epochs, config.train.batch_size, config.score.batch_size = 2, 4, 4
    config.train.update(train)
    return config


def reads(config: Any, *, steps: int = 0) -> float:
    shapes = {"a": jax.ShapeDtypeStruct((1, 8, 8, 4), np.float32)}
    phase = Phase("all", None, steps, 0, ("a",))  # type: ignore[arg-type]
    return reads_of(jobs(read_dataset(config), config), [phase], shapes, config)


def test_how_often_a_run_reads_a_photo(dataset: Path) -> None:
    """10 training images and 5 to test."""
    assert reads(configured(dataset)) == 1
    assert reads(configured(dataset, feature_cache="off")) == (2 * 3 * 4 + 5) / 15
    assert reads(configured(dataset, feature_cache="off"), steps=50) == (50 * 4 + 5) / 15
    # Random networks of replicates differ, so that each has features of its own.
    assert reads(configured(dataset, replicates=3)) == 3
    shared = configured(dataset, replicates=3)
    shared.method.random_weights = False
    assert reads(shared) == (10 + 3 * 5) / 15
    shared.train.feature_cache = "off"
    assert reads(shared) == 3 * (24 + 5) / 15


def test_photos_are_prepared_where_it_pays(dataset: Path, tmp_path: Path) -> None:
    config = configured(dataset)
    files = read_dataset(config)
    with readable(files, config, tmp_path, reads=1.4) as found:
        assert found == files
    with readable(files, config, tmp_path, reads=1.5) as found:
        assert all(Path(r.prepared).is_relative_to(tmp_path) for r in found.records)
        for a, b in zip(*(batches(m, batch_size=8, **FORM) for m in (found, files))):
            np.testing.assert_array_equal(a["image"], b["image"])
    config.data.prepared = "off"
    with readable(files, config, tmp_path, reads=99) as found:
        assert found == files
    assert not any(tmp_path.iterdir())
    config.data.prepared = str(tmp_path / "kept")
    for _ in range(2):
        with readable(files, config, tmp_path, reads=0) as found:
            assert found == prepared.find(files, tmp_path / "kept", size=SIZE, resample="bilinear")
            assert found is not None


def test_photos_prepared_for_a_run_go_with_it(dataset: Path, tmp_path: Path) -> None:
    config = configured(dataset)
    with (
        pytest.raises(KeyboardInterrupt),
        readable(read_dataset(config), config, tmp_path, reads=2),
    ):
        raise KeyboardInterrupt
    assert not any(tmp_path.iterdir())


def test_a_full_disk_only_costs_time(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    config = configured(dataset)
    files = read_dataset(config)
    need = prepared.nbytes(len(files), SIZE)
    usage = shutil.disk_usage(tmp_path)._replace(free=2 * need - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with readable(files, config, tmp_path, reads=40) as found:
        assert found == files
    assert capsys.readouterr().err.startswith("decoding every photo 40 times: prepared ones")


def test_an_empty_name_is_refused(dataset: Path, tmp_path: Path) -> None:
    config = configured(dataset)
    config.data.prepared = ""
    with pytest.raises(InputError, match=r"data\.prepared is empty: use auto, off, or name"):
        train(config, tmp_path / "w")


def test_training_is_the_same_to_the_bit(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From files and prepared for the run; and evaluated again from a folder."""
    written: list[Any] = []
    read: list[str] = []
    own_write, own_read = prepared.write, prepared.read

    def write(data: Manifest, folder: Path, **options: Any) -> Manifest:
        written.append(folder)
        return own_write(data, folder, **options)

    def counted(record: Record, **options: Any) -> Any:
        read.append(record.path)
        return own_read(record, **options)

    monkeypatch.setattr(prepared, "write", write)
    monkeypatch.setattr(prepared, "read", counted)
    found = []
    for name in ("off", "auto"):
        config = configured(dataset, feature_cache="off")
        config.data.prepared = name
        workdir = tmp_path / name
        results = train(config, workdir)
        assert sorted(path.name for path in workdir.iterdir()) == [
            *("checkpoints", "config.json", "report", "results.json", "train.jsonl"),
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
    own_write(read_dataset(config), tmp_path / "kept", size=SIZE, resample="bilinear")
    read.clear()
    assert evaluate(workdir)["categories"] == found[0][0]
    assert len(read) == 5


def test_jobs_keep_where_photos_are(dataset: Path, tmp_path: Path) -> None:
    config = configured(dataset)
    found = prepared.write(read_dataset(config), tmp_path, size=SIZE)
    (job,) = jobs(found, config)
    assert isinstance(job, Job)
    assert all(r.prepared for r in (*job.train, *job.test["disc"]))
