"""AFRAD: one reconstruction model for many classes (Lee et al.).

A frozen network's features of several stages are embedded and refined (M-FPN, Eq. 1-2), decoded by
three decoders side by side (stage-adaptive, Eq. 3-6; focused local, Eq. 7-10; compensation), and
fused (NGIB, Eq. 11-13) into a reconstruction of the features on one token grid. It is trained to
reconstruct features of normal images; where it can not, the distance is the score (Eq. 14).

The paper leaves sizes, grids, activations, schedule and image pooling open, and no code was
published. Every such choice is an argument, its reason beside it; the recipe around it is that of
UniAD, AFRAD's nearest relative, from which the target, Eq. 14 and the pooling are taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.core import Array, Aux, Features, Images, InputError, Method, Scores, Variables, pick
from jaxad.methods.afrad_network import AFRADNetwork, Stage, positions, split_stages
from jaxad.methods.uniad import stepped_down
from jaxad.ops.initialise import lecun_normal
from jaxad.ops.noise import elements, normal_by_element
from jaxad.ops.normalise import rms, safe_sqrt, shortened, signed_root
from jaxad.ops.pool import average_pool, top_share_mean
from jaxad.ops.resample import resize, resize_map


def jitter_features(
    rng: Array, S: Sequence[Array], *, element: Array, scale: float, grid: tuple[int, int]
) -> list[Array]:
    """Add Gaussian noise to maps `(B, H, W, C)`, `scale` times each position's root mean square.

    UniAD's feature jitter has standard deviation 20 ‖token‖ / C, which for its 272 channels is 1.2
    times the root mean square; said in this way, stages of few channels get no more of it. As
    there, noise is drawn on the token grid `(h, w)`: noise drawn anew at each of a patch's
    positions would be averaged away by its embedding. `element`, `(B,)`, are the images' places in
    the batch over all devices, which decide their noise.
    """
    h, w = grid
    # One draw for all stages: each draw takes a second to compile.
    shape = (h, w, sum(x.shape[-1] for x in S))
    noise = normal_by_element(rng, element, shape, dtype=S[0].dtype)
    jittered, start = [], 0
    for x in S:
        H, W = positions(x)
        own = noise[..., start : start + x.shape[-1]]
        own = own[:, np.arange(H) * h // H][:, :, np.arange(W) * w // W]
        jittered.append(x + scale * rms(x) * own)
        start += x.shape[-1]
    return jittered


def afrad(
    stages: Sequence[Stage],
    *,
    grid: int = 4,
    width: int = 256,
    local: Sequence[int] = (1, 2),
    compensation: Sequence[int] = (1, 2),
    adaptive: Sequence[int] = (1, 2, 3, 4),
    kernels: Sequence[int] = (5, 7),
    compensation_refinements: int = 1,
    ratio: int = 4,
    ngib_layers: int = 1,
    refine: bool = True,
    hidden: Sequence[Sequence[int]] = (),
    whole: bool = False,
    root: bool = False,
    normalise: float = 0.0,
    jitter: float = 1.2,
    sum_of_scales: bool = False,
    map_length: float = 0.0,
    image_stages: Sequence[int] = (),
    relative: float = 0.0,
    pooling: int = 16,
    top_share: float = 0.0,
    learning_rate: float = 1e-4,
    weight_decay: float = 1e-4,
    clip: float = 0.1,
    one_cycle: bool = False,
) -> Method:
    """Build AFRAD.

    Args:
        stages: The backbone's stages S_1, S_2, ..., shallow first.
        grid: The stage whose resolution F_ori, the decoders' outputs and F_rec share; 4 is UniAD's
            (stride 16).
        width: Channels of the decoders and of their outputs; UniAD's 256.
        local: Stages of the focused local decoder, from 1; none: without it (Tables 5 and 6).
        compensation: Stages of the compensation decoder; none: without it.
        adaptive: Stages of the stage-adaptive decoder; none: without it.
        kernels: p of Eq. 8.
        compensation_refinements: Applications of Eq. 2 in the compensation decoder.
        ratio: Inner width of every MLP over its outer; the transformers' 4.
        ngib_layers: MLPs of Eq. 12; 0: the decoders' outputs are added (Table 5, without NGIB).
        refine: Apply the feature refinement module (Table 7).
        hidden: Groups of stages, such as `((1, 2, 3), (4,))`: each group is rebuilt by a pass of
            its own in which its stages' tokens are zero, so from the other groups' stages. Where
            features are rebuilt from themselves, defects are rebuilt too; prediction of one stage
            from others is what PFM does between networks. None: all from all (the paper's).
        whole: Every stage is its mean over positions, one token: for classes of whole images, where
            no part of the photo is odd by itself (ours; docs/afrad.md). Maps are the same
            everywhere.
        root: Features enter as their square roots, with their sign (ours; for what leaves a ReLU,
            such as EfficientNet's `head`).
        normalise: Divide every position's features of a stage by this power of their root mean
            square; 1: all are of one length, as PFM has them, 0: as they are. Eq. 14 measures
            distances, which grow with the length of features (ours; docs/afrad.md has its worth).
        jitter: Noise on the input features in training, see `jitter_features`; 0: none. The
            reconstruction would otherwise tend to the identity, which hides defects.
        sum_of_scales: Loss as the sum over stages of their mean squared errors (section 4.2)
            instead of the mean over all channels (section 3.7).
        map_length: The score map gives this power of their root mean square back to the
            differences, as if `normalise` had been that much less for it (ours). Image scores want
            features of one length, maps do not (docs/afrad.md).
        image_stages: Stages whose differences the image score is taken from, without `map_length`;
            none: from the score map.
        relative: Divide the image score's differences by this power of how far F_ori is from its
            mean over the training images, both as distances (ours; docs/afrad.md). What is near
            that mean is rebuilt well, whatever it is.
        pooling: Window of the average pooling before the maximum, in pixels of the map (UniAD's
            16); 0: image score = mean of the map (UniAD's for CIFAR-10).
        top_share: Image score = mean of this share of the highest pixels of the pooled map; 0: the
            maximum ("max").
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        clip: Largest global norm of the gradient; 0: no clipping.
        one_cycle: Cosine one-cycle schedule instead of a tenth of the rate after four fifths of the
            steps (UniAD's).

    Returns:
        A `Method` whose variables are `params`; with `relative` also `usual`, F_ori's mean
        `(ΣC_i,)`, float32, which `finalize` takes.
    """
    stages = tuple(stages)
    try:
        groups = tuple(tuple(group) for group in hidden)
    except TypeError as error:
        raise InputError(f"method.hidden is {hidden}: give groups, as ((1, 2), (3, 4))") from error
    decoders = {"local": local, "compensation": compensation, "adaptive": adaptive}
    _check(stages, grid, decoders, groups, image_stages)

    def network(channels: int) -> AFRADNetwork:
        return AFRADNetwork(
            stages=stages,
            channels=channels,
            width=width,
            local=tuple(local),
            compensation=tuple(compensation),
            adaptive=tuple(adaptive),
            kernels=tuple(kernels),
            compensation_refinements=compensation_refinements,
            ratio=ratio,
            ngib_layers=ngib_layers,
            refine=refine,
            hidden=groups,
        )

    def chosen(features: Features) -> list[Array]:
        S = pick(features, [stage.feature for stage in stages])
        S = [jnp.mean(x, axis=(1, 2), keepdims=True) for x in S] if whole else S
        return [signed_root(x) for x in S] if root else S

    def inputs(features: Features) -> list[Array]:
        S = chosen(features)
        if not normalise:
            return S
        return [shortened(x, power=normalise) for x in S]

    def original(S: Sequence[Array]) -> tuple[Array, tuple[int, int]]:
        """F_ori `(B, h, w, ΣC_i)` and its grid."""
        size = positions(S[grid - 1])
        return jnp.concatenate([resize(x, size=size, align_corners=True) for x in S], -1), size

    def rebuilt(
        variables: Variables, S: Sequence[Array], F_ori: Array, size: tuple[int, int]
    ) -> Array:
        """F_rec, computed in the type of the parameters, in that of F_ori."""
        params = variables["params"]
        dtype = next(params[name]["kernel"].dtype for name in params if name.startswith("output"))
        given = [x.astype(dtype) for x in S]
        F_rec: Array = network(F_ori.shape[-1]).apply(variables, given, size).astype(F_ori.dtype)
        return F_rec

    def init(rng: Array, features: Features) -> Variables:
        S = [jax.ShapeDtypeStruct((1, *x.shape[1:]), jnp.float32) for x in chosen(features)]
        module, size = network(sum(x.shape[-1] for x in S)), positions(S[grid - 1])
        shapes = jax.eval_shape(lambda S: module.init(jax.random.key(0), S, size), S)
        made = lecun_normal(rng, shapes, dtype=chosen(features)[0].dtype)
        if not relative:
            return made
        return {**made, "usual": {"mean": jnp.zeros(sum(x.shape[-1] for x in S), jnp.float32)}}

    def loss(
        variables: Variables, features: Features, batch: Mapping[str, Array], rng: Array
    ) -> tuple[Array, Aux]:
        S = inputs(features)  # no labels
        F_ori, size = original(S)
        if jitter:
            element = elements(batch, len(F_ori))
            S = jitter_features(rng, S, element=element, scale=jitter, grid=size)
        F_rec = rebuilt(variables, S, F_ori, size)
        with jax.named_scope("loss"):
            error = jnp.mean(jnp.square(F_rec - F_ori), axis=(0, 1, 2))
            parts = [jnp.mean(x) for x in split_stages(error, S)]
            value = jnp.sum(jnp.stack(parts)) if sum_of_scales else jnp.mean(error)
        one = jnp.ones(())
        names = [stage.feature.rsplit("/", 1)[-1] for stage in stages]
        metrics = {f"loss_{name}": (part, one) for name, part in zip(names, parts)}
        return value, Aux({}, metrics)

    def score(variables: Variables, features: Features, *, size: tuple[int, int]) -> Scores:
        S = inputs(features)
        F_ori, grid_size = original(S)
        F_rec = rebuilt(variables, S, F_ori, grid_size)
        errors = [jnp.sum(x, axis=-1) for x in split_stages(jnp.square(F_rec - F_ori), S)]

        def distance(errors: Sequence[Array]) -> Array:  # Eq. 14
            total = sum(errors[1:], start=errors[0])
            return resize_map(safe_sqrt(total), size=size, align_corners=True)

        judged = [errors[i - 1] for i in image_stages]
        if relative:
            mean = variables["usual"]["mean"].astype(F_ori.dtype).reshape(1, 1, 1, -1)
            apart = split_stages(jnp.square(F_ori - mean), S)
            read = image_stages or range(1, len(S) + 1)
            away = jnp.sum(jnp.concatenate([apart[i - 1] for i in read], axis=-1), axis=-1)
            judged = [errors[i - 1] * jnp.maximum(away, 1e-6) ** -relative for i in read]
        if map_length:
            lengths = [
                resize(rms(x, minimum=1e-6), size=grid_size, align_corners=True)[..., 0]
                for x in chosen(features)
            ]
            errors = [e * x ** (2 * map_length) for e, x in zip(errors, lengths)]
        M = distance(errors)
        judge = distance(judged) if judged else M
        if not pooling:
            return Scores(M, jnp.mean(judge, axis=(1, 2)))
        return Scores(M, top_share_mean(average_pool(judge, window=pooling), top_share))

    mean_of = jax.jit(lambda features: jnp.mean(original(inputs(features))[0], axis=(0, 1, 2)))

    def finalize(variables: Variables, images: Images) -> Variables:
        total = sum(np.asarray(mean_of(features), np.float64) for features, _ in images)
        mean = jnp.asarray(total / len(images), jnp.float32)
        return {**variables, "usual": {"mean": mean}}

    optimizer, schedules = stepped_down(
        learning_rate, weight_decay=weight_decay, clip=clip, one_cycle=one_cycle
    )
    return Method(init, loss, score, optimizer, finalize if relative else None, schedules=schedules)


def _check(
    stages: tuple[Stage, ...],
    grid: int,
    decoders: Mapping[str, Sequence[int]],
    hidden: tuple[tuple[int, ...], ...],
    image_stages: Sequence[int],
) -> None:
    known = range(1, len(stages) + 1)
    if grid not in known:
        raise InputError(f"method.grid is {grid}: name one of the stages 1 to {len(stages)}")
    for name, numbers in {**decoders, "image_stages": image_stages}.items():
        if any(i not in known for i in numbers) or len(set(numbers)) < len(numbers):
            raise InputError(f"method.{name} is {tuple(numbers)}: name stages 1 to {len(stages)}")
    if not any(decoders.values()):
        raise InputError("method.local, compensation and adaptive are all empty: name one decoder")
    if not hidden:
        return
    if sorted(i for group in hidden for i in group) != list(known):
        raise InputError(
            f"method.hidden is {hidden}: every stage, 1 to {len(stages)}, belongs to one group"
        )
    read = {i for numbers in decoders.values() for i in numbers}
    for group in hidden:
        if read <= set(group):
            raise InputError(
                f"method.hidden has the group {group}, and no decoder reads another stage: "
                "there is nothing to rebuild it from"
            )
