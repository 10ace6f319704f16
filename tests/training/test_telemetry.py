"""Lines of train.jsonl: what was measured, how fast, in how much memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import Log, job, toy, trainer

from jaxad.core import InputError
from jaxad.recipes.recipe import Phase
from jaxad.training import telemetry
from jaxad.training.telemetry import reporter

ROOT = Path("photos")


def metrics(*losses: float) -> Any:
    """Those of one program: of one step, or of several."""
    values = np.asarray(losses) if len(losses) > 1 else np.float64(losses[0])
    return {"loss": (2 * values, 2 * np.ones_like(values)), "other": (values, np.ones_like(values))}


class Clock:
    def __init__(self, *times: float) -> None:
        self.times = list(times)

    def __call__(self) -> float:
        return self.times.pop(0)


def report_of(log: Log, *times: float, steps: int = 7, every: int = 3, **options: Any) -> Any:
    clock = Clock(*times)
    return reporter("all", steps, title="t", log_every=every, log=log, clock=clock, **options)


def test_every_step_is_reported_and_some_are_logged() -> None:
    log = Log()
    report = report_of(log, 1.0, 2.0, 3.0)
    report(metrics(0, 0.5, 1, 1.5, 2), {})
    report(metrics(5), {})
    report(metrics(6), {})
    assert [line["step"] for line in log] == [1, 3, 6, 7]
    assert {line["steps"] for line in log} == {7}
    assert [line["loss"] for line in log] == [0.0, 1.0, 5.0, 6.0]
    assert [line["other"] for line in log] == [0.0, 1.0, 5.0, 6.0]
    assert {line["phase"] for line in log} == {"all"}


def test_steps_that_were_taken_before_are_not_counted_again() -> None:
    log = Log()
    report = report_of(log, 1.0, 2.0, done=5)
    report(metrics(5), {})
    report(metrics(6), {})
    assert [line["step"] for line in log] == [6, 7]


def test_rates_are_those_since_the_line_before() -> None:
    log = Log()
    report = report_of(log, 100, 101, 103, 104, 108, seen={"images": 8, "positions": 100}, steps=5)
    for loss in range(5):
        report(metrics(loss), {})
    # The first call compiles: nothing is said of its time.
    for key, each in (("steps", 1), ("images", 8), ("positions", 100)):
        found = [line.get(f"{key}_per_second") for line in log]
        assert found == [None, pytest.approx(each * 2 / 3), pytest.approx(each * 2 / 5)]


def test_rates_where_a_program_takes_several_steps() -> None:
    log = Log()
    report = report_of(log, 100, 110, 130, steps=15, every=2)
    for _ in range(3):
        report(metrics(1, 2, 3, 4, 5), {})
    found = [(line["step"], line.get("steps_per_second")) for line in log]
    assert found[:3] == [(1, None), (2, None), (4, None)]  # of the program that compiles
    # From the end of the first program: 2 s a step, then 4 s.
    assert found[3:] == [
        *((6, pytest.approx(0.5)), (8, pytest.approx(0.5)), (10, pytest.approx(0.5))),
        *((12, pytest.approx(0.25)), (14, pytest.approx(0.25)), (15, pytest.approx(0.25))),
    ]


def test_what_was_measured_stands_in_the_line_of_the_last_step_of_its_program() -> None:
    log = Log()
    report = report_of(log, 1, 2, 3, steps=20, every=4)
    report(metrics(1, 2, 3, 4, 5), {"holdout": 0.5})
    report(metrics(1, 2, 3, 4), {})
    report(metrics(1), {})
    assert [(line["step"], line.get("holdout")) for line in log] == [
        *((1, None), (4, None), (5, 0.5), (8, None))
    ]


def test_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "peak_memory", lambda: 7)
    log = Log()
    report_of(log, 1)(metrics(1), {})
    assert log[0]["memory_peak_bytes"] == 7
    assert "device_memory_bytes" not in log[0]  # a CPU has none of its own
    monkeypatch.setattr(telemetry, "device_memory_in_use", lambda: 8)
    report_of(log, 1)(metrics(1), {})
    assert log[1]["device_memory_bytes"] == 8


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_training_that_diverges_is_named(value: float) -> None:
    report = reporter("router", 7, title="t", log_every=3, log=Log())
    report(metrics(1), {})
    with pytest.raises(InputError, match=r"the loss of phase 'router' is (nan|inf) at step 3"):
        report(metrics(1, value), {})


@pytest.mark.parametrize("place", ["host", "device", "off"])
def test_measuring_held_out_images_changes_nothing(place: str) -> None:
    found = {}
    for every in (1, 3, 10**6):
        log = Log()
        made = trainer(toy(noise=0.5), feature_cache=place, holdout=0.3, epochs=4, log_every=every)
        found[every] = made.fit(job(10), ROOT, log, seed=0).variables["params"]["all"]
        steps = [line["step"] for line in log if "holdout" in line]
        assert steps == sorted({*range(every, 8, every), 8})
        assert log[-1]["holdout"] > 0
        assert all(line["steps"] == 8 for line in log if "step" in line)
    for every in (1, 3):
        np.testing.assert_array_equal(found[every], found[10**6])


def test_what_a_step_sees_is_what_its_rates_count() -> None:
    for place, positions, keys in (
        ("host", 0, {"images_per_second": 4}),
        ("host", 10, {"positions_per_second": 10}),
        ("off", 10, {"positions_per_second": 12, "images_per_second": 4}),
    ):
        log = Log()
        phase = Phase("all", toy(), 3, positions, ("net/a",))
        trainer(toy(), phases=[phase], feature_cache=place).fit(job(5), ROOT, log, seed=0)
        last = log[-1]
        assert {k for k in last if k.endswith("s_per_second")} == {*keys, "steps_per_second"}
        for key, each in keys.items():
            assert last[key] == pytest.approx(each * last["steps_per_second"])
