"""EfficientAD-S: parity with its best known code in torch, by hand, what is learnt, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxad.backbones.patch_description import PatchDescription
from jaxad.core import InputError, Method, Preprocess
from jaxad.methods import efficientad as module
from jaxad.methods import efficientad_network as networks
from jaxad.methods.efficientad import efficientad, hard_mean, recoloured
from jaxad.methods.efficientad_network import Autoencoder, dropped
from jaxad.methods.efficientad_teacher import distillation, learnt, published
from jaxad.training.state import init_state
from jaxad.training.steps import make_train_step
from ports import golden_efficientad as golden
from ports.golden_pfm import unpack
from ports.seeded import fill, sample

STORED = np.load(Path(__file__).parents[1] / "golden" / "efficientad.npz")
GOLDEN = unpack(STORED["contents"], STORED["values"])
TEACHER = PatchDescription(golden.CHANNELS, golden.WIDTH)
PREPARE = Preprocess()


def made(**options: Any) -> tuple[Method, Method]:
    first = distillation("p", "f", TEACHER, prepare=PREPARE)
    options = {"width": golden.NARROW, "hard": 0.99, **options}
    return first, efficientad("p", learnt(TEACHER, first), prepare=PREPARE, **options)


def found(seed: int = 0) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(golden.BATCH, 8, 8, golden.CHANNELS)).astype(np.float32)
    return {"p": jnp.asarray(golden.photos(seed)), "f": jnp.asarray(3 + 2 * features)}


def test_two_steps_and_maps_equal_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is drawn at random is left out on both sides.
    monkeypatch.setattr(module, "recoloured", lambda images, rng, element: images)
    monkeypatch.setattr(networks, "dropped", lambda x, rng, element: x)
    _, method = made(penalty=lambda: golden.photos(1)[:1])
    shapes = jax.eval_shape(method.init, jax.random.key(0), found())
    torch = fill(golden.shapes())

    def ours(path: tuple[str, ...]) -> np.ndarray:
        name = ".".join((*path[:-1], "weight" if path[-1] == "kernel" else "bias"))
        value = torch[name]
        if value.ndim == 1:
            return value
        value = value.transpose(2, 3, 1, 0)
        # The last convolution of the encoder sees its whole grid.
        return value.reshape(1, 1, -1, value.shape[-1]) if "vector" in name else value

    flat = {path: ours(path) for path in flatten_dict(shapes["params"])}
    assert sum(value.size for value in flat.values()) == sum(v.size for v in torch.values())
    params = jax.tree.map(jnp.asarray, unflatten_dict(flat))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes["params"])
    own = {**jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), "params": params}
    own["target"]["std"] = own["target"]["std"] + 1
    padded = TEACHER.apply({"params": params["teacher"]}, PREPARE(found()["p"]), padded=True)
    close(sample(np.asarray(padded).transpose(0, 3, 1, 2)), GOLDEN["padded"], "padded")

    state = init_state(own, method.optimizer(100))
    step = quick.jit(
        make_train_step(lambda v, _, b, r: method.loss(v, b, {}, r), method.optimizer(100))
    )
    for n in range(2):
        state, metrics = step(state, {}, found(), jax.random.key(0))
        for name in ("hard", "penalty", "autoencoder", "logic"):
            np.testing.assert_allclose(
                metrics[f"loss_{name}"][0], GOLDEN[f"{name}{n}"], rtol=1e-5, err_msg=name
            )
    for path, value in flatten_dict(state.variables["params"]).items():
        name = ".".join((*path[:-1], "weight" if path[-1] == "kernel" else "bias"))
        value = np.asarray(value)
        if value.ndim == 4:
            value = value.reshape(*torch[name].transpose(2, 3, 1, 0).shape).transpose(3, 2, 0, 1)
        close(sample(value), GOLDEN[f"after/{name}"], name)
    assert method.finalize is not None
    each = [({"p": found()["p"][i : i + 1]}, {}) for i in range(golden.BATCH)]
    done = method.finalize(state.variables, each)
    for name in ("structure", "logic"):
        close(done["quantiles"][name], GOLDEN[f"{name}_quantiles"], name)
    scores = quick.score(method, done, found(), size=(golden.SIDE, golden.SIDE))
    close(sample(scores.map[:, None]), GOLDEN["map"], "map")
    close(scores.image, GOLDEN["image"], "image")


def close(own: Any, want: np.ndarray, what: str) -> None:
    tolerance = 1e-5 * max(1.0, float(np.max(np.abs(want))))
    np.testing.assert_allclose(own, want, rtol=0, atol=tolerance, err_msg=what)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.999])
def test_hard_features_are_those_from_the_quantile_on(share: float) -> None:
    x = np.random.default_rng(0).normal(size=(3, 10, 10, 10)).astype(np.float32)
    want = [one[one >= np.quantile(one, share)].mean() for one in x]
    np.testing.assert_allclose(hard_mean(jnp.asarray(x), share), want, rtol=1e-5, atol=1e-6)
    # 1 to 1,000: the quantile .999 is 999.001.
    by_hand = jnp.arange(1, 1001, dtype=jnp.float32).reshape(1, 10, 10, 10)
    assert float(hard_mean(by_hand, 0.999)[0]) == 1000


def test_the_autoencoder_rebuilds_the_teachers_grid_of_any_photo() -> None:
    for size, grid in (((256, 256), (56, 56)), ((64, 96), (8, 16)), ((100, 70), (17, 9))):
        x = jnp.zeros((1, *size, 3))
        net = Autoencoder(5, grid, 2)
        shape = jax.eval_shape(lambda x, n=net: n.init_with_output(jax.random.key(0), x)[0], x)
        assert shape.shape == (1, *grid, 5)


def test_what_is_drawn_goes_by_an_element_s_place() -> None:
    images = jnp.asarray(golden.photos(0), jnp.float32)
    for draw in (
        lambda x, at: recoloured(x, jax.random.key(1), at),
        lambda x, at: dropped(x, jax.random.key(1), at),
    ):
        every = draw(jnp.tile(images, (4, 1, 1, 1)), jnp.arange(8))
        np.testing.assert_array_equal(draw(images, jnp.asarray([6, 7])), every[6:])
        assert not np.array_equal(every[:2], every[2:4])
    kept = np.asarray(dropped(jnp.ones((2, 50, 50)), jax.random.key(0), jnp.arange(2)))
    assert np.unique(kept).tolist() == [0, 1.25]
    assert kept.mean() == pytest.approx(1, abs=0.03)


def test_colours_change_by_a_fifth_at_most() -> None:
    images = jnp.broadcast_to(jnp.asarray([100.0, 150.0, 200.0]).reshape(1, 1, 1, 3), (64, 4, 4, 3))
    changed = np.asarray(recoloured(images, jax.random.key(0), jnp.arange(64)))
    grey = float(images[0, 0, 0] @ jnp.asarray(module.GREY))
    ratio = changed[:, 0, 0] / np.asarray([100.0, 150.0, 200.0])
    brighter = np.isclose(ratio, ratio[:, :1], rtol=1e-4).all(axis=1)
    assert 10 < brighter.sum() < 35  # a third; of one colour, contrast and saturation are the same
    assert ratio[brighter].min() >= 0.8
    assert ratio[brighter].max() <= 1.2
    to_grey = (changed[~brighter, 0, 0] - grey) / (np.asarray([100.0, 150.0, 200.0]) - grey)
    np.testing.assert_allclose(to_grey, np.repeat(to_grey[:, :1], 3, axis=1), rtol=1e-3)
    assert np.ptp(to_grey[:, 0]) > 0.2


def test_the_teacher_learns_first_and_then_stays() -> None:
    first, method = made()
    variables = quick.init(method, found())
    assert method.observe is not None
    variables = method.observe(variables, [(found(n), {}) for n in range(2)])
    every = np.concatenate([np.asarray(found(n)["f"]).reshape(-1, golden.CHANNELS) for n in (0, 1)])
    np.testing.assert_allclose(variables["target"]["mean"], every.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(variables["target"]["std"], every.std(axis=0), rtol=1e-5)

    part = {"params": {"teacher": variables["params"]["teacher"]}, "target": variables["target"]}
    assert jax.tree.map(jnp.shape, jax.eval_shape(first.init, jax.random.key(0), found())) == (
        jax.tree.map(jnp.shape, part)
    )
    fast = distillation("p", "f", TEACHER, prepare=PREPARE, learning_rate=1e-2)
    state = init_state(part, fast.optimizer(30))
    step = quick.jit(make_train_step(lambda v, _, b, r: fast.loss(v, b, {}, r), fast.optimizer(30)))
    losses = []
    for _ in range(30):
        state, metrics = step(state, {}, found(), jax.random.key(0))
        losses.append(float(metrics["loss"][0]))
    assert losses[-1] < 0.97 * losses[0]

    gradients = [jax.tree.map(jnp.ones_like, variables["params"])]
    moves = quick.updates_of(method, 10, variables["params"], gradients)[0]
    for name, tree in moves.items():
        for leaf in jax.tree.leaves(tree):
            assert (np.max(np.abs(leaf)) == 0) == (name == "teacher"), name
    told = method.schedules(100)["student"]
    assert [float(told(t)) for t in (94, 96)] == pytest.approx([1e-4, 1e-5])


def test_a_published_teacher_is_brought_to_one_scale_and_stays() -> None:
    own = quick.init(made()[1], found())["params"]["teacher"]
    teacher = published("p", TEACHER, lambda: own, prepare=PREPARE)
    method = efficientad("p", teacher, prepare=PREPARE, width=golden.NARROW)
    variables = quick.init(method, found())
    assert set(variables) == {"params", "quantiles"}
    assert method.observe is not None
    images = [({"p": found(n)["p"]}, {}) for n in range(3)]
    scaled = method.observe(variables, images)["params"]

    def said(params: Any, n: int) -> np.ndarray:
        return np.asarray(TEACHER.apply({"params": params}, PREPARE(found(n)["p"])), np.float64)

    before = np.stack([said(own, n) for n in range(3)]).reshape(-1, golden.CHANNELS)
    want = (said(own, 5) - before.mean(axis=0)) / before.std(axis=0)  # as the best known code
    np.testing.assert_allclose(said(scaled["teacher"], 5), want, rtol=1e-4, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, scaled["student"], variables["params"]["student"])
    again = method.observe({**variables, "params": scaled}, images)["params"]["teacher"]["conv4"]
    np.testing.assert_allclose(again["kernel"], scaled["teacher"]["conv4"]["kernel"], rtol=1e-4)
    gradients = [jax.tree.map(jnp.ones_like, scaled)]
    moves = quick.updates_of(method, 10, scaled, gradients)[0]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(moves["teacher"]))
    dark = [({"p": jnp.zeros_like(found()["p"])}, {})]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(method.observe(variables, dark)))


def test_maps_of_normal_photos_are_brought_to_one_scale() -> None:
    _, method = made()
    variables = quick.filled(method, found())
    assert method.finalize is not None
    each = [({"p": found(n)["p"][:1]}, {}) for n in range(3)]
    done = method.finalize(variables, each)
    scores = [quick.score(method, done, {"p": x["p"]}, size=(16, 16)).map for x, _ in each]
    assert abs(float(np.mean(scores))) < 0.1
    alike = method.finalize(
        jax.tree.map(jnp.zeros_like, variables), each
    )  # nothing differs anywhere
    assert np.isfinite(quick.score(method, alike, found(), size=(16, 16)).map).all()


def test_photos_and_channels_that_do_not_fit_are_named() -> None:
    first, method = made()
    small = {**found(), "p": jnp.zeros((1, 63, 64, 3), jnp.uint8)}
    with pytest.raises(InputError, match=r"63 x 64 pixels are too small for EfficientAD"):
        method.init(jax.random.key(0), small)
    other = {**found(), "f": jnp.zeros((1, 8, 8, 7))}
    with pytest.raises(InputError, match=r"method\.channels is 6, and f has 7"):
        first.init(jax.random.key(0), other)
