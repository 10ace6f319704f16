"""What a work directory's run has done, is doing, and has left to do.

Everything is read from the folder, which may be anybody's, may be written to at this moment, or may
have been left by a run that was killed. So nothing here is believed that is not needed, no code of
a recipe is imported, and what is not there or is damaged is just not told. It answers at once:
nothing here imports JAX.
"""

from __future__ import annotations

import json
import math
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxad.errors import InputError, printable
from jaxad.files import confined, read_json
from jaxad.progress import span
from jaxad.runs.lock import holder
from jaxad.runs.record import SAVE, is_whole

TAIL = 1 << 18
"""Bytes at the end of train.jsonl that are looked at."""
METRICS = ("image_auroc", "pixel_auroc", "aupro_0.30")
"""Those that are told of a detector."""


class Replicate(NamedTuple):
    """One replicate's part of a run."""

    name: str
    """"" of the first one, `replicates/1` of the next."""
    trained: tuple[str, ...]
    """Detectors that are there whole."""
    left: tuple[str, ...]
    """Detectors that are not, in the order in which they are trained."""
    metrics: Mapping[str, Mapping[str, Any]]
    """Of each category that was measured."""
    whole: bool
    """Whether all was measured that is to be."""
    stale: tuple[str, ...]
    """Detectors that were updated since they were measured."""
    last: Mapping[str, Any]
    """The last line of train.jsonl that is of a step; empty without one."""
    age: float
    """Seconds since train.jsonl was written to; infinite where there is none."""
    seconds: float | None
    """That a detector took on average so far, its evaluation included."""


def status(workdir: Path) -> str:
    """Say in a few lines how far a run is.

    Args:
        workdir: What `jaxad train` writes, or wrote.

    Raises:
        InputError: It is no folder of a run.
    """
    config = _config(workdir)
    detectors = _detectors(workdir, config)
    count = _value(config, "train", "replicates", kind=int, otherwise=1)
    found = [_replicate(workdir, place, detectors) for place in _places(workdir, count)]
    running = holder(workdir)
    if running is not None:
        told = f"running, process {running.get('pid')} on {running.get('host')}"
    elif not all(_is_done(replicate) for replicate in found):
        told = "stopped: the same command goes on"
    else:
        told = "finished"
    name = _value(config, "method", "name", kind=str, otherwise="?")
    layout = _value(config, "data", "layout", kind=str, otherwise="?")
    lines = [f"{workdir}: {name} on {layout}: {told}"]
    for replicate in found:
        lines += _of_replicate(replicate, several=len(found) > 1)
    lines += _now(workdir, found, running is not None)
    return "\n".join(printable(line) for line in lines)


def _config(workdir: Path) -> Mapping[str, Any]:
    """The configuration as it is stored; its values are not checked.

    Raises:
        InputError: There is none.
    """
    foreign = InputError(f"{workdir} is no work directory of jaxad: name one of `jaxad train`")
    try:
        path = confined(workdir, "config.json")
        if not path.is_file():
            raise foreign
    except (OSError, ValueError) as error:
        raise foreign from error
    found = read_json(path, "the configuration of the run", "name another work directory")
    config = found.get("config") if isinstance(found, dict) else None
    if not isinstance(config, dict):
        raise InputError(f"{path} is not the configuration of a run: name another work directory")
    return config


def _value(config: Any, *names: str, kind: type, otherwise: Any) -> Any:
    for name in names:
        config = config.get(name) if isinstance(config, dict) else None
    return config if type(config) is kind else otherwise


def _json(workdir: Path, *parts: str) -> dict[str, Any]:
    """A JSON object below the work directory; empty where it is not there or not in order."""
    try:
        found = read_json(confined(workdir, *parts))
    except InputError:
        return {}
    return found if isinstance(found, dict) else {}


def _detectors(workdir: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of all that are to be trained, as far as the folder tells."""
    if _value(config, "data", "one_for_all", kind=bool, otherwise=False):
        return ("all",)
    n_train = _json(workdir, "data.json").get("n_train")
    return tuple(n_train) if isinstance(n_train, dict) else ()


def _places(workdir: Path, count: int) -> list[tuple[str, ...]]:
    """Where replicates are, whether they have begun or not."""
    return [(), *(("replicates", str(r)) for r in range(1, min(count, 1000)))]


def _replicate(workdir: Path, place: tuple[str, ...], detectors: Sequence[str]) -> Replicate:
    trained = _trained(workdir, place)
    results = _json(workdir, *place, "results.json")
    categories = results.get("categories")
    seconds = results.get("seconds")
    metrics = {}
    if isinstance(categories, dict):
        metrics = {name: found for name, found in categories.items() if isinstance(found, dict)}
    whole = isinstance(categories, dict) and not results.get("missing")
    stale = results.get("stale")
    times = [x for x in (seconds.values() if isinstance(seconds, dict) else ()) if _number(x)]
    last, age = _last_line(workdir, place)
    return Replicate(
        "/".join(place),
        tuple(name for name in detectors if name in trained) or tuple(sorted(trained)),
        tuple(name for name in detectors if name not in trained),
        metrics,
        whole,
        tuple(name for name in stale if isinstance(name, str)) if isinstance(stale, list) else (),
        last,
        age,
        sum(times) / len(trained) if times and trained else None,
    )


def _trained(workdir: Path, place: tuple[str, ...]) -> set[str]:
    """Names of checkpoints that were written to their end: their list is the last file."""
    try:
        folder = confined(workdir, *place, "checkpoints")
        if not folder.is_dir():
            return set()
        return {path.name for path in folder.iterdir() if is_whole(path)}
    except (OSError, InputError):
        return set()


def _last_line(workdir: Path, place: tuple[str, ...]) -> tuple[Mapping[str, Any], float]:
    """The last line that is of a step, and the age of the log."""
    try:
        path = confined(workdir, *place, "train.jsonl")
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # opening a pipe would wait for ever
            return {}, math.inf
        with path.open("rb") as file:
            file.seek(max(0, about.st_size - TAIL))
            data = file.read(TAIL)
    except (OSError, InputError):
        return {}, math.inf
    return next(_of_steps(data), {}), max(0.0, time.time() - about.st_mtime)


def _of_steps(data: bytes) -> Iterator[Mapping[str, Any]]:
    """Lines with the numbers that are told, the last one first; the first may be half a line."""
    for text in reversed(data.split(b"\n")):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if (
            isinstance(line, dict)
            and all(type(line.get(key)) is int for key in ("step", "steps"))
            and 0 < line["step"] <= line["steps"]
        ):
            yield line


def _kept(workdir: Path, replicate: Replicate) -> str:
    """From where the detector that is next goes on, in words; "" where it begins anew."""
    try:
        place = replicate.name.split("/") if replicate.name else []
        folder = confined(workdir, *place, "training", replicate.left[0])
        found = [SAVE.fullmatch(path.name) for path in folder.iterdir()]
    except (OSError, InputError):
        return ""
    steps = [(int(match[1]), int(match[2])) for match in found if match]
    phase, step = max(steps, default=(0, 0))
    return f"; goes on after step {step} of phase {phase + 1}" if phase or step else ""


def _is_done(replicate: Replicate) -> bool:
    """Whether all is trained and measured."""
    return replicate.whole and not replicate.left


def _measured(replicate: Replicate, detector: str) -> dict[str, Mapping[str, Any]]:
    """A detector's results: under its own name, all, or those of subclasses."""
    others = set(replicate.trained) - {detector}
    return {
        name: found
        for name, found in replicate.metrics.items()
        if detector in ("all", name) or (name.startswith(f"{detector}-") and name not in others)
    }


def _of_replicate(replicate: Replicate, *, several: bool) -> list[str]:
    """What is done and what is left of a replicate."""
    lines = []
    if several:
        lines.append(f"{replicate.name or 'first replicate'}:")
    for name in replicate.trained:
        own = _measured(replicate, name)
        if not own:
            lines.append(f"  {name}: trained, not measured")
        since = "; updated since: run jaxad evaluate" if name in replicate.stale else ""
        lines += [f"  {key}: trained, {_metrics(m)}{since}" for key, m in own.items()]
    if replicate.left:
        lines.append(f"  left: {', '.join(replicate.left)}")
    return lines


def _metrics(found: Mapping[str, Any]) -> str:
    told = [f"{name} {found[name]:.4f}" for name in METRICS if _number(found.get(name))]
    return ", ".join(told) or "measured"


def _now(workdir: Path, found: Sequence[Replicate], running: bool) -> list[str]:
    """What is at work, or was last: phase, step, rate, time left."""
    newest = min(found, key=lambda replicate: replicate.age)
    line, left = newest.last, sum(len(replicate.left) for replicate in found)
    if not line or not newest.left:
        return []
    where = "/".join(str(line[key]) for key in ("detector", "phase") if line.get(key))
    where = f"{newest.name}: {where}" if newest.name else where
    told = f"{'now' if running else 'last'}: {where}, step {line['step']} of {line['steps']}"
    if _number(line.get("loss")):
        told += f", loss {line['loss']:.3g}"
    for key, unit in (("steps_per_second", "steps"), ("images_per_second", "images")):
        if _number(line.get(key)):
            told += f", {line[key]:.1f} {unit}/s"
    rate: Any = line.get("steps_per_second")
    if running and _number(rate) and rate > 0:
        told += f", {span((line['steps'] - line['step']) / rate)} left in this phase"
    lines = [f"{told} (written {span(newest.age)} ago){'' if running else _kept(workdir, newest)}"]
    known = [replicate.seconds for replicate in found if replicate.seconds is not None]
    if known:
        each = sum(known) / len(known)
        lines.append(
            f"{left} detectors left, about {span(each * left)} "
            f"at {span(each)} for each of those that are done"
        )
    return lines


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e12
