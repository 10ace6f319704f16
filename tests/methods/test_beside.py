"""A judge beside a method: the geometric mean of both, what each of them learns, two of a kind."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from jaxad.core import Array, Features, Images, InputError, Method, Scores, Variables, without_steps
from jaxad.methods.beside import beside
from jaxad.methods.spade import spade


def flat(constant: float, *, name: str = "mean", folded: float = 1.0) -> Method:
    """How far each photo's first channel is from the mean of those learnt, and a constant on it."""

    def init(rng: Array, features: Features) -> Variables:
        return {name: {"x": jnp.mean(features["a"]) * 0}}

    def score(variables: Variables, features: Features, *, size: tuple[int, int]) -> Scores:
        mean = jnp.mean(features["a"][..., :1], axis=(1, 2, 3))
        image = jnp.abs(mean - variables[name]["x"]) + constant
        return Scores(jnp.broadcast_to(image[:, None, None], (len(mean), *size)), image)

    def finalize(variables: Variables, images: Images) -> Variables:
        x = np.mean([np.mean(f["a"][..., :1]) for f, _ in images])
        return {**variables, name: {"x": jnp.asarray(x, jnp.float32)}}

    def fold(variables: Variables) -> Variables:
        return {name: {"x": variables[name]["x"] * folded}}

    return without_steps(init, score, finalize, fold=fold if folded != 1 else None)


def photo(*values: float) -> Any:
    return {"a": jnp.asarray(values, jnp.float32).reshape(1, 1, 1, -1)}, {}


LEARNT = [photo(1, 0), photo(3, 0)]
NEIGHBOURS = spade((), pooled="a", neighbours=1)


def learnt(method: Method) -> Variables:
    assert method.finalize is not None
    return method.finalize(quick.init(method, LEARNT[0][0]), LEARNT)


def test_by_hand() -> None:
    """From (5, 4): 3 from the mean 2 and 1 more; 20 squared from (3, 0); the map is the first's."""
    method = beside(flat(1.0), NEIGHBOURS)
    variables = learnt(method)
    assert set(variables) == {"mean", "gallery"}
    assert method.grows == {"gallery"}
    assert variables["gallery"]["photos"].shape == (2, 2)
    found = quick.score(method, variables, photo(5, 4)[0], size=(2, 3))
    np.testing.assert_allclose(found.image, [(4 * 20**0.5) ** 0.5], rtol=1e-6)
    np.testing.assert_allclose(found.map, np.full((1, 2, 3), 4.0), rtol=1e-6)


def test_either_judge_alone_would_miss_one_defect() -> None:
    """One photo is odd for the neighbours, one for the mean; both together find both."""
    features = {"a": jnp.asarray([[1, 0.05], [3, 0.05], [2, 3.0], [7, 0.05]]).reshape(4, 1, 1, 2)}
    method = beside(flat(0.5), NEIGHBOURS)
    variables = learnt(method)
    scores = np.asarray(quick.score(method, variables, features, size=(1, 1)).image)
    assert scores[2:].min() > 2 * scores[:2].max()
    first = np.asarray(quick.score(flat(0.5), variables, features, size=(1, 1)).image)
    assert first[2] < first[:2].min()  # it lies where the mean is


def test_a_cosine_that_passes_one_by_a_rounding_is_no_nan() -> None:
    def below_zero(variables: Variables, features: Features, *, size: tuple[int, int]) -> Scores:
        return NEIGHBOURS.score(variables, features, size=size)._replace(image=-jnp.full(1, 1e-8))

    method = beside(flat(1.0), NEIGHBOURS._replace(score=below_zero))
    found = quick.score(method, learnt(method), photo(5, 4)[0], size=(1, 1))
    np.testing.assert_array_equal(found.image, [0.0])


def test_a_photo_that_was_learnt_has_no_score_and_no_nan() -> None:
    judge = spade((), pooled="a", neighbours=1, cosine=True)
    method = beside(flat(1.0), judge)
    draw = np.random.default_rng(0).normal(size=(20, 7))
    images = [photo(*row) for row in draw]
    assert method.finalize is not None
    variables = method.finalize(quick.init(method, images[0][0]), images)
    features = {"a": jnp.asarray(draw, jnp.float32)[:, None, None]}
    found = np.asarray(quick.score(method, variables, features, size=(1, 1)).image)
    assert np.isfinite(found).all()
    assert found.max() < 1e-2


def test_what_each_folds_is_folded_and_the_rest_stays() -> None:
    method = beside(flat(1.0, folded=10.0), NEIGHBOURS)
    variables = learnt(method)
    assert method.fold is not None
    folded = method.fold(variables)
    np.testing.assert_allclose(folded["mean"]["x"], 20.0, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, folded["gallery"], variables["gallery"])


def test_variables_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="both methods have variables mean"):
        quick.init(beside(flat(1.0), flat(2.0)), LEARNT[0][0])
    method = beside(flat(1.0), flat(2.0, name="other"))
    found = quick.score(method, learnt(method), photo(5, 4)[0], size=(1, 1))
    np.testing.assert_allclose(found.image, [(4 * 5) ** 0.5], rtol=1e-6)
