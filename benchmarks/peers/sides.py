"""Both sides of `benchmarks.anomalib_peer`: their commands and processes, and what these leave."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import machine
from benchmarks.peers.photos import Photos
from benchmarks.peers.processes import Run, Worker, run
from jaxad.files import read_json, write_json

BATCH = 8
OURS, THEIRS = "jaxad", "anomalib"


class Subject(NamedTuple):
    """A detector of one side; of ours, the name of its configuration."""

    library: str
    method: str
    quick: str = ""
    """A change of ours that makes it short."""


SUBJECTS = (
    Subject(OURS, "simplenet_fast", "train.steps=(20,)"),
    Subject(THEIRS, "padim"),
    Subject(OURS, "mb_pfm_lite", "train.steps=(5,5,5)"),
    Subject(THEIRS, "patchcore"),
)
"""In the order in which they run: ours and theirs in turn."""


class Place(NamedTuple):
    """Where a run works, and with what."""

    work: Path
    peer: str
    """Python of anomalib's environment."""
    quick: bool = False
    """Whether our trainings are cut short."""

    def folder(self, data: str, subject: Subject) -> Path:
        """Of a trained detector."""
        return self.work / data / f"{subject.library}_{subject.method}"

    def environment(self, library: str) -> dict[str, str]:
        """Of a process: no network, and none of our packages for them."""
        own = dict(os.environ)
        if library == THEIRS:
            own.pop("PYTHONPATH", None)
            own["HF_HUB_OFFLINE"] = "1"
        return own


def training_command(subject: Subject, photos: Photos, folder: Path, place: Place) -> list[str]:
    """Train and test one detector, as a user does."""
    if subject.library == THEIRS:
        own = ["--data", str(photos.root), "--category", photos.category, "--out", str(folder)]
        weights = ["--weights", str(place.work / "resnet18.npz")]
        return [*_theirs(place), "train", subject.method, *own, *weights]
    keys = {"data.root": photos.root, "data.layout": "mvtec_ad", "data.image_size": "(256,256)"}
    flags = [f"--config.{key}={value}" for key, value in keys.items()]
    config = f"configs/{subject.method}.py"
    start = [sys.executable, "-m", "jaxad", "train", "--config", config, "--workdir", str(folder)]
    return [*start, *flags, *([f"--config.{subject.quick}"] if place.quick else [])]


def prediction_command(subject: Subject, test: Path, folder: Path, place: Place) -> list[str]:
    """Judge the test photos; both sides as they do it by default, `BATCH` at a time."""
    if subject.library == THEIRS:
        return [*_theirs(place), "predict", subject.method, "--out", str(folder), str(test)]
    out = ["--out", str(folder.with_name(f"{folder.name}_judged")), "--overwrite"]
    start = [sys.executable, "-m", "jaxad", "predict", "--workdir", str(folder)]
    return [*start, str(test), *out, "--batch-size", str(BATCH)]


def _theirs(place: Place) -> list[str]:
    return [place.peer, "-m", "benchmarks.peers.anomalib_run"]


def imports(library: str, place: Place) -> float:
    """1e6 bytes that a process takes that only imports what training imports."""
    python, module = sys.executable, "jaxad.runs.train"
    if library == THEIRS:
        python, module = place.peer, "benchmarks.peers.anomalib_run"
    found = run(
        [python, "-c", f"import {module}"],
        log=place.work / f"{library}_imports.log",
        environment=place.environment(library),
    )
    return found.megabyte


def worker(subject: Subject, folder: Path, place: Place) -> Worker:
    """A process that holds a trained detector."""
    command = [sys.executable, "-m", "benchmarks.peers.jaxad_run", str(folder)]
    if subject.library == THEIRS:
        command = [*_theirs(place), "serve", subject.method, "--out", str(folder)]
    log = folder.with_name(f"{folder.name}_serve.log")
    return Worker(command, log=log, environment=place.environment(subject.library))


def commands(
    data: str, subject: Subject, photos: Photos, place: Place
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train and predict, or take up what an earlier run has left: the row's start, and facts."""
    folder = place.folder(data, subject)
    record = folder.with_name(f"{folder.name}.json")
    flat = place.work / data / "test"
    wanted: dict[str, Any] = {
        "photos": [photos.train, len(photos.test)],
        "train": training_command(subject, photos, folder, place),
        "predict": prediction_command(subject, flat, folder, place),
    }
    kept = read_json(record, "an earlier run", "take it away") if record.exists() else {}
    if kept.get("wanted") != wanted:
        if folder.exists():
            shutil.rmtree(folder)
        record.unlink(missing_ok=True)
        environment = place.environment(subject.library)
        runs = {
            name: run(wanted[name], log=record.with_suffix(f".{name}"), environment=environment)
            for name in ("train", "predict")
        }
        kept = {"wanted": wanted, "machine": machine()}
        kept["runs"] = {name: each._asdict() for name, each in runs.items()}
        write_json(record, kept)
    training, prediction = (Run(**kept["runs"][name]) for name in ("train", "predict"))
    facts = _facts(subject, folder, photos)
    row: dict[str, Any] = {
        "data": data,
        "library": subject.library,
        "method": subject.method,
        "runtime": "",
        "date": kept["machine"]["date"],
        "photos": {**facts.pop("photos"), "test": len(photos.test)},
        "training": {
            "command_seconds": training.seconds,
            "fit_seconds": facts.pop("fit"),
            "megabyte": training.megabyte,
            "others": training.others,
        },
        "prediction": {
            "command_seconds": prediction.seconds,
            "megabyte": prediction.megabyte,
            "others": prediction.others,
        },
    }
    return row, facts


def _facts(subject: Subject, folder: Path, photos: Photos) -> dict[str, Any]:
    """What a trained folder says of itself."""
    if subject.library == THEIRS:
        said = json.loads((folder / "trained.json").read_text())
        found = {"train": said.pop("n_train"), "calibration": 0}
        return {"photos": found, "fit": said.pop("seconds")["fit"], **said}
    results = json.loads((folder / "results.json").read_text())
    own = results["categories"][photos.category]
    found = {"train": own["n_train"], "calibration": photos.train - own["n_train"]}
    return {"photos": found, "fit": results["seconds"]["features"] + results["seconds"]["train"]}
