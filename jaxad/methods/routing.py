"""The router of Adapted-MoE (Lei et al., 2024): which subclass is this image nearest to?

Eq. 1 and 2, and the cosine routing below them; the centres follow Wen et al. (ECCV 2016).
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxad.core import Array, Aux, Features, Method, Scores, Variables, pick
from jaxad.ops.normalise import l2_normalise
from jaxad.ops.precision import EXACT


class Router(nn.Module):
    """Eq. 1, and the classifier of Eq. 2."""

    width: int
    experts: int
    normalise: bool

    @nn.compact
    def __call__(self, X: Array) -> tuple[Array, Array]:
        """Map `(B, h, w, C)` to embeddings x `(B, width)` and class logits `(B, experts)`."""
        own = {"precision": EXACT, "param_dtype": X.dtype}
        x = jnp.mean(nn.relu(nn.Conv(self.width, (3, 3), name="project", **own)(X)), axis=(1, 2))
        x = l2_normalise(x) if self.normalise else x
        return x, nn.Dense(self.experts, use_bias=False, name="classify", **own)(x)


def embed(router: Router, variables: Variables, X: Array) -> tuple[Array, Array]:
    """Embeddings and logits of patch features, by the variables of a whole method."""
    with jax.named_scope("router"):
        found: tuple[Array, Array] = router.apply({"params": variables["params"]["router"]}, X)
    return found


def routing_loss(x: Array, logits: Array, centres: Array, y: Array, *, alpha: float) -> Array:
    """Eq. 2 as a mean over the batch: `alpha` ‖x − c_y‖² + (1 − `alpha`) cross-entropy.

    Args:
        x: `(B, width)` embeddings.
        logits: `(B, n)`.
        centres: `(n, width)`.
        y: `(B,)` int32 subclasses.
        alpha: Weight of the centre loss, 0 to 1; 0 is Table 4's softmax loss.
    """
    centre = jnp.sum(jnp.square(x - centres[y]), axis=-1)
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return jnp.mean(alpha * centre + (1 - alpha) * entropy)


def moved_centres(
    centres: Array, x: Array, y: Array, *, rate: float, axis_name: str | None = None
) -> Array:
    """Move each centre to the batch's members of its subclass: once a step, by a rate of its own.

    Wen et al. (2016), whom Eq. 2 follows: c_j − rate · Σ_{y=j} (c_j − x) / (1 + n_j). With
    `axis_name` the batch is that of all devices.
    """
    member = jax.nn.one_hot(y, len(centres), dtype=x.dtype)
    count, total = member.sum(axis=0)[:, None], jnp.matmul(member.T, x, precision=EXACT)
    if axis_name is not None:
        count, total = jax.lax.psum((count, total), axis_name)
    return centres - rate * (count * centres - total) / (1 + count)


def cosines(x: Array, centres: Array) -> Array:
    """Cosine of each embedding `(B, width)` and each centre `(n, width)`: `(B, n)`."""
    return jnp.matmul(l2_normalise(x), l2_normalise(centres).T, precision=EXACT)


def route(x: Array, centres: Array, *, k: int, temperature: float) -> tuple[Array, Array]:
    """Choose each image's experts by the cosine of embedding and centre.

    Returns:
        The `k` nearest, nearest first, `(B, k)` int32, and their weights in Eq. 4, `(B, k)`: a
        softmax of cosine / `temperature` over them (the printed weights can add up to 0).
    """
    best, index = jax.lax.top_k(cosines(x, centres), k)
    return index, jax.nn.softmax(best / temperature)


def routed_right(x: Array, centres: Array, y: Array) -> tuple[Array, Array]:
    """Share of embeddings whose nearest centre is their own subclass's, as (sum, count)."""
    index, _ = route(x, centres, k=1, temperature=1.0)
    return jnp.mean(index[:, 0] == y, dtype=jnp.float32), jnp.ones(())


def routing(
    feature: str,
    router: Router,
    *,
    alpha: float = 0.5,
    centre_rate: float = 0.5,
    learning_rate: float = 1e-3,
    axis_name: str | None = None,
) -> Method:
    """Build the router: Eq. 1 and 2.

    Args:
        feature: Name of the patch features `(B, h, w, C)`.
        router: The module; `width` is C in the paper, 21 M weights at 1536.
        alpha: Weight of the centre loss against cross-entropy.
        centre_rate: Of the centres' own steps.
        learning_rate: Adam's, of projection and classifier.
        axis_name: For centres over devices.

    Returns:
        A `Method` with `params["router"]` and the centres in `routing`. Its loss reads
        `batch["subclass"]`, `(B,)` int32, and its score is the cosine distance to the nearest
        centre: how foreign an image is as a whole.
    """

    def init(rng: Array, features: Features) -> Variables:
        x = pick(features, [feature])[0]
        params = router.init(rng, x)["params"]
        centres = jnp.zeros((router.experts, router.width), x.dtype)
        return {"params": {"router": params}, "routing": {"centres": centres}}

    def loss(
        variables: Variables, features: Features, batch: Mapping[str, Array], rng: Array
    ) -> tuple[Array, Aux]:
        del rng
        y, centres = batch["subclass"], variables["routing"]["centres"]
        x, logits = embed(router, variables, pick(features, [feature])[0])
        with jax.named_scope("loss"):
            value = routing_loss(x, logits, centres, y, alpha=alpha)
        fixed = jax.lax.stop_gradient(x)
        moved = moved_centres(centres, fixed, y, rate=centre_rate, axis_name=axis_name)
        metrics = {"routed_right": routed_right(fixed, moved, y)}
        return value, Aux({"routing": {"centres": moved}}, metrics)

    def score(variables: Variables, features: Features, *, size: tuple[int, int]) -> Scores:
        x, _ = embed(router, variables, pick(features, [feature])[0])
        centres = variables["routing"]["centres"]
        distance = 1 - jnp.max(cosines(x, centres), axis=-1)
        return Scores(jnp.broadcast_to(distance[:, None, None], (x.shape[0], *size)), distance)

    def schedules(steps: int) -> dict[str, optax.ScalarOrSchedule]:
        del steps  # constant
        return {"router": learning_rate}

    def optimizer(steps: int) -> optax.GradientTransformation:
        del steps
        return optax.adam(learning_rate)

    return Method(init, loss, score, optimizer, schedules=schedules)
