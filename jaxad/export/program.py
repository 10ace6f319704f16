"""The program of a file: StableHLO, written without traces of its maker, looked through, called."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from jaxad.export.tensors import DTYPES, Tensor

CALLS = frozenset(
    {
        "shape_assertion",  # compares numbers, when the batch becomes known
        "stablehlo.dynamic_reduce_window",
        "stablehlo.dynamic_top_k",
        "stablehlo.dynamic_rng_bit_generator",
    }
)
"""Targets of `stablehlo.custom_call` that a program may have. Each is computed by XLA itself; any
other could be a function of the process, such as a callback to Python."""
DIALECTS = frozenset({"stablehlo", "chlo", "func", "builtin"})
OUTWARD = frozenset({"infeed", "outfeed", "send", "recv"})
"""Operations of StableHLO that exchange data with the host beside arguments and results."""


def calling_conventions() -> tuple[int, int]:
    """The first and last of `Exported.calling_convention_version` that this jax can call."""
    return (
        jax.export.minimum_supported_calling_convention_version,
        jax.export.maximum_supported_calling_convention_version,
    )


def make(
    score: Callable[..., Any],
    weights: Sequence[Tensor],
    size: tuple[int, int],
    platforms: Sequence[str],
) -> tuple[bytes, int]:
    """Export `score(weights, images) -> (map, image[, subclass])` for a batch of any size.

    Args:
        score: Takes a list of arrays and `(B, H, W, 3)` uint8 images.
        weights: What the arrays are.
        size: `(H, W)`.
        platforms: "cpu", "cuda", "rocm" or "tpu".

    Returns:
        StableHLO as a portable artifact, that a jax of 12 weeks before this one reads too, and the
        version of its calling convention.
    """
    exported = _export(score, weights, size, platforms)
    stripped = exported.mlir_module_serialized
    # Where the lines of the program come from are paths on this machine.
    stripped = _with_module(stripped, _without_places)
    return stripped, exported.calling_convention_version


def look_through(program: bytes) -> list[str]:
    """Parse a program, and name what is more than computing from its arguments.

    Raises:
        ValueError: It is no StableHLO that this jax reads.
    """
    found: set[str] = set()

    def visit(operation: Any) -> Any:
        from jax.extend.mlir import ir

        dialect, _, name = operation.name.partition(".")
        if dialect not in DIALECTS or (dialect == "stablehlo" and name in OUTWARD):
            found.add(operation.name)
        if operation.name == "stablehlo.custom_call":
            target = ir.StringAttr(operation.attributes["call_target_name"]).value
            if target not in CALLS:
                found.add(f"a call to {target}")
        return ir.WalkResult.ADVANCE

    _with_module(program, lambda module: module.operation.walk(visit))
    return sorted(found)


def callable_of(
    program: bytes,
    weights: Sequence[Tensor],
    size: tuple[int, int],
    platforms: Sequence[str],
    calling_convention: int,
    *,
    routed: bool = False,
) -> Callable[..., Any]:
    """Make of a program, as `make` gave it, a function for `jax.jit`: `f(weights, images)`.

    `jax.export.deserialize` would need flatbuffers for what surrounds a program. All of that
    follows from shapes, which we know: so it is taken from an empty function of the same shapes,
    exported here and now, by this jax. `routed`: whether it gives subclasses, too.

    Raises:
        ValueError: The program is not of these shapes.
    """
    height, width = size

    def empty(arrays: Any, images: Any) -> Any:
        batch = images.shape[0]
        scores = jnp.zeros((batch, height, width), jnp.float32), jnp.zeros((batch,), jnp.float32)
        return (*scores, jnp.zeros((batch,), jnp.int32)) if routed else scores

    like = _export(empty, weights, size, platforms)
    own, wanted = (_with_module(p, _signature) for p in (program, like.mlir_module_serialized))
    if own != wanted:
        raise ValueError("its arguments and results are not those that the manifest states")
    return dataclasses.replace(
        like,
        fun_name="score",
        mlir_module_serialized=program,
        calling_convention_version=calling_convention,
    ).call


def _export(
    score: Callable[..., Any],
    weights: Sequence[Tensor],
    size: tuple[int, int],
    platforms: Sequence[str],
) -> jax.export.Exported:
    (batch,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, *size, 3), jnp.uint8)
    arrays = [jax.ShapeDtypeStruct(own.shape, DTYPES[own.dtype]) for own in weights]
    jitted = jax.jit(score, keep_unused=True)  # all weights, so that the file says which
    return jax.export.export(jitted, platforms=platforms)(arrays, images)


def _with_module(program: bytes, function: Callable[[Any], Any]) -> Any:
    """Call a function with the parsed module.

    Raises:
        ValueError: It can not be parsed.
    """
    from jax.extend.mlir import deserialize_portable_artifact, ir
    from jax.extend.mlir.dialects import chlo, stablehlo

    context = ir.Context()
    context.attach_diagnostic_handler(lambda told: True)  # which it would print
    with context, ir.Location.unknown():
        for dialect in (stablehlo, chlo):
            dialect.register_dialect(context)
        try:
            module = deserialize_portable_artifact(program)
        except Exception as error:  # of XLA's own classes
            raise ValueError(str(error)) from None
        return function(module)


def _signature(module: Any) -> str:
    """Types of what a program takes and gives."""
    for operation in module.body.operations:
        if str(operation.attributes["sym_name"]) == '"main"':
            return str(operation.attributes["function_type"])
    raise ValueError("it has no function main")


def _without_places(module: Any) -> bytes:
    from jax.extend.mlir import passmanager, serialize_portable_artifact
    from jax.extend.mlir.dialects import stablehlo

    passmanager.PassManager.parse("builtin.module(strip-debuginfo)").run(module.operation)
    weeks = stablehlo.StablehloCompatibilityRequirement.WEEK_12
    version = stablehlo.get_version_from_compatibility_requirement(weeks)
    return bytes(serialize_portable_artifact(module, version))
