"""PFM, B-PFM and MB-PFM: map one frozen network's features to another's (Wan et al., 2022).

A mapping network learns, on normal images, to predict the target network's feature vector at a
position from the source network's (PFM, Eq. 4-9), and back (B-PFM, Eq. 10-13), at several levels
(MB-PFM, Eq. 14-15). Where features of a defect can not be predicted, the squared error is high.

Every layer acts on the last axis, so whole maps `(B, h, w, C)` and drawn positions `(n, C)` go
through the same functions. The defaults are the authors' code; `normalise_output` and
`conv_block_everywhere` are what the paper prints and the code does not do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxad.core import Array, Aux, Features, InputError, Method, Scores, Variables
from jaxad.ops.chunk import by_position
from jaxad.ops.fold import fold_batch_norm
from jaxad.ops.layers import BatchNorm, Linear
from jaxad.ops.noise import fold_in_name
from jaxad.ops.normalise import l2_normalise
from jaxad.ops.pool import top_share_mean
from jaxad.ops.resample import resize_map


class PairLevel(NamedTuple):
    """One level of the pair of networks, with its mapping networks' size and learning rate."""

    source: str
    """Feature name of the source network, F_S."""
    target: str
    """Feature name of the target network, F_T."""
    latent: int
    """c of Table II: the width of the shared mapping unit's output."""
    learning_rate: float
    """Peak learning rate of this level."""

    @property
    def name(self) -> str:
        """Name of this level in variables and metrics: the source's level."""
        return self.source.rsplit("/", 1)[-1]


class ConvBlock(nn.Module):
    """ReLU(BatchNorm(Conv 1×1)), footnote 2 of Table I; only the convolution if `linear`."""

    features: int
    linear: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Map `(..., C)` to `(..., features)`."""
        x = Linear(self.features, name="conv")(x)
        if self.linear:
            return x
        return nn.relu(BatchNorm(axis_name=self.axis_name, name="bn")(x, train=train))


class MappingNetworks(nn.Module):
    """MNN and, if bidirectional, RMNN of one level (Table I), sharing Layer3."""

    source_channels: int
    target_channels: int
    latent: int
    bidirectional: bool = True
    conv_block_everywhere: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, F_S: Array, F_T: Array, *, train: bool) -> tuple[Array, Array | None]:
        """Map source to target features and back: `(F_MS, F_MT)`, F_MT None if one-way.

        Args:
            F_S: `(..., c_S)`, L2-normalised.
            F_T: `(..., c_T)`, L2-normalised.
            train: Use batch statistics (and update the running ones) instead of running ones.
        """
        c_S, c_T, c = self.source_channels, self.target_channels, self.latent

        def block(features: int, name: str, *, linear: bool = False) -> ConvBlock:
            linear = linear and not self.conv_block_everywhere
            return ConvBlock(features, linear=linear, axis_name=self.axis_name, name=name)

        # Table I prints 2c_S × c for Layer3; its input is Layer2's output, 2c wide.
        shared = block(c, "layer3_shared", linear=True)

        def network(x: Array, c_in: int, c_out: int, direction: str) -> Array:
            x = block(c_in // 2 + c, f"{direction}_layer1")(x, train=train)
            x = block(2 * c, f"{direction}_layer2")(x, train=train)
            x = shared(x, train=train)
            x = block(2 * c, f"{direction}_layer4")(x, train=train)
            x = block(c_out // 2 + c, f"{direction}_layer5")(x, train=train)
            return block(c_out, f"{direction}_layer6", linear=True)(x, train=train)

        F_MS = network(F_S, c_S, c_T, "forward")
        F_MT = network(F_T, c_T, c_S, "reverse") if self.bidirectional else None
        return F_MS, F_MT


def _check_pair(level: PairLevel, features: Features) -> None:
    for name in (level.source, level.target):
        if name not in features:
            raise InputError(f"level {name!r} is not among the features {sorted(features)}")
    here, there = features[level.source].shape[:-1], features[level.target].shape[:-1]
    if here != there:
        raise InputError(
            f"{level.source} has positions {here} but {level.target} has {there}: "
            "a pair of levels must have the same stride; choose other method.levels"
        )


def pfm(
    levels: Sequence[PairLevel],
    *,
    bidirectional: bool = True,
    normalise_output: bool = False,
    conv_block_everywhere: bool = False,
    weight_decay: float = 1e-5,
    decoupled_weight_decay: bool = False,
    one_cycle: bool = False,
    zero_output: bool = False,
    smoothing: float = 0.0,
    top_share: float = 0.0,
    axis_name: str | None = None,
) -> Method:
    """Build PFM (`bidirectional=False`, one level), B-PFM (one level) or MB-PFM (several).

    Args:
        levels: The levels to map, shallow first; any subset, at least one.
        bidirectional: Map both ways, sharing Layer3 (B-PFM).
        normalise_output: L2-normalise the mapped features in loss and score, as Eq. 7, 8, 12 and 13
            are printed; the authors' code compares the raw output (default).
        conv_block_everywhere: BatchNorm and ReLU after Layer3 and Layer6 too (Table I, footnote 2).
        weight_decay: Coefficient, on every parameter; added to the gradient as torch's Adam does.
        decoupled_weight_decay: Apply it to the weights instead, as AdamW.
        one_cycle: Cosine one-cycle schedule (torch's `OneCycleLR` defaults, without its cycle of
            β1) instead of a constant rate.
        zero_output: Start Layer6 at zero instead of torch's random values. The features have unit
            length over hundreds of channels, so a random start is many times too large, and most
            of a short run goes into shrinking it; ours.
        smoothing: Standard deviation in pixels of a Gaussian on the final map; the paper has none.
        top_share: Image score = mean of this share of the highest pixels; 0: the maximum (Eq. 9).
        axis_name: Mapped axis over which BatchNorm statistics are shared, None outside of pmap.

    Returns:
        A `Method` whose variables are `params` and `batch_stats` by level name.

    Raises:
        InputError: No level, one twice, or `zero_output` with `normalise_output`.
    """
    if not levels:
        raise InputError("method.levels is empty: name at least one level")
    if zero_output and normalise_output:
        raise InputError(
            "method.zero_output starts at features of length zero, which have no direction that "
            "method.normalise_output could keep: set one of them to false"
        )
    names = [level.name for level in levels]
    if len(set(names)) != len(names):
        raise InputError(f"method.levels names a level twice: {names}")

    def networks(level: PairLevel, features: Features) -> MappingNetworks:
        return MappingNetworks(
            source_channels=features[level.source].shape[-1],
            target_channels=features[level.target].shape[-1],
            latent=level.latent,
            bidirectional=bidirectional,
            conv_block_everywhere=conv_block_everywhere,
            axis_name=axis_name,
        )

    def of_level(variables: Variables, level: PairLevel) -> Variables:
        return {name: tree[level.name] for name, tree in variables.items() if level.name in tree}

    def squared_errors(
        level: PairLevel, variables: Variables, source: Array, target: Array, *, train: bool
    ) -> tuple[list[Array], Variables]:
        """Squared error of each direction, `(..., c_T)` and `(..., c_S)`, and new statistics."""
        F_S, F_T = l2_normalise(source), l2_normalise(target)
        nets = networks(level, {level.source: source, level.target: target})
        with jax.named_scope(f"mapping_networks/{level.name}"):
            (F_MS, F_MT), updates = nets.apply(
                of_level(variables, level), F_S, F_T, train=train, mutable=["batch_stats"]
            )
        pairs = [(F_MS, F_T)] + ([(F_MT, F_S)] if F_MT is not None else [])
        if normalise_output:
            pairs = [(l2_normalise(mapped.astype(true.dtype)), true) for mapped, true in pairs]
        return [jnp.square(mapped.astype(true.dtype) - true) for mapped, true in pairs], updates

    def init(rng: Array, features: Features) -> Variables:
        variables: Variables = {"params": {}, "batch_stats": {}}
        for level in levels:
            _check_pair(level, features)
            F_S, F_T = (
                jnp.zeros((2, features[name].shape[-1]), features[name].dtype)
                for name in (level.source, level.target)
            )
            # A level's weights depend on its name only, not on which others are trained beside it.
            key = fold_in_name(rng, level.name)
            made = networks(level, features).init(key, F_S, F_T, train=True)
            if zero_output:
                last = {k: v for k, v in made["params"].items() if k.endswith("layer6")}
                made["params"] |= jax.tree.map(jnp.zeros_like, last)
            for collection in ("params", "batch_stats"):
                variables[collection][level.name] = made.get(collection, {})
        return variables

    def loss(
        variables: Variables, features: Features, batch: Mapping[str, Array], rng: Array
    ) -> tuple[Array, Aux]:
        del batch, rng  # no labels and no randomness in this method
        losses: dict[str, Array] = {}
        statistics = {}
        for level in levels:
            _check_pair(level, features)
            maps = features[level.source], features[level.target]
            errors, updates = squared_errors(level, variables, *maps, train=True)
            with jax.named_scope(f"loss/{level.name}"):
                losses[level.name] = jnp.sum(jnp.stack([jnp.mean(error) for error in errors]))
            statistics[level.name] = updates["batch_stats"]
        one = jnp.ones(())
        metrics = {f"loss_{name}": (value, one) for name, value in losses.items()}
        return jnp.sum(jnp.stack(list(losses.values()))), Aux({"batch_stats": statistics}, metrics)

    def score(variables: Variables, features: Features, *, size: tuple[int, int]) -> Scores:
        resized = []
        for level in levels:
            _check_pair(level, features)

            def anomaly(source: Array, target: Array, level: PairLevel = level) -> Array:
                errors, _ = squared_errors(level, variables, source, target, train=False)
                return jnp.mean(jnp.stack([jnp.sum(e, axis=-1) for e in errors]), axis=0)

            # AS^k, (B, h, w): Eq. 8 one-way, Eq. 13 and 14 both ways
            AS = by_position(anomaly, features[level.source], features[level.target])
            resized.append(resize_map(AS, size=size, sigma=smoothing))
        final = jnp.mean(jnp.stack(resized), axis=0)  # Eq. 15
        return Scores(final, top_share_mean(final, top_share))

    def schedules(steps: int) -> dict[str, optax.ScalarOrSchedule]:
        peaks = {level.name: level.learning_rate for level in levels}
        if not one_cycle:
            return peaks
        return {name: optax.cosine_onecycle_schedule(steps, peak) for name, peak in peaks.items()}

    def optimizer(steps: int) -> optax.GradientTransformation:
        def chain(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
            if decoupled_weight_decay:
                return optax.adamw(rate, weight_decay=weight_decay)
            # torch's Adam: the decay is part of the gradient that the moments see.
            return optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(rate))

        def labels(params: Variables) -> dict[str, Variables]:
            return {name: jax.tree.map(lambda _, n=name: n, params[name]) for name in params}

        rates = schedules(steps)
        return optax.multi_transform({name: chain(rate) for name, rate in rates.items()}, labels)

    def fold(variables: Variables) -> Variables:
        return fold_batch_norm(variables, BatchNorm.epsilon)

    return Method(init, loss, score, optimizer, fold=fold, schedules=schedules)
