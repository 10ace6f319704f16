"""Configurations: every file loads, nothing is lost on disk, wrong keys are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jaxad.config import (
    check_config,
    default_config,
    load_config,
    load_file,
    parse_config,
    save_config,
)
from jaxad.core import InputError

ROOT = Path(__file__).parents[1]
FILES = sorted(p.name for p in (ROOT / "configs").glob("*.py"))


def load(name: str, argument: str = "") -> Any:
    return load_file(str(ROOT / "configs" / name) + (f":{argument}" if argument else ""))


@pytest.mark.parametrize("name", FILES)
def test_every_file_loads_with_the_known_keys_and_names_its_command(name: str) -> None:
    config = load(name)
    check_config(config)
    text = (ROOT / "configs" / name).read_text()
    assert f"--config configs/{name}" in text.split('"""')[1]


def test_published_recipe_is_the_authors_code() -> None:
    m, t = load("mb_pfm.py").method, load("mb_pfm.py").train
    assert (m.source, m.target, m.latent) == ("resnet34", "resnet50", (200, 400, 900))
    assert m.learning_rate == (3e-3, 3e-4, 3e-4)
    assert (m.weight_decay, m.decoupled_weight_decay, m.one_cycle) == (1e-5, False, False)
    assert (m.normalise_output, m.conv_block_everywhere, m.zero_output) == (False, False, False)
    assert (m.smoothing, m.top_share) == (0.0, 0.0)
    assert (t.epochs, t.batch_size, t.seed, t.steps, t.positions) == (200, 8, 888, (), ())


def test_ablation_cases_are_those_of_table_vii() -> None:
    cases = {n: load("pfm_ablation.py", str(n)).method for n in range(1, 13)}
    levels = [cases[n].levels for n in range(1, 13)]
    assert levels[:7] == [(3,), (3,), (2,), (1,), (2, 3), (1, 2), (1, 3)]
    assert levels[7:] == [(1, 2, 3)] * 5
    assert [n for n, m in cases.items() if not m.bidirectional] == [1]
    assert [n for n, m in cases.items() if m.random_weights] == [9]
    assert {(m.source, m.target) for n, m in cases.items() if n < 10} == {("resnet18", "resnet34")}
    assert (cases[12].source, cases[12].target) == ("vgg16_bn", "vgg19_bn")
    with pytest.raises(InputError, match="cases 1 to 12"):
        load("pfm_ablation.py", "13")


def test_afrad_is_as_published_where_the_paper_says() -> None:
    config = load("afrad.py")
    assert config.data.one_for_all
    assert (config.method.backbone, config.data.image_size) == ("efficientnet_b4", (256, 256))
    assert (config.method.learning_rate, config.train.epochs) == (1e-4, 1000)
    m = config.method
    assert (m.local, m.compensation, m.adaptive) == ((1, 2), (1, 2), (1, 2, 3, 4))
    assert m.local_kernels == (5, 7)
    cifar = load("afrad.py", "cifar10-02468")
    assert (cifar.data.layout, cifar.data.categories) == ("cifar10", "02468")
    assert (cifar.train.epochs, cifar.method.pooling) == (200, 0)
    assert load("afrad.py", "visa").data.layout == "visa"
    with pytest.raises(InputError, match="settings are mvtec, visa, cifar10-01234"):
        load("afrad.py", "cifar10")


def test_no_such_method_has_a_configuration() -> None:
    with pytest.raises(InputError, match="'padim': known are pfm, afrad, simplenet"):
        default_config("padim")


def test_round_trip(tmp_path: Path) -> None:
    config = load("mb_pfm_fast.py")
    config.data.image_size = (64, 96)
    config.method.levels = (3,)
    save_config(tmp_path / "config.json", config, weights={"source": "ab"})
    loaded, weights = load_config(tmp_path / "config.json")
    assert loaded.to_dict() == config.to_dict()
    assert weights == {"source": "ab"}


def test_command_line_overrides_keep_their_types() -> None:
    config = parse_config(
        [
            f"--config={ROOT / 'configs' / 'pfm_ablation.py'}:4",
            "--config.data.image_size=(64,96)",
            "--config.train.epochs=3",
            "--config.method.top_share=0.5",
            "--config.data.categories=bottle",
            "--config.method.source_levels=layer2,layer3,layer4",
            "--config.train.steps=()",
            "--config.data.one_for_all=True",
        ]
    )
    assert config.data.image_size == (64, 96)
    assert (config.train.epochs, config.method.top_share) == (3, 0.5)
    assert (config.data.categories, config.method.levels) == ("bottle", (1,))
    assert config.method.source_levels == ("layer2", "layer3", "layer4")
    assert (config.train.steps, config.data.one_for_all) == ((), True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is missing"),
        (["--config=none.py"], "none.py"),
        (["--config={0}/mb_pfm.py", "--config.train.epoch=3"], "'train.epoch': known here are"),
        (["--config={0}/mb_pfm.py", "--config.train.epochs=many"], "train.epochs"),
        (["--config={0}/mb_pfm.py", "--lr=3"], "lr"),
        (["--config={0}/mb_pfm.py", "surplus"], "surplus"),
        (["--config={0}/pfm_ablation.py:13"], "cases 1 to 12"),
    ],
)
def test_unusable_arguments_are_named_in_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_config([a.format(ROOT / "configs") for a in arguments])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["config"]["train"].update(epoch=3), "'train.epoch'"),
        (lambda d: d["config"]["train"].update(epochs="many"), "train.epochs is 'many'"),
        (lambda d: d.update(format=99), "format 99"),
        (lambda d: d.pop("weights"), "damaged"),
    ],
)
def test_a_config_json_that_does_not_fit_is_refused(
    change: Any, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    save_config(path, default_config(), weights={})
    stored = json.loads(path.read_text())
    change(stored)
    path.write_text(json.dumps(stored))
    with pytest.raises(InputError, match=message):
        load_config(path)
    path.write_text("{")
    with pytest.raises(InputError, match="can not be read"):
        load_config(path)
    path.unlink()
    with pytest.raises(InputError, match="not a work directory"):
        load_config(path)
