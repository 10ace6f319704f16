"""DRAEM: parity with the authors' recipe in torch, its parts by hand, what is drawn, errors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxad.core import InputError, Preprocess
from jaxad.methods import draem as module
from jaxad.methods import draem_defects as defects
from jaxad.methods.draem import draem, focal, ssim
from jaxad.methods.draem_networks import strongest
from jaxad.ops.precision import rounded
from jaxad.training.state import init_state
from jaxad.training.steps import make_train_step
from ports import golden_draem as golden
from ports.golden_pfm import unpack
from ports.seeded import fill, sample

STORED = np.load(Path(__file__).parents[1] / "golden" / "draem.npz")
GOLDEN = unpack(STORED["contents"], STORED["values"])
PREPARE = Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def made(**options: Any) -> Any:
    options = {"width": golden.WIDTH, "telling_width": golden.TELLING, **options}
    return draem("p", prepare=options.pop("prepare", PREPARE), **options)


def photos(count: int, size: tuple[int, int] = (32, 32), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)


def reference(halvings: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, Any, Any]:
    """The method with the golden file's defects, its features, variables and their names."""
    true, seen, mask = (jnp.asarray(x) for x in golden.drawn())

    def simulated(x: Any, *args: Any, **how: Any) -> Any:
        # XLA would compute at length what it can of constants while it compiles.
        return jax.lax.optimization_barrier((true, x, mask))

    monkeypatch.setattr(module, "simulated", simulated)
    method = made(prepare=lambda x: x, learning_rate=golden.RATE, halvings=halvings)
    found = {"p": seen}
    shapes = jax.eval_shape(method.init, jax.random.key(0), found)
    names = {
        path: ".".join((*path[1:-1], LEAVES.get(path[-1], path[-1])))
        for path in flatten_dict(shapes)
    }
    torch = fill(golden.shapes(halvings))
    assert sorted(names.values()) == sorted(torch)
    ours = {
        path: torch[name].transpose(2, 3, 1, 0) if torch[name].ndim == 4 else torch[name]
        for path, name in names.items()
    }
    variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), unflatten_dict(ours))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)
    return method, found, variables, names


def test_losses_and_maps_of_the_whole_networks_equal_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        method, found, variables, _ = reference(golden.WHOLE, monkeypatch)
        scores = quick.score(method, variables, found, size=golden.SIZE)
        close(sample(scores.map), GOLDEN["whole/map"], "map")
        close(scores.image, GOLDEN["whole/image"], "image")
        _, aux = quick.loss(method, variables, found)
        for name in ("l2", "ssim", "focal"):
            want = GOLDEN[f"whole/{name}"]
            np.testing.assert_allclose(aux.metrics[f"loss_{name}"][0], want, rtol=1e-5)


def test_two_steps_and_maps_equal_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        method, found, variables, names = reference(golden.FEWER, monkeypatch)
        state = init_state(variables, method.optimizer(100))
        step = quick.jit(
            make_train_step(lambda v, _, b, r: method.loss(v, b, {}, r), method.optimizer(100))
        )
        for n in range(2):
            state, metrics = step(state, {}, found, jax.random.key(0))
            for name in ("l2", "ssim", "focal"):
                want = GOLDEN[f"{name}{n}"]
                np.testing.assert_allclose(metrics[f"loss_{name}"][0], want, rtol=1e-5)
        for path, value in flatten_dict(state.variables).items():
            own = np.asarray(value).transpose(3, 2, 0, 1) if value.ndim == 4 else value
            close(sample(own), GOLDEN[f"after/{names[path]}"], names[path])
        folded = method.fold(state.variables)
        assert list(folded) == ["params"]
        scores = quick.score(method, folded, found, size=golden.SIZE)
        close(sample(scores.map), GOLDEN["map"], "map")
        close(scores.image, GOLDEN["image"], "image")


def close(own: Any, want: np.ndarray, what: str) -> None:
    tolerance = 1e-5 * max(1.0, float(np.max(np.abs(want))))
    np.testing.assert_allclose(own, want, rtol=0, atol=tolerance, err_msg=what)


def test_focal_loss_by_hand() -> None:
    # Of no opinion: a quarter of log 2; of a sure and right one nothing; of a sure and wrong one
    # the logarithm of both smoothings.
    logits = jnp.asarray([[0.0, 0.0], [-50.0, 50.0], [50.0, -50.0]])
    found = focal(logits, jnp.asarray([True, True, True]))
    np.testing.assert_allclose(found, [math.log(2) / 4, 0, -math.log(2e-5)], rtol=1e-4, atol=1e-6)
    other = focal(logits[:, ::-1], jnp.asarray([False, False, False]))
    np.testing.assert_allclose(other, found, rtol=1e-6)


def test_similarity_by_hand() -> None:
    a, b = (np.full((1, 24, 30, 1), value, np.float32) for value in (0.2, 0.6))
    found = ssim(jnp.asarray(a), jnp.asarray(b))
    # Far from the border, of two even images: only their light differs.
    want = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert float(found[0, 12, 15, 0]) == pytest.approx(want, rel=1e-4)
    noise = np.random.default_rng(0).random((2, 12, 13, 3), np.float32)
    np.testing.assert_allclose(ssim(jnp.asarray(noise), jnp.asarray(noise)), 1, rtol=1e-4)


def test_noise_is_perlins() -> None:
    draw = np.random.default_rng(0)
    angles = draw.uniform(0, 2 * np.pi, (4, 6)).astype(np.float32)
    y, x = (draw.uniform(0, n, 50).astype(np.float32) for n in (3, 5))

    def one(y: float, x: float) -> float:
        i, j = int(y), int(x)
        fade_y, fade_x = (6 * t**5 - 15 * t**4 + 10 * t**3 for t in (y - i, x - j))
        total = 0.0
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            angle = angles[i + down, j + right]
            ramp = np.cos(angle) * (y - i - down) + np.sin(angle) * (x - j - right)
            share = (fade_y if down else 1 - fade_y) * (fade_x if right else 1 - fade_x)
            total += share * ramp
        return 2**0.5 * total

    found = defects.perlin(*map(jnp.asarray, (angles, y, x)))
    np.testing.assert_allclose(found, [one(*at) for at in zip(y, x)], atol=1e-5)
    corners = defects.perlin(jnp.asarray(angles), jnp.arange(3.0), jnp.arange(3.0))
    np.testing.assert_array_equal(corners, 0)


def test_photos_are_turned_about_their_centre() -> None:
    image = jnp.asarray(photos(1, (9, 9))[0] / 255, jnp.float32)
    np.testing.assert_array_equal(defects.turned(image, jnp.float32(0)), image)
    quarter = defects.turned(image, jnp.float32(math.pi / 2))[1:-1, 1:-1]
    np.testing.assert_allclose(quarter, np.rot90(image, -1)[1:-1, 1:-1], atol=1e-5)
    eighth = np.asarray(defects.turned(image, jnp.float32(math.pi / 4)))
    assert np.all(eighth[[0, 0, -1, -1], [0, -1, 0, -1]] == 0)  # nothing was there
    np.testing.assert_allclose(eighth[4, 4], image[4, 4], atol=1e-6)


def test_changes_of_textures() -> None:
    textures = jnp.asarray(0.2 + 0.6 * photos(6, (8, 8), 1) / 255, jnp.float32)
    every = jax.random.split(jax.random.key(0), (len(defects.CHANGES), 6))

    @quick.jit
    def each(textures: Any, every: Any) -> Any:
        return [jax.vmap(f)(textures, keys) for f, keys in zip(defects.CHANGES, every)]

    made = dict(zip(defects.CHANGES, map(np.asarray, each(textures, every))))
    for change, found in made.items():
        assert found.min() >= 0, change
        assert found.max() <= 1, change
        assert np.abs(found - textures).max() > 0.02, change
    even = jnp.full((8, 8, 3), 0.4)
    np.testing.assert_array_equal(defects._stretch(even, jax.random.key(1)), even)
    levels = {len(np.unique(found)) for found in made[defects._posterise]}
    assert len(levels) > 1  # another number of bits each time
    assert min(levels) < 100
    for change in (defects._gamma, defects._stretch):
        slope = jax.grad(lambda x, key, f=change: jnp.sum(f(x, key)))
        keys = jax.random.split(jax.random.key(1), 6)  # roots and powers
        black = quick.jit(jax.vmap(slope, in_axes=(None, 0)))(0 * even, keys)
        assert np.isfinite(black).all()


def test_defects_are_drawn_by_an_elements_place() -> None:
    def draw(x: Any, element: Any) -> Any:
        return defects.simulated(x, jax.random.key(1), element, textures=None, turn_share=0.3)

    run = quick.jit(draw)
    images = jnp.asarray(np.tile(photos(2), (24, 1, 1, 1)) / 255, jnp.float32)
    true, seen, mask = every = [np.asarray(x) for x in run(images, jnp.arange(48))]
    for own, want in zip(run(images, jnp.roll(jnp.arange(48), -24)), every):
        np.testing.assert_array_equal(own[:24], want[24:])
    turned = np.any(true != images, axis=(1, 2, 3))
    assert 5 <= turned.sum() <= 25  # 14.4 of 48
    np.testing.assert_array_equal(seen[~mask], true[~mask])
    assert np.mean(np.any(seen != true, axis=-1)[mask]) > 0.9
    assert 0 <= seen.min() <= seen.max() <= 1
    with_defect = mask.any(axis=(1, 2))
    assert 8 <= with_defect.sum() <= 30  # half, less those whose noise is nowhere high
    areas = mask.mean(axis=(1, 2))[with_defect]
    assert areas.max() < 0.7
    assert len(np.unique(areas)) > 0.5 * len(areas)


def test_defects_are_made_of_the_textures_that_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defects, "changed", lambda texture, rng: texture)
    others = np.zeros((3, 32, 32, 3), np.uint8)
    others[0, ..., 0] = others[1, ..., 1] = others[2, ..., 2] = 255

    def draw(x: Any) -> Any:
        key, element = jax.random.key(1), jnp.arange(len(x))
        return defects.simulated(x, key, element, textures=lambda: others, turn_share=0.0)

    white = jnp.ones((24, 32, 32, 3))
    true, seen, mask = map(np.asarray, quick.jit(draw)(white))
    np.testing.assert_array_equal(true, white)
    colours, kept = set(), set()
    for own, where in zip(seen, mask):
        if where.any():
            inside = np.unique(own[where], axis=0)
            assert len(inside) == 1  # one share of the photo, one texture
            colours.add(int(np.argmax(inside)))
            assert inside[0].max() == pytest.approx(1, abs=1e-6)
            kept.add(round(float(inside[0].min()), 3))
    assert colours == {0, 1, 2}
    assert max(kept) <= 0.8
    assert max(kept) - min(kept) > 0.4


def test_textures_are_generated_in_all_colours() -> None:
    keys = jax.random.split(jax.random.key(0), 16)
    made = np.asarray(quick.jit(jax.vmap(lambda k: defects.generated_texture(k, (32, 48))))(keys))
    assert made.shape == (16, 32, 48, 3)
    assert 0 <= made.min() <= made.max() <= 1
    assert np.std(made.mean(axis=(1, 2)), axis=0).min() > 0.1
    contrast = made.std(axis=(1, 2)).mean(axis=-1)
    assert contrast.max() > 3 * contrast.min() > 0


def by_place(x: Any, rng: Any, element: Any, **how: Any) -> Any:
    """Defects that only depend on an element's place."""
    place = element.reshape(-1, 1, 1)
    mask = jnp.arange(x.shape[1]).reshape(1, -1, 1) < place + jnp.zeros(x.shape[:3], jnp.int32)
    return x, jnp.where(mask[..., None], x * (place[..., None] / 4).astype(x.dtype), x), mask


def step_of(variables: Any, devices: int) -> Any:
    """Loss and gradients of photos that are split over the devices of a mapped axis."""
    name = "devices" if devices > 1 else None
    method = made(width=2, telling_width=2, halvings=1, axis_name=name)

    def step(params: Any, batch: Any) -> Any:
        def loss(params: Any) -> Any:
            every = {**variables, "params": params}
            return method.loss(every, {"p": batch["p"]}, batch, jax.random.key(3))

        return jax.value_and_grad(loss, has_aux=True)(params)

    mapped = quick.jit(jax.vmap(step, in_axes=(None, 0), axis_name="devices"))

    def run(params: Any, batch: Any) -> Any:
        split = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
        (value, aux), gradient = mapped(params, split)
        return jax.tree.map(lambda x: x.mean(axis=0), (value, gradient, aux.updates))

    return run


def test_devices_learn_as_one_does_and_gradients_are_finite_at_corners(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "simulated", by_place)
    batch = {"p": photos(4, (8, 8)), "element": np.arange(4, dtype=np.int32)}
    variables = quick.filled(made(width=2, telling_width=2, halvings=1), {"p": batch["p"]})
    one, two = (step_of(variables, n) for n in (1, 2))
    alone = one(variables["params"], batch)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(alone),
        jax.tree.leaves(two(variables["params"], batch)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5, err_msg=str(path))

    nothing = jax.tree.map(jnp.zeros_like, variables["params"])
    for params in (variables["params"], nothing):
        for grey in (0, 255):
            even = {**batch, "p": np.full_like(batch["p"], grey)}
            for path, leaf in jax.tree_util.tree_leaves_with_path(one(params, even)):
                assert np.isfinite(leaf).all(), path


def test_networks_of_double_precision_stay_so() -> None:
    with jax.enable_x64(True):
        method = made(width=2, telling_width=2, halvings=1, prepare=lambda x: x)
        found = {"p": jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float64)}
        variables = jax.eval_shape(method.init, jax.random.key(0), found)
        value, aux = jax.eval_shape(method.loss, variables, found, {}, jax.random.key(0))
        every = jax.tree.leaves((variables, value, aux.updates))
    assert {x.dtype for x in every} == {np.dtype(np.float64)}


def test_networks_in_half_precision_have_losses_of_float32() -> None:
    method, found = made(width=2, telling_width=2, halvings=1), {"p": photos(2, (8, 8))}
    variables = rounded(quick.filled(method, found), "bfloat16")
    assert variables["params"]["rebuild"]["out"]["kernel"].dtype == jnp.bfloat16
    value, aux = jax.eval_shape(method.loss, variables, found, {}, jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves((value, aux))} == {np.dtype(np.float32)}
    scores = jax.eval_shape(lambda v: method.score(v, found, size=(8, 8)), variables)
    assert {x.dtype for x in jax.tree.leaves(scores)} == {np.dtype(np.float32)}


def test_networks_start_as_the_authors_do() -> None:
    method = made(width=8, telling_width=8, halvings=3)
    flat = flatten_dict(quick.init(method, {"p": jnp.asarray(photos(1))}), sep="/")
    deep = {name: np.asarray(x) for name, x in flat.items() if x.size > 4000}
    assert deep
    for name, value in deep.items():
        assert float(value.std()) == pytest.approx(0.02, rel=0.05), name
    scales = np.concatenate([x for name, x in flat.items() if name.endswith("bn/scale")])
    assert float(scales.mean()) == pytest.approx(1, abs=0.005)
    assert float(scales.std()) == pytest.approx(0.02, rel=0.2)
    for part in ("rebuild", "tell"):
        bias = np.abs(flat[f"params/{part}/out/bias"])
        assert 0 < bias.max() <= 72**-0.5
    assert all(not np.any(x) for name, x in flat.items() if name.endswith("bn/bias"))


def test_the_rate_falls_twice() -> None:
    told = made().schedules(100)["all"]
    want = [1e-4, 1e-4, 2e-5, 2e-5, 4e-6]
    assert [float(told(t)) for t in (0, 79, 81, 89, 91)] == pytest.approx(want)


@pytest.mark.parametrize(("halvings", "sizes"), [(5, ((32, 48), (16, 32))), (2, ((6, 8),))])
def test_sides_that_can_not_be_halved_are_named(halvings: int, sizes: Any) -> None:
    for size in sizes:
        told = rf"photos of {size[0]} x {size[1]} pixels: DRAEM halves them {halvings} times"
        with pytest.raises(InputError, match=f"{told}, .* multiples of {2**halvings}"):
            made(halvings=halvings).init(jax.random.key(0), {"p": jnp.asarray(photos(1, size))})


def test_the_strongest_of_equal_pixels_is_the_first() -> None:
    squares = jnp.asarray(np.random.default_rng(0).permutation(96).reshape(2, 4, 6, 2), jnp.float32)
    found = np.asarray(strongest(squares))
    want = np.asarray(squares).reshape(2, 2, 2, 3, 2, 2).max(axis=(2, 4))
    np.testing.assert_array_equal(found, want)
    slope = quick.jit(jax.grad(lambda x: jnp.sum(strongest(x))))
    for square, first in (([1, 1, 1, 1], 0), ([0, 2, 2, 1], 1), ([0, 1, 2, 2], 2)):
        gradient = slope(jnp.asarray(square, jnp.float32).reshape(1, 2, 2, 1)).ravel()
        np.testing.assert_array_equal(gradient, np.arange(4) == first)
    assert np.isnan(strongest(jnp.full((1, 2, 2, 1), np.nan))).all()
