"""What EfficientAD's student learns: a teacher that is distilled here, or one that was published.

`jaxad.methods.efficientad` has the method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxad.core import Array, Aux, Features, Images, InputError, Method, Scores, Variables, pick
from jaxad.methods.efficientad_network import started
from jaxad.ops.precision import at_least_float32
from jaxad.ops.resample import resize, resize_map


class Teacher(NamedTuple):
    """What the student learns."""

    network: Any
    """A patch description network (`jaxad.backbones.patch_description`), and so below."""
    init: Callable[[Array, Features], Variables]
    """Variables whose `params` have those of the `teacher`."""
    observe: Callable[[Variables, Images], Variables]
    """As `Method` has it: sees to it that all channels have mean 0 and deviation 1."""


def moments(maps: Iterable[Array], channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel of all maps, `(C,)` float64 each."""
    count, total, squares = 0, np.zeros(channels), np.zeros(channels)
    for each in maps:
        x = np.asarray(each, np.float64).reshape(-1, channels)
        count, total = count + len(x), total + x.sum(axis=0)
        squares = squares + np.square(x).sum(axis=0)
    mean = total / count
    return mean, np.sqrt(np.maximum(squares / count - mean**2, 1e-12))


def distillation(
    photo: str,
    feature: str,
    teacher: Any,
    *,
    prepare: Callable[[Array], Array],
    learning_rate: float = 1e-4,
    weight_decay: float = 1e-5,
) -> Method:
    """Build the method of the first phase: the teacher learns a frozen network's features.

    Args:
        photo: Name of the pixels.
        feature: Name of what it learns, `(B, h, w, C)` of the teacher's channels; each channel is
            brought to mean 0 and deviation 1 over the training photos (`variables["target"]`).
        teacher: The network.
        prepare: Pixels to what networks are given.
        learning_rate: Of Adam.
        weight_decay: L2, as torch's Adam has it.
    """

    def error(variables: Variables, features: Features) -> Array:
        images, true = pick(features, [photo, feature])
        own, target = {"params": variables["params"]["teacher"]}, variables["target"]
        seen = at_least_float32(teacher.apply(own, given(prepare, images, own), padded=True))
        mean, std = (target[name].reshape(1, 1, 1, -1) for name in ("mean", "std"))
        _, h, w, _ = seen.shape
        return jnp.square(seen - resize((true - mean) / std, size=(h, w)))

    def init(rng: Array, features: Features) -> Variables:
        images, true = pick(features, [photo, feature])
        if true.shape[-1] != teacher.channels:
            raise InputError(
                f"method.channels is {teacher.channels}, and {feature} has {true.shape[-1]}"
            )
        params = drawn(teacher, rng, images, true.dtype)
        unknown = jnp.zeros(true.shape[-1], true.dtype)
        return {"params": {"teacher": params}, "target": {"mean": unknown, "std": unknown + 1}}

    def loss(
        variables: Variables, features: Features, batch: Mapping[str, Array], rng: Array
    ) -> tuple[Array, Aux]:
        del batch, rng
        return jnp.mean(error(variables, features)), Aux({}, {})

    def score(variables: Variables, features: Features, *, size: tuple[int, int]) -> Scores:
        map_ = resize_map(jnp.mean(error(variables, features), axis=-1), size=size)
        return Scores(map_, jnp.max(map_, axis=(1, 2)))

    def optimizer(steps: int) -> optax.GradientTransformation:
        del steps
        return optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(learning_rate))

    def observe(variables: Variables, images: Images) -> Variables:
        mean, std = moments((found[feature] for found, _ in images), teacher.channels)
        dtype = variables["target"]["mean"].dtype
        target = {"mean": jnp.asarray(mean, dtype), "std": jnp.asarray(std, dtype)}
        return {**variables, "target": target}

    return Method(
        init,
        loss,
        score,
        optimizer,
        schedules=lambda steps: {"teacher": learning_rate},
        observe=observe,
    )


def learnt(network: Any, first: Method) -> Teacher:
    """Make a teacher of the `distillation` that trains it before."""
    return Teacher(network, first.init, first.observe or (lambda variables, _: variables))


def published(
    photo: str,
    network: Any,
    params: Callable[[], Variables],
    *,
    prepare: Callable[[Array], Array],
) -> Teacher:
    """Make a teacher of weights that are there, which stays as it is.

    Its last convolution is scaled so that each channel has mean 0 and deviation 1 over the training
    photos, as the best known code scales what it says.

    Args:
        photo: Name of the pixels.
        network: Whose weights they are.
        params: Gives them; called when variables are made.
        prepare: Pixels to what it is given.
    """

    def init(rng: Array, features: Features) -> Variables:
        del rng, features
        return {"params": {"teacher": params()}}

    @jax.jit
    def said(own: Variables, images: Array) -> Array:
        return at_least_float32(network.apply({"params": own}, given(prepare, images, own)))

    def observe(variables: Variables, images: Images) -> Variables:
        own = variables["params"]["teacher"]
        mean, std = moments((said(own, found[photo]) for found, _ in images), network.channels)
        last = {name: np.asarray(x, np.float64) for name, x in own["conv4"].items()}
        scaled = {"kernel": last["kernel"] / std, "bias": (last["bias"] - mean) / std}
        conv4 = {name: jnp.asarray(x, own["conv4"][name].dtype) for name, x in scaled.items()}
        params = {**variables["params"], "teacher": {**own, "conv4": conv4}}
        return {**variables, "params": params}

    return Teacher(network, init, observe)


def given(prepare: Callable[[Array], Array], images: Array, variables: Variables) -> Array:
    """What a network with these variables is given."""
    return prepare(images).astype(jax.tree.leaves(variables)[0].dtype)


def drawn(network: Any, rng: Array, images: Array, dtype: Any) -> Variables:
    """A network's parameters as torch would draw them."""
    x = jax.ShapeDtypeStruct((1, *images.shape[1:]), dtype)
    shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x), x)
    params: Variables = started(rng, shapes["params"], dtype=dtype)
    return params
