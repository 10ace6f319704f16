"""Training on photos that are changed in every step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tiny import Log, Photos, job, toy, trainer

from jaxad.data.augment import augmented
from jaxad.parallel import data_parallel

KINDS = ("mirror", "flip")


class Changed(Photos):
    """Photos that were changed as those of the steps are to be."""

    def batches(self, *args: Any, **options: Any) -> Iterator[Any]:
        for step, batch in enumerate(super().batches(*args, **options)):
            at = {"seed": 3, "phase": "all", "step": step, "places": range(4)}
            yield {**batch, "image": augmented(batch["image"], KINDS, **at)}


def learnt(**options: Any) -> Any:
    found = trainer(toy(), epochs=6, **options).fit(job(7), Path("photos"), Log(), seed=3)
    return np.asarray(found.variables["params"]["all"])


def test_a_step_sees_the_photos_that_are_drawn_for_it() -> None:
    assert trainer(toy(), augment=KINDS, feature_cache="auto").place == "off"
    own = learnt(augment=KINDS, feature_cache="auto")
    np.testing.assert_array_equal(own, learnt(photos=Changed(), feature_cache="off"))
    assert not np.array_equal(own, learnt(feature_cache="off"))
    two = data_parallel("jit", devices=jax.local_devices()[:2])
    shared = learnt(augment=KINDS, feature_cache="off", parallel=two)
    np.testing.assert_allclose(shared, own, rtol=1e-5)
