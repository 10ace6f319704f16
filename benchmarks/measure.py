"""How the benchmarks time: interleaved, in one process, with what they ran on said beside it."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def interleave(
    runs: Mapping[str, Callable[[], Any]], *, pairs: int, warmup: int = 2, pause: float = 0.0
) -> dict[str, list[float]]:
    """Time every function once per round, `pairs` rounds, in turn: A B A B and so on.

    What the machine does beside it then falls on all of them alike, and `ratio` compares within
    rounds. Each function must wait for its own result.

    Args:
        runs: Name -> function of nothing.
        pairs: Rounds that count.
        warmup: Rounds before that, which compile and fill caches.
        pause: Seconds before every run, not counted: another library's threads may go on spinning
            for some milliseconds after its own.

    Returns:
        Name -> seconds, one for each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(warmup + pairs):
        for name, run in runs.items():
            time.sleep(pause)
            start = time.perf_counter()
            run()
            if number >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """How many times faster the second is: median over rounds of slow / fast, and its quartiles."""
    each = sorted(a / b for a, b in zip(slow, fast, strict=True))
    return {
        "median": statistics.median(each),
        "low": each[len(each) // 4],
        "high": each[-1 - len(each) // 4],
    }


def machine() -> dict[str, Any]:
    """What this runs on, and when: for the head of every JSON."""
    import jax  # here, for processes whose memory is measured

    return {
        "date": datetime.date.today().isoformat(),
        "device": jax.local_devices()[0].device_kind,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


def _processor() -> str:
    """The processor's name and the widest vector unit that it says it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    units = ("avx512_bf16", "avx512f", "avx2", "asimd")
    flags = said.get("flags", said.get("Features", "")).split()
    unit = next((unit for unit in units if unit in flags), "")
    return f"{said.get('model name', platform.machine())} {unit}".strip()


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Lay out a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
