"""Configurations: every file loads, nothing is lost on disk, wrong keys are named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxad.config import (
    check_config,
    default_config,
    load_config,
    load_file,
    parse_config,
    save_config,
)
from jaxad.core import Backbone, InputError, Level, Preprocess
from jaxad.recipes.build import recipe_named
from jaxad.recipes.recipe import Backbones
from jaxad.runs.dataset import reading_of

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


def test_afrad_judges_whole_photos_by_all_its_parts() -> None:
    config = load("afrad_fast.py", "cifar10-13579")
    m = config.method
    assert (config.data.layout, config.data.categories) == ("cifar10", "13579")
    assert (m.whole, m.backbone, m.levels) == (True, "efficientnet_lite2", ("stage7", "head"))
    assert (m.root, m.neighbours) == (True, 5)
    assert all((m.local, m.compensation, m.adaptive, m.ngib_layers, m.refine))
    other = load("afrad_fast.py").method
    assert (other.whole, other.relative) == (False, 0.0)


def test_no_such_method_has_a_configuration() -> None:
    with pytest.raises(InputError, match="'fastflow': known are pfm, afrad, simplenet"):
        default_config("fastflow")


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


def test_before_there_was_a_choice_no_photo_was_held_back(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    save_config(path, default_config(), weights={})
    stored = json.loads(path.read_text())
    assert load_config(path)[0].data.calibration == stored["config"]["data"].pop("calibration")
    path.write_text(json.dumps(stored))
    assert load_config(path)[0].data.calibration == 0


def test_the_list_of_keys_is_up_to_date() -> None:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "configuration.py")], capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout) == (0, "")


def written(folder: Path, body: str) -> list[str]:
    """A configuration of the user's own."""
    path = folder / "own.py"
    path.write_text(
        "import jaxad\nfrom ml_collections import ConfigDict, FrozenConfigDict, config_dict\n"
        "def get_config(argument=''):\n    c = jaxad.default_config('pfm')\n"
        + "".join(f"    {line}\n" for line in body.splitlines())
    )
    return ["--config", str(path)]


@pytest.mark.parametrize(
    "body",
    [
        "return c",
        "return FrozenConfigDict(c)",
        "c.lock(); return c",
        "with c.ignore_type(): c.train.steps = [1, 2, 3]\nreturn c",
        "c.train.epochs = config_dict.FieldReference(3); return c",
    ],
)
def test_any_form_of_configuration_can_be_changed(body: str, tmp_path: Path) -> None:
    changes = ["--config.train.steps=(4,5,6)", "--config.method.top_share=1"]
    config = parse_config([*written(tmp_path, body), *changes, "--config.train.epochs=7"])
    assert (config.train.steps, config.method.top_share) == ((4, 5, 6), 1.0)
    assert config.train.epochs == 7


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return 3", "get_config() returns no ml_collections.ConfigDict"),
        ("raise SystemExit('gone')", "SystemExit: gone"),
        ("raise KeyError('a\\nb')", "KeyError"),
        ("return undefined", "NameError: name 'undefined' is not defined"),
        ("return ConfigDict()", "method.name is missing"),
        ("del c.method; return c", "method.name is missing"),
        ("del c.data; return c", "configuration key 'data.calibration' is missing"),
        ("with c.ignore_type(): c.data = 3\nreturn c", "unknown configuration key 'data'"),
        ("c.extra = {'a': 1}; return c", "unknown configuration key 'extra.a'"),
        ("c.train.epochs = config_dict.placeholder(int); return c", "train.epochs is None"),
        ("c.train.epochs = True; return c", "train.epochs is True: give a whole number"),
        ("c.method.extra = 1; return c", "method.extra does not go with method.name 'pfm'"),
        ("del c.method.latent; return c", "method.latent does not go with"),
        ("c.train.seed, c.train.replicates = 2**32 - 1, 2; return c", "give at most 4294967294"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_in_one_line(
    body: str, told: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        parse_config([*written(tmp_path, body), "--config.train.log_every=3"])
    assert told in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["a" * 5000, "/", "", ".", "é", "no/such:thing"])
def test_a_name_that_is_no_file_is_told_in_one_line(name: str) -> None:
    with pytest.raises(InputError, match="no such file; jaxad's own go by their name"):
        parse_config(["--config", name])


def test_a_configuration_goes_by_its_name() -> None:
    assert parse_config(["--config", "pfm_ablation:9"]).method.random_weights
    assert parse_config(["--config", "mb_pfm"]).to_dict() == load("mb_pfm.py").to_dict()


def backbones(*filters: str) -> Backbones:
    networks = {
        f"role{n}": Backbone("x", None, {"a": Level(1, 1)}, Preprocess(resize=name))  # type: ignore[arg-type]
        for n, name in enumerate(filters)
    }
    return Backbones(networks, {}, {})


def test_photos_are_resized_by_the_filter_of_the_weights_unless_one_is_named() -> None:
    config = default_config("pfm")
    config.data.image_size, config.data.workers = (32, 48), 2
    assert config.data.resize == ""
    reading = reading_of(config, backbones("bicubic", "bicubic"))
    assert (reading.resample, reading.size, reading.workers) == ("bicubic", (32, 48), 2)
    with pytest.raises(InputError, match=r"role0: bicubic, role1: lanczos\): name one"):
        reading_of(config, backbones("bicubic", "lanczos"))
    config.data.resize = "box"
    assert reading_of(config, backbones("bicubic", "lanczos")).resample == "box"


def test_afrad_is_optimised_as_uniad_is() -> None:
    """AdamW of 1e-4 and decay 1e-4, clipped to .1, a tenth after four fifths of the steps."""
    config = load("afrad.py")
    network = Backbone(
        "x",
        None,  # type: ignore[arg-type]
        {f"s{n}": Level(4, 4 * n) for n in (1, 2, 3, 4)},
        Preprocess(),
    )
    method, _ = recipe_named("afrad").method(config, {"backbone": network})
    optimizer = method.optimizer(10)
    params = {"w": jnp.asarray([1.0, -2.0])}
    state = optimizer.init(params)
    m = v = np.zeros(2)
    for step in range(10):
        grads = np.asarray([3.0, -4.0 + step])
        with jax.numpy_dtype_promotion("standard"):
            moved, state = optimizer.update({"w": jnp.asarray(grads, jnp.float32)}, state, params)
        g = grads * min(1, 0.1 / np.linalg.norm(grads))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        adam = m / (1 - 0.9 ** (step + 1)) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
        rate = 1e-4 if step < 8 else 1e-5
        np.testing.assert_allclose(
            moved["w"], -rate * (adam + 1e-4 * np.asarray([1.0, -2.0])), 1e-4
        )
    assert config.method.jitter == pytest.approx(1.2, abs=0.02)  # 20 / sqrt(272) channels


def test_the_default_of_every_method_has_the_papers_numbers() -> None:
    simple, moe = default_config("simplenet").method, default_config("adapted_moe").method
    for m in (simple, moe):
        assert (m.embedding, m.hidden, m.noise, m.margin) == (1536, 1024, 0.015, 0.5)
        assert (m.learning_rate, m.weight_decay) == ((1e-4, 2e-4), (1e-2, 1e-5))
        assert (m.smoothing, m.levels) == (4.0, ("layer2", "layer3"))
    assert load("simplenet.py").train.epochs == 160
    assert load("adapted_moe.py", "cloth").method.top_k == 4
    assert ConfigDict(load("simplenet.py").data).image_size == (288, 288)
