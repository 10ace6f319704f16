"""Trackers: what they are sent, and that none of them can end a run."""

from __future__ import annotations

import json
import struct
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from configuring import configured

from jaxad.core import InputError
from jaxad.runs import track
from jaxad.runs.train import train

LINE = {
    **{"detector": "caf\u00e9 [1]", "phase": "layer1", "step": 3, "steps": 9, "loss": 0.5},
    **{"learning_rate": 1, "flag": True, "text": "x", "none": None},
}
SERIES = {"caf_ _1_/layer1/loss": 0.5, "caf_ _1_/layer1/learning_rate": 1.0}


class Recorder:
    """A library that remembers what it was told."""

    def __init__(self) -> None:
        self.sent: list[tuple[dict[str, float], int]] = []
        self.config: dict[str, str] = {}
        self.title = ""
        self.closed = 0
        self.fail_at = 10**9

    def send(self, series: Any, step: int) -> None:
        if len(self.sent) >= self.fail_at:
            raise ConnectionError("no route\nto host")
        self.sent.append((dict(series), step))


def wandb(recorder: Recorder) -> types.ModuleType:
    class Run:
        def define_metric(self, name: str, step_metric: str) -> None:
            assert name.removesuffix("/*") == step_metric.removesuffix("/step")

        def log(self, values: dict[str, float]) -> None:
            steps = {int(v) for k, v in values.items() if k.endswith("/step")}
            (step,) = steps
            series = {k: v for k, v in values.items() if not k.endswith("/step")}
            recorder.send(series, step)

        def finish(self) -> None:
            recorder.closed += 1

    def init(*, project: str, name: str, dir: str, config: dict[str, str]) -> Run:
        assert project == "jaxad"
        assert Path(dir).is_dir()
        recorder.title, recorder.config = name, config
        return Run()

    module = types.ModuleType("wandb")
    module.init = init  # type: ignore[attr-defined]
    return module


def mlflow(recorder: Recorder) -> types.ModuleType:
    made = types.SimpleNamespace

    class Client:
        def create_run(self, experiment: str, run_name: str) -> Any:
            assert experiment == "7"
            recorder.title = run_name
            return made(info=made(run_id="r"))

        def log_batch(self, run: str, metrics: Any = (), params: Any = ()) -> None:
            assert run == "r"
            assert len(params) <= 100
            recorder.config.update({p.key: p.value for p in params})
            if metrics:
                (step,) = {m.step for m in metrics}
                recorder.send({m.name: m.value for m in metrics}, step)

        def set_terminated(self, run: str) -> None:
            recorder.closed += 1

    module = types.ModuleType("mlflow")
    module.MlflowClient = Client  # type: ignore[attr-defined]
    module.set_experiment = lambda name: made(experiment_id="7")  # type: ignore[attr-defined]
    module.entities = made(  # type: ignore[attr-defined]
        Metric=lambda name, value, timestamp, step: made(name=name, value=value, step=step),
        Param=lambda key, value: made(key=key, value=value),
    )
    return module


FAKES = {"wandb": wandb, "mlflow": mlflow}


@pytest.fixture(params=FAKES)
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Recorder]:
    """A tracker's name, and what its library, which is not here, was told."""
    recorder = Recorder()
    module = FAKES[request.param](recorder)
    module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, request.param, module)
    return request.param, recorder


def test_series_are_named_by_where_they_come_from() -> None:
    assert track.series_of(LINE) == SERIES
    within = {f"replicates/1/{name}": value for name, value in SERIES.items()}
    assert track.series_of(LINE, prefix="replicates/1") == within


def test_numbers_of_steps_are_sent_and_other_lines_are_not(
    fake: tuple[str, Recorder], tmp_path: Path
) -> None:
    name, recorder = fake
    config = {f"a.b{n}": n for n in range(150)}
    tracker = track.open_tracker(name, lambda: tmp_path, title="run", config=config)
    assert (recorder.title, recorder.config["a.b149"]) == ("run", "149")
    tracker.line({"cost": {"trained": 3}})
    tracker.line({"phase": "layer1", "steps": 9, "images_per_step": 3})
    tracker.line(LINE)
    tracker.line({**LINE, "step": 4})
    assert recorder.sent == [(SERIES, 3), (SERIES, 4)]
    tracker.close()
    tracker.close()
    tracker.line(LINE)
    assert (recorder.closed, len(recorder.sent)) == (1, 2)


def test_a_tracker_that_fails_is_told_of_once_and_left_out(
    fake: tuple[str, Recorder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, recorder = fake
    recorder.fail_at = 1
    tracker = track.open_tracker(name, lambda: tmp_path, title="run", config={})
    for _ in range(3):
        tracker.line(LINE)
    tracker.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"track={name} failed and is off now: ConnectionError: no route; train.jsonl has all"
    )
    assert (len(recorder.sent), recorder.closed) == (1, 0)


def test_a_tracker_that_can_not_start_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("wandb")
    module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(InputError, match=r"track=wandb can not start \(AttributeError") as caught:
        track.open_tracker("wandb", lambda: tmp_path / "track", title="run", config={})
    assert "set track=''" in str(caught.value)


@pytest.mark.parametrize("name", track.MODULES)
def test_a_library_that_is_missing_is_named_before_all_work(
    name: str, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxad.runs.track.find_spec", lambda module: None)
    with pytest.raises(InputError, match=rf"pip install jaxad\[{name}\]"):
        train(configured(parts, track=name), tmp_path / "w")
    assert not (tmp_path / "w").exists()


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars of the one event file of TensorBoard in a folder."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.glob("events.out.tfevents.*")
    data, at, found = path.read_bytes(), 0, {}
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        event = Event.FromString(data[at + 12 : at + 12 + length])
        at += 16 + length  # length, its checksum, the event, its checksum
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_a_run_is_in_tensorboard_s_own_form(parts: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    config = configured(parts, data__categories="a", train__epochs=2, track="tensorboard")
    config.train.replicates, config.train.log_every = 2, 1
    train(config, tmp_path)
    found = events(tmp_path / "track")
    for prefix in ("", "replicates/1/"):
        lines = (tmp_path / prefix / "train.jsonl").read_text().splitlines()
        steps = [line for line in map(json.loads, lines) if "step" in line]
        assert len(steps) == 4
        for key in ("loss", "gradient_norm", "steps_per_second"):
            want = [(line["step"], pytest.approx(line[key])) for line in steps if key in line]
            assert found[f"{prefix}a/all/{key}"] == want
    assert "track/" in json.loads((tmp_path / "jaxad.json").read_text())["wrote"]
    train(configured(parts, data__categories="a"), tmp_path, overwrite=True)
    assert not (tmp_path / "track").exists()


def test_a_run_outlives_its_tracker(
    fake: tuple[str, Recorder], parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, recorder = fake
    recorder.fail_at = 1
    config = configured(parts, data__categories="a", train__epochs=2, track=name)
    config.train.log_every = 1
    assert train(config, tmp_path)["categories"]
    assert len(recorder.sent) == 1
    assert capsys.readouterr().err.count("failed and is off now") == 1
