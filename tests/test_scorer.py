"""The prepared, compiled scorer gives what `Detector.score` gives of the variables as trained."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.config import parse_config
from jaxad.recipes.build import build_backbones, models
from jaxad.scorer import ahead, has_depthwise, make_scorer, stream

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SIZE = (64, 64)
SMALL = ("method.random_weights=True", f"data.image_size={SIZE}")
SETTINGS = {
    "pfm": (
        "mb_pfm_fast.py",
        ("method.target=resnet18", "method.levels=(1,)", "method.latent=(8,8,8)"),
    ),
    "afrad": (
        "afrad_fast.py:small",
        (
            "method.backbone=resnet18",
            "method.levels=('layer1','layer2','layer3','layer4')",
        ),
    ),
    "afrad_hidden": (
        "afrad_fast.py:small",
        (
            "method.backbone=resnet18",
            "method.levels=('layer1','layer2','layer3','layer4')",
            "method.hidden=((1,2,3),(4,))",
            "method.map_length=0.5",
            "method.image_stages=(3,4)",
        ),
    ),
    "simplenet": ("simplenet_fast.py", ("method.embedding=32", "method.hidden=16")),
    "adapted_moe": ("adapted_moe.py:magnetic_tile", ("method.embedding=32", "method.hidden=16")),
}


def detector_of(name):
    file, changes = SETTINGS[name]
    flags = [f"--config.{change}" for change in (*SMALL, *changes)]
    config = parse_config(["--config", str(CONFIGS / file), *flags])
    backbones = build_backbones(config)
    detector = models(config, backbones)(2).detector
    shapes = detector.feature_shapes(backbones.variables, size=SIZE)
    r = np.random.default_rng(1)

    def trained(path, leaf):
        """Statistics and weights as training leaves them: no zeros, no ones."""
        name, shape = path[-1].key, leaf.shape
        if name in ("var", "std", "scale"):
            return jnp.asarray(r.uniform(0.5, 1.5, shape), leaf.dtype)
        spread = np.prod(shape[:-1]) ** -0.5 if name == "kernel" else 0.1
        return jnp.asarray(spread * r.standard_normal(shape), leaf.dtype)

    method = jax.eval_shape(detector.method.init, jax.random.key(0), shapes)
    method = jax.tree_util.tree_map_with_path(trained, method)
    return detector, {"backbones": backbones.variables, "method": method}


@pytest.fixture(scope="module", params=SETTINGS)
def case(request):
    detector, variables = detector_of(request.param)
    images = np.random.default_rng(0).integers(0, 256, (8, *SIZE, 3), np.uint8)
    return detector, variables, images, jax.jit(detector.score)(variables, images)


def scorer_of(case, dtype):
    detector, variables, images, _ = case
    return make_scorer(detector, variables, batch_size=len(images), size=SIZE, dtype=dtype)


def test_float32_scores_equal_those_of_the_variables_as_trained(case):
    *_, images, plain = case
    found = scorer_of(case, "float32").score(images)
    for ours, theirs in zip(found, plain, strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * float(jnp.abs(theirs).max()))


def test_bfloat16_scores_follow_float32(case):
    *_, images, plain = case
    found = scorer_of(case, "bfloat16").score(images)
    assert found.map.dtype == found.image.dtype == jnp.float32
    same = np.corrcoef(np.ravel(found.map), np.ravel(plain.map))[0, 1]
    assert same > 0.97


def test_stream_keeps_the_order_of_batches():
    detector, variables = detector_of("simplenet")
    scorer = make_scorer(detector, variables, batch_size=1, size=SIZE)
    r = np.random.default_rng(2)
    batches = [r.integers(0, 256, (1, *SIZE, 3), np.uint8) for _ in range(3)]
    alone = [np.asarray(scorer.score(batch).image) for batch in batches]
    together = [scores.image for scores in stream(scorer, iter(batches))]
    np.testing.assert_array_equal(together, alone)
    assert len(np.unique(alone)) == 3


def test_nothing_to_score_is_no_scores():
    assert list(stream(None, iter([]))) == []


def test_the_next_batch_is_started_before_one_is_waited_for():
    started = []
    seen = [
        (item, x, len(started))
        for item, x in ahead(iter(range(3)), lambda n: started.append(n) or 10 * n)
    ]
    assert seen == [(0, 0, 2), (1, 10, 3), (2, 20, 3)]
    assert list(ahead([], lambda _: 0)) == []


def test_depthwise_kernels_are_recognised():
    kernels = {"1x1": (1, 1, 1, 8), "3x3": (3, 3, 8, 8), "linear": (8, 8)}
    variables = {name: {"kernel": np.zeros(shape)} for name, shape in kernels.items()}
    assert not has_depthwise(variables)
    assert has_depthwise({**variables, "depthwise": {"kernel": np.zeros((3, 3, 1, 8))}})
