"""Several processes train what one does, stop together, and name the one that is gone."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import HERE, ROOT

from benchmarks.soak_runs import SUBJECTS, write_data
from jaxad.core import InputError
from jaxad.main import main
from jaxad.parallel import from_first, together
from jaxad.runs import joining, processes
from jaxad.runs.joining import join, scheduler
from jaxad.runs.processes import GONE, Agreed, Watch, Words
from jaxad.runs.workdir import load


def free_port() -> str:
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return str(some.getsockname()[1])


def start(*arguments: str, cache: Path, **env: str) -> subprocess.Popen[str]:
    own = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")]),
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2",
        **env,
    }
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, **own},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every method by one process with four devices, and by two with two."""
    out = tmp_path_factory.mktemp("several")
    write_data(out / "data")
    port = free_port()
    for count in (1, 2):
        (out / str(count)).mkdir()
        every = [
            start(
                str(HERE / "several.py"),
                *(str(out / "data"), str(out / str(count)), str(count), str(index), port),
                cache=out / f"compiled{count}{index}",
            )
            for index in range(count)
        ]
        said = [ran.communicate()[1] for ran in every]
        assert [ran.returncode for ran in every] == [0] * count, said
    return out


@pytest.mark.parametrize("name", SUBJECTS)
def test_two_processes_train_and_measure_what_one_does(name: str, found: Path) -> None:
    one, first, second = (
        json.loads((found / str(n) / f"found-{n}-{i}.json").read_text())[name]
        for n, i in ((1, 0), (2, 0), (2, 1))
    )
    assert first == second
    assert one.keys() == first.keys()
    for category, metrics in one.items():
        for key, value in metrics.items():
            if value is not None:
                assert first[category][key] == pytest.approx(value, abs=1e-3), (category, key)
    logs = [[json.loads(line) for line in (found / n / name / "train.jsonl").open()] for n in "12"]
    # The same draws: the same losses, step by step.
    for one_s, two_s in zip(*logs, strict=True):
        assert one_s.get("step") == two_s.get("step")
        if "loss" in one_s:
            assert two_s["loss"] == pytest.approx(one_s["loss"], rel=1e-3)
    for detector in sorted(p.name for p in (found / "1" / name / "checkpoints").iterdir()):
        ends = [load(found / n / name, detector)[1]["method"] for n in "12"]
        jax.tree_util.tree_map_with_path(near, *ends)


NOISE = re.compile(
    r"\['enter'\]\['bias'\]$|\['adaptor'\]\['bias'\]$|\['norm'\]\['mean'\]$"
    r"|_layer[1245]'\]\['conv'\]\['bias'\]$"
)
"""Biases before BatchNorm, and the mean that takes them out again: their gradient is nothing but
rounding, of which Adam makes whole steps, and no score depends on them."""


def near(path: Any, one: Any, two: Any) -> None:
    """Equal to 1e-5; a weight alone to half a step, as Adam makes of a gradient near zero.

    tests/training/test_several_processes.py has float64, and 1e-5 everywhere.
    """
    name = jax.tree_util.keystr(path)
    np.testing.assert_allclose(one, two, 0, 2e-3 if NOISE.search(name) else 1e-4, err_msg=name)
    if not NOISE.search(name):
        far = float(np.mean(np.abs(np.asarray(one, np.float64) - two)))
        assert far <= 1e-5, name


CONFIG = """
from configuring import configured
def get_config():
    return configured({root!r}, train__epochs=200000, train__parallel="jit", train__log_every=1)
"""


@pytest.fixture
def pair(parts: Path, tmp_path: Path) -> Iterator[Any]:
    """Starts two processes on one work directory, and ends what is left of them."""
    (tmp_path / "c.py").write_text(CONFIG.format(root=str(parts)))
    every: list[subprocess.Popen[str]] = []

    def begin() -> list[subprocess.Popen[str]]:
        port = free_port()
        both = [
            start(
                *("-m", "jaxad", "train", f"--config={tmp_path / 'c.py'}"),
                *(f"--workdir={tmp_path / 'w'}", f"--coordinator=127.0.0.1:{port}"),
                *("--num-processes=2", f"--process-id={index}"),
                cache=tmp_path / "compiled",
            )
            for index in range(2)
        ]
        every.extend(both)
        log = tmp_path / "w" / "train.jsonl"
        size = log.stat().st_size if log.exists() else 0
        end = time.monotonic() + 300
        while not log.exists() or log.stat().st_size < size + 2000:
            assert all(ran.poll() is None for ran in both), [r.communicate()[1] for r in both]
            assert time.monotonic() < end
            time.sleep(0.1)
        return both

    yield begin
    for ran in every:
        ran.kill()
        ran.wait()


def test_one_that_is_told_to_stop_stops_all_and_all_go_on(pair: Any, tmp_path: Path) -> None:
    both = pair()
    both[1].send_signal(signal.SIGTERM)
    said = [ran.communicate(timeout=120)[1] for ran in both]
    assert [ran.returncode for ran in both] == [143, 143], said
    assert "Traceback" not in "".join(said)
    (kept,) = (tmp_path / "w" / "training" / "a").iterdir()
    step = int(kept.name.partition("-")[2])
    both = pair()
    for victim, other in ((1, 0), (0, 1)):
        both[victim].send_signal(signal.SIGKILL)
        begin = time.monotonic()
        line = both[other].communicate(timeout=120)[1]
        assert time.monotonic() - begin < 60
        if victim:
            assert both[other].returncode == GONE, line
            assert "jaxad: process 1" in line
            assert "is gone" in line
            assert f"a: goes on after step {step} of phase 1" in line
        else:  # JAX ends the others itself, at once
            assert both[other].returncode in (GONE, -signal.SIGABRT), line
            assert "jaxad: process 0" in line or "the leader" in line
        both = pair() if victim else both


class Service:
    """Stands for JAX's coordination service."""

    def __init__(self, **there: str) -> None:
        self.kept = dict(there)

    def key_value_increment(self, key: str, by: int) -> int:
        return by

    def key_value_set(self, key: str, value: str, *, allow_overwrite: bool = False) -> None:
        self.kept[key] = value

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        return list(self.kept.items())


def test_what_breaks_where_another_dies_names_that_one(
    monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    service = Service(**{"jaxad/alive/1": "7 there"})
    monkeypatch.setattr(processes, "_client", lambda: service)
    monkeypatch.setattr(processes, "SILENT", 0.5)
    monkeypatch.setattr(processes, "BEAT", 0.05)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    left: list[int] = []
    monkeypatch.setattr(processes.atexit, "register", lambda *call: None)
    with pytest.raises(jax.errors.JaxRuntimeError), Watch(left.append):
        raise jax.errors.JaxRuntimeError("Gloo AllGather failed: Connection reset by peer")
    assert left == [GONE]
    assert "process 1 on there is gone (silent for" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--process-id=0"], "--coordinator, --num-processes is missing: give all three, or none"),
        (
            ["--coordinator=127.0.0.1:1", "--num-processes=2", "--process-id=2"],
            "--process-id 2 is not below --num-processes 2",
        ),
    ],
)
def test_incomplete_flags_are_one_line(
    arguments: list[str], message: str, parts: Path, tmp_path: Path, capsys: Any
) -> None:
    words = ["train", "--config=mb_pfm_lite", f"--workdir={tmp_path / 'w'}", *arguments]
    assert main([*words, f"--config.data.root={parts}"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_others_that_never_come_are_named(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom jaxad.runs.joining import join\n"
        f"join('127.0.0.1:{free_port()}', 2, int(sys.argv[1]), seconds=3)\n"
    )
    for index in "01":
        ran = start("-c", program, index, cache=tmp_path)
        said = ran.communicate(timeout=100)[1]
        assert ran.returncode == 2, said
        assert f"jaxad: process {index} of 2 met not all others at 127.0.0.1" in said


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No scheduler has started this."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "TPU_", "JAX_LOCAL_DEVICE_IDS")):
            monkeypatch.delenv(name)
    return monkeypatch


def test_a_scheduler_is_known_by_its_variables(nowhere: pytest.MonkeyPatch) -> None:
    assert scheduler() is None
    assert not join()
    nowhere.setenv("SLURM_NTASKS", "4")  # in a batch script, outside of srun
    assert scheduler() is None
    nowhere.setenv("SLURM_STEP_NODELIST", "n[1-2]")
    assert scheduler() == "SLURM"
    nowhere.setenv("SLURM_NTASKS", "1")  # one task is no reason to wait for others
    assert scheduler() is None
    nowhere.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    assert scheduler() is None
    nowhere.setenv("TPU_WORKER_HOSTNAMES", "a,b")
    assert scheduler() == "GKE"


def test_open_mpi_that_jax_does_not_know_is_said(nowhere: pytest.MonkeyPatch) -> None:
    nowhere.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(InputError, match="each one --coordinator, --num-processes"):
        scheduler()
    nowhere.setenv("OMPI_MCA_orte_hnp_uri", "4096.0;tcp://127.0.0.1:1")
    assert scheduler() == "Open MPI"


@pytest.mark.parametrize(
    ("name", "value", "devices"),
    [
        ("SLURM_STEP_TASKS_PER_NODE", "1(x2)", []),
        ("SLURM_STEP_TASKS_PER_NODE", "8(x2)", None),
        ("SLURM_STEP_TASKS_PER_NODE", "1,2", None),
        ("OMPI_COMM_WORLD_LOCAL_SIZE", "2", None),
        ("JAX_LOCAL_DEVICE_IDS", "1", None),
        ("SOME", "thing", []),
    ],
)
def test_a_process_that_has_its_host_alone_has_all_its_devices(
    name: str, value: str, devices: Any, nowhere: pytest.MonkeyPatch
) -> None:
    nowhere.setenv(name, value)
    assert joining._devices() == devices


def test_what_differs_from_the_first_process_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    words = Words()
    first = {"configuration": {"a": "1", "b": "2"}, "weights": {}}
    words.alike(first)
    monkeypatch.setattr(words, "first", lambda make: first)
    with pytest.raises(InputError, match=r"another configuration than the first one \(b, c\)"):
        words.alike({**first, "configuration": {"a": "1", "c": "3"}})


def test_other_configurations_end_all(parts: Path, tmp_path: Path) -> None:
    port, both = free_port(), []
    for index in range(2):
        text = CONFIG.format(root=str(parts)).replace("200000", str(2 + index))
        (tmp_path / f"c{index}.py").write_text(text)
        both.append(
            start(
                *("-m", "jaxad", "train", f"--config={tmp_path / f'c{index}.py'}"),
                *(f"--workdir={tmp_path / 'w'}", f"--coordinator=127.0.0.1:{port}"),
                *("--num-processes=2", f"--process-id={index}"),
                cache=tmp_path / "compiled",
            )
        )
    said = [ran.communicate(timeout=200)[1] for ran in both]
    assert [ran.returncode for ran in both] == [GONE, 2], said
    assert "process 1 has another configuration than the first one (train.epochs)" in said[1]
    assert "process 1" in said[0]
    assert "is gone" in said[0]


def test_a_process_alone_is_first_and_last() -> None:
    words = Words()
    assert words.first(lambda: {"a": 1}) == {"a": 1}
    with pytest.raises(InputError):
        words.first(lambda: (_ for _ in ()).throw(InputError("x")))
    tree = {"x": np.arange(6, dtype=np.float16).reshape(3, 2)}
    assert together(tree) is tree
    assert from_first(tree) is tree
    calls: list[int] = []
    agreed = Agreed(lambda: calls.append(1))
    for _ in range(20):
        agreed()
    assert len(calls) == 2
