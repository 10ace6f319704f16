"""A ResNet that learns: BatchNorm by the batch, on one device and on several."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.backbones.resnet import ResNet
from jaxad.ops.fold import fold_batch_norm
from jaxad.ops.initialise import he_normal

AXIS = "batch"
PHOTOS = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)


def net(**how: Any) -> ResNet:
    return ResNet((1, 1, 1, 1), False, ("layer1",), **how)


def started() -> Any:
    x = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    shapes = jax.eval_shape(net(folded=False).init, jax.random.key(0), x)
    return jax.jit(lambda rng: he_normal(rng, shapes))(jax.random.key(1))


def learnt(variables: Any, x: Any, axis_name: str | None = None) -> Any:
    module = net(folded=False, train=True, axis_name=axis_name)
    return module.apply(variables, x, mutable=["batch_stats"])


def test_statistics_span_the_devices() -> None:
    variables = started()
    found, moved = jax.jit(learnt)(variables, PHOTOS)
    both = jax.pmap(
        lambda variables, x: learnt(variables, x, AXIS),
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=(0, None),
        devices=jax.local_devices()[:2],
    )
    shared, together = both(variables, PHOTOS.reshape(2, 2, 16, 16, 3))
    for own, want in zip(jax.tree.leaves((shared, together)), jax.tree.leaves((found, moved))):
        np.testing.assert_allclose(np.asarray(own).reshape(want.shape), want, rtol=0, atol=2e-5)


def test_learning_moves_the_statistics_that_it_is_then_folded_by() -> None:
    variables = started()
    _, moved = jax.jit(learnt)(variables, PHOTOS)
    after = {**variables, **moved}
    frozen = jax.jit(net(folded=False).apply)(after, PHOTOS)["layer1"]
    folded = jax.jit(net(folded=True).apply)(fold_batch_norm(after, 1e-5), PHOTOS)["layer1"]
    np.testing.assert_allclose(folded, frozen, rtol=1e-4, atol=1e-4)
    before = jax.jit(net(folded=False).apply)(variables, PHOTOS)["layer1"]
    assert not np.allclose(before, frozen, atol=0.1)
