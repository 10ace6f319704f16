"""Every key: its type, that of its elements, its range; one line for any other value."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxad import keys
from jaxad.config import apply_changes, check_config, default_config, keys_of
from jaxad.errors import InputError
from jaxad.keys import Key, choice, flag, integer, number, several, text
from jaxad.own_keys import KEYS
from jaxad.recipes.build import OWN

CONFIGS = {method: default_config(method) for method in OWN}
KNOWN = [(method, name) for method in OWN for name in keys_of(method)]


def changed(method: str, name: str, value: str) -> Any:
    config = CONFIGS[method].copy_and_resolve_references()
    apply_changes(config, [f"--config.{name}={value}"])
    check_config(config)
    *sections, leaf = name.split(".")
    for section in sections:
        config = config[section]
    return config[leaf]


WORDS = st.one_of(
    st.text(max_size=12),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["True", "1,2", "(1,)", "()", "((1,2),3)", "9" * 400, "0x" + "f" * 4000]),
    st.sampled_from(["{[1]: 2}", "(" * 300, "1if 2", "'\\d'", "None", "a,b", "-1", "1e400", "é"]),
    st.lists(st.one_of(st.integers(), st.floats(), st.text(max_size=3)), max_size=4).map(str),
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(KNOWN), WORDS)
def test_any_value_of_any_key_is_taken_or_refused_in_one_line(
    key: tuple[str, str], value: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            changed(*key, value)
        except InputError as error:
            told = str(error)
            assert told.isprintable()
            assert told.encode("utf-8")
            assert key[1] in told or "method.name" in told or "train.seed" in told


@pytest.mark.parametrize(("method", "name"), KNOWN)
def test_every_default_is_a_value_of_its_key(method: str, name: str) -> None:
    key = keys_of(method)[name]
    keys.check(name, key, key.default)
    assert key.doc
    assert not key.doc.endswith(".")


@pytest.mark.parametrize(
    ("method", "change", "told"),
    [
        ("pfm", "train.seed=-1", "train.seed is -1: give a whole number from 0 to"),
        ("pfm", "data.image_size=a,b", "data.image_size is ('a', 'b')|'a,b': give 2 values"),
        (
            "pfm",
            "train.steps=2.5",
            "train.steps is (2.5,): give any number of phases, each a whole",
        ),
        ("pfm", "train.positions=big", "train.positions is 'big': give any number of phases"),
        ("pfm", "method.learning_rate=a,b", "method.learning_rate is 'a,b': give 3 values, of"),
        ("pfm", "method=pfm", "method is a section: change a key of it"),
        ("pfm", "data.workers=-1", "data.workers is -1: give a whole number from 0 to 256"),
        ("pfm", "method.smoothing=-2", "method.smoothing is -2.0: give a number from 0 to 1,000"),
        ("simplenet", "method.noise=-1", "method.noise is -1.0: give a number, 0 or more"),
        ("pfm", "data.one_for_all=1", "data.one_for_all is '1': give True or False"),
        ("pfm", "data.one_for_all=0.0", "give True or False"),
        ("pfm", "train.epochs=True", "train.epochs is 'True': give a whole number from 1"),
        ("pfm", "train.epochs=1e3", "train.epochs is '1e3': give a whole number"),
        ("pfm", "train.holdout=1", "train.holdout is 1.0: give a number, 0 or more, below 1"),
        ("pfm", "method.weight_decay=nan", "method.weight_decay is nan"),
        ("pfm", "method.levels=(1,1)", "method.levels is (1, 1): give one or more"),
        ("pfm", "method.levels=4", "each a whole number from 1 to 3, none twice"),
        ("pfm", "method.levels=()", "method.levels is ()"),
        ("pfm", "method.latent=(1,2)", "method.latent is (1, 2): give 3 values, of"),
        ("pfm", "method.learning_rate=(0.1,0.1,0)", "each a number above 0"),
        ("pfm", "train.cache_dtype=float64", "'float32' or 'float16'"),
        ("pfm", "train.dtype=float16", "train.dtype is 'float16': give 'float32' or 'bfloat16'"),
        ("pfm", "train.accumulate=0", "train.accumulate is 0: give a whole number from 1"),
        ("pfm", "train.profile=5", "train.profile is (5,): give 2 steps, each a whole number"),
        ("pfm", "train.profile=(9,3)", "train.profile is (9, 3): give the first step, then"),
        ("pfm", "track=other", "track is 'other': give '', 'tensorboard', 'wandb' or 'mlflow'"),
        ("pfm", "data.image_size=(0,8)", "data.image_size is (0, 8)"),
        ("pfm", "data.image_size=256", "data.image_size is (256,): give 2 values"),
        ("pfm", "data.image_size=(1,2,3)", "data.image_size is (1, 2, 3): give 2 values"),
        ("pfm", "method.source=", "method.source is '': give a text, not empty"),
        ("pfm", "train.seed=4294967296", "train.seed is 4294967296"),
        ("afrad", "method.local=(1,1)", "none twice"),
        ("afrad", "method.hidden=(1,2)", "method.hidden is (1, 2)"),
        ("afrad", "method.learning_rate=(1e-4,)", "method.learning_rate is '(1e-4,)': give a num"),
        ("adapted_moe", "method.top_k=0", "method.top_k is 0: give a whole number from 1"),
        ("adapted_moe", "method.temperature=0", "method.temperature is 0.0: give a number above 0"),
        ("adapted_moe", "method.centre_weight=1.5", "from 0 to 1"),
        ("adapted_moe", "method.spread=both", "method.spread is 'both': give 'image' or 'all'"),
    ],
)
def test_values_that_a_key_can_not_have(method: str, change: str, told: str) -> None:
    name, _, value = change.partition("=")
    with pytest.raises(InputError) as caught:
        changed(method, name, value)
    line = str(caught.value)
    first, _, second = told.partition("|")
    assert told in line or (second and (first in line or second in line)), line


@pytest.mark.parametrize(
    ("method", "change", "value"),
    [
        ("pfm", "data.one_for_all=true", True),
        ("pfm", "data.one_for_all=False", False),
        ("pfm", "train.seed=4294967295", 2**32 - 1),
        ("pfm", "method.weight_decay=1", 1.0),
        ("pfm", "method.learning_rate=1,2,3", (1, 2, 3)),
        ("pfm", "method.source_levels=layer1, layer2,layer3", ("layer1", "layer2", "layer3")),
        ("pfm", "train.steps=7", (7,)),
        ("afrad", "method.hidden=((1,2),(3,))", ((1, 2), (3,))),
        ("afrad", "method.hidden=[[1,2],[3]]", ((1, 2), (3,))),
        ("afrad", "method.levels=stage1", ("stage1",)),
        ("pfm", "data.resize=", ""),
        ("pfm", "data.join=(('visa','/a'),('elpv','',''))", (("visa", "/a"), ("elpv", "", ""))),
    ],
)
def test_values_from_the_command_line(method: str, change: str, value: Any) -> None:
    name, _, given = change.partition("=")
    found = changed(method, name, given)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (flag(), [True, False], [0, 1, "True", None, 1.0]),
        (integer(), [0, -5], [True, 1.0, "1", None]),
        (integer(least=1, most=3), [1, 3], [0, 4]),
        (number(least=0, most=1), [0, 1, 0.5], [-1e-9, 1.1, True, "0", float("nan"), 10**400]),
        (number(above=0, below=1), [1e-9], [0, 1, 0.0, 1.0]),
        (number(), [1e308], [float("inf"), -float("inf")]),
        (choice("a", "b"), ["a"], ["c", "", None, 1]),
        (choice("a"), ["a"], ["b"]),
        (text(), ["", "a"], ["\0", None, 1, b"a"]),
        (text(empty=False), ["a"], [""]),
        (several(integer()), [(), (1,), [1, 2]], [1, "12", (True,), ("1",), {1}, {1: 2}]),
        (several(integer(), count=2), [(), (1, 2)], [(1,), (1, 2, 3)]),
        (several(integer(), count=2, empty=False), [(1, 2)], [()]),
        (several(integer(), empty=False), [(1,)], [()]),
        (several(text(), distinct=True), [("a", "b")], [("a", "a")]),
        (several(several(integer()), distinct=True), [((1,), (2,))], [((1,), (1,))]),
    ],
)
def test_kinds(kind: Any, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if not kind.accepts(value)] == []
    assert [value for value in bad if kind.accepts(value)] == []
    assert kind.says


def test_a_value_that_can_not_be_written_is_refused_all_the_same() -> None:
    for value in (10**5000, [10**5000]):
        with pytest.raises(
            InputError, match="n is of a size that can not be written: give a whole"
        ):
            keys.check("n", Key(1, integer(most=5), "of it"), value)
    with pytest.raises(InputError) as caught:
        keys.check("n", Key(1, integer(), "of it"), "x" * 10_000)
    assert len(str(caught.value)) < 200


def test_the_table_has_a_row_a_key() -> None:
    rows = keys.table({"a": Key("x|y", choice("x|y", "z"), "one | two")}, prefix="m.")
    assert rows[0].count("|") == rows[1].count("|") == 5
    assert rows[2:] == [r"| `m.a` | `'x\|y'` | 'x\|y' or 'z' | one \| two |"]
    assert len(keys.table(KEYS)) == len(KEYS) + 2
