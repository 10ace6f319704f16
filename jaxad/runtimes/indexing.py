"""What JAX's primitives that look places up become in an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxad.errors import InputError
from jaxad.runtimes.graph import Graph, Ints, Value


def gather(graph: Graph, params: Mapping[str, Any], x: Value, indices: Value) -> list[Value]:
    """Single places along some axes, all of the others; the places have to lie within.

    Raises:
        InputError: Parts of an axis that are neither one place nor all.
    """
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    batch, looked_up = numbers.operand_batching_dims, numbers.start_index_map
    rest = tuple(axis for axis in range(len(x.shape)) if axis not in (*batch, *looked_up))
    single = {*looked_up} == {*numbers.collapsed_slice_dims}
    if not single or any(sizes[axis] != x.shape[axis] for axis in rest):
        raise InputError("an ONNX graph has no gather of more than one place along an axis")
    # The last axis of the indices tells of which axes of x they are places.
    batched, last = numbers.start_indices_batching_dims, len(indices.shape) - 1
    grid = (*batched, *(axis for axis in range(last) if axis not in batched))
    if len(looked_up) == 1 and not batch:
        places = _tensor(graph, graph.reshape(indices, indices.shape[:-1]))
        name = graph.node("Gather", [_tensor(graph, x), places], axis=looked_up[0])
        lead = sum(axis < looked_up[0] for axis in rest)
    else:
        data = _tensor(graph, x, (*batch, *looked_up, *rest))
        places = _tensor(graph, indices, (*grid, last))
        places = graph.node("Cast", [places], to=np.dtype(np.int64))
        name = graph.node("GatherND", [data, places], batch_dims=len(batch))
        lead = 0
    # Where the axes of the two stand in JAX's result.
    whole = range(len(rest) + len(grid))
    others = [place for place in whole if place not in numbers.offset_dims]
    own = dict(zip(numbers.offset_dims, (x.shape[axis] for axis in rest)))
    own |= {others[axis]: indices.shape[axis] for axis in grid}
    first, after = numbers.offset_dims[:lead], numbers.offset_dims[lead:]
    order = (*first, *(others[axis] for axis in grid), *after)
    shape = tuple(int(own[place]) for place in whole)
    return [Value(shape, x.dtype, shape, order, name)]


def _tensor(graph: Graph, x: Value, order: Ints | None = None) -> str:
    """The name of a tensor of full size and rank, also where it is one number."""
    x, order = graph.full(x), order or tuple(range(len(x.shape)))
    return graph.name(x, order) if x.known is None else graph.array(x.known.transpose(order))


def arg_extreme(operation: str) -> Any:
    """Make the rule of the first place of an extreme along an axis."""

    def rule(graph: Graph, params: Mapping[str, Any], x: Value) -> list[Value]:
        (axis,) = params["axes"]
        place = graph.node(operation, [graph.plain(x)], axis=axis, keepdims=0)
        new = np.dtype(params["index_dtype"])
        shape = (*x.shape[:axis], *x.shape[axis + 1 :])
        name = graph.node("Cast", [place], to=new)
        return [Value(shape, new, shape, tuple(range(len(shape))), name)]

    return rule
