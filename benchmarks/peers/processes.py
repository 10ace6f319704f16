"""The processes of a comparison: commands with their time and memory, and workers that answer."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from jaxad.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
LOOK = 0.5
"""Seconds between two looks at a command's memory: each takes milliseconds of a core."""


class Run(NamedTuple):
    """A command that has ended."""

    seconds: float
    megabyte: float
    """1e6 bytes at most, of the process and its children: what they share counts once."""
    others: float
    """Cores that others took meanwhile, on average."""


def run(command: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> Run:
    """Run a command to its end; what it prints goes to a file.

    Raises:
        InputError: It failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as said:
        start, busy, own = time.monotonic(), _busy(), _own()
        process = subprocess.Popen(
            command, cwd=ROOT, env=dict(environment), stdout=said, stderr=said
        )
        most = 0.0
        try:
            while process.poll() is None:
                most = max(most, _peak(process.pid), sum(map(_shared, _tree(process.pid))))
                try:
                    process.wait(LOOK)
                except subprocess.TimeoutExpired:
                    continue
            seconds = time.monotonic() - start
            others = (_busy() - busy - (_own() - own)) / seconds
        finally:
            process.kill()
    if process.returncode:
        raise InputError(_failed(command, log))
    return Run(seconds, most / 1e6, max(others, 0.0))


class Worker:
    """A process of `lines.serve`."""

    def __init__(
        self, command: Sequence[str], *, log: Path, environment: Mapping[str, str]
    ) -> None:
        """Start it."""
        self._command, self._log = command, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as said:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )

    def ask(self, do: str, **given: Any) -> Any:
        """Ask, and wait for the answer.

        Raises:
            InputError: The process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"do": do, **given}), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise InputError(_failed(self._command, self._log))
        return json.loads(answer)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def working(workers: Iterable[Worker]) -> Iterator[None]:
    """End all of them when done."""
    try:
        yield
    finally:
        for worker in workers:
            worker.close()


def _failed(command: Sequence[str], log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = lines[-1].strip()[:300] if lines else "it said nothing"
    return f"{' '.join(command[:5])} ... failed: {last} (all it said: {log})"


def _busy() -> float:
    """Seconds that cores were busy since the machine began, those taken by its host included."""
    user, nice, system, _, _, *rest = Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    return sum(map(int, (user, nice, system, *rest))) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    """Seconds of cores that ended children took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _tree(process: int) -> list[int]:
    """A process and all below it."""
    found = [process]
    for each in found:
        for path in Path(f"/proc/{each}/task").glob("*/children"):
            try:
                found += map(int, path.read_text().split())
            except OSError:  # it has ended by now
                continue
    return found


def _shared(process: int) -> float:
    """Bytes of a process, its share of what it shares with others."""
    return _bytes(Path(f"/proc/{process}/smaps_rollup"), "Pss:")


def _peak(process: int) -> float:
    """Most bytes that a process had resident."""
    return _bytes(Path(f"/proc/{process}/status"), "VmHWM:")


def _bytes(path: Path, name: str) -> float:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0.0
    return sum(1024.0 * int(line.split()[1]) for line in lines if line.startswith(name))
