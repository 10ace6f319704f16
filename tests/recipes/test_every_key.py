"""Every key of every recipe reaches what it is for, and nothing else does.

A recipe is asked to build a method once as it is and once with one key changed. What it calls to
build it has to differ in exactly the argument that the key stands for.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest

from jaxad.backbones.resnet import ResNet
from jaxad.config import check_config, default_config
from jaxad.core import Backbone, InputError, Level, Preprocess
from jaxad.methods.adaption import Adaption
from jaxad.recipes.build import OWN, recipe_named

BUILDERS = {
    "pfm": ("pfm", "frozen_network"),
    "afrad": ("afrad", "spade", "frozen_network", "mirrored"),
    "simplenet": ("simplenet", "frozen_network", "patched"),
    "adapted_moe": ("experts", "routing", "adapted_moe", "Router", "Expert"),
    "patchcore": ("patchcore",),
    "padim": ("padim", "frozen_network"),
    "rd4ad": ("rd4ad", "frozen_network"),
    "uniad": ("uniad", "frozen_network"),
    "stfpm": ("stfpm", "frozen_network", "student_of"),
    "spade": ("spade", "frozen_network", "mirrored"),
    "efficientad": (
        *("efficientad", "distillation", "PatchDescription", "patched", "other_photos"),
    ),
    "draem": ("draem", "other_photos"),
    "anomaly_dino": ("patchcore", "frozen_network", "patched"),
    "dinomaly": ("dinomaly", "frozen_network", "grouped"),
}
"""What each recipe calls."""


def _adaption(how: Adaption | None) -> dict[str, Any]:
    return {"experts.adaption": how, "adapted_moe.adaption": how}


CHANGES: dict[str, dict[str, tuple[Any, dict[str, Any]]]] = {
    "pfm": {
        "source": ("vgg16", {"frozen_network.name": ["vgg16", "resnet50"]}),
        "target": ("vgg16", {"frozen_network.name": ["resnet34", "vgg16"]}),
        "random_weights": (True, {"frozen_network.random": [True, True]}),
        "levels": (
            (1, 2),
            {
                "frozen_network.levels": [None, ("l1", "l2"), None, ("l1", "l2")],
                "pfm.levels": [("l1", 200, 3e-3), ("l2", 400, 3e-4)],
            },
        ),
        "source_levels": (("x", "y", "z"), {"frozen_network.levels": [("x", "y", "z"), None]}),
        "target_levels": (("x", "y", "z"), {"frozen_network.levels": [None, ("x", "y", "z")]}),
        "latent": (
            (7, 8, 9),
            {"pfm.levels": [("l1", 7, 3e-3), ("l2", 8, 3e-4), ("l3", 9, 3e-4)]},
        ),
        "learning_rate": (
            (1.0, 2.0, 3.0),
            {"pfm.levels": [("l1", 200, 1.0), ("l2", 400, 2.0), ("l3", 900, 3.0)]},
        ),
        "one_cycle": (True, {"pfm.one_cycle": True}),
        "weight_decay": (0.5, {"pfm.weight_decay": 0.5}),
        "decoupled_weight_decay": (True, {"pfm.decoupled_weight_decay": True}),
        "bidirectional": (False, {"pfm.bidirectional": False}),
        "normalise_output": (True, {"pfm.normalise_output": True}),
        "conv_block_everywhere": (True, {"pfm.conv_block_everywhere": True}),
        "zero_output": (True, {"pfm.zero_output": True}),
        "smoothing": (2.5, {"pfm.smoothing": 2.5}),
        "top_share": (0.25, {"pfm.top_share": 0.25}),
    },
    "afrad": {
        "backbone": ("vgg16", {"frozen_network.name": ["vgg16"]}),
        "random_weights": (True, {"frozen_network.random": [True]}),
        "levels": (("w", "x", "y", "z"), {"frozen_network.levels": [("w", "x", "y", "z")]}),
        "mirror": (True, {"mirrored.called": True}),
        "width": ((5, 6, 7, 8), {"afrad.stages.width": [5, 6, 7, 8]}),
        "patch_kernel": ((5, 6, 7, 9), {"afrad.stages.kernel": [5, 6, 7, 9]}),
        "patch_stride": ((5, 6, 7, 9), {"afrad.stages.stride": [5, 6, 7, 9]}),
        "refinements": ((5, 6, 7, 8), {"afrad.stages.refinements": [5, 6, 7, 8]}),
        "decodings": ((5, 6, 7, 8), {"afrad.stages.decodings": [5, 6, 7, 8]}),
        "grid": (3, {"afrad.grid": 3}),
        "decoder_width": (77, {"afrad.width": 77}),
        "local": ((3,), {"afrad.local": (3,)}),
        "compensation": ((3,), {"afrad.compensation": (3,)}),
        "adaptive": ((3,), {"afrad.adaptive": (3,)}),
        "local_kernels": ((9,), {"afrad.kernels": (9,)}),
        "compensation_refinements": (4, {"afrad.compensation_refinements": 4}),
        "mlp_ratio": (3, {"afrad.ratio": 3}),
        "ngib_layers": (3, {"afrad.ngib_layers": 3}),
        "refine": (False, {"afrad.refine": False}),
        "hidden": (((1, 2), (3, 4)), {"afrad.hidden": ((1, 2), (3, 4))}),
        "whole": (True, {"afrad.whole": True}),
        "root": (True, {"afrad.root": True}),
        "neighbours": (
            7,
            {"spade.neighbours": 7, "spade.pooled": "backbone/d", "spade.cosine": True}
            | {"spade.root": False, "spade.levels": ()},
        ),
        "normalise": (0.3, {"afrad.normalise": 0.3}),
        "jitter": (0.31, {"afrad.jitter": 0.31}),
        "sum_of_scales": (True, {"afrad.sum_of_scales": True}),
        "map_length": (0.32, {"afrad.map_length": 0.32}),
        "relative": (0.37, {"afrad.relative": 0.37}),
        "image_stages": ((2,), {"afrad.image_stages": (2,)}),
        "pooling": (5, {"afrad.pooling": 5}),
        "top_share": (0.33, {"afrad.top_share": 0.33}),
        "learning_rate": (0.34, {"afrad.learning_rate": 0.34}),
        "weight_decay": (0.35, {"afrad.weight_decay": 0.35}),
        "clip": (0.36, {"afrad.clip": 0.36}),
        "one_cycle": (True, {"afrad.one_cycle": True}),
    },
    "simplenet": {
        "backbone": ("vgg16", {"frozen_network.name": ["vgg16"]}),
        "random_weights": (True, {"frozen_network.random": [True]}),
        "levels": (("x",), {"frozen_network.levels": [("x",)]}),
        "embedding": (64, {"patched.width": 64}),
        "hidden": (7, {"simplenet.hidden": 7}),
        "noise": (0.3, {"simplenet.noise": 0.3}),
        "margin": (0.31, {"simplenet.margin": 0.31}),
        "learning_rate": ((0.32, 0.33), {"simplenet.learning_rates": (0.32, 0.33)}),
        "weight_decay": ((0.34, 0.35), {"simplenet.weight_decays": (0.34, 0.35)}),
        "smoothing": (2.5, {"simplenet.smoothing": 2.5}),
    },
    "adapted_moe": {
        "hidden": (7, {"Expert.hidden": 7}),
        "noise": (0.3, {"experts.noise": 0.3}),
        "margin": (0.31, {"experts.margin": 0.31}),
        "learning_rate": ((0.32, 0.33), {"experts.learning_rates": (0.32, 0.33)}),
        "weight_decay": ((0.34, 0.35), {"experts.weight_decays": (0.34, 0.35)}),
        "smoothing": (2.5, {"experts.smoothing": 2.5, "adapted_moe.smoothing": 2.5}),
        "adaption": (False, _adaption(None)),
        "adapt_training": (True, _adaption(Adaption(training=True))),
        "statistics": ("quartiles", _adaption(Adaption("quartiles"))),
        "share": (0.42, _adaption(Adaption(share=0.42))),
        "shared": (True, {"experts.shared": True, "adapted_moe.shared": True}),
        "normalise_embedding": (False, {"Router.normalise": False}),
        "normalise_patches": (
            False,
            {"experts.normalise": False, "adapted_moe.normalise": False},
        ),
        "top_k": (2, {"adapted_moe.k": 2}),
        "temperature": (0.37, {"adapted_moe.temperature": 0.37}),
        "router_width": (9, {"Router.width": 9}),
        "router_learning_rate": (0.38, {"routing.learning_rate": 0.38}),
        "centre_weight": (0.39, {"routing.alpha": 0.39}),
        "centre_rate": (0.41, {"routing.centre_rate": 0.41}),
        "axes": ("all", _adaption(Adaption(axes="all"))),
        "spread": ("all", {"adapted_moe.spread": "all"}),
    },
    "patchcore": {
        "sampler": ("greedy", {"patchcore.sampler": "greedy"}),
        "share": (0.42, {"patchcore.share": 0.42}),
        "projection": (0, {"patchcore.narrow": 0}),
        "squared": (False, {"patchcore.squared": False}),
        "neighbours": (3, {"patchcore.neighbours": 3}),
        "reweighting": (9, {"patchcore.reweighting": 9}),
        "top_share": (0.33, {"patchcore.top_share": 0.33}),
        "smoothing": (2.5, {"patchcore.smoothing": 2.5}),
    },
    "padim": {
        "backbone": ("vgg16", {"frozen_network.name": ["vgg16"]}),
        "random_weights": (True, {"frozen_network.random": [True]}),
        "levels": (
            ("x",),
            {"frozen_network.levels": [("x",)], "padim.levels": ["backbone/x"]},
        ),
        "dimensions": (7, {"padim.dimensions": 7}),
        "full": (False, {"padim.full": False}),
        "smoothing": (2.5, {"padim.smoothing": 2.5}),
    },
    "rd4ad": {
        "backbone": ("vgg16", {"frozen_network.name": ["vgg16"]}),
        "random_weights": (True, {"frozen_network.random": [True]}),
        "levels": (
            ("x", "y", "z"),
            {
                "frozen_network.levels": [("x", "y", "z")],
                "rd4ad.levels": ("backbone/x", "backbone/y", "backbone/z"),
            },
        ),
        "blocks": ((5, 6, 7, 8), {"rd4ad.blocks": (5, 6, 7, 8)}),
        "by_position": (True, {"rd4ad.by_position": True}),
        "learning_rate": (0.34, {"rd4ad.learning_rate": 0.34}),
        "betas": ((0.1, 0.2), {"rd4ad.betas": (0.1, 0.2)}),
        "smoothing": (2.5, {"rd4ad.smoothing": 2.5}),
    },
    "uniad": {
        "backbone": ("vgg16", {"frozen_network.name": ["vgg16"]}),
        "random_weights": (True, {"frozen_network.random": [True]}),
        "levels": (
            ("x", "y", "z"),
            {
                "frozen_network.levels": [("x", "y", "z")],
                "uniad.levels": ("backbone/x", "backbone/y", "backbone/z"),
                "uniad.grid": "backbone/z",
            },
        ),
        "stride": (4, {"uniad.grid": "backbone/l1"}),
        "width": (64, {"uniad.width": 64}),
        "heads": (4, {"uniad.heads": 4}),
        "inner": (77, {"uniad.inner": 77}),
        "layers": (3, {"uniad.layers": 3}),
        "neighbours": (5, {"uniad.neighbours": 5}),
        "position": ("sine", {"uniad.position": "sine"}),
        "dropout": (0.31, {"uniad.dropout": 0.31}),
        "jitter": (0.32, {"uniad.jitter": 0.32}),
        "pooling": (5, {"uniad.pooling": 5}),
        "learning_rate": (0.34, {"uniad.learning_rate": 0.34}),
        "weight_decay": (0.35, {"uniad.weight_decay": 0.35}),
        "clip": (0.36, {"uniad.clip": 0.36}),
        "one_cycle": (True, {"uniad.one_cycle": True}),
        "zero_output": (True, {"uniad.zero_output": True}),
    },
    "stfpm": {
        "backbone": ("vgg16", {"frozen_network.name": ["vgg16"]}),
        "random_weights": (True, {"frozen_network.random": [True]}),
        "levels": (("x",), {"frozen_network.levels": [("x",)], "stfpm.levels": ["teacher/x"]}),
        "learning_rate": (0.34, {"stfpm.learning_rate": 0.34}),
        "momentum": (0.35, {"stfpm.momentum": 0.35}),
        "weight_decay": (0.36, {"stfpm.weight_decay": 0.36}),
        "one_cycle": (True, {"stfpm.one_cycle": True}),
    },
    "spade": {
        "backbone": ("vgg16", {"frozen_network.name": ["vgg16"]}),
        "random_weights": (True, {"frozen_network.random": [True]}),
        "mirror": (True, {"mirrored.called": True}),
        "levels": (
            ("x",),
            {"frozen_network.levels": [("x", "layer4")], "spade.levels": ["backbone/x"]},
        ),
        "pooled": (
            "x",
            {
                "frozen_network.levels": [("layer1", "layer2", "layer3", "x")],
                "spade.pooled": "backbone/x",
            },
        ),
        "neighbours": (7, {"spade.neighbours": 7}),
        "cosine": (True, {"spade.cosine": True}),
        "root": (True, {"spade.root": True}),
        "smoothing": (2.5, {"spade.smoothing": 2.5}),
    },
    "efficientad": {
        "backbone": ("vgg16", {"frozen_network.name": ["vgg16"]}),
        "random_weights": (True, {"frozen_network.random": [True]}),
        "levels": (("x",), {"frozen_network.levels": [("x",)]}),
        "channels": (42, {"patched.width": 42, "PatchDescription.channels": 42}),
        "width": (7, {"PatchDescription.width": 7}),
        "autoencoder_width": (9, {"efficientad.width": 9}),
        "hard": (0.5, {"efficientad.hard": 0.5}),
        "penalty": ("others", {"other_photos.folder": "others"}),
        "learning_rate": (
            0.34,
            {"distillation.learning_rate": 0.34, "efficientad.learning_rate": 0.34},
        ),
        "weight_decay": (
            0.36,
            {"distillation.weight_decay": 0.36, "efficientad.weight_decay": 0.36},
        ),
    },
    "draem": {
        "width": (7, {"draem.width": 7}),
        "telling_width": (9, {"draem.telling_width": 9}),
        "halvings": (3, {"draem.halvings": 3}),
        "textures": ("others", {"other_photos.folder": "others"}),
        "turn_share": (0.5, {"draem.turn_share": 0.5}),
        "learning_rate": (0.34, {"draem.learning_rate": 0.34}),
    },
    "anomaly_dino": {
        "backbone": ("vgg16", {"frozen_network.name": ["vgg16"]}),
        "random_weights": (True, {"frozen_network.random": [True]}),
        "levels": (("x",), {"frozen_network.levels": [("x",)]}),
        "foreground": (10.0, {"patched.foreground": 10.0, "patchcore.weight": "backbone/part"}),
        "share": (0.42, {"patchcore.share": 0.42}),
        "neighbours": (3, {"patchcore.neighbours": 3}),
        "top_share": (0.33, {"patchcore.top_share": 0.33}),
        "smoothing": (2.5, {"patchcore.smoothing": 2.5}),
    },
    "dinomaly": {
        "backbone": ("vgg16", {"frozen_network.name": ["vgg16"]}),
        "random_weights": (True, {"frozen_network.random": [True]}),
        "levels": (
            ("x", "y"),
            {
                "frozen_network.levels": [("x", "y")],
                "dinomaly.levels": ("backbone/x", "backbone/y"),
                "dinomaly.blocks": 2,
            },
        ),
        "groups": (4, {"grouped.groups": 4}),
        "heads": (4, {"dinomaly.heads": 4}),
        "dropout": (0.31, {"dinomaly.dropout": 0.31}),
        "easy": (0.32, {"dinomaly.easy": 0.32}),
        "easy_share": (0.33, {"dinomaly.easy_share": 0.33}),
        "easy_steps": (34, {"dinomaly.easy_steps": 34}),
        "learning_rate": ((0.35, 0.36), {"dinomaly.learning_rate": (0.35, 0.36)}),
        "warmup": (37, {"dinomaly.warmup": 37}),
        "weight_decay": (0.38, {"dinomaly.weight_decay": 0.38}),
        "clip": (0.39, {"dinomaly.clip": 0.39}),
        "top_share": (0.4, {"dinomaly.top_share": 0.4}),
        "smoothing": (2.5, {"dinomaly.smoothing": 2.5}),
    },
}
"""Key -> another value, and the arguments that then differ."""

OTHERWISE = {"moe", "clusters", "centre", "backbone", "levels", "random_weights", "embedding"}
"""Keys of Adapted-MoE that are tested below, or that SimpleNet's backbones read."""
PATCHES = {"backbone", "levels", "random_weights", "embedding"}
"""Keys of PatchCore that SimpleNet's backbones read."""


def network(levels: Any) -> Backbone:
    names = levels or ("l1", "l2", "l3")
    module = ResNet((3, 4, 6, 3), True, names)  # never computed
    return Backbone("n", module, {n: Level(8, 4 << i) for i, n in enumerate(names)}, Preprocess())


@contextmanager
def recorded(name: str) -> Iterator[dict[str, Any]]:
    """Stand in for what a recipe calls; yields its arguments as "function.argument"."""
    module = importlib.import_module(f"jaxad.recipes.{name}")
    found: dict[str, Any] = {}

    def note(place: str, value: Any) -> None:
        found[place] = value

    def frozen(config: Any, which: str, *, levels: Any, number: int) -> Any:
        for key, value in (("name", which), ("levels", levels and tuple(levels))):
            found.setdefault(f"frozen_network.{key}", []).append(value)
        found.setdefault("frozen_network.random", []).append(config.method.random_weights)
        return network(levels or (None if name != "afrad" else ("a", "b", "c", "d"))), {}, "0"

    def call(of: str, original: Any, *args: Any, **kwargs: Any) -> Any:
        if of == "pfm":
            levels = [(pair.source.split("/")[1], *pair[2:]) for pair in args[0]]
            note("pfm.levels", levels)
        if of in ("padim", "spade", "rd4ad", "uniad", "dinomaly"):
            note(f"{of}.levels", args[0])
        if of == "PatchDescription":
            kwargs = dict(zip(("channels", "width"), args))
        if of == "other_photos":
            note("other_photos.folder", args[0])
            return "photos"
        if of == "stfpm":
            note("stfpm.levels", args[1])
        if of == "student_of":
            return "student", 1e-5
        if of == "afrad":
            for field in ("width", "kernel", "stride", "refinements", "decodings"):
                note(f"afrad.stages.{field}", [getattr(stage, field) for stage in args[0]])
        if of == "Router":
            kwargs = dict(zip(("width", "experts", "normalise"), args))
        if of == "Expert":
            kwargs = dict(zip(("hidden", "axis_name"), args))
        for key, value in kwargs.items():
            note(f"{of}.{key}", value)
        if of == "mirrored":
            note("mirrored.called", True)
        if of in ("patched", "grouped", "mirrored"):
            return args[0], args[1]
        return mock.MagicMock(name=of)

    with (
        mock.patch("jaxad.recipes.recipe.frozen_network", frozen),  # where `one_network` calls it
        mock.patch.multiple(
            module,
            **{
                of: frozen if of == "frozen_network" else functools.partial(call, of, None)
                for of in BUILDERS[name]
                if hasattr(module, of)
            },
        ),
    ):
        yield found


def built(name: str, config: Any) -> dict[str, Any]:
    check_config(config)
    recipe = recipe_named(name)
    with recorded(name) as found:
        if name in ("adapted_moe", "patchcore"):
            networks: Any = {}
        else:
            networks = recipe.backbones(config).networks
        _, phases = recipe.method(config, networks, axis_name="batch", subclasses=3)
    found["phases"] = [(p.name, p.steps, p.positions) for p in phases]
    return found


@functools.cache
def as_it_is(name: str) -> dict[str, Any]:
    return built(name, default_config(name))


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name, changes in CHANGES.items() for key in changes]
)
def test_a_key_changes_what_it_stands_for_and_nothing_else(name: str, key: str) -> None:
    value, want = CHANGES[name][key]
    config = default_config(name)
    with config.unlocked(), config.method.ignore_type():
        config.method[key] = value
    found, before = built(name, config), as_it_is(name)
    changed = {place for place in found | before if found.get(place) != before.get(place)}
    changed -= {"afrad.stages.feature", "pfm.axis_name"}
    if "levels" in key or key == "random_weights":  # names go on to the method's levels
        changed &= set(want)
    assert {place: found[place] for place in changed} == want


@pytest.mark.parametrize("name", OWN)
def test_no_key_is_left_out_above(name: str) -> None:
    told = set(CHANGES[name]) | (OTHERWISE if name == "adapted_moe" else set())
    told |= PATCHES if name == "patchcore" else set()
    assert set(recipe_named(name).keys) == told


def test_adapted_moe_reads_its_network_as_simplenet_does() -> None:
    moe, simple = recipe_named("adapted_moe"), recipe_named("simplenet")
    for key in ("backbone", "levels", "random_weights", "embedding"):
        assert moe.keys[key] == simple.keys[key]


def test_patchcore_reads_its_network_as_simplenet_does() -> None:
    own, simple = recipe_named("patchcore"), recipe_named("simplenet")
    assert own.backbones is simple.backbones
    for key in PATCHES - {"embedding"}:  # which may be 0
        assert own.keys[key] == simple.keys[key]


def test_training_on_calibrated_images_reads_their_statistics_too() -> None:
    config = default_config("adapted_moe")
    m = config.method
    m.random_weights, m.backbone, m.embedding, m.levels = True, "resnet18", 16, ("layer1",)
    recipe = recipe_named("adapted_moe")
    plain = recipe.backbones(config).networks["backbone"]
    assert list(plain.levels) == ["patches"]
    m.adapt_training = True
    found = recipe.backbones(config).networks["backbone"]
    assert found.levels == {**plain.levels, "location": Level(16, 0), "scale": Level(16, 0)}
    assert found.module.inner == plain.module
    m.share = 0.5  # which features do not depend on
    assert recipe.backbones(config).networks["backbone"].module == found.module
    m.statistics, m.axes = "quartiles", "channels"
    other = recipe.backbones(config).networks["backbone"]
    assert other.module != found.module
    assert other.levels["scale"] == Level(1, plain.levels["patches"].stride)


def test_without_moe_there_is_one_expert_and_no_router() -> None:
    config = default_config("adapted_moe")
    recipe = recipe_named("adapted_moe")
    assert recipe.learns_subclasses(config)
    config.method.moe, config.method.top_k = False, 4
    assert not recipe.learns_subclasses(config)
    found = built("adapted_moe", config)
    assert (found["experts.count"], found["adapted_moe.count"]) == (1, 1)
    assert (found["adapted_moe.k"], found["adapted_moe.centre"]) == (1, "patches")
    assert found["phases"] == [("experts", 0, 0)]
    assert "routing.alpha" not in found
    assert as_it_is("adapted_moe")["experts.count"] == 3


def test_the_router_s_centres_must_be_as_wide_as_the_patches() -> None:
    config = default_config("adapted_moe")
    config.method.centre = "router"
    with pytest.raises(InputError, match=r"set method\.router_width=1536"):
        built("adapted_moe", config)
    config.method.router_width = 1536
    assert built("adapted_moe", config)["adapted_moe.centre"] == "router"


@pytest.mark.parametrize(
    ("name", "steps", "positions", "phases"),
    [
        ("pfm", (), (), [("all", 0, 0)]),
        ("pfm", (1, 2, 3), (), [("l1", 1, 0), ("l2", 2, 0), ("l3", 3, 0)]),
        ("pfm", (1, 2, 3), (4, 0, 6), [("l1", 1, 4), ("l2", 2, 0), ("l3", 3, 6)]),
        ("afrad", (7,), (), [("all", 7, 0)]),
        ("simplenet", (7,), (8,), [("all", 7, 8)]),
        ("simplenet", (), (8,), [("all", 0, 8)]),
        ("adapted_moe", (7, 8), (9,), [("router", 7, 0), ("experts", 8, 9)]),
        ("adapted_moe", (), (), [("router", 0, 0), ("experts", 0, 0)]),
        ("patchcore", (), (), []),
        ("padim", (), (), []),
        ("rd4ad", (7,), (), [("all", 7, 0)]),
        ("uniad", (), (), [("all", 0, 0)]),
        ("stfpm", (), (), [("all", 0, 0)]),
        ("stfpm", (7,), (), [("all", 7, 0)]),
        ("spade", (), (), []),
        ("anomaly_dino", (), (), []),
        ("dinomaly", (), (), [("all", 0, 0)]),
        ("efficientad", (), (), [("teacher", 0, 0), ("student", 0, 0)]),
        ("efficientad", (7, 8), (), [("teacher", 7, 0), ("student", 8, 0)]),
        ("draem", (7,), (), [("all", 7, 0)]),
    ],
)
def test_budgets_go_to_their_phases(name: str, steps: Any, positions: Any, phases: Any) -> None:
    config = default_config(name)
    config.train.steps, config.train.positions = steps, positions
    assert built(name, config)["phases"] == phases


@pytest.mark.parametrize(
    ("name", "steps", "positions", "told"),
    [
        ("pfm", (1,), (), "train.steps is (1,): give three values"),
        ("pfm", (1, 2, 3), (1,), "train.positions is (1,): give three values"),
        ("pfm", (), (1, 1, 1), "train.positions needs train.steps"),
        ("afrad", (1, 2), (), "AFRAD trains in one phase on whole maps"),
        ("afrad", (), (1,), "AFRAD trains in one phase on whole maps"),
        ("simplenet", (1, 2), (), "SimpleNet trains in one phase"),
        ("adapted_moe", (1,), (), "Adapted-MoE takes (steps of the router, of the experts)"),
        ("adapted_moe", (), (1, 2), "Adapted-MoE takes (steps of the router, of the experts)"),
        ("patchcore", (1,), (), "PatchCore learns without steps"),
        ("padim", (), (1,), "PaDiM learns without steps"),
        ("rd4ad", (1, 2), (), "RD4AD trains in one phase on whole maps"),
        ("uniad", (), (1,), "UniAD trains in one phase on whole maps"),
        ("stfpm", (1, 2), (), "STFPM trains in one phase on whole photos"),
        ("stfpm", (), (1,), "STFPM trains in one phase on whole photos"),
        ("spade", (1,), (), "SPADE learns without steps"),
        ("anomaly_dino", (1,), (), "AnomalyDINO learns without steps"),
        ("dinomaly", (1, 2), (), "Dinomaly trains in one phase on whole maps"),
        ("efficientad", (7,), (), "EfficientAD trains on whole photos: train.steps is (steps of"),
        ("efficientad", (), (1,), "EfficientAD trains on whole photos"),
        ("draem", (1, 2), (), "DRAEM trains in one phase on whole photos"),
        ("draem", (), (1,), "DRAEM trains in one phase on whole photos"),
    ],
)
def test_budgets_of_other_phases_are_refused(
    name: str, steps: Any, positions: Any, told: str
) -> None:
    config = default_config(name)
    config.train.steps, config.train.positions = steps, positions
    with pytest.raises(InputError) as caught:
        built(name, config)
    assert told in str(caught.value)


def test_stages_need_a_value_each() -> None:
    config = default_config("afrad")
    config.method.width = (1, 2, 3)
    with pytest.raises(InputError, match=r"method\.width is \(1, 2, 3\): give 4 values, for the"):
        built("afrad", config)
