"""Timing takes turns, ratios are within rounds, and tables are tables."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.measure import interleave, machine, markdown, ratio


def test_functions_take_turns_and_only_rounds_that_count_are_kept() -> None:
    order: list[str] = []
    found = interleave(
        {name: lambda name=name: order.append(name) for name in "ab"}, pairs=3, warmup=2
    )
    assert "".join(order) == "ab" * 5
    assert {name: len(each) for name, each in found.items()} == {"a": 3, "b": 3}


def test_seconds_are_those_of_the_function() -> None:
    found = interleave({"slow": lambda: time.sleep(0.02), "fast": lambda: None}, pairs=3, warmup=0)
    assert min(found["slow"]) >= 0.02
    assert ratio(found["slow"], found["fast"])["median"] > 1


SECONDS = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=9)


@given(SECONDS, st.floats(0.01, 100))
def test_a_ratio_does_not_mind_what_slows_a_whole_round(fast: list[float], factor: float) -> None:
    found = ratio([factor * s for s in fast], fast)
    assert all(value == pytest.approx(factor) for value in found.values())


@given(SECONDS)
def test_the_spread_holds_the_median(slow: list[float]) -> None:
    found = ratio(slow, [1.0] * len(slow))
    assert found["low"] <= found["median"] <= found["high"]


def test_rounds_must_pair() -> None:
    with pytest.raises(ValueError):
        ratio([1.0, 2.0], [1.0])


def test_the_machine_is_named() -> None:
    found = machine()
    assert found["device"] == "cpu"
    assert found["cores"] >= 1
    assert found["processor"]
    assert found["jax"][0].isdigit()


def test_a_table_has_as_many_cells_in_every_line() -> None:
    lines = markdown(("a", "b"), [(1, "x"), (2.5, "")]).splitlines()
    assert lines == ["| a | b |", "| --- | --- |", "| 1 | x |", "| 2.5 |  |"]
