"""Adapted-MoE (Lei et al., 2024): a router, one SimpleNet expert a subclass, test-time adaption.

Normal parts of one category come in subclasses: other cloth, other alloy, other light. A router
learns to tell them apart, an expert learns each of them, and a test image of a subclass never seen
is calibrated to the nearest expert before that expert judges it. No code was published; what the
equations leave open is an argument.

Eq. 3 adds the router's loss and the experts', which share no parameters: `routing` and `experts`
are methods by themselves, each with a budget of its own, and `adapted_moe` is both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxad.core import Array, Aux, Features, Images, InputError, Method, Scores, Variables, pick
from jaxad.methods.adaption import AS_PRINTED, AXES, STATISTICS, Adaption, adapt
from jaxad.methods.routing import Router, embed, route
from jaxad.methods.side_by_side import grouped, joint
from jaxad.methods.simplenet import RATES, Expert, margin_loss, merge, two_rates
from jaxad.ops.noise import elements, normal_by_element
from jaxad.ops.normalise import l2_normalise, safe_sqrt
from jaxad.ops.precision import EXACT
from jaxad.ops.resample import resize_map


def experts(
    feature: str,
    expert: Expert,
    *,
    count: int,
    shared: bool = False,
    adaption: Adaption | None = None,
    statistics: tuple[str, str] = ("location", "scale"),
    normalise: bool = True,
    noise: float = 0.015,
    margin: float = 0.5,
    learning_rates: tuple[float, float] = (1e-4, 2e-4),
    weight_decays: tuple[float, float] = (1e-2, 1e-5),
    smoothing: float = 4.0,
) -> Method:
    """Build one SimpleNet a subclass, trained side by side on stacked parameters.

    Args:
        feature: Name of the patch features.
        expert: Adaptor and discriminator.
        count: n, the number of subclasses.
        shared: Whether one network serves all of them: experts then differ in what images are
            calibrated to.
        adaption: How images are calibrated; matters here if it is so in training.
        statistics: Names of the features with each image's location and scale, read where
            positions of it are drawn; not needed for maps.
        normalise: Whether patch features have length 1 (Eq. 6, in training too).
        noise: Standard deviation of the noise on adapted features.
        margin: Of the loss.
        learning_rates: Of adaptor and discriminator.
        weight_decays: Of adaptor (decoupled) and discriminator (L2).
        smoothing: Standard deviation of the Gaussian on the map, in pixels.

    Returns:
        A `Method`. Its loss takes maps or drawn positions that go through the subclasses in turn:
        element j of the batch belongs to subclass j mod n. Its score is the mean of all experts'.
        `variables["patches"]` has what images are calibrated to, which `adapted_moe` observes.
    """
    networks = 1 if shared else count
    learns = adaption if adaption is not None and adaption.training else None

    def init(rng: Array, features: Features) -> Variables:
        x = pick(features, [feature])[0]
        unknown = jnp.zeros((count, (adaption or AS_PRINTED).width(x.shape[-1])), x.dtype)
        x = jnp.zeros((2, x.shape[-1]), x.dtype)
        each = jax.vmap(lambda key: expert.init(key, x, x))(jax.random.split(rng, networks))
        variables = {name: {"experts": tree} for name, tree in each.items()}
        return {**variables, "patches": {"mean": unknown, "std": unknown + 1}}

    def calibrated(variables: Variables, features: Features, batch: Mapping[str, Array]) -> Array:
        """What the network of each element learns."""
        x = pick(features, [feature])[0]
        if learns is not None:
            own, spread = learns.of(x) if x.ndim == 4 else pick(features, statistics)
            y = batch["subclass"] if count > 1 else jnp.zeros(len(x), jnp.int32)
            to = [variables["patches"][name][y] for name in ("mean", "std")]
            location, scale = (v.reshape(len(x), *[1] * (x.ndim - 2), -1) for v in to)
            x = adapt(x, (own, spread), (location, scale), share=learns.share)
        return l2_normalise(x) if normalise else x

    def loss(
        variables: Variables, features: Features, batch: Mapping[str, Array], rng: Array
    ) -> tuple[Array, Aux]:
        x = calibrated(variables, features, batch)
        drawn = normal_by_element(rng, elements(batch, len(x)), x.shape[1:], dtype=x.dtype)
        x, drawn = grouped(x, networks), grouped(noise * drawn, networks)

        def one(own: Variables, x: Array, drawn: Array) -> Any:
            return expert.apply(own, x, drawn, mutable=["batch_stats"])

        with jax.named_scope("experts"):
            (true, fake), updates = jax.vmap(one)(of_experts(variables), x, drawn)
        # Summed over the experts: each has the gradients of a SimpleNet by itself.
        with jax.named_scope("loss"):
            losses = [networks * jnp.mean(part) for part in margin_loss(true, fake, margin=margin)]
        one_batch = jnp.ones(())
        metrics = {"loss_true": (losses[0], one_batch), "loss_fake": (losses[1], one_batch)}
        new = {name: {"experts": tree} for name, tree in updates.items()}
        return losses[0] + losses[1], Aux(new, metrics)

    def score(variables: Variables, features: Features, *, size: tuple[int, int]) -> Scores:
        images = len(pick(features, [feature])[0])

        def judge(j: Array) -> Array:
            x = calibrated(variables, features, {"subclass": jnp.full(images, j)})
            grid: Array = expert.apply(of_expert(variables, j, shared=shared), x)[0]
            return grid.astype(jnp.float32)

        with jax.named_scope("experts"):
            each = jax.vmap(judge)(jnp.arange(count))
        return scores_of(-jnp.mean(each, axis=0), size=size, smoothing=smoothing)

    def schedules(steps: int) -> dict[str, optax.ScalarOrSchedule]:
        del steps  # constant
        return dict(zip(RATES, learning_rates))

    def optimizer(steps: int) -> optax.GradientTransformation:
        del steps
        return two_rates(
            *learning_rates, adaptor_decay=weight_decays[0], discriminator_decay=weight_decays[1]
        )

    return Method(init, loss, score, optimizer, fold=merge_experts, schedules=schedules)


def of_experts(variables: Variables) -> Variables:
    """The stacked variables of the experts alone."""
    return {
        name: variables[name]["experts"] for name in ("params", "batch_stats") if name in variables
    }


def of_expert(variables: Variables, j: Array, *, shared: bool) -> Variables:
    """The variables of expert j, or of the one network that all share."""
    at = jnp.zeros_like(j) if shared else j
    return jax.tree.map(lambda leaf: leaf[at], of_experts(variables))


def merge_experts(variables: Variables) -> Variables:
    """Merge the linear layers of every expert (`simplenet.merge`), for `score` alone."""
    rest = {name: tree for name, tree in variables.items() if name != "batch_stats"}
    experts = merge(of_experts(variables))["params"]
    return {**rest, "params": {**variables["params"], "experts": experts}}


def scores_of(grid: Array, *, size: tuple[int, int], smoothing: float) -> Scores:
    """Patch scores `(B, h, w)` to a smoothed map, and their maximum."""
    return Scores(resize_map(grid, size=size, sigma=smoothing), jnp.max(grid, axis=(1, 2)))


def adapted_moe(
    feature: str,
    parts: Mapping[str, Method],
    expert: Expert,
    router: Router | None,
    *,
    count: int,
    k: int = 1,
    temperature: float = 0.1,
    shared: bool = False,
    adaption: Adaption | None = AS_PRINTED,
    spread: str = "image",
    centre: str = "patches",
    normalise: bool = True,
    smoothing: float = 4.0,
) -> Method:
    """Build the whole: route (Eq. 1), calibrate (Eq. 5 and 6), judge, mix (Eq. 4).

    Args:
        feature: Name of the patch features `(B, h, w, C)`.
        parts: `experts(...)`, and `routing(...)` unless there is one expert only; by these names.
        expert: That of `experts(...)`.
        router: That of `routing(...)`; None: one expert for all.
        count: n, the number of subclasses.
        k: How many experts judge an image.
        temperature: Of their weights; small: the nearest alone.
        shared: As in `experts`.
        adaption: How features are calibrated to each of them, the same as in `experts`; None: not.
        spread: An expert's scale: the mean of its "image"s' own, or the standard deviation of "all"
            their patches together.
        centre: What Eq. 5 adds: the mean of the expert's "patches", or the "router"'s centre as
            printed (which needs an embedding as wide as the patch features).
        normalise: As in `experts`.
        smoothing: As in `experts`.

    Returns:
        A `Method`. A batch of its loss goes through the subclasses in turn, and says so in
        `batch["subclass"]`; `observe` takes each expert's location and scale, called mean and std.

    Raises:
        InputError: An unknown choice, or a `k` beyond the number of experts.
    """
    how = adaption or AS_PRINTED
    for name, value, known in (
        ("axes", how.axes, AXES),
        ("statistics", how.statistics, STATISTICS),
        ("spread", spread, ("image", "all")),
        ("centre", centre, ("patches", "router")),
    ):
        if value not in known:
            raise InputError(f"method.{name} is {value!r}: use {' or '.join(known)}")
    if spread == "all" and how.statistics != "moments":
        raise InputError(
            f"method.spread is 'all' and method.statistics {how.statistics!r}: of all patches "
            "together only moments are known; set method.spread=image"
        )
    if not 1 <= k <= count:
        raise InputError(f"method.top_k is {k}: there are {count} experts")

    def patches(features: Features) -> Array:
        return pick(features, [feature])[0]

    def init(rng: Array, features: Features) -> Variables:
        variables: Variables = {}
        for part, key in zip(parts.values(), jax.random.split(rng, len(parts))):
            for collection, tree in part.init(key, features).items():
                variables.setdefault(collection, {}).update(tree)
        return variables

    loss, optimizer = joint(parts)

    def score(variables: Variables, features: Features, *, size: tuple[int, int]) -> Scores:
        x = jnp.asarray(patches(features))
        images = x.shape[0]  # may be symbolic
        means, stds = (variables["patches"][name] for name in ("mean", "std"))
        if router is None:
            index, weights = jnp.zeros((images, 1), jnp.int32), jnp.ones((images, 1))
        else:
            centres = variables["routing"]["centres"]
            means = means if centre == "patches" else centres
            embedding, _ = embed(router, variables, x)
            with jax.named_scope("router"):
                index, weights = route(embedding, centres, k=k, temperature=temperature)

        def judge(pair: tuple[Array, Array]) -> Array:
            """What expert j says of image i's patches, `(h, w)`."""
            i, j = pair
            y = x[i][None]
            if adaption is not None:
                y = adapt(y, adaption.of(y), (means[j], stds[j]), share=adaption.share)
            y = l2_normalise(y) if normalise else y
            grid: Array = expert.apply(of_expert(variables, j, shared=shared), y)[0][0]
            return grid.astype(jnp.float32)

        # One after the other: up to 1.5 times as fast on a CPU as gathering all their parameters,
        # and n / k times as fast as asking all experts (benchmarks/experts.py).
        image = jnp.broadcast_to(jnp.arange(images)[:, None], index.shape)
        with jax.named_scope("experts"):
            each = jax.lax.map(judge, (image.ravel(), index.ravel()))
        each = each.reshape(*index.shape, *each.shape[1:])
        mixed = jnp.einsum("bk,bkhw->bhw", weights, each, precision=EXACT)
        return scores_of(-mixed, size=size, smoothing=smoothing)

    @jax.jit  # here, so that it is compiled once for all detectors
    def sums(x: Array, y: Array) -> tuple[Array, ...]:
        mean, std = how.of(x)
        kept = [jnp.mean(value, axis=(1, 2)) for value in (mean, std, jnp.square(mean) + std**2)]
        member = jax.nn.one_hot(y, count, dtype=x.dtype).T
        totals = [jnp.matmul(member, value, precision=EXACT) for value in kept]
        return (member.sum(axis=1)[:, None], *totals)

    def observe(variables: Variables, images: Images) -> Variables:
        """Take every expert's location and scale from its images."""
        total = [jnp.zeros(()) for _ in range(4)]
        for features, batch in images:
            found = sums(patches(features), batch["subclass"])
            total = list(found) if not total[0].ndim else [a + b for a, b in zip(total, found)]
        members = jnp.maximum(total[0], 1)
        mean, std, square = (value / members for value in total[1:])
        if spread == "all":
            std = safe_sqrt(square - jnp.square(mean))
        return {**variables, "patches": {"mean": mean, "std": std}}

    def nearest(variables: Variables, features: Features) -> Array:
        assert router is not None
        embedding, _ = embed(router, variables, jnp.asarray(patches(features)))
        return route(embedding, variables["routing"]["centres"], k=1, temperature=1.0)[0][:, 0]

    return Method(
        init,
        loss,
        score,
        optimizer,
        fold=merge_experts,
        observe=observe,
        route=None if router is None else nearest,
    )
