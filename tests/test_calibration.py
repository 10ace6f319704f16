"""Which line decides for which photo, and how lines are kept."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from jaxad.calibration import (
    Calibration,
    Normal,
    calibrate,
    from_json,
    p_values,
    threshold,
)
from jaxad.errors import InputError


def normal(n: int, offset: float = 0.0, subclasses: tuple[str, ...] = ()) -> Normal:
    scores = np.arange(n, dtype=np.float32) / 3 + np.float32(offset)
    return Normal(scores, scores + 1, subclasses or ("",) * n)


def test_limits_are_of_the_category_or_the_most_cautious() -> None:
    both = Calibration({"a": normal(20), "b": normal(30, 5)}, 0.05)
    a, b = both.limits("a"), both.limits("b")
    assert (a.score, a.pixel) == (np.float32(19 / 3), np.float32(19 / 3) + 1)
    assert b.score > a.score
    either = both.limits()
    assert (either.score, either.pixel) == (b.score, b.pixel)
    some = np.array([0.0, 6.0, 20.0])
    np.testing.assert_array_equal(
        either.p_values(some), np.maximum(a.p_values(some), b.p_values(some))
    )


def test_limits_are_of_the_subclass_that_is_named() -> None:
    kinds = ("x", "y") * 20
    both = Calibration({"a": normal(40, 0, kinds)}, 0.05)
    own = both.limits("a", "x").normal[0]
    assert set(own.subclasses) == {"x"}
    np.testing.assert_array_equal(own.scores, normal(40).scores[::2])
    assert both.limits("a", "x").score == own.scores.max()
    for wrong in (("c", None), ("a", "z")):
        with pytest.raises(InputError, match="run jaxad calibrate"):
            both.limits(*wrong)


def routed(*counts: int, spread: float = 1.0) -> Normal:
    """Photos taken for "0", "1", ..., the scores of each wider spread than those before."""
    names = [str(j) for j, count in enumerate(counts) for _ in range(count)]
    draws = np.random.default_rng(0).random(len(names))
    scores = np.asarray(draws * [(1 + spread * int(name)) for name in names], np.float32)
    return Normal(scores, scores + 1, ("?",) * len(names), tuple(names))


def test_limits_are_of_the_subclass_that_a_photo_is_taken_for() -> None:
    normal = routed(30, 25, 18)
    found = Calibration({"a": normal}, 0.05).routed_limits("a")
    assert list(found) == ["0", "1"]  # of 18 photos none can be drawn
    for name, own in found.items():
        (among,) = own.normal
        assert set(among.routed) == {name}
        alone = calibrate(among.scores, 0.05, peaks=among.peaks)
        assert (own.score, own.pixel) == (alone.score, alone.pixel)
        np.testing.assert_array_equal(own.p_values(among.scores), alone.p_values(among.scores))
    assert found["0"].score < found["1"].score
    assert list(Calibration({"a": normal}, 0.05, 0.9).routed_limits()) == []
    assert Calibration({"a": normal._replace(routed=())}, 0.05).routed_limits("a") == {}
    unknown = normal._replace(routed=("",) * 30 + normal.routed[30:])
    assert list(Calibration({"a": unknown}, 0.05).routed_limits("a")) == ["1"]


def test_a_subclass_of_several_categories_has_the_most_cautious_limits() -> None:
    a, b = routed(30, 25), routed(30, 5, spread=4)
    both = Calibration({"a": a, "b": b}, 0.05)
    found = both.routed_limits()
    assert found["0"].score == max(both.routed_limits(name)["0"].score for name in "ab")
    # Of "b" too few photos are taken for "1": all of its photos count for it.
    assert found["1"].score == max(both.routed_limits("a")["1"].score, both.limits("b").score)
    assert [set(own.routed) for own in found["1"].normal] == [{"1"}, {"0", "1"}]
    with pytest.raises(InputError, match="nothing is calibrated for 'c'"):
        both.routed_limits("c")


def test_each_subclass_keeps_the_promise_where_one_limit_for_all_does_not() -> None:
    rng, rates = np.random.default_rng(3), []
    kinds = np.repeat(["x", "y"], 60)
    wide = np.where(kinds == "x", 1.0, 3.0)
    for _ in range(1500):
        draws = [(rng.gamma(2.0, size=120) * wide).astype(np.float32) for _ in range(2)]
        own = Calibration({"a": Normal(draws[0], draws[0], ("",) * 120, tuple(kinds))}, 0.1)
        limits = own.routed_limits("a")
        for_all = own.limits("a").score
        alarms = [draws[1] > for_all, draws[1] > [limits[kind].score for kind in kinds]]
        rates.append([each[kinds == kind].mean() for each in alarms for kind in "xy"])
    together_x, together_y, x, y = np.mean(rates, axis=0)
    assert together_x < 0.02
    assert together_y > 0.17
    error = 4 * np.std(rates, axis=0)[2:] / math.sqrt(len(rates))
    # ⌈61 · .9⌉ = 55: 6 / 61 of the normal photos of each are above, on average.
    assert abs(x - 6 / 61) < error[0]
    assert abs(y - 6 / 61) < error[1]


def test_photos_join_whatever_is_known_of_them() -> None:
    known, unknown = routed(2, 1), normal(2)
    found = unknown.joined(known)
    assert found.routed == ("", "", "0", "0", "1")
    assert found.subclasses == ("", "", "?", "?", "?")
    np.testing.assert_array_equal(found.scores, [*unknown.scores, *known.scores])
    assert unknown.joined(unknown).routed == ()
    np.testing.assert_array_equal(found.rows([3, 0]).peaks, found.peaks[[3, 0]])
    assert found.rows([]).routed == ()


def test_photos_are_named_unless_told_otherwise() -> None:
    scores = np.arange(3, dtype=np.float32)
    named = Normal(scores, scores, ("",) * 3, (), ("x.png", "y.png", "z.png"))
    assert named.rows([2, 0]).photos == ("z.png", "x.png")
    both = named.joined(Normal(scores, scores, ("",) * 3))
    assert both.photos == ("x.png", "y.png", "z.png", "", "", "")
    assert both.routed == ()
    own = Calibration({"a": both}, 0.3)
    assert from_json(own.to_json()).categories["a"].photos == both.photos
    assert "x.png" not in json.dumps(own.to_json(photos=False))


def test_too_few_photos_name_their_category() -> None:
    with pytest.raises(InputError, match=r"^b: 9 calibration photos are too few .* take 19"):
        Calibration({"a": normal(20), "b": normal(9)}, 0.05).limits()


def test_a_calibration_comes_back_from_json() -> None:
    before = Calibration({"a": normal(7, 0.1, ("x",) * 7)}, 0.2, 0.7)
    after = from_json(json.loads(json.dumps(before.to_json())))
    assert (after.false_alarm, after.confidence) == (0.2, 0.7)
    for one, two in zip(before.categories["a"][:2], after.categories["a"][:2]):
        np.testing.assert_array_equal(one, two)
        assert two.dtype == np.float32
    assert after.categories["a"].subclasses == ("x",) * 7
    assert after.categories["a"].routed == ()
    own = Calibration({"a": routed(3, 2)}, 0.2)
    assert from_json(json.loads(json.dumps(own.to_json()))).categories["a"].routed == tuple("00011")


@pytest.mark.parametrize(
    "damage",
    [
        {"false_alarm": 2},
        {"false_alarm": "0.1"},
        {"confidence": 0},
        {"categories": {}},
        {"categories": {"a": {"scores": [1.0], "peaks": [], "subclasses": [""]}}},
        {"categories": {"a": {"scores": [math.nan], "peaks": [1.0], "subclasses": [""]}}},
        {"categories": {"a": {"scores": ["x"], "peaks": [1.0], "subclasses": [""]}}},
        {"categories": {"a": {"scores": [1.0], "peaks": [1.0], "subclasses": [1]}}},
        {"categories": {"a": {"scores": [1e300], "peaks": [1.0], "subclasses": [""]}}},
        {"categories": {"a": {"scores": [[1.0]], "peaks": [[1.0]], "subclasses": [""]}}},
        {"categories": {"a": {"scores": [1], "peaks": [1], "subclasses": [""], "routed": "xy"}}},
        {"categories": {"a": {"scores": [1], "peaks": [1], "subclasses": [""], "routed": [1]}}},
        {"categories": {"a": {"scores": [1], "peaks": [1], "subclasses": [""], "photos": [1]}}},
        {"categories": 3},
    ],
)
def test_a_damaged_calibration_is_refused(damage: dict[str, object]) -> None:
    sound = Calibration({"a": normal(3)}, 0.5).to_json()
    with pytest.raises(InputError, match="the calibration is damaged"):
        from_json({**sound, **damage})
    with pytest.raises(InputError, match="the calibration is damaged"):
        from_json(3)


def test_scores_alone_give_limits() -> None:
    scores = np.arange(19.0)
    limits = calibrate(scores, 0.1, peaks=scores + 100)
    assert (limits.score, limits.pixel) == (17, 117)
    assert limits.score == threshold(scores, 0.1)
    assert calibrate(scores, 0.1).pixel == 17
    np.testing.assert_array_equal(
        limits.p_values(np.array([-1.0, 99])), p_values(scores, np.array([-1.0, 99]))
    )
    sure = calibrate(np.arange(60.0), 0.1, confidence=0.9)
    assert sure.score == threshold(np.arange(60.0), 0.1, confidence=0.9) > 54
    for wrong, said in (
        ({"scores": scores[:5]}, "too few"),
        ({"scores": scores[None]}, "shape"),
        ({"peaks": scores[:3]}, "one of each"),
        ({"scores": np.append(scores, np.nan)}, "finite"),
        ({"alpha": 2.0}, "between 0 and 1"),
    ):
        with pytest.raises(InputError, match=said):
            calibrate(**{"scores": scores, "alpha": 0.1, **wrong})
