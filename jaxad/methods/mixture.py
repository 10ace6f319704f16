"""Adapted-MoE whose experts are any `Method`: routed, calibrated, judged, made comparable, mixed.

The paper's experts are SimpleNets (`adapted_moe`). Nothing in Eq. 1 to 5 asks for them: a router
sends an image to the nearest subclasses, its features are moved to what their experts have learnt,
and these judge it. What a method's scores mean is its own affair, and differs from one expert to
the next: that of a rough cloth is used to larger errors. So each expert's scores are told in the
mean and spread that they have on normal photos of its subclass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.core import Array, Aux, Features, Images, InputError, Method, Scores, Variables, pick
from jaxad.methods.adaption import AS_PRINTED, Adaption
from jaxad.methods.calibrated import Of, calibrated, observer, subclass_of, unknown
from jaxad.methods.routing import Router, embed, route
from jaxad.methods.side_by_side import APART, STACKED, joint, side_by_side
from jaxad.ops.precision import EXACT

COLLECTIONS = ("routing", "subclasses", "normal")
"""Of the whole: the router's centres, what features are calibrated to, what scores are told in."""
PHOTOS = 50
"""Normal photos of a subclass that tell the mean and spread of its expert's scores, at most."""


class Routed(NamedTuple):
    """The router."""

    feature: str
    """What it reads, `(B, h, w, C)`."""
    router: Router
    method: Method
    """`routing(feature, router, ...)`."""


def experts_of(variables: Variables) -> Variables:
    """The variables of the experts alone."""
    found = {name: tree for name, tree in variables.items() if name not in COLLECTIONS}
    params = {name: tree for name, tree in found.pop("params", {}).items() if name != "router"}
    return {**found, "params": params} if params else found


def with_experts(variables: Variables, experts: Variables) -> Variables:
    """The same with other variables of the experts."""
    kept = {name: variables[name] for name in COLLECTIONS if name in variables}
    router = {n: t for n, t in variables.get("params", {}).items() if n == "router"}
    params = {**experts.get("params", {}), **router}
    return {**experts, **kept, **({"params": params} if params else {})}


def learning(
    method: Method,
    names: Sequence[str],
    *,
    count: int,
    shared: bool = False,
    tied: bool = False,
    adaption: Adaption | None = None,
) -> Method:
    """Make the part of a mixture that one phase trains: the experts, or a part of each.

    Args:
        method: Of one expert in that phase.
        names: The features that it reads.
        count: n, the number of subclasses.
        shared: Whether one network serves all of them.
        tied: See `side_by_side`.
        adaption: Moves features here too where it is so in training.
    """
    each = side_by_side(method, 1 if shared else count, tied=tied)
    learns = adaption if adaption is not None and adaption.training else None

    def init(rng: Array, features: Features) -> Variables:
        own = {"subclasses": unknown(features, names, count, learns)} if learns else {}
        return {**each.init(rng, features), **own}

    def seen(variables: Variables, features: Features, y: Array | None) -> Features:
        if learns is None or y is None:
            return dict(zip(names, pick(features, names)))
        return calibrated(features, variables["subclasses"], y, names=names, how=learns)

    def loss(
        variables: Variables, features: Features, batch: Mapping[str, Array], rng: Array
    ) -> tuple[Array, Aux]:
        x = seen(variables, features, batch.get("subclass"))
        with jax.named_scope("experts"):
            return each.loss(experts_of(variables), x, batch, rng)

    def score(variables: Variables, features: Features, *, size: tuple[int, int]) -> Scores:
        images = features[names[0]].shape[0]

        def judge(j: Array) -> Scores:
            x = seen(variables, features, jnp.full(images, j))
            at = jnp.zeros_like(j) if shared else j
            found: Scores = STACKED.ask(
                experts_of(variables), at, lambda own: method.score(own, x, size=size)
            )
            return found

        found = jax.lax.map(judge, jnp.arange(count))
        return Scores(*(jnp.mean(value, axis=0) for value in found))

    return Method(init, loss, score, each.optimizer, schedules=each.schedules)


def mixture(
    expert: Method,
    names: Sequence[str],
    routed: Routed | None,
    *,
    count: int,
    size: tuple[int, int],
    trained: bool = True,
    k: int = 1,
    temperature: float = 0.1,
    shared: bool = False,
    adaption: Adaption | None = AS_PRINTED,
    normalise_scores: bool = True,
) -> Method:
    """Build the whole of experts of one method.

    Args:
        expert: The method of one expert.
        names: The features that it reads.
        routed: The router; None: one expert for all.
        count: n, the number of subclasses.
        size: `(H, W)` of the maps that tell the mean and spread of normal scores.
        trained: Whether the expert has steps.
        k: How many experts judge an image.
        temperature: Of their weights (Eq. 4); small: the nearest alone.
        shared: One network serves all subclasses, which then differ in what images are calibrated
            to and in what its scores are told in: a location and a scale.
        adaption: How features are calibrated to each subclass (Eq. 5); None: not.
        normalise_scores: Tell an expert's scores by those of normal photos of its subclass.

    Returns:
        A `Method`. `observe` takes what features are calibrated to, `finalize` gives each expert
        the images of its subclass, then learns what its scores are told in. Both leave a subclass
        without images as it is (`newcomer`).

    Raises:
        InputError: A `k` beyond the number of experts, or an expert that is trained and grows.
    """
    if not 1 <= k <= count:
        raise InputError(f"method.top_k is {k}: there are {count} experts")
    if expert.grows and trained:
        raise InputError(
            "a method that is trained by steps and grows with the photos can not be an expert"
        )
    holding = APART if expert.grows else STACKED
    networks = 1 if shared else count
    how = adaption or AS_PRINTED
    parts = {"router": routed.method} if routed is not None else {}
    if trained or not parts:
        options = {"count": count, "shared": shared, "adaption": adaption}
        parts["experts"] = learning(expert, names, **options)  # type: ignore[arg-type]

    def init(rng: Array, features: Features) -> Variables:
        own, other = jax.random.split(rng)
        one = expert.init(own, features)
        taken = [*(name for name in COLLECTIONS if name in one)]
        if taken or "router" in one.get("params", {}):
            raise InputError(
                f"an expert's variables can not be named {taken or 'params/router'}: these are the "
                "router's and the mixture's"
            )
        variables = holding.join([one] * networks)
        if adaption is not None:
            variables["subclasses"] = unknown(features, names, count, how)
        if normalise_scores:
            zeros = jnp.zeros(count)
            variables["normal"] = {"map": zeros, "image": zeros, "scale": zeros + 1}
        if routed is not None:
            for collection, tree in routed.method.init(other, features).items():
                variables[collection] = {**variables.get(collection, {}), **tree}
        return variables

    loss, optimizer = joint(parts)

    def judged(variables: Variables, features: Features, j: Array, size: tuple[int, int]) -> Scores:
        """What expert j says of images `(B, ...)`, as it has learnt to say it."""
        x = dict(zip(names, pick(features, names)))
        if adaption is not None:
            y = jnp.broadcast_to(j, (x[names[0]].shape[0],))
            x = calibrated(x, variables["subclasses"], y, names=names, how=adaption)
        at = jnp.zeros_like(j) if shared else j
        own = experts_of(variables)
        found: Scores = holding.ask(own, at, lambda own: expert.score(own, x, size=size))
        return found

    def told(variables: Variables, found: Scores, j: Array) -> Scores:
        """Scores in the mean and spread that expert j's have on normal photos."""
        if not normalise_scores:
            return found
        normal = {name: value[j] for name, value in variables["normal"].items()}
        return Scores(
            (found.map - normal["map"]) / normal["scale"],
            (found.image - normal["image"]) / normal["scale"],
        )

    def routed_to(variables: Variables, features: Features, k: int) -> tuple[Array, Array]:
        assert routed is not None
        embedding, _ = embed(routed.router, variables, features[routed.feature])
        with jax.named_scope("router"):
            centres = variables["routing"]["centres"]
            return route(embedding, centres, k=k, temperature=temperature)

    def nearest(variables: Variables, features: Features) -> Array:
        return routed_to(variables, features, 1)[0][:, 0]

    def score(variables: Variables, features: Features, *, size: tuple[int, int]) -> Scores:
        maps = {name: jnp.asarray(x) for name, x in zip(names, pick(features, names))}
        images = maps[names[0]].shape[0]  # may be symbolic
        if routed is None:
            index, weights = jnp.zeros((images, 1), jnp.int32), jnp.ones((images, 1))
        else:
            index, weights = routed_to(variables, features, k)

        def judge(pair: tuple[Array, Array]) -> Scores:
            i, j = pair
            one = {name: x[i][None] for name, x in maps.items()}
            found = told(variables, judged(variables, one, j, size), j)
            return Scores(found.map[0].astype(jnp.float32), found.image[0].astype(jnp.float32))

        # One after the other, as in `adapted_moe`: no expert works on images of others.
        image = jnp.broadcast_to(jnp.arange(images)[:, None], index.shape)
        with jax.named_scope("experts"):
            each = jax.lax.map(judge, (image.ravel(), index.ravel()))
        map_, of_image = (value.reshape(*index.shape, *value.shape[1:]) for value in each)
        return Scores(
            jnp.einsum("bk,bkhw->bhw", weights, map_, precision=EXACT),
            jnp.sum(weights * of_image, axis=1),
        )

    @jax.jit  # here, so that it is compiled once for all detectors
    def of_normal(variables: Variables, features: Features, j: Array) -> Array:
        found = judged(variables, features, j, size)
        return jnp.stack([jnp.mean(found.map), jnp.var(found.map), found.image[0]])

    def each_learns(step: Any, variables: Variables, images: Images) -> Variables:
        """Let every expert go through the images of its subclass."""
        if step is None:
            return variables

        def change(features: Features, y: Array) -> Features:
            if adaption is None or not adaption.training:
                return dict(zip(names, pick(features, names)))
            return calibrated(features, variables["subclasses"], y, names=names, how=adaption)

        each = [holding.own(experts_of(variables), n) for n in range(networks)]
        for n, own in enumerate(each):
            of = Of(images, None if networks == 1 else n, change)
            each[n] = step(own, of) if len(of) else own
        return with_experts(variables, holding.join(each))

    look = observer(names, how)

    def observe(variables: Variables, images: Images) -> Variables:
        if adaption is not None:
            variables = {**variables, "subclasses": look(variables["subclasses"], images)}
        return each_learns(expert.observe, variables, images)

    def finalize(variables: Variables, images: Images) -> Variables:
        variables = each_learns(expert.finalize, variables, images)
        if not normalise_scores:
            return variables
        rows: list[list[Any]] = [[] for _ in range(count)]
        for features, batch in images:
            n = subclass_of(batch)
            if len(rows[n]) < PHOTOS:
                rows[n].append(np.float64(of_normal(variables, features, jnp.int32(n))))
        normal = {name: np.array(value) for name, value in variables["normal"].items()}
        for n, own in enumerate(rows):
            if own:
                mean, variance, image = np.transpose(own)
                # Of all pixels: known of a single photo too, as photos' spread is not.
                scale = np.sqrt(np.mean(variance) + np.var(mean))
                normal["map"][n], normal["image"][n] = np.mean(mean), np.mean(image)
                normal["scale"][n] = scale if scale > 0 else 1.0
        return {**variables, "normal": jax.tree.map(jnp.asarray, normal)}

    def fold(variables: Variables) -> Variables:
        if expert.fold is None:
            return variables
        own = experts_of(variables)
        each = [expert.fold(holding.own(own, n)) for n in range(networks)]
        return with_experts(variables, holding.join(each))

    return Method(
        *(init, loss, score, optimizer, finalize, fold),
        observe=observe,
        grows=expert.grows,
        route=None if routed is None else nearest,
    )
