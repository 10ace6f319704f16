"""The smallest detector that trains: one convolution, one method of three numbers, no files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxad.core import Aux, Backbone, Level, Method, Preprocess, Scores
from jaxad.data.jobs import Job
from jaxad.data.manifest import Record
from jaxad.detector import Detector
from jaxad.ops.noise import normal_by_element
from jaxad.parallel import DataParallel, data_parallel
from jaxad.recipes.recipe import Backbones, Model, Phase
from jaxad.training.course import Budget
from jaxad.training.fit import Trainer

SIZE = (8, 12)
GRID = (2, 3)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        a = nn.Conv(3, (4, 4), strides=4, padding="VALID")(x)
        return {"a": a, "b": nn.Dense(2)(a)}


BACKBONE = Backbone("tiny", Net(), {"a": Level(3, 4), "b": Level(2, 4)}, Preprocess())


def backbones(*roles: str) -> Backbones:
    x = jnp.zeros((1, *SIZE, 3))
    variables = {role: Net().init(jax.random.key(n), x) for n, role in enumerate(roles)}
    return Backbones(dict.fromkeys(roles, BACKBONE), variables, dict.fromkeys(roles, "0"))


def toy(name: str = "all", *, noise: float = 0.0, finalized: list[Any] | None = None) -> Method:
    """Learn the mean of the features `net/a`; `finalized` gets what a last pass is given."""

    def init(rng: jax.Array, features: Any) -> Any:
        return {"params": {name: jax.random.normal(rng, (3,))}}

    def loss(variables: Any, features: Any, batch: Any, rng: jax.Array) -> Any:
        x = features["net/a"]
        x = x + noise * normal_by_element(rng, batch["element"], x.shape[1:])
        subclass = batch["subclass"].reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype)
        w = jnp.broadcast_to(variables["params"][name], x.shape)
        value = jnp.mean(jnp.square(x + subclass - w))
        return value, Aux({}, {"elements": (jnp.float32(len(x)), jnp.ones(()))})

    def score(variables: Any, features: Any, *, size: tuple[int, int]) -> Scores:
        x = features["net/a"]
        w = jnp.broadcast_to(variables["params"][name], x.shape)
        image = jnp.mean(jnp.square(x - w), axis=(1, 2, 3))
        return Scores(jnp.broadcast_to(image[:, None, None], (len(image), *size)), image)

    def finalize(variables: Any, batches: Any) -> Any:
        finalized.extend((found["net/a"], batch["subclass"]) for found, batch in batches)
        return variables

    return Method(
        init, loss, score, lambda steps: optax.adam(0.1), None if finalized is None else finalize
    )


class Photos:
    """Stands for `jaxad.data.reading.Reading`: photo n, named "n.png", is noise of seed n."""

    size = SIZE

    def __init__(self) -> None:
        self.read: list[int] = []

    def batches(
        self,
        data: Any,
        batch_size: int,
        *,
        with_masks: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[Any]:
        every = [int(Path(record.path).stem) for record in data.records]
        numbers = every[share[0] :: share[1]]
        self.read += numbers
        for start in range(0, len(numbers), batch_size):
            some = numbers[start : start + batch_size]
            images = np.zeros((batch_size, *SIZE, 3), np.uint8)
            images[: len(some)] = [photo(number) for number in some]
            yield {"image": images, "_mask": np.arange(batch_size) < len(some)}


def photo(number: int) -> np.ndarray:
    low = 128 if number % 2 else 0
    return np.random.default_rng(number).integers(low, low + 128, (*SIZE, 3), np.uint8)


def job(count: int, *, start: int = 0, kinds: int = 0, categories: Sequence[str] = ("c",)) -> Job:
    """Some photos in subclasses and categories that take turns."""
    records = tuple(
        Record(
            f"{start + i}.png",
            categories[i % len(categories)],
            str(i % kinds) if kinds else "",
            "train",
            "good",
        )
        for i in range(count)
    )
    return Job("c", records, {})


def budget(**changes: Any) -> Budget:
    values: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 4,
        "balanced": False,
        "holdout": 0.0,
        "feature_cache": "host",
        "cache_dtype": "float32",
        "log_every": 1,
        "score_batch": 4,
        "clusters": None,
    }
    return Budget(**{**values, **changes})


def trainer(
    method: Method,
    *,
    phases: Sequence[Phase] = (),
    capacity: int = 16,
    check: Any = lambda: None,
    parallel: DataParallel | None = None,
    photos: Photos | None = None,
    **changes: Any,
) -> Trainer:
    networks = backbones("net")
    whole = list(phases) or [Phase("all", method, 0, 0, ("net/a",))]
    made = Model(Detector(networks.networks, method), whole)
    return Trainer(
        networks,
        lambda count: made,
        budget(**changes),
        photos or Photos(),  # type: ignore[arg-type]
        parallel or data_parallel("pmap", devices=jax.local_devices()[:1]),
        capacity=capacity,
        check=check,
    )


class Log(list[dict[str, Any]]):
    """What was logged."""

    def __call__(self, **values: Any) -> None:
        self.append(values)


def untimed(line: dict[str, Any]) -> dict[str, Any]:
    """A line without what differs from one run to the next."""
    return {k: v for k, v in line.items() if not k.endswith(("_per_second", "_bytes"))}
