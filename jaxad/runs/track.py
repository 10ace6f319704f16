"""Experiment trackers: the lines of train.jsonl, sent to one of them as well.

None is needed, each is an extra, and is imported here alone. A tracker that fails while a run goes
on is told of in one line and left out from then on: what it shows stands in train.jsonl, too.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from jaxad.config import flat
from jaxad.errors import InputError, printable

FOLDER = "track"
"""In a work directory: what trackers write there."""
Series = Mapping[str, float]
"""Name, such as `bottle/layer1/loss`, -> value."""

MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
"""What a tracker is imported as; `jaxad[TRACKER]` installs it."""


class Backend(NamedTuple):
    """What is needed of a tracker's library."""

    send: Callable[[Series, int], None]
    """`send(series, step)`: values of one step."""
    close: Callable[[], None]


class Tracker:
    """The one hook: takes lines of train.jsonl, sends their numbers, never raises."""

    def __init__(self, name: str, backend: Backend) -> None:
        self._name = name
        self._backend: Backend | None = backend

    def line(self, values: Mapping[str, Any], *, prefix: str = "") -> None:
        """Send a line that is of a step; others have nothing to plot.

        Args:
            values: The line.
            prefix: Of the names of its series, such as the replicate.
        """
        if self._backend is None or "step" not in values:
            return
        series = series_of(values, prefix=prefix)
        backend = self._backend
        self._guarded(lambda: backend.send(series, values["step"]))

    def close(self) -> None:
        """Let the tracker finish."""
        if self._backend is not None:
            self._guarded(self._backend.close)
            self._backend = None

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # whatever another library raises: the run is worth more
            self._backend = None
            print(
                f"track={self._name} failed and is off now: {_told(error)}; train.jsonl has all",
                file=sys.stderr,
            )


def series_of(values: Mapping[str, Any], *, prefix: str = "") -> dict[str, float]:
    """The numbers of a line, each named by prefix, detector, phase and its key.

    Only letters, digits and `_-./ ` are left in names: all that every tracker takes.
    """
    where = [prefix.strip("."), *(str(values.get(key, "")) for key in ("detector", "phase"))]
    start = "/".join(part for part in where if part)
    return {
        re.sub(r"[^\w\-./ ]", "_", f"{start}/{key}", flags=re.ASCII): float(value)
        for key, value in values.items()
        if key not in ("step", "steps") and type(value) in (int, float)
    }


def check(name: str) -> None:
    """See that a tracker's library is there, before any work.

    Raises:
        InputError: It is not; the line says how to install it.
    """
    if name and find_spec(MODULES[name]) is None:
        raise InputError(
            f"track={name} needs {MODULES[name]}, which is not installed: "
            f"pip install jaxad[{name}], or set track=''"
        )


def open_tracker(
    name: str, folder: Callable[[], Path], *, title: str, config: Mapping[str, Any]
) -> Tracker:
    """Start a tracker.

    Args:
        name: One of `MODULES`.
        folder: Names the folder for what is written here.
        title: Of the run.
        config: Every value of the configuration by its dotted name.

    Raises:
        InputError: Its library is missing, or refuses to start (no login, no server).
    """
    check(name)
    start = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}[name]
    told = {key: repr(value) for key, value in config.items()}
    try:
        return Tracker(name, start(folder(), title, told))
    except InputError:
        raise
    except Exception as error:  # of the library's own kinds
        raise InputError(
            f"track={name} can not start ({_told(error)}): see its own settings, or set track=''"
        ) from error


def nowhere(line: Mapping[str, Any], *, prefix: str = "") -> None:
    """What sends no line anywhere."""


def started(
    config: Any, workdir: Path, folder: Callable[[], Path], stack: ExitStack
) -> Callable[..., None]:
    """Start the tracker that a configuration names, to be closed with `stack`.

    Returns:
        `send(line, prefix=...)`, see `Tracker.line`; without a tracker it does nothing.

    Raises:
        InputError: As `open_tracker`.
    """
    if not config.track:
        return nowhere
    title = workdir.absolute().name
    tracker = open_tracker(config.track, folder, title=title, config=flat(config))
    stack.callback(tracker.close)
    return tracker.line


def _tensorboard(folder: Path, title: str, config: Mapping[str, str]) -> Backend:
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder))
    rows = "".join(f"\n| {key} | {value} |" for key, value in config.items())
    writer.add_text("configuration", f"{title}\n\n| key | value |\n|---|---|{rows}")

    def send(series: Series, step: int) -> None:
        for name, value in series.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return Backend(send, writer.close)


def _wandb(folder: Path, title: str, config: Mapping[str, str]) -> Backend:
    import wandb

    folder.mkdir(exist_ok=True)
    run = wandb.init(project="jaxad", name=title, dir=str(folder), config=dict(config))
    known: set[str] = set()

    def send(series: Series, step: int) -> None:
        # Its own step only counts up; ours starts anew with every phase.
        starts = {name.rpartition("/")[0] for name in series}
        for start in sorted(starts - known):
            run.define_metric(f"{start}/*", step_metric=f"{start}/step")
        known.update(starts)
        run.log({**series, **{f"{start}/step": float(step) for start in starts}})

    return Backend(send, run.finish)


def _mlflow(folder: Path, title: str, config: Mapping[str, str]) -> Backend:
    import mlflow

    del folder  # its own settings name the place
    client = mlflow.MlflowClient()
    experiment = mlflow.set_experiment("jaxad").experiment_id
    run = client.create_run(experiment, run_name=title).info.run_id
    params = [mlflow.entities.Param(key, value[:500]) for key, value in config.items()]
    for start in range(0, len(params), 100):  # as many as it takes at once
        client.log_batch(run, params=params[start : start + 100])

    def send(series: Series, step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [mlflow.entities.Metric(name, x, now, step) for name, x in series.items()]
        client.log_batch(run, metrics=metrics)

    return Backend(send, lambda: client.set_terminated(run))


def _told(error: Exception) -> str:
    text = str(error).strip()
    told = f": {text.splitlines()[0][:200]}" if text else ""
    return printable(type(error).__name__ + told)
