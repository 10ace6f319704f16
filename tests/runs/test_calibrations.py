"""What is said of lines: where they are, whose scores they are, and which of those stand apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jaxad.calibration import Calibration
from jaxad.normal import Normal
from jaxad.runs.calibrations import lines


def told(scores: list[float], photos: tuple[str, ...] = (), *, false_alarm: float = 0.05) -> str:
    own = np.asarray(scores, np.float32)
    normal = Normal(own, own + 1, ("",) * len(own), (), photos)
    return "\n".join(lines({"a": Calibration({"a": normal}, false_alarm)}, Path("a run")))


def test_the_photo_that_draws_the_line_is_named() -> None:
    scores = [float(n) for n in range(20)]
    names = tuple(f"good/{n}.png" for n in range(20))
    assert "a: the line is the score of good/19.png, the highest; the next is 18" in told(
        scores, names
    )
    found = told(scores, names, false_alarm=0.1)
    assert "the line is the score of good/18.png, number 2 from the top; the next is 17" in found
    assert "the next is 17, so not far from the others" in found
    assert "the line is the score of one photo, the highest; the next is 18" in told(scores)


@pytest.mark.parametrize(("last", "apart"), [(28.9, True), (27.1, False)])
def test_a_photo_that_stands_apart_is_asked_about(last: float, apart: bool) -> None:
    # The median of all is 9.5, so the next one, 18, is 8.5 above it; the line is last.
    found = told([*map(float, range(19)), last - 2], ("x",) * 19 + ("odd\n.png",))
    assert ("It stands far from the others" in found) == apart
    assert ("so not far from the others" in found) != apart
    command = r"jaxad calibrate --workdir 'a run' --leave-out 'odd\n.png'"
    assert (command in found) == apart
    assert r"odd\n.png" in found


def test_scores_that_are_all_alike_raise_no_question() -> None:
    assert "so not far from the others" in told([1.0] * 20)
    assert "far from" not in told([1.0], false_alarm=0.5)
