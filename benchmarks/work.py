"""How much memory a detector moves and holds to score images, counted before anything is compiled.

The traffic is what its convolutions and matrix products read and write, everything else taken as
fused into them: a bound that is the same on every platform. XLA counts more for the program as
written and, for kernels of vendors' libraries, nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Var

from jaxad.core import Variables
from jaxad.detector import Detector

PRODUCTS = ("dot_general", "conv_general_dilated")


class Work(NamedTuple):
    """Bytes to score a batch in float32, each as (fixed, for every image)."""

    moved: tuple[int, int]
    """Read and written by convolutions and matrix products."""
    held: tuple[int, int]
    """At once, at most: variables, images, intermediates. Backends take some more for themselves:
    on CPU XLA's own intermediates were found 2 to 3 times as large."""

    def gbyte(self, what: str, *, batch: int, dtype: str) -> float:
        """1e9 bytes "moved" or "held" for `batch` images.

        Score maths, a small part, are counted as of `dtype` like everything else.
        """
        fixed, each = getattr(self, what)
        return (fixed + batch * each) * jnp.dtype(dtype).itemsize / 4 / 1e9


def count(detector: Detector, variables: Variables, *, size: tuple[int, int]) -> Work:
    """Count for images of `size = (H, W)`; nothing is computed."""

    def traced(images: int) -> tuple[int, int]:
        shape = jax.ShapeDtypeStruct((images, *size, 3), jnp.uint8)
        program = jax.make_jaxpr(detector.score)(variables, shape).jaxpr
        return _moved(program), _held(program)

    # All is linear in the number of images.
    moved, held = ((2 * one - two, two - one) for one, two in zip(traced(1), traced(2)))
    return Work(moved, held)


def _bytes(variable: Any) -> int:
    shape, dtype = variable.aval.shape, variable.aval.dtype
    # Random keys have dtypes of their own; there are none of a size that matters.
    return math.prod(shape) * getattr(dtype, "itemsize", 4)


def _inner(equation: Any) -> Iterator[Any]:
    """The programs that an equation calls."""
    for value in equation.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            program = getattr(one, "jaxpr", one)
            if hasattr(program, "eqns"):
                yield program


def _moved(program: Any) -> int:
    """Bytes that convolutions and matrix products read and write."""
    total = 0
    for equation in program.eqns:
        if equation.primitive.name in PRODUCTS:
            total += sum(map(_bytes, (*equation.invars, *equation.outvars)))
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += times * sum(map(_moved, _inner(equation)))
    return total


def _held(program: Any) -> int:
    """Most bytes alive at once, each value from its equation to the last one that reads it."""
    last = {v: n for n, e in enumerate(program.eqns) for v in e.invars if isinstance(v, Var)}
    last |= {v: len(program.eqns) for v in program.outvars if isinstance(v, Var)}
    own = {*program.invars, *program.constvars}  # its caller holds these
    alive = sum(map(_bytes, (*program.invars, *program.constvars)))
    most = alive
    for n, equation in enumerate(program.eqns):
        results = sum(map(_bytes, equation.outvars))
        operands = sum(map(_bytes, equation.invars))
        beyond = max((_held(p) for p in _inner(equation)), default=0) - operands
        most = max(most, alive + max(results, beyond))
        alive += results
        read = {v for v in equation.invars if isinstance(v, Var) and last[v] == n} - own
        unread = {v for v in equation.outvars if v not in last}
        alive -= sum(map(_bytes, read | unread))
    return most
