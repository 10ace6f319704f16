"""Watching a folder: each photo once, when it is complete, however it came there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import HERE, ROOT
from PIL import Image

from jaxad.errors import InputError, Stopped
from jaxad.runs import watch as module
from jaxad.runs.models import Judge, open_judge
from jaxad.runs.watch import Arrivals, watch


@pytest.fixture(scope="module")
def judge(calibrated: Path) -> Judge:
    return open_judge(workdir=calibrated, category="a", batch_size=1)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 30), "gray").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


class Watched:
    """A folder that a thread watches."""

    def __init__(self, folder: Path, judge: Judge, *, poll: bool) -> None:
        self.folder, self.rows, self._over = folder, list[dict[str, Any]](), threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(judge, poll))
        self._thread.start()

    def _run(self, judge: Judge, poll: bool) -> None:
        try:
            watch(self.folder, judge, self.rows.append, poll=poll, check=self._check)
        except BaseException as error:
            self.error = error

    def _check(self) -> None:
        if self._over.is_set():
            raise Stopped(signal.SIGTERM)

    def wait(self, count: int, seconds: float = 60) -> list[str]:
        end = time.monotonic() + seconds
        while len(self.rows) < count and time.monotonic() < end:
            time.sleep(0.02)
        return sorted(Path(row["path"]).relative_to(self.folder).as_posix() for row in self.rows)

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture
def watched(
    judge: Judge,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Callable[..., Watched]]:
    monkeypatch.setattr(module, "SETTLE", 1.0)
    begun: list[Watched] = []

    def begin(*, poll: bool = False) -> Watched:
        folder = tmp_path / "in"
        folder.mkdir()
        shutil.copy(tmp_path / "photo.png", folder / "before.png")
        begun.append(Watched(folder, judge, poll=poll))
        while "watching" not in capsys.readouterr().err and begun[-1].error is None:
            time.sleep(0.05)
        time.sleep(0.3 if not poll else 1.5)  # the first look at the folder
        return begun[-1]

    yield begin
    for one in begun:
        one.stop()


def test_photos_are_scored_when_they_are_complete(
    watched: Callable[..., Watched], photo: Path
) -> None:
    here = watched()
    data = photo.read_bytes()
    with (here.folder / "slow.png").open("wb") as file:
        for start in range(0, len(data), 50):
            file.write(data[start : start + 50])
            file.flush()
            time.sleep(0.05)
        assert here.rows == []
    assert here.wait(1) == ["slow.png"]
    (here.folder / "moved.tmp").write_bytes(data)
    (here.folder / "moved.tmp").rename(here.folder / "moved.png")
    os.link(photo, here.folder / "linked.png")
    (here.folder / "symbolic.png").symlink_to(photo)
    (here.folder / "note.txt").write_text("no photo")
    (here.folder / ".hidden.png").write_bytes(data)
    (here.folder / "sub").mkdir()
    (here.folder / "sub" / "deep.png").write_bytes(data)
    (here.folder / "broken.png").write_bytes(data[:60])
    every = ["broken.png", "linked.png", "moved.png", "slow.png", "sub/deep.png", "symbolic.png"]
    assert here.wait(6) == every
    time.sleep(1.5)  # nothing comes twice
    assert here.wait(6) == every
    rows = {Path(row["path"]).name: row for row in here.rows}
    assert rows["broken.png"]["decision"] == "error"
    assert len({row["score"] for row in rows.values() if row["decision"] != "error"}) == 1
    for row in here.rows:
        assert 0 <= row["seconds"] < 60
        assert isinstance(row["regions"], list)
    (here.folder / "slow.png").write_bytes(data[:60])  # another photo of an old name
    assert here.wait(7).count("slow.png") == 2


def test_a_folder_can_be_looked_at_instead(watched: Callable[..., Watched], photo: Path) -> None:
    here = watched(poll=True)
    shutil.copy(photo, here.folder / "1.png")
    (here.folder / "2.png").write_bytes(photo.read_bytes())
    assert here.wait(2) == ["1.png", "2.png"]


def test_a_folder_that_goes_is_said(watched: Callable[..., Watched], photo: Path) -> None:
    assert photo.exists()
    here = watched()
    shutil.rmtree(here.folder)
    end = time.monotonic() + 30
    while here.error is None and time.monotonic() < end:
        time.sleep(0.05)
    assert isinstance(here.error, InputError)
    assert "is gone" in str(here.error)


def test_without_more_watches_the_folder_is_looked_at(
    watched: Callable[..., Watched], photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import watchdog.observers

    class Full(watchdog.observers.Observer):  # type: ignore[misc, valid-type]
        def start(self) -> None:
            raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(watchdog.observers, "Observer", Full)
    here = watched()
    time.sleep(1.5)
    shutil.copy(photo, here.folder / "1.png")
    assert here.wait(1) == ["1.png"]


def test_files_that_grow_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT", 0.01)
    arrivals, path = Arrivals(0.2), tmp_path / "a.png"
    path.write_bytes(b"1")
    arrivals.tell(str(path), complete=False)
    for _ in range(3):
        time.sleep(0.12)
        path.write_bytes(path.read_bytes() + b"1")
        assert arrivals.take(5) == []
    time.sleep(0.25)
    (found,) = arrivals.take(5)
    assert found.path == str(path)
    arrivals.tell(str(path), complete=True)  # told after all: nothing has changed
    assert arrivals.take(5) == []
    for n in range(5):
        arrivals.tell(str(tmp_path / f"{n}.png"), complete=True)
    assert [len(arrivals.take(3)) for _ in range(3)] == [3, 2, 0]


def test_no_folder(judge: Judge, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder: make it first"):
        watch(tmp_path / "none", judge, lambda row: None)


def test_the_command_prints_a_line_a_photo_until_it_is_stopped(
    calibrated: Path, tmp_path: Path, photo: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    flags = ["--workdir", str(calibrated), "--category", "a", "--watch", str(folder)]
    path = os.pathsep.join([str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-m", "jaxad", "predict", *flags],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        said = ""
        while "watching" not in said:
            line = running.stderr.readline()
            assert line, said
            said += line
        shutil.copy(photo, folder / "1.png")
        row = json.loads(running.stdout.readline())
        running.send_signal(signal.SIGTERM)
        _, rest = running.communicate(timeout=60)
    assert running.returncode == 143
    assert row["path"].endswith("1.png")
    assert row["decision"] in ("good", "anomalous")
    assert (row["width"], row["height"], row["category"]) == (40, 30, "a")
    assert "photos took" in rest
    assert "SIGTERM: leaving; once more" in rest
    assert rest.splitlines()[-1] == "jaxad: stopped"
