"""STFPM (Wang et al., BMVC 2021): a student that learns from pixels what a frozen teacher sees.

Teacher and student are one architecture; the student starts at random and learns the teacher's
features at several levels, of normal photos alone. Where it does not see what the teacher sees, the
directions of their features differ. MKD and ST are of the same family. What the paper leaves open
is as in its authors' code (gdwang08/STFPM).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxad.core import Array, Aux, Features, InputError, Method, Scores, Variables, pick
from jaxad.ops.chunk import by_image
from jaxad.ops.fold import fold_batch_norm
from jaxad.ops.initialise import he_normal
from jaxad.ops.normalise import l2_normalise
from jaxad.ops.precision import at_least_float32
from jaxad.ops.resample import resize_map


def distance(teacher: Array, student: Array) -> Array:
    """Squared distance of the directions of feature vectors `(..., C)`, `(...)`: 0 to 4.

    The paper has half of it; its authors' code does not.
    """
    directions = [l2_normalise(at_least_float32(x)) for x in (teacher, student)]
    return jnp.sum(jnp.square(directions[0] - directions[1]), axis=-1)


def stfpm(
    photo: str,
    levels: Sequence[str],
    student: Callable[..., nn.Module],
    *,
    prepare: Callable[[Array], Array],
    epsilon: float = 1e-5,
    learning_rate: float = 0.4,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    one_cycle: bool = False,
) -> Method:
    """Build STFPM.

    Args:
        photo: Name of the pixels `(B, H, W, 3)` among the features.
        levels: Names of the teacher's features, shallow first, each "role/level".
        student: `student(train=, folded=)`: a module that maps prepared pixels to `{level: map}`,
            of the teacher's shapes; with BatchNorm by the batch in training, and in the form that
            `fold_batch_norm` gives.
        prepare: Pixels to what the student is given, see `jaxad.core.Preprocess`.
        epsilon: Of the student's BatchNorm.
        learning_rate: Of SGD, the peak if scheduled.
        momentum: Of SGD.
        weight_decay: L2 on every parameter, as torch's SGD has it.
        one_cycle: Cosine one-cycle schedule instead of a constant rate (ours).

    Returns:
        A `Method` whose variables are the student's `params` and `batch_stats`. The map is the
        product of the levels' distances, on the grid of the first one; the image score is the
        maximum of the map at the photo's size.

    Raises:
        InputError: No level, or one twice.
    """
    names = [level.rsplit("/", 1)[-1] for level in levels]
    if not names or len(set(names)) < len(names):
        raise InputError(f"method.levels is {tuple(levels)}: name one level or more, none twice")

    def see(variables: Variables, images: Array, *, train: bool) -> tuple[list[Array], Variables]:
        """What the student sees at each level, and its new statistics."""
        net = student(train=train, folded="batch_stats" not in variables)
        x = prepare(images).astype(jax.tree.leaves(variables["params"])[0].dtype)
        with jax.named_scope("student"):
            found, updates = net.apply(variables, x, mutable=["batch_stats"])
        return pick(found, names), updates

    def init(rng: Array, features: Features) -> Variables:
        images, *maps = pick(features, [photo, *levels])
        dtype = maps[0].dtype
        x = jnp.zeros((1, *images.shape[1:]), dtype)
        net = student(train=True, folded=False)
        shapes = jax.eval_shape(lambda x: net.init(jax.random.key(0), x), x)
        return he_normal(rng, shapes, dtype=dtype)

    def loss(
        variables: Variables, features: Features, batch: Mapping[str, Array], rng: Array
    ) -> tuple[Array, Aux]:
        del batch, rng  # no labels and no randomness
        images, *maps = pick(features, [photo, *levels])
        seen, updates = see(variables, images, train=True)
        with jax.named_scope("loss"):
            losses = [jnp.mean(distance(true, own)) for true, own in zip(maps, seen)]
        one = jnp.ones(())
        metrics = {f"loss_{name}": (value, one) for name, value in zip(names, losses)}
        return jnp.sum(jnp.stack(losses)), Aux(dict(updates), metrics)

    def score(variables: Variables, features: Features, *, size: tuple[int, int]) -> Scores:
        images, *maps = pick(features, [photo, *levels])
        seen = by_image(lambda x: see(variables, x, train=False)[0], images)
        _, h, w, _ = maps[0].shape
        with jax.named_scope("distance"):
            each = [resize_map(distance(true, own), size=(h, w)) for true, own in zip(maps, seen)]
        map_ = resize_map(functools.reduce(jnp.multiply, each), size=size)
        return Scores(map_, jnp.max(map_, axis=(1, 2)))

    def schedules(steps: int) -> dict[str, optax.ScalarOrSchedule]:
        if one_cycle:
            return {"student": optax.cosine_onecycle_schedule(steps, learning_rate)}
        return {"student": learning_rate}

    def optimizer(steps: int) -> optax.GradientTransformation:
        rate = schedules(steps)["student"]
        return optax.chain(
            optax.add_decayed_weights(weight_decay), optax.sgd(rate, momentum=momentum)
        )

    def fold(variables: Variables) -> Variables:
        return fold_batch_norm(variables, epsilon)

    return Method(init, loss, score, optimizer, fold=fold, schedules=schedules)
