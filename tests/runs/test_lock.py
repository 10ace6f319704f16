"""One process at a time in a work directory; who has died does not lock it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jaxad.core import InputError
from jaxad.runs.lock import NAME, holder, locked

OTHER = {"pid": 7, "host": "elsewhere", "started": 1}


def test_a_second_one_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    here = f"process {os.getpid()} on {platform.node()} works in {tmp_path}: wait"
    with locked(tmp_path):
        found = holder(tmp_path)
        assert found is not None
        assert found["pid"] == os.getpid()
        with pytest.raises(InputError, match=here), locked(tmp_path):
            pass
        assert holder(tmp_path) is not None  # the refusal took nothing away
    assert list(tmp_path.iterdir()) == []
    assert holder(tmp_path) is None
    with locked(tmp_path):
        pass


def test_an_error_frees_it(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_has_left_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = (
        "import os, sys, pathlib\nfrom jaxad.runs.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n    os._exit(9)\n"
    )
    ran = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    assert ran.wait() == 9
    assert (tmp_path / NAME).exists()
    assert holder(tmp_path) is None
    with locked(tmp_path):
        assert f"process {ran.pid} ended without a word" in capsys.readouterr().err
        found = holder(tmp_path)
        assert found is not None
        assert found["pid"] == os.getpid()


def test_a_process_of_another_host_that_shows_no_sign_of_life(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / NAME).write_text(json.dumps(OTHER))
    assert holder(tmp_path) == OTHER
    with locked(tmp_path, watch=0.2):
        said = capsys.readouterr().err
    assert "process 7 on elsewhere had it; looking for signs of life" in said


@pytest.mark.parametrize("clock", [0, 2e9])
def test_a_process_of_another_host_that_lives(clock: float, tmp_path: Path) -> None:
    """Whatever its clock says."""
    path, over = tmp_path / NAME, threading.Event()
    path.write_text(json.dumps(OTHER))

    def live() -> None:
        beat = clock
        while not over.wait(0.02):
            beat -= 10
            os.utime(path, (beat + 1e6, beat + 1e6))

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with (
            pytest.raises(InputError, match="process 7 on elsewhere works in"),
            locked(tmp_path, watch=20),
        ):
            pass
    finally:
        over.set()
        thread.join()
    assert json.loads(path.read_text()) == OTHER


def test_waiting_for_signs_of_life_can_be_stopped(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(json.dumps(OTHER))

    def check() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), locked(tmp_path, check=check):
        pass
    assert json.loads((tmp_path / NAME).read_text()) == OTHER


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 4000, "\0"])
def test_a_lock_that_says_nothing_is_taken(text: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(text)
    with locked(tmp_path):
        assert holder(tmp_path) is not None


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_plain_file_is_refused(kind: str, tmp_path: Path) -> None:
    path, target = tmp_path / NAME, tmp_path / "mine"
    target.write_text("mine")
    if kind == "link":
        path.symlink_to(target)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(InputError, match=NAME), locked(tmp_path):
        pass
    assert target.read_text() == "mine"
    assert os.path.lexists(path)


def test_of_many_that_come_together_one_gets_it(tmp_path: Path) -> None:
    inside, most, refused = [], [], []

    def come() -> None:
        for _ in range(30):
            try:
                with locked(tmp_path):
                    inside.append(1)
                    most.append(len(inside))
                    time.sleep(0.001)
                    inside.pop()
            except InputError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}
    assert len(most) + len(refused) == 240
    assert list(tmp_path.iterdir()) == []
