"""Progress lines: rate and time left, one line now and then off a terminal."""

from __future__ import annotations

import io
import re

import pytest

from jaxad import progress
from jaxad.progress import Progress, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_log_lines_come_now_and_then_with_rate_and_time_left(clock: list[float]) -> None:
    out = io.StringIO()
    bar = Progress("train", 100, "steps", every=10, stream=out)
    for _ in range(100):
        clock[0] += 1
        bar.advance(note="loss 0.5")
    lines = out.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "train: 10/100 steps in 0:10 (1.0/s, 1:30 left)  loss 0.5"
    assert lines[-1] == "train: 100/100 steps in 1:40 (1.0/s)  loss 0.5"


def test_a_terminal_gets_one_line_redrawn(clock: list[float]) -> None:
    out = Terminal()
    bar = Progress("score", 3, "images", stream=out)
    for _ in range(3):
        clock[0] += 4000
        bar.advance()
    assert out.getvalue().count("\n") == 1
    assert re.search(r"1/3 images in 1:06:40 .*2:13:20 left", out.getvalue())


def test_track_counts_the_padded_last_batch_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(iter("abc"), "score", 10, "images", 4)) == ["a", "b", "c"]
    assert "score: 10/10 images" in capsys.readouterr().err


def test_a_name_in_the_line_can_not_steer_the_terminal() -> None:
    out = Terminal()
    Progress("score \x1b[31mred\n\udcff", 1, "images", stream=out).advance()
    assert out.getvalue().startswith("\r\x1b[2Kscore \\x1b[31mred\\n\\udcff: 1/1 images")


def test_a_log_says_nothing_in_between(clock: list[float]) -> None:
    out = io.StringIO()
    bar = Progress("train", 1000, "steps", stream=out)
    for _ in range(31):
        clock[0] += 1
        bar.advance(2)
    lines = out.getvalue().splitlines()
    assert [line.partition(" steps")[0] for line in lines] == ["train: 30/1000", "train: 60/1000"]
    assert "(2.0/s, 7:50 left)" in lines[1]


def test_a_terminal_is_not_flooded(clock: list[float]) -> None:
    out = Terminal()
    bar = Progress("score", 100, "images", stream=out)
    for _ in range(99):
        clock[0] += 0.02
        bar.advance()
    assert 15 <= out.getvalue().count("\r") <= 20
    assert "\n" not in out.getvalue()
    bar.advance()
    assert out.getvalue().endswith("score: 100/100 images in 0:02 (50.5/s)\n")


def test_what_was_done_before_is_not_in_the_rate(clock: list[float]) -> None:
    out = io.StringIO()
    bar = Progress("train", 100, "steps", every=1, stream=out, done=50)
    for _ in range(10):
        clock[0] += 1
        bar.advance()
    assert out.getvalue().splitlines()[-1] == "train: 60/100 steps in 0:10 (1.0/s, 0:40 left)"
