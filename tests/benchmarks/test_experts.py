"""The forms that are timed against each other compute the same."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.experts import medians, scoring, training
from jaxad.methods.adapted_moe import experts, of_experts
from jaxad.methods.simplenet import Expert


def test_all_forms_agree() -> None:
    expert, count = Expert(4), 3
    method = experts("x", expert, count=count, normalise=False, noise=0.0)
    variables = jax.jit(method.init)(jax.random.key(0), {"x": jnp.zeros((2, 6))})
    alone = of_experts(variables)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2, 2, 6)), jnp.float32)
    index = jnp.asarray([2, 0, 1, 2])
    found = [jax.jit(form)(alone, x, index) for form in scoring(expert, count).values()]
    assert found[0].shape == (4, 2, 2)
    for other in found[1:]:
        np.testing.assert_allclose(found[0], other, atol=1e-6)
    assert not np.allclose(found[0][0], found[0][1])

    forms = training(expert, count, noise=0.0)
    given = variables, x.reshape(-1, 6)[:15], jax.random.key(1)
    grads = {name: jax.jit(form)(*given) for name, form in forms.items()}
    for k in range(count):
        stacked = jax.tree.map(lambda leaf, k=k: leaf[k], grads["stacked"]["experts"])
        for a, b in zip(jax.tree.leaves(stacked), jax.tree.leaves(grads["loop"][k])):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_times_are_told_by_name() -> None:
    found = medians({"sum": jnp.sum, "mean": jnp.mean}, jnp.ones(3), pairs=1)
    assert set(found) == {"sum", "mean"}
    assert min(found.values()) >= 0
