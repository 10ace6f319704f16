"""How far our features are from those of the original frameworks, without any of these.

`ports/golden.py` and `ports/golden_vit.py` stored samples of the original features, made with
weights from a seed. Here the same weights go through our converters and our modules.
"""

from __future__ import annotations

import functools
import json
import lzma
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxad.backbones import ARCHITECTURES, Variant, fold_batch_norm
from jaxad.core import Array, Features, Variables
from jaxad.ops.convolve import same_padding
from ports.namings import NAMINGS
from ports.seeded import fill, image, sample

_FOLDER = Path(__file__).resolve().parents[1] / "tests" / "golden"
GOLDEN = tuple(_FOLDER / f"{name}.npz" for name in ("backbones", "vit", "pdn"))


class GoldenLevel(NamedTuple):
    """What was stored of one feature map."""

    shape: tuple[int, ...]
    """`(1, h, w, C)`."""
    statistics: np.ndarray
    """Largest absolute value, mean and standard deviation, `(3,)` float32."""
    sample: np.ndarray
    """`(SAMPLES,)` float32."""


class GoldenCase(NamedTuple):
    """What was stored of one network under one framework's names."""

    size: tuple[int, int]
    gain: float
    arrays: Mapping[str, tuple[int, ...]]
    """Array name -> shape."""
    levels: Mapping[str, GoldenLevel]

    def state(self) -> dict[str, np.ndarray]:
        """Return the weights, as a file of that framework would hold them."""
        return fill(self.arrays, gain=self.gain)


@functools.cache
def golden_cases() -> dict[tuple[str, str], GoldenCase]:
    """(Naming, architecture) -> what was stored of it, for every pair that is covered."""
    return {pair: case for path in GOLDEN for pair, case in _cases(path).items()}


def _cases(path: Path) -> dict[tuple[str, str], GoldenCase]:
    with np.load(path) as file:
        index = json.loads(lzma.decompress(file["index"].tobytes()))
        values = iter(file["values"])
    return {
        (entry["naming"], entry["architecture"]): GoldenCase(
            size=tuple(entry["size"]),
            gain=entry["gain"],
            arrays={name: tuple(shape) for name, shape in entry["arrays"]},
            levels={
                level: GoldenLevel(tuple(shape), row[:3], row[3:])
                for (level, shape), row in zip(entry["levels"], values)
            },
        )
        for entry in index
    }


def parity_error(
    naming: str,
    architecture: str,
    *,
    folded: bool = True,
    variant: Variant | None = None,
) -> dict[str, float]:
    """Convert the seeded weights, run our network on the seeded image and compare every level.

    Args:
        naming: A key of `NAMINGS`.
        architecture: One that it covers.
        folded: Whether BatchNorm is folded into the convolutions first, as scoring does.
        variant: Epsilon and padding; None: those that the converter states.

    Returns:
        Level -> error relative to the level's largest absolute value: the largest among the stored
        values and among mean, standard deviation and largest value of the whole map. It is infinite
        where the shape differs or a value is not finite.
    """
    case = golden_cases()[naming, architecture]
    converted = NAMINGS[naming].convert(architecture, case.state())
    variant = variant or converted.variant
    variables = converted.variables
    if folded:
        variables = fold_batch_norm(variables, variant.epsilon)
        variant = Variant(padding=variant.padding)  # what is left, so equal programs are one
    module = ARCHITECTURES[architecture].build(
        levels=tuple(case.levels), folded=folded, variant=variant
    )
    with jax.default_matmul_precision("highest"):
        x = converted.preprocess(jnp.asarray(image(*case.size)))
        features = apply_by_parts(module, variables, x)
    return {level: _error(np.asarray(features[level]), want) for level, want in case.levels.items()}


def apply_by_parts(module: nn.Module, variables: Variables, x: Array) -> Features:
    """Apply a backbone, its direct children compiled one by one.

    It computes what `module.apply` does. A large network repeats a dozen kinds of block up to fifty
    times, so this compiles several times faster than the network as one program. Padding "SAME" is
    stated in zeros, as `convolve` would do, for then most blocks are those of other paddings.
    """

    def part(
        call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: Any
    ) -> Any:
        child = context.module
        if type(child.parent) is not type(module):
            return call(*args, **kwargs)
        changes: dict[str, Any] = {"parent": None, "name": None}
        if getattr(child, "padding", None) == "SAME":
            changes["padding"] = tuple(
                same_padding(size, kernel_size=child.kernel_size, stride=child.stride)
                for size in args[0].shape[1:3]
            )
        return _apply(child.clone(**changes), child.variables, *args)

    with nn.intercept_methods(part):
        features: Features = module.apply(variables, x)
    return features


@functools.partial(
    jax.jit,
    static_argnums=0,
    # Programs that run once: compiling takes a third of the time so.
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": 1,
    },
)
def _apply(module: nn.Module, variables: Variables, x: Array) -> Array:
    y: Array = module.apply(variables, x)
    return y


def _error(got: np.ndarray, want: GoldenLevel) -> float:
    if got.shape != want.shape or not np.isfinite(got).all():
        return float("inf")
    whole = got.astype(np.float64)
    statistics = np.asarray([np.abs(whole).max(), whole.mean(), whole.std()])
    off = np.concatenate([sample(whole) - want.sample, statistics - want.statistics])
    return float(np.abs(off).max() / want.statistics[0])
