"""Frozen networks: what random ones are drawn by."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxad.config import default_config
from jaxad.recipes import recipe


def test_random_networks_are_drawn_by_the_seed_and_each_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def draw(name: str, rng: jax.Array, *, levels: object) -> tuple[str, jax.Array]:
        return name, jax.random.normal(rng, (4,))

    monkeypatch.setattr(recipe, "init_backbone", draw)
    config = default_config("pfm")
    config.method.random_weights = True

    def drawn(number: int, seed: int = 888) -> list[float]:
        config.train.seed = seed
        _, values, digest = recipe.frozen_network(config, "x", levels=None, number=number)
        assert digest == f"random:{seed}"
        return np.asarray(values).tolist()

    every = [drawn(0), drawn(1), drawn(0, seed=889)]
    assert len({tuple(values) for values in every}) == 3
    assert drawn(0) == every[0]
    # Not what methods make of the key of this seed.
    for key in jax.random.split(jax.random.key(888), 3):
        assert np.asarray(jax.random.normal(key, (4,))).tolist() not in every
