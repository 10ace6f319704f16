"""An ONNX graph under construction, and the values in it.

JAX has channels last, run times have channels first. So a value knows in which order its axes lie,
and is brought into another only where an operation asks for it: a `transpose` of JAX costs nothing,
and between two convolutions nothing is moved. A value that was broadcast stays as small as it was.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Ints = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Value:
    """An array of the graph, or one that is known."""

    shape: Ints
    """As JAX sees it."""
    dtype: np.dtype[Any]
    held: Ints
    """Sizes that it really has along JAX's axes: that of `shape`, or 1 where it is broadcast."""
    order: Ints
    """Which of JAX's axes lies first, second, ..."""
    name: str = ""
    """Of the tensor, whose shape is that of `held` in the order of `order`."""
    known: np.ndarray[Any, Any] | None = None
    """Its content, of the shape `held`, in JAX's order."""

    @property
    def tensor_shape(self) -> Ints:
        """The shape of the tensor."""
        return tuple(self.held[axis] for axis in self.order)

    @property
    def number(self) -> float | None:
        """Its content where that is one number throughout."""
        if self.known is None or self.known.size != 1:
            return None
        return float(self.known.reshape(()))


def constant(array: Any) -> Value:
    """What is known before the graph runs."""
    known = np.asarray(array)
    return Value(known.shape, known.dtype, known.shape, tuple(range(known.ndim)), known=known)


class Graph:
    """Nodes and constants, added one after the other."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.nodes: list[tuple[str, list[str], list[str], dict[str, Any]]] = []
        """(operation, inputs, outputs, attributes)"""
        self.constants: dict[str, np.ndarray[Any, Any]] = {}
        self._names: dict[tuple[Any, ...], str] = {}

    def node(self, operation: str, inputs: Sequence[str], outputs: int = 1, **given: Any) -> Any:
        """Add an operation; returns the name of its output, or of each of several."""
        names = [f"{operation.lower()}_{len(self.nodes)}_{n}" for n in range(outputs)]
        self.nodes.append((operation, list(inputs), names, given))
        return names[0] if outputs == 1 else names

    def array(self, array: Any) -> str:
        """The name of a constant; equal ones are kept once."""
        array = np.ascontiguousarray(array).reshape(np.shape(array))  # the first makes 0-d 1-d
        key = (array.dtype.str, array.shape, array.tobytes() if array.size < 256 else id(array))
        if key not in self._names:
            self._names[key] = f"constant_{len(self.constants)}"
            self.constants[self._names[key]] = array  # which also keeps its id
        return self._names[key]

    def numbers(self, *values: int) -> str:
        """The name of a vector of int64."""
        return self.array(np.asarray(values, np.int64))

    def name(self, value: Value, order: Ints | None = None) -> str:
        """The name of a value's tensor, with its axes in an order; None: as they lie."""
        if value.known is not None:
            if value.known.size == 1:  # one number, of any rank
                return self.array(value.known.reshape(()))
            return self.array(value.known.transpose(order or value.order))
        return self.arrange(value, order or value.order).name

    def tensor(self, value: Value, order: Ints | None = None) -> str:
        """The name of a tensor of full size and rank, also where it is one number."""
        full, order = self.full(value), order or tuple(range(len(value.shape)))
        if full.known is None:
            return self.name(full, order)
        return self.array(full.known.transpose(order))

    def arrange(self, value: Value, order: Ints) -> Value:
        """A value with its axes in another order."""
        if value.known is not None or value.order == order:
            return dataclasses.replace(value, order=order)
        new = dataclasses.replace(value, order=order)
        before, after = ([a for a in v.order if v.held[a] != 1] for v in (value, new))
        if before == after:  # axes of size 1 alone have moved
            name = self.node("Reshape", [value.name, self.numbers(*new.tensor_shape)])
        else:
            perm = [value.order.index(axis) for axis in order]
            name = self.node("Transpose", [value.name], perm=perm)
        return dataclasses.replace(new, name=name)

    def full(self, value: Value, axes: Sequence[int] | None = None) -> Value:
        """A value that is broadcast no longer, along some axes or all."""
        along = range(len(value.shape)) if axes is None else axes
        held = tuple(
            n if a in along else h for a, (n, h) in enumerate(zip(value.shape, value.held))
        )
        if held == value.held:
            return value
        new = dataclasses.replace(value, held=held)
        if value.known is not None:
            return dataclasses.replace(new, known=np.broadcast_to(value.known, held))
        name = self.node("Expand", [value.name, self.numbers(*new.tensor_shape)])
        return dataclasses.replace(new, name=name)

    def plain(self, value: Value) -> str:
        """The name of a value's tensor, full and in JAX's order."""
        return self.name(self.full(value), tuple(range(len(value.shape))))

    def reshape(self, value: Value, shape: Ints) -> Value:
        """A value of another shape; free where only axes of size 1 come or go."""
        unit = math.prod(value.held) == 1
        kept = [axis for axis, size in enumerate(value.shape) if size != 1]
        places = [axis for axis, size in enumerate(shape) if size != 1]
        if not unit and [value.shape[a] for a in kept] != [shape[a] for a in places]:
            value = self.full(value)
            known = None if value.known is None else value.known.reshape(shape)
            name = ""
            if known is None:
                name = self.node("Reshape", [self.plain(value), self.numbers(*shape)])
            order = tuple(range(len(shape)))
            return Value(shape, value.dtype, shape, order, name, known)
        to = dict(zip(kept, places))
        sizes = {b: value.held[a] for a, b in to.items()}
        first = [to[axis] for axis in value.order if axis in to]
        rest = [axis for axis in range(len(shape)) if axis not in first]
        held = tuple(sizes.get(axis, 1) for axis in range(len(shape)))
        new = Value(shape, value.dtype, held, (*first, *rest))
        if value.known is not None:
            return dataclasses.replace(new, known=value.known.reshape(held))
        name = self.node("Reshape", [value.name, self.numbers(*new.tensor_shape)])
        return dataclasses.replace(new, name=name)
