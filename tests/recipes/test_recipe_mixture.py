"""`adapted_moe:RECIPE`: whose keys they are, and how a budget is shared out."""

from __future__ import annotations

from typing import Any

import pytest

from jaxad.config import apply_changes, check_config, default_config, load_file
from jaxad.core import Backbone, InputError, Level, Method, Preprocess
from jaxad.methods.adaption import Adaption
from jaxad.recipes import mixture
from jaxad.recipes.build import network_keys, recipe_named
from jaxad.recipes.pfm import KEYS as PFM

LEVELS = {name: Level(8, 4) for name in ("l1", "l2", "l3")}
NETWORK = Backbone("n", None, LEVELS, Preprocess())  # type: ignore[arg-type]
NETWORKS = {"source": NETWORK, "target": NETWORK}


def configured(**changes: Any) -> Any:
    config = default_config("adapted_moe:pfm")
    config.train.steps, config.train.positions = (7, 10, 20, 30), (4, 5, 6)
    for name, value in changes.items():
        config.update_from_flattened_dict({name.replace("__", "."): value})
    return config


def phases_of(config: Any, *, subclasses: int = 3) -> list[Any]:
    check_config(config)
    recipe = recipe_named(config.method.name)
    return recipe.method(config, NETWORKS, axis_name="batch", subclasses=subclasses)[1]


def budgets(config: Any, **options: Any) -> list[tuple[str, int, int]]:
    return [(p.name, p.steps, p.positions) for p in phases_of(config, **options)]


def test_the_expert_s_keys_are_its_own_recipe_s_in_a_section() -> None:
    config = configured()
    keys = recipe_named("adapted_moe:pfm").keys
    assert {n.removeprefix("expert."): k for n, k in keys.items() if "." in n} == PFM
    assert apply_changes(config, ["--config.method.expert.latent=1,2,3"])
    assert config.method.expert.latent == (1, 2, 3)
    assert network_keys(config).source == "resnet34"
    assert network_keys(default_config("simplenet")).backbone == "wide_resnet50_2"
    for name in ("method.latent", "method.hidden", "method.expert.hidden"):
        with pytest.raises(InputError, match=f"unknown configuration key '{name}'"):
            apply_changes(config, [f"--config.{name}=1"])
    with pytest.raises(InputError, match=r"method\.expert\.top_share is 2\.0: give"):
        apply_changes(config, ["--config.method.expert.top_share=2"])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("adapted_moe:adapted_moe", "adapted_moe learns subclasses itself"),
        ("adapted_moe:adapted_moe:pfm", "experts have no experts"),
        ("adapted_moe:" * 2000, "experts have no experts"),
        ("adapted_moe:ganomaly", "'ganomaly': known are pfm"),
        ("adapted_moe:", "'': known are pfm"),
        ("simplenet:pfm", "'simplenet:pfm': known are pfm"),
    ],
)
def test_what_can_not_be_an_expert_is_one_line(name: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        default_config(name)
    assert told in str(caught.value)
    assert len(str(caught.value)) < 500


def test_steps_are_the_router_s_and_the_expert_s() -> None:
    own = [("experts-l1", 10, 4), ("experts-l2", 20, 5), ("experts-l3", 30, 6)]
    assert budgets(configured()) == [("router", 7, 0), *own]
    assert budgets(configured(), subclasses=1) == own
    assert budgets(configured(method__moe=False)) == own
    whole = configured(train__steps=(), train__positions=())
    assert budgets(whole) == [("router", 0, 0), ("experts-all", 0, 0)]
    with pytest.raises(InputError, match=r"train\.steps is \(10, 20\): give three values"):
        budgets(configured(train__steps=(7, 10, 20)))


def test_a_warm_start_takes_its_share_of_every_phase() -> None:
    want = [
        *(("common-l1", 4, 4), ("experts-l1", 6, 4), ("common-l2", 8, 5), ("experts-l2", 12, 5)),
        *(("common-l3", 12, 6), ("experts-l3", 18, 6)),
    ]
    assert budgets(configured(method__warm_start=0.4))[1:] == want
    alike = [("common-l1", 10, 4), ("common-l2", 20, 5), ("common-l3", 30, 6)]
    assert budgets(configured(method__warm_start=1.0))[1:] == alike
    shared = budgets(configured(method__warm_start=0.4, method__shared=True))
    assert shared == budgets(configured())
    with pytest.raises(InputError, match=r"set train\.steps"):
        budgets(configured(method__warm_start=0.4, train__steps=(), train__positions=()))


def test_training_on_calibrated_features_reads_their_statistics() -> None:
    assert phases_of(configured())[1].features == ("source/l1", "target/l1")
    how = {"method__adapt_training": True, "method__statistics": "quartiles"}
    read = phases_of(configured(**how))[1].features
    assert read[2:4] == ("source/l1.location", "source/l1.scale")
    found = mixture.described(NETWORK, Adaption("quartiles", share=0.5, training=True))
    assert found.levels["l2.scale"] == Level(8, 0)
    whole = Adaption("quartiles", training=True)
    assert found.module == mixture.described(NETWORK, whole).module
    assert mixture.plain(found).levels == LEVELS


def test_the_router_reads_the_middle_level_or_one_that_is_named() -> None:
    assert phases_of(configured())[0].features == ("source/l2",)
    named = configured(method__routed_by="target/l3")
    assert phases_of(named)[0].features == ("target/l3",)
    with pytest.raises(InputError, match=r"method\.routed_by is 'l3': there are source/l1, "):
        phases_of(configured(method__routed_by="l3"))


KEYS = {
    "top_k": (2, "k"),
    "temperature": (0.3, "temperature"),
    "shared": (True, "shared"),
    "adaption": (False, "adaption"),
    "share": (0.5, "adaption"),
    "normalise_scores": (False, "normalise_scores"),
}


@pytest.mark.parametrize("name", KEYS)
def test_keys_of_the_whole_reach_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []

    def note(*args: Any, **options: Any) -> Method:
        given.append(options)
        return args[0]

    monkeypatch.setattr(mixture, "mixture", note)
    value, argument = KEYS[name]
    phases_of(configured())
    phases_of(configured(**{f"method__{name}": value}))
    changed = {key for key in given[0] if given[0][key] != given[1][key]}
    assert changed == {argument}
    assert given[0]["size"] == (256, 256)


@pytest.mark.parametrize(
    "expert", ["mb_pfm_fast", "mb_pfm", "patchcore:resnet18", "simplenet_fast"]
)
def test_any_configuration_becomes_that_of_experts(expert: str) -> None:
    base, config = load_file(expert), load_file(f"adapted_moe_of:{expert}")
    check_config(config)
    for name, value in base.method.items():
        if name != "name":
            assert config.method.expert[name] == value
    assert config.data == base.data
    budget = (80, *base.train.steps) if base.train.steps or "patch" in expert else ()
    assert config.train.steps == budget
    assert config.train.positions == base.train.positions


def test_a_bank_without_a_router_takes_no_steps() -> None:
    config = default_config("adapted_moe:patchcore")
    config.method.moe, config.train.holdout = False, 0.1
    recipe = recipe_named(config.method.name)
    with pytest.raises(InputError, match=r"train\.holdout is 0\.1: .* learns without steps"):
        recipe.method(config, {"backbone": NETWORK}, subclasses=0)
