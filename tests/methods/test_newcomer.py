"""A subclass that comes later: a few good photos of it, and no training."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from jaxad.core import InputError
from jaxad.methods.adaption import Adaption
from jaxad.methods.mixture import Routed, mixture
from jaxad.methods.newcomer import adding, welcome
from jaxad.methods.patchcore import patchcore
from jaxad.methods.routing import Router, routing

C, SIZE = 6, (4, 4)
BANK = patchcore("x", sampler="random", share=0.5, narrow=0, smoothing=0.0)


def photos(count: int, towards: int, seed: int) -> np.ndarray[Any, Any]:
    """Photos that point in one direction of the router's space."""
    x = np.random.default_rng(seed).normal(size=(count, *SIZE, C))
    x[..., towards] += 9
    return x.astype(np.float32)


def pairs(x: np.ndarray[Any, Any], kind: int) -> list[Any]:
    return [({"x": jnp.asarray(own[None])}, {"subclass": np.asarray([kind])}) for own in x]


def built(count: int, expert: Any = BANK) -> tuple[Any, Routed]:
    router = Router(C, count, True)
    routed = Routed("x", router, routing("x", router))
    how = Adaption(share=0.5)
    options: Any = {"count": count, "size": SIZE, "trained": False, "adaption": how}
    return mixture(expert, ["x"], routed, **options), routed


def test_a_newcomer_has_its_own_bank_and_the_others_keep_theirs() -> None:
    method, routed = built(2)
    variables = quick.init(method, {"x": jnp.zeros((1, *SIZE, C))})
    kernel = np.zeros((3, 3, C, C), np.float32)
    kernel[1, 1] = np.eye(C)
    project = {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(C)}
    variables["params"]["router"] = {**variables["params"]["router"], "project": project}
    variables["routing"] = {"centres": jnp.eye(2, C)}
    images = pairs(photos(6, 0, 1), 0) + pairs(photos(6, 1, 2), 1)
    variables = method.finalize(method.observe(variables, images), images)
    new = photos(3, 2, 3)
    new[..., 1] += 4  # nearest to expert 1
    larger, _ = built(3)
    grown = welcome(larger, routed, variables, pairs(new, 0))
    shapes = jax.eval_shape(larger.init, jax.random.key(0), {"x": jnp.zeros((1, *SIZE, C))})
    assert jax.tree.structure(grown) == jax.tree.structure(shapes)
    members = [len(grown["bank"][str(n)]["members"]) for n in range(3)]
    assert members == [48, 48, 24]
    for name in ("location", "scale"):
        own = grown["subclasses"]["x"][name]
        np.testing.assert_array_equal(own[:2], variables["subclasses"]["x"][name])
    np.testing.assert_allclose(
        grown["subclasses"]["x"]["location"][2], new.mean((0, 1, 2)), rtol=1e-4, atol=1e-5
    )
    old = photos(2, 0, 5)
    found = quick.score(larger, grown, {"x": np.concatenate([old, new])}, size=SIZE)
    want = quick.score(method, variables, {"x": old}, size=SIZE)
    np.testing.assert_allclose(found.map[:2], want.map, rtol=1e-4, atol=1e-4)
    # Its own photos were foreign, and are normal now.
    before = quick.score(method, variables, {"x": new}, size=SIZE)
    assert float(np.max(found.image[2:])) < float(np.min(before.image)) - 1
    both, _ = built(3, adding(BANK))
    kept = welcome(both, routed, variables, pairs(new, 0))
    members = [np.asarray(kept["bank"][str(n)]["members"]) for n in range(3)]
    assert [len(own) for own in members] == [48, 48, 72]
    np.testing.assert_array_equal(members[2][:48], members[1])  # its nearest one's
    again = quick.score(both, kept, {"x": new}, size=SIZE)
    assert float(np.max(again.image)) < float(np.min(before.image)) - 1
    with pytest.raises(InputError, match="needs one good photo"):
        welcome(larger, routed, variables, [])
    with pytest.raises(InputError, match="without a memory bank"):
        adding(BANK._replace(update=None))
