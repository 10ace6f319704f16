"""What JAX's primitives that look places up become in an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxad.errors import InputError
from jaxad.runtimes.graph import Graph, Value


def gather(graph: Graph, params: Mapping[str, Any], x: Value, indices: Value) -> list[Value]:
    """Single places along some axes, all of the others; the places have to lie within.

    Raises:
        InputError: Parts of an axis that are neither one place nor all.
    """
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    batch, last = numbers.operand_batching_dims, len(indices.shape) - 1
    single = {*numbers.collapsed_slice_dims}
    # A whole axis can only begin at its first place.
    parts = [
        n
        for n, axis in enumerate(numbers.start_index_map)
        if axis in single or sizes[axis] < x.shape[axis]
    ]
    looked_up = [numbers.start_index_map[n] for n in parts]
    rest = tuple(axis for axis in range(len(x.shape)) if axis not in (*batch, *looked_up))
    if any(sizes[axis] > 1 for axis in looked_up) or any(
        sizes[axis] < x.shape[axis] for axis in rest
    ):
        raise InputError("an ONNX graph has no gather of more than one place along an axis")
    # The last axis of the indices tells of which axes of x they are places.
    batched = numbers.start_indices_batching_dims
    grid = (*batched, *(axis for axis in range(last) if axis not in batched))
    if len(looked_up) == 1 and not batch:
        places = graph.node("Gather", [graph.tensor(indices), graph.array(parts[0])], axis=last)
        name = graph.node("Gather", [graph.tensor(x), places], axis=looked_up[0])
        lead = sum(axis < looked_up[0] for axis in rest)
    else:
        data = graph.tensor(x, (*batch, *looked_up, *rest))
        places = graph.tensor(indices, (*grid, last))
        if len(parts) < indices.shape[-1]:
            places = graph.node("Gather", [places, graph.numbers(*parts)], axis=last)
        places = graph.node("Cast", [places], to=np.dtype(np.int64))
        name = graph.node("GatherND", [data, places], batch_dims=len(batch))
        lead = 0
    # Where the axes of the two stand in JAX's result; axes of one place may stay there.
    sliced = sorted({*looked_up, *rest} - single)
    place_of = dict(zip(sliced, numbers.offset_dims))
    whole = range(len(sliced) + len(grid))
    others = [place for place in whole if place not in numbers.offset_dims]
    own = {place_of[axis]: x.shape[axis] for axis in rest}
    own |= {others[axis]: indices.shape[axis] for axis in grid}
    first, after = ([place_of[axis] for axis in part] for part in (rest[:lead], rest[lead:]))
    order = (*first, *(others[axis] for axis in grid), *after)
    there = sorted(own)
    shape = tuple(int(own[place]) for place in there)
    found = Value(shape, x.dtype, shape, tuple(there.index(place) for place in order), name)
    return [graph.reshape(found, tuple(int(own.get(place, 1)) for place in whole))]


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
