"""A trace of some steps: when it begins and ends, and that it ends at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import Log, job, toy, trainer

from jaxad.core import InputError
from jaxad.recipes.recipe import Phase
from jaxad.training.profiling import Profile, profiled


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the profiler is told, and the steps between."""
    found: list[Any] = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda folder: found.append(f"start {folder}"))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: found.append("stop"))
    return found


def stepping(told: list[Any], first: int, last: int, calls: list[int], *, done: int = 0) -> None:
    def step(state: Any, frozen: Any, batch: Any, rng: Any) -> Any:
        told.append("step")
        return state, {"loss": (jnp.zeros(batch["at"].shape[-1:] if "at" in batch else ()), 1)}

    with profiled(step, Profile(lambda: Path("p"), first, last), done=done) as traced:
        for k in calls:
            batch = {"at": np.zeros((2, k))} if k > 1 else {"x": np.zeros(2)}
            traced(None, {}, batch, None)


@pytest.mark.parametrize(
    ("first", "last", "calls", "done", "want"),
    [
        (2, 3, [1, 1, 1, 1], 0, ["step", "start p", "step", "step", "stop", "step"]),
        (1, 1, [1, 1], 0, ["start p", "step", "stop", "step"]),
        (2, 9, [1, 1, 1], 0, ["step", "start p", "step", "step", "stop"]),  # the phase ends first
        (7, 9, [1, 1, 1], 0, ["step"] * 3),
        # Programs of several steps: all that have one of them.
        (60, 120, [50, 50, 50, 50], 0, ["step", "start p", "step", "step", "stop", "step"]),
        (100, 100, [50, 50, 50], 0, ["step", "start p", "step", "stop", "step"]),
        # Steps that were taken before a run was stopped do not come again.
        (2, 3, [1, 1], 3, ["step", "step"]),
        (2, 5, [1, 1, 1], 3, ["start p", "step", "step", "stop", "step"]),
    ],
)
def test_the_steps_that_are_asked_for_are_traced(
    first: int, last: int, calls: list[int], done: int, want: list[str], told: list[Any]
) -> None:
    stepping(told, first, last, calls, done=done)
    assert told == want


def test_a_trace_ends_when_training_does(told: list[Any]) -> None:
    def step(state: Any, frozen: Any, batch: Any, rng: Any) -> Any:
        raise InputError("diverged")

    with pytest.raises(InputError), profiled(step, Profile(lambda: Path("p"), 1, 5)) as traced:
        traced(None, {}, {}, None)
    assert told == ["start p", "stop"]


def test_only_the_first_phase_is_traced_into_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = trainer(toy(), phases=[Phase(n, toy(n), 4, 0, ("net/a",)) for n in ("all", "all")])
    profile = Profile(lambda: tmp_path / "profile", 2, 3)
    made.fit(job(5), Path("photos"), Log(), seed=0, profile=profile)
    traces = list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert len(traces) == 1
    assert capsys.readouterr().err.count("trace of steps 2 to 3 in ") == 1
    assert b"train_step" in traces[0].read_bytes()
    with jax.profiler.trace(str(tmp_path / "again")):  # the profiler is free again
        pass
