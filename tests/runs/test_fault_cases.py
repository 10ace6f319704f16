"""Faults of the machine and of its users: one line each, nothing lost, the same end afterwards.

docs/reliability.md has the table. Those that `jaxad` makes up for by itself are in `test_resume`,
`test_lock` and `test_checkpoint`; here are those that take a full disk, a kill or a second process.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from configuring import configured
from conftest import HERE, ROOT, files, untimed

from jaxad.errors import Stopped
from jaxad.main import main
from jaxad.runs import checkpoint, evaluate, keeper, outcomes, replicate, train
from jaxad.runs import decode_once as decoding
from jaxad.runs.workdir import load, trained

TIMES = ("seconds", "images_per_second")
CHANGES = {"train__epochs": 3, "train__log_every": 1, "checkpoint__every_steps": 2}


def config_file(root: Path, folder: Path, **changes: Any) -> Path:
    """A configuration as a user would name it."""
    path = folder / "c.py"
    values = {**CHANGES, **changes}
    path.write_text(
        "from configuring import configured\n"
        "def get_config():\n"
        f"    return configured({str(root)!r}, **{values!r})\n"
    )
    return path


def end_of(workdir: Path) -> dict[str, Any]:
    """What a run came to, without its times."""
    results = json.loads((workdir / "results.json").read_text())
    arrays = {
        name: [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(load(workdir, name)[1])]
        for name in trained(workdir)
    }
    return {
        "results": {name: value for name, value in results.items() if name not in TIMES},
        "log": untimed(workdir / "train.jsonl"),
        "arrays": arrays,
        "names": sorted(name for name in files(workdir) if not name.startswith("checkpoints/")),
    }


@pytest.fixture(scope="module")
def undisturbed(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    workdir = tmp_path_factory.mktemp("undisturbed") / "w"
    train.train(configured(parts, **CHANGES), workdir)
    return end_of(workdir)


Command = Callable[..., int]


@pytest.fixture
def command(parts: Path, tmp_path: Path) -> Command:
    """`jaxad train` in this process; returns the exit code."""

    def run(workdir: Path, *more: str, **changes: Any) -> int:
        config = config_file(parts, tmp_path, **changes)
        return main(["train", f"--config={config}", f"--workdir={workdir}", *more])

    return run


def line_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line that was said; that there was no traceback."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith("jaxad: ")]
    assert len(lines) == 1, said
    return lines[0]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk needs a privileged Linux")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill a disk to its last byte."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return ballast


PLACES: dict[str, tuple[Any, str, Callable[..., bool]]] = {
    "a save of the training": (checkpoint, "save", lambda path, *_: "training" in path.parts),
    "a trained detector": (checkpoint, "save", lambda path, *_: "checkpoints" in path.parts),
    "a category's outcome": (outcomes, "write_bytes", lambda *_: True),
    "results": (evaluate, "write_json", lambda *_: True),
    "report": (evaluate, "write_report", lambda *_, **__: True),
    "log": (replicate.Replicate, "log", lambda *_, step=0, **__: step == 3),
    "decoded photos": (decoding, "write_prepared", lambda *_, **__: True),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_full_disk(
    place: str,
    disk: Path,
    command: Command,
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Full from one moment on: one line, and with room again the same command comes to its end."""
    module, name, when = PLACES[place]
    own = getattr(module, name)

    def filling(*args: Any, **kwargs: Any) -> Any:
        if when(*args, **kwargs):
            fill(disk)
            if place == "log":  # its last page has room
                kwargs["more"] = "x" * 9000
        return own(*args, **kwargs)

    more = {"data__prepared": str(disk / "prepared")} if place == "decoded photos" else {}
    with monkeypatch.context() as patched:
        patched.setattr(module, name, filling)
        assert command(disk / "w", **more) == 2
    line = line_of(capsys)
    print(f"| disk full: {place} | {line}")
    assert "No space left" in line or "RESOURCE_EXHAUSTED" in line or "make room" in line, line
    assert str(disk) in line
    assert not [p for p in disk.rglob("*") if p.name.startswith((".saving-", ".jaxad-"))]
    (disk / "ballast").unlink()
    assert command(disk / "w", **more) == 0
    assert end_of(disk / "w") == undisturbed


def test_a_disk_without_room_for_features(
    disk: Path,
    command: Command,
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They are memory-mapped: the system would kill a process that writes where no room is."""
    own = keeper._room

    def filling(*args: Any) -> Any:
        ballast = fill(disk)
        try:
            return own(*args)
        finally:
            ballast.unlink()

    monkeypatch.setattr(keeper, "_room", filling)
    assert command(disk / "w", checkpoint__features=True) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "not kept" in line]
    print(f"| disk full: features | {said}")
    assert len(said) == 2
    assert "No space left on device" in said[0]
    assert end_of(disk / "w") == undisturbed


def test_a_disk_that_is_full_before_the_start(
    disk: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(disk)
    assert command(disk / "w") == 2
    line = line_of(capsys)
    print(f"| disk full: before the start | {line}")
    assert "No space left on device" in line


def stopped(parts: Path, workdir: Path, *, there: str = "", **changes: Any) -> None:
    """Train until some steps and batches are done, or something is there, then be stopped."""
    asked = iter(range(10**9))

    def check() -> None:
        if (workdir / there).exists() if there else next(asked) >= 7:
            raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped):
        train.train(configured(parts, **{**CHANGES, **changes}), workdir, check=check)


def test_a_disk_that_can_not_be_written(
    disk: Path,
    parts: Path,
    command: Command,
    undisturbed: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before the start, and between two of them."""
    for begun in (False, True):
        if begun:
            stopped(parts, disk / "w")
            capsys.readouterr()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert command(disk / "w") == 2
        line = line_of(capsys)
        print(f"| read-only disk | {line}")
        assert "Read-only file system" in line
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert command(disk / "w") == 0
    assert end_of(disk / "w") == undisturbed


@pytest.mark.parametrize("years", [-3, 3])
def test_a_clock_that_was_set(
    years: int,
    parts: Path,
    tmp_path: Path,
    command: Command,
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was written before is of the future, or of a distant past."""
    workdir = tmp_path / "w"
    stopped(parts, workdir)
    for path in workdir.rglob("*"):
        time_of = path.stat().st_mtime - years * 31e6
        os.utime(path, (time_of, time_of))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + years * 31e6)
    assert command(workdir) == 0
    assert end_of(workdir) == undisturbed


def test_a_work_directory_of_a_newer_jaxad(
    parts: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "w"
    stopped(parts, workdir)
    path = workdir / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    before = files(workdir)
    capsys.readouterr()
    assert command(workdir) == 2
    line = line_of(capsys)
    print(f"| newer format | {line}")
    assert "has format 99, this jaxad reads" in line
    assert files(workdir) == before


def test_what_others_put_between_saves_stays(
    parts: Path, tmp_path: Path, command: Command, undisturbed: dict[str, Any]
) -> None:
    workdir = tmp_path / "w"
    stopped(parts, workdir)
    (save,) = [p for p in (workdir / "training" / "a").iterdir() if p.name == "0-4"]
    mine = (workdir / "training" / "notes.txt", save.parent / "notes.txt", save / "notes.txt")
    for path in mine:
        path.write_text("mine")
    assert command(workdir) == 0
    assert [path.read_text() for path in mine] == ["mine"] * 3
    for path in mine:
        path.unlink()
    found = end_of(workdir)
    assert {**found, "names": undisturbed["names"]} == undisturbed


@pytest.mark.parametrize("name", ["training", "training/a", "training/a/0-4", "outcomes"])
def test_a_link_is_not_followed(
    name: str, parts: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is anything deleted where it leads."""
    workdir, elsewhere = tmp_path / "w", tmp_path / "elsewhere"
    stopped(parts, workdir, there=name if name == "outcomes" else "")
    (workdir / name).rename(elsewhere)
    (workdir / name).symlink_to(elsewhere)
    (elsewhere / "theirs").write_text("theirs")
    before = files(elsewhere)
    capsys.readouterr()
    code = command(workdir)
    said = capsys.readouterr().err
    print(f"| link {name} | {code} {said.splitlines()[-1]}")
    assert "Traceback" not in said
    assert code in (0, 2)
    assert files(elsewhere) == before


def test_a_link_in_the_place_of_the_lock(
    parts: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir, victim = tmp_path / "w", tmp_path / "victim"
    stopped(parts, workdir)
    victim.write_text("theirs")
    (workdir / "jaxad.lock").symlink_to(victim)
    capsys.readouterr()
    assert command(workdir) == 2
    line = line_of(capsys)
    print(f"| link jaxad.lock | {line}")
    assert "jaxad.lock" in line
    assert victim.read_text() == "theirs"


def test_what_a_killed_evaluation_was_writing_is_deleted(
    trained_once: Path, tmp_path: Path
) -> None:
    workdir = Path(shutil.copytree(trained_once, tmp_path / "w"))
    before = set(files(workdir))
    for name in (".jaxad-0123456789abcdef.tmp", "report/.jaxad-0123456789abcdef.tmp"):
        (workdir / name).write_text("half")
    assert main(["evaluate", f"--workdir={workdir}"]) == 0
    assert set(files(workdir)) == before


SCRIPT = """
import os, shutil, signal, sys, time
from pathlib import Path
from jaxad.main import main
from jaxad.data import write_prepared
from jaxad.runs import checkpoint, evaluate, evaluator

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def patch(module, name, when, act):
    own = getattr(module, name)
    def patched(*args, **kwargs):
        if when(*args, **kwargs):
            act()
        return own(*args, **kwargs)
    setattr(module, name, patched)

def stick():
    print("stuck", file=sys.stderr, flush=True)
    time.sleep(60)

def slow(*args, **kwargs):
    for batch in batches(*args, **kwargs):
        print("decoding", file=sys.stderr, flush=True)
        time.sleep(.5)
        yield batch

where = sys.argv.pop(1)
if where == "save":
    patch(checkpoint, "seal", lambda path, *_: "training" in path.parts, die)
elif where == "detector":
    patch(checkpoint, "seal", lambda path, *_: "checkpoints" in path.parts, die)
elif where == "results":
    patch(evaluate, "write_json", lambda *_: True, die)
elif where == "report":
    patch(evaluate, "write_report", lambda *_, **__: True, die)
elif where == "second":
    patch(evaluator, "score_category", lambda name, *_, **__: name == "b", die)
elif where == "deletion":
    patch(shutil, "rmtree", lambda path, *_, **__: Path(path).parent.name == "training", die)
elif where == "stuck":
    patch(checkpoint, "seal", lambda path, *_: "training" in path.parts, stick)
elif where == "decoding":
    batches = write_prepared.batches
    write_prepared.batches = slow
sys.exit(main(sys.argv[1:]))
"""


class Started:
    """`jaxad train` in a process of its own."""

    def __init__(self, where: str, parts: Path, workdir: Path, **changes: Any) -> None:
        script = workdir.parent / "run.py"
        script.write_text(SCRIPT)
        config = config_file(parts, workdir.parent, **changes)
        path = os.pathsep.join([str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [
                *(sys.executable, str(script), where),
                *("train", f"--config={config}", f"--workdir={workdir}"),
            ],
            # As many devices as this process has: they decide the size of a batch.
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def until(self, text: str) -> str:
        """Read its standard error up to a line that has the text."""
        assert self.process.stderr is not None
        read = ""
        for line in self.process.stderr:
            read += line
            if text in line:
                return read
        raise AssertionError(read)

    def end(self) -> tuple[int, str]:
        """Wait; exit code, and the rest of what it said."""
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


@pytest.mark.parametrize("where", ["save", "detector", "deletion", "results", "report", "second"])
def test_killed_at_a_bad_moment(
    where: str,
    parts: Path,
    tmp_path: Path,
    command: Command,
    undisturbed: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    workdir = tmp_path / "w"
    code, said = Started(where, parts, workdir).end()
    assert code == -signal.SIGKILL, said
    unfinished = list(workdir.rglob(".saving-*"))
    assert bool(unfinished) == (where in ("save", "detector", "deletion"))
    capsys.readouterr()
    if where in ("report", "second"):  # what is finished can be evaluated in the meantime
        assert json.loads((workdir / "results.json").read_text())["missing"] == ["b"]
        assert main(["evaluate", f"--workdir={workdir}"]) == 0
        results = json.loads((workdir / "results.json").read_text())
        assert list(results["categories"]) == (["a"] if where == "report" else ["a", "b"])
    assert command(workdir) == 0
    said = capsys.readouterr().err
    print(f"| killed: {where} | {said.splitlines()[:4]}")
    assert "ended without a word" in said
    assert f"{workdir} holds this run" in said
    assert end_of(workdir) == undisturbed


def test_a_second_signal_leaves_at_once(
    parts: Path, tmp_path: Path, command: Command, undisturbed: dict[str, Any]
) -> None:
    workdir = tmp_path / "w"
    run = Started("stuck", parts, workdir)
    run.until("stuck")
    run.process.send_signal(signal.SIGTERM)
    run.until("SIGTERM: saving, then leaving; once more to leave at once")
    run.process.send_signal(signal.SIGTERM)
    code, said = run.end()
    assert code == 128 + signal.SIGTERM
    assert "Traceback" not in said
    assert command(workdir) == 0
    assert end_of(workdir) == undisturbed


def running(session: int) -> list[str]:
    """Processes of a session, by /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        state, _, _, of = rest.split()[:4]
        if int(of) == session and state not in "ZX":
            found.append(head)
    return found


def shared_memory() -> set[str]:
    folder = Path("/dev/shm")  # where semaphores lie too
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes by /proc")
@pytest.mark.parametrize("name", ["INT", "TERM", "KILL"])
def test_stopped_while_processes_decode(
    name: str, parts: Path, tmp_path: Path, command: Command, undisturbed: dict[str, Any]
) -> None:
    """All processes get the signal, as from a terminal; SIGKILL comes to the first one alone."""
    workdir, before = tmp_path / "w", shared_memory()
    decoding: Any = {"data__workers": 2, "data__prepared": str(tmp_path / "prepared")}
    run = Started("decoding", parts, workdir, **decoding)
    run.until("decoding")
    assert len(running(run.process.pid)) == 3
    number = signal.Signals[f"SIG{name}"]
    if name == "KILL":
        run.process.kill()
    else:
        os.killpg(run.process.pid, number)
    code, said = run.end()
    assert code == (-number if name == "KILL" else 128 + number)
    assert "Traceback" not in said
    end = time.monotonic() + 10
    while running(run.process.pid) or not shared_memory() <= before:  # other tests may use some
        assert time.monotonic() < end, (running(run.process.pid), shared_memory() - before)
        time.sleep(0.05)
    unfinished = list((tmp_path / "prepared").glob(".*"))
    assert len(unfinished) == (name == "KILL")
    assert command(workdir, **decoding) == 0
    assert len(list((tmp_path / "prepared").iterdir())) == 1
    assert end_of(workdir) == undisturbed


def test_two_that_are_started_together(
    parts: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    workdir = tmp_path / "w"
    both = [Started("", parts, workdir) for _ in range(2)]
    ends = dict(run.end() for run in both)
    assert sorted(ends) == [0, 2]
    said = ends[2].splitlines()[-1]
    print(f"| two together | {said}")
    assert f"works in {workdir}: wait for it, or choose another folder" in said
    assert end_of(workdir) == undisturbed
