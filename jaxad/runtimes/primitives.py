"""What each primitive of JAX becomes in an ONNX graph: a table from names to small functions.

Only what jaxad's networks and methods consist of. A rule gets the graph, the equation's parameters
and its operands, and returns its results. Operands are never all known: then JAX computes the
result itself (`jaxad.runtimes.convert`).
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxad.errors import InputError
from jaxad.runtimes.graph import Graph, Ints, Value
from jaxad.runtimes.indexing import arg_extreme, gather

Rule = Callable[..., list[Value]]


def elementwise(operation: str, dtype: Any = None) -> Rule:
    """Make the rule of a function of single elements, of operands of one shape or of one number."""

    def rule(graph: Graph, params: Any, *operands: Value) -> list[Value]:
        del params
        return [apply(graph, operation, *operands, dtype=dtype)]

    return rule


def apply(graph: Graph, operation: str, *operands: Value, dtype: Any = None) -> Value:
    """Add a function of single elements, in the order of axes of the largest operand."""
    unknown = [x for x in operands if x.known is None]
    largest = max(unknown, key=lambda x: int(np.prod(x.held)))
    names = [
        graph.name(x, largest.order if len(x.shape) == len(largest.shape) else None)
        for x in operands
    ]
    held = np.broadcast_shapes(*(x.held for x in operands))
    new = dtype or operands[-1].dtype
    return dataclasses.replace(
        largest, dtype=np.dtype(new), held=held, name=graph.node(operation, names)
    )


def maximum(graph: Graph, params: Any, a: Value, b: Value) -> list[Value]:
    """The larger of two; ReLU by its name, which run times join to the operation before."""
    del params
    a, b = (b, a) if a.number is not None else (a, b)
    return [apply(graph, "Relu", a) if b.number == 0 else apply(graph, "Max", a, b)]


def square(graph: Graph, params: Any, x: Value) -> list[Value]:
    """x²."""
    del params
    return [apply(graph, "Mul", x, x)]


def integer_power(graph: Graph, params: Mapping[str, Any], x: Value) -> list[Value]:
    """A whole power."""
    if params["y"] == 2:
        return square(graph, params, x)
    power = constant_like(x, params["y"])
    return [apply(graph, "Pow", x, power)]


def constant_like(x: Value, number: float) -> Value:
    """One number, of the type and rank of another value."""
    ones = (1,) * len(x.shape)
    return dataclasses.replace(x, held=ones, name="", known=np.full(ones, number, x.dtype))


def reciprocal_root(graph: Graph, params: Any, x: Value) -> list[Value]:
    """1 / √x."""
    del params
    return [apply(graph, "Reciprocal", apply(graph, "Sqrt", x))]


def not_equal(graph: Graph, params: Any, a: Value, b: Value) -> list[Value]:
    """Whether two differ."""
    del params
    return [apply(graph, "Not", apply(graph, "Equal", a, b, dtype=bool))]


def select(graph: Graph, params: Any, which: Value, *cases: Value) -> list[Value]:
    """One of two, element by element."""
    del params
    if which.dtype != bool:
        raise InputError("an ONNX graph has no select_n among more than two cases")
    if cases[0].dtype == bool:  # which ONNX Runtime has no Where of
        other = apply(graph, "And", apply(graph, "Not", which), cases[0])
        return [apply(graph, "Or", apply(graph, "And", which, cases[1]), other)]
    return [apply(graph, "Where", which, cases[1], cases[0])]


def clamp(graph: Graph, params: Any, low: Value, x: Value, high: Value) -> list[Value]:
    """Between two bounds."""
    del params
    return [apply(graph, "Min", apply(graph, "Max", x, low), high)]


def cast(graph: Graph, params: Mapping[str, Any], x: Value) -> list[Value]:
    """Of another type."""
    new = np.dtype(params["new_dtype"])
    if new == x.dtype:
        return [x]
    name = graph.node("Cast", [x.name], to=new)
    return [dataclasses.replace(x, dtype=new, name=name)]


def reduction(operation: str) -> Rule:
    """Make the rule of a sum or an extreme over axes."""

    def rule(graph: Graph, params: Mapping[str, Any], x: Value) -> list[Value]:
        axes = params["axes"]
        x = graph.full(x, axes)
        places = graph.numbers(*sorted(x.order.index(axis) for axis in axes))
        name = graph.node(operation, [x.name, places], keepdims=0)
        return [without(x, axes, name)]

    return rule


def without(x: Value, axes: Ints, name: str) -> Value:
    """A value whose tensor `name` has lost these axes."""
    left = [axis for axis in range(len(x.shape)) if axis not in axes]
    return Value(
        tuple(x.shape[axis] for axis in left),
        x.dtype,
        tuple(x.held[axis] for axis in left),
        tuple(left.index(axis) for axis in x.order if axis in left),
        name,
    )


def broadcast(graph: Graph, params: Mapping[str, Any], x: Value, *_: Value) -> list[Value]:
    """More axes, and axes of size 1 made longer: only noted."""
    shape, places = params["shape"], params["broadcast_dimensions"]
    middle = [1] * len(shape)
    for axis, place in enumerate(places):
        middle[place] = x.shape[axis]
    x = graph.reshape(x, tuple(middle))
    return [dataclasses.replace(x, shape=tuple(shape))]


def reshape(graph: Graph, params: Mapping[str, Any], x: Value) -> list[Value]:
    """Another shape."""
    return [graph.reshape(x, tuple(params["new_sizes"]))]


def squeeze(graph: Graph, params: Mapping[str, Any], x: Value) -> list[Value]:
    """Without some axes of size 1."""
    left = [n for axis, n in enumerate(x.shape) if axis not in params["dimensions"]]
    return [graph.reshape(x, tuple(left))]


def transpose(graph: Graph, params: Mapping[str, Any], x: Value) -> list[Value]:
    """Axes in another order: only noted."""
    del graph
    perm = params["permutation"]
    order = tuple(perm.index(axis) for axis in x.order)
    shape, held = (tuple(sizes[axis] for axis in perm) for sizes in (x.shape, x.held))
    return [dataclasses.replace(x, shape=shape, held=held, order=order)]


def changed(x: Value, axis: int, size: int, name: str) -> Value:
    """A value whose tensor `name` has another size along one axis."""
    shape, held = (
        tuple(size if a == axis else n for a, n in enumerate(sizes)) for sizes in (x.shape, x.held)
    )
    return dataclasses.replace(x, shape=shape, held=held, name=name, known=None)


def slice_(graph: Graph, params: Mapping[str, Any], x: Value) -> list[Value]:
    """A part along every axis, with a stride."""
    strides = params["strides"] or (1,) * len(x.shape)
    for axis, (start, end, step) in enumerate(
        zip(params["start_indices"], params["limit_indices"], strides)
    ):
        if (start, end, step) != (0, x.shape[axis], 1):
            x = graph.full(x, (axis,))
            parts = [graph.numbers(n) for n in (start, end, x.order.index(axis), step)]
            name = graph.node("Slice", [x.name, *parts])
            x = changed(x, axis, len(range(start, end, step)), name)
    return [x]


def take(graph: Graph, x: Value, axis: int, indices: str, count: int) -> Value:
    """Those of a value's parts along an axis that a vector of whole numbers names."""
    x = graph.full(x, (axis,))
    place = x.order.index(axis)
    name = graph.node("Gather", [graph.name(x), indices], axis=place)
    return changed(x, axis, count, name)


def dynamic_slice(graph: Graph, params: Mapping[str, Any], x: Value, *starts: Value) -> list[Value]:
    """A part along every axis, from places that the graph finds: there, of size 1."""
    for axis, (start, size) in enumerate(zip(starts, params["slice_sizes"])):
        if size == x.shape[axis]:
            continue
        if start.number is not None:
            first = min(max(int(start.number), 0), x.shape[axis] - size)
            indices = graph.numbers(*range(first, first + size))
        elif size == 1:
            indices = graph.node("Reshape", [graph.name(start), graph.numbers(1)])
        else:
            raise InputError("an ONNX graph has no dynamic_slice of more than one row")
        x = take(graph, x, axis, indices, size)
    return [x]


def reverse(graph: Graph, params: Mapping[str, Any], x: Value) -> list[Value]:
    """Backwards along some axes."""
    for axis in params["dimensions"]:
        size = x.shape[axis]
        x = take(graph, x, axis, graph.numbers(*range(size - 1, -1, -1)), size)
    return [x]


def concatenate(graph: Graph, params: Mapping[str, Any], *parts: Value) -> list[Value]:
    """Parts one after the other along an axis."""
    axis = params["dimension"]
    parts = tuple(graph.full(x) for x in parts)
    like = max((x for x in parts if x.known is None), key=lambda x: int(np.prod(x.shape)))
    names = [graph.tensor(x, like.order) for x in parts]
    name = graph.node("Concat", names, axis=like.order.index(axis))
    return [changed(like, axis, sum(x.shape[axis] for x in parts), name)]


def stack(graph: Graph, params: Mapping[str, Any], *parts: Value) -> list[Value]:
    """Parts along a new axis."""
    axis = params["axis"]
    wide = [graph.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:])) for x in parts]
    return concatenate(graph, {"dimension": axis}, *wide)


def split(graph: Graph, params: Mapping[str, Any], x: Value) -> list[Value]:
    """The parts along an axis."""
    axis, sizes = params["axis"], params["sizes"]
    if len(sizes) == 1:
        return [x]
    x = graph.full(x, (axis,))
    names = graph.node(
        "Split", [x.name, graph.numbers(*sizes)], len(sizes), axis=x.order.index(axis)
    )
    return [changed(x, axis, int(n), name) for n, name in zip(sizes, names)]


def pad(graph: Graph, params: Mapping[str, Any], x: Value, filler: Value) -> list[Value]:
    """A number around a value."""
    low, high, inside = zip(*params["padding_config"])
    if any(inside) or min(*low, *high) < 0:
        raise InputError("an ONNX graph has no pad between elements, or of less than nothing")
    x = graph.full(x)
    pads = [sizes[axis] for sizes in (low, high) for axis in x.order]
    name = graph.node("Pad", [x.name, graph.numbers(*pads), graph.name(filler)])
    shape = tuple(n + a + b for n, a, b in zip(x.shape, low, high))
    return [dataclasses.replace(x, shape=shape, held=shape, name=name)]


def convolution(graph: Graph, params: Mapping[str, Any], x: Value, kernel: Value) -> list[Value]:
    """A convolution, channels first."""
    numbers = params["dimension_numbers"]
    dilated = any(n != 1 for n in params["lhs_dilation"])
    if dilated or params["batch_group_count"] != 1:
        raise InputError("an ONNX graph has no convolution that is transposed or grouped by batch")
    low, high = zip(*params["padding"])
    inputs = [
        graph.name(graph.full(x), tuple(numbers.lhs_spec)),
        graph.name(graph.full(kernel), tuple(numbers.rhs_spec)),
    ]
    name = graph.node(
        "Conv",
        inputs,
        pads=[*low, *high],
        strides=list(params["window_strides"]),
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
    )
    batch, features = x.shape[numbers.lhs_spec[0]], kernel.shape[numbers.rhs_spec[0]]
    sizes = [batch, features]
    for place, axis in enumerate(numbers.lhs_spec[2:]):
        reach = (kernel.shape[numbers.rhs_spec[2 + place]] - 1) * params["rhs_dilation"][place]
        room = x.shape[axis] + low[place] + high[place] - reach - 1
        sizes.append(room // params["window_strides"][place] + 1)
    order = tuple(numbers.out_spec)
    shape = tuple(sizes[order.index(axis)] for axis in range(len(order)))
    return [Value(shape, x.dtype, shape, order, name)]


def max_pool(graph: Graph, params: Mapping[str, Any], x: Value) -> list[Value]:
    """The largest of every window over two axes."""
    window, strides, padding = (
        params[key] for key in ("window_dimensions", "window_strides", "padding")
    )
    over = tuple(axis for axis, size in enumerate(window) if size > 1)
    dilated = any(n != 1 for key in ("base_dilation", "window_dilation") for n in params[key])
    if len(x.shape) != 4 or len(over) != 2 or dilated:
        raise InputError("an ONNX graph has no reduce_window_max but over two axes of four")
    rest = tuple(axis for axis in x.order if axis not in over)
    x = graph.arrange(graph.full(x), rest + over)
    name = graph.node(
        "MaxPool",
        [x.name],
        kernel_shape=[window[axis] for axis in over],
        strides=[strides[axis] for axis in over],
        pads=[padding[axis][side] for side in (0, 1) for axis in over],
    )
    for axis in over:
        size = (x.shape[axis] + sum(padding[axis]) - window[axis]) // strides[axis] + 1
        x = changed(x, axis, size, name)
    return [x]


def product(graph: Graph, params: Mapping[str, Any], a: Value, b: Value) -> list[Value]:
    """A matrix product: of any axis and a known matrix where it lies, otherwise as an Einsum."""
    (over_a, over_b), (batch_a, batch_b) = params["dimension_numbers"]
    for x, matrix, over, over_matrix in ((a, b, over_a, over_b), (b, a, over_b, over_a)):
        if matrix.known is not None and matrix.known.ndim == 2 and len(over) == 1 and not batch_a:
            known = np.broadcast_to(matrix.known, matrix.shape)
            weights = known if over_matrix[0] == 1 else known.T  # (new size, old size)
            new = along(graph, x, over[0], weights)
            left = [axis for axis in range(len(x.shape)) if axis != over[0]]
            perm = [*left, over[0]] if x is a else [over[0], *left]
            return transpose(graph, {"permutation": tuple(perm)}, new)
    letters = iter(string.ascii_lowercase)
    names_a = [next(letters) for _ in a.shape]
    same = dict(zip((*batch_b, *over_b), (*batch_a, *over_a)))
    names_b = [names_a[same[i]] if i in same else next(letters) for i in range(len(b.shape))]
    left_a = [i for i in range(len(a.shape)) if i not in (*batch_a, *over_a)]
    left_b = [i for i in range(len(b.shape)) if i not in same]
    result = [names_a[i] for i in (*batch_a, *left_a)] + [names_b[i] for i in left_b]
    equation = f"{''.join(names_a)},{''.join(names_b)}->{''.join(result)}"
    name = graph.node("Einsum", [graph.plain(a), graph.plain(b)], equation=equation)
    sizes = (*(a.shape[i] for i in (*batch_a, *left_a)), *(b.shape[i] for i in left_b))
    return [Value(sizes, a.dtype, sizes, tuple(range(len(sizes))), name)]


def along(graph: Graph, x: Value, axis: int, weights: np.ndarray[Any, Any]) -> Value:
    """A linear map along one axis, by a matrix `(new size, old size)`."""
    x = graph.full(x)
    rank, size = len(x.shape), len(weights)
    place = x.order.index(axis)
    if rank == 4 and place == 1:
        kernel = graph.array(weights.reshape(*weights.shape, 1, 1))
        return changed(x, axis, size, graph.node("Conv", [x.name, kernel]))
    if rank > 1 and place == rank - 2:
        return changed(x, axis, size, graph.node("MatMul", [graph.array(weights), x.name]))
    if place != rank - 1:
        x = graph.arrange(x, (*(a for a in x.order if a != axis), axis))
    return changed(x, axis, size, graph.node("MatMul", [x.name, graph.array(weights.T)]))


def top_k(graph: Graph, params: Mapping[str, Any], x: Value) -> list[Value]:
    """The largest along the last axis, and where they were."""
    k = params["k"]
    values, indices = graph.node("TopK", [graph.plain(x), graph.numbers(k)], 2)
    shape = (*x.shape[:-1], k)
    order = tuple(range(len(shape)))
    where = graph.node("Cast", [indices], to=np.dtype(np.int32))
    return [
        Value(shape, x.dtype, shape, order, values),
        Value(shape, np.dtype(np.int32), shape, order, where),
    ]


def exponential_minus_one(graph: Graph, params: Any, x: Value) -> list[Value]:
    """exp(x) - 1, which loses digits where x is near 0, and none of what is added to it."""
    del params
    return [apply(graph, "Sub", apply(graph, "Exp", x), constant_like(x, 1))]


def same(graph: Graph, params: Any, *operands: Value) -> list[Value]:
    """What only means something to XLA or to a gradient."""
    del graph, params
    return list(operands)


_NAMES = {
    **{name: name.capitalize() for name in ("add", "sub", "mul", "div", "min", "pow")},
    **{name: name.capitalize() for name in ("sqrt", "exp", "log", "tanh", "erf", "abs", "neg")},
    **{"and": "And", "or": "Or", "not": "Not", "logistic": "Sigmoid"},
}
_COMPARISONS = {
    **{"lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual", "eq": "Equal"}
}
RULES: dict[str, Rule] = {
    **{name: elementwise(operation) for name, operation in _NAMES.items()},
    **{name: elementwise(operation, bool) for name, operation in _COMPARISONS.items()},
    **{"max": maximum, "square": square, "integer_pow": integer_power, "rsqrt": reciprocal_root},
    "expm1": exponential_minus_one,
    **{"ne": not_equal, "select_n": select, "clamp": clamp, "convert_element_type": cast},
    **{f"reduce_{name}": reduction(f"Reduce{name.capitalize()}") for name in ("sum", "max", "min")},
    **{"broadcast_in_dim": broadcast, "reshape": reshape, "squeeze": squeeze},
    **{"transpose": transpose, "slice": slice_, "dynamic_slice": dynamic_slice, "rev": reverse},
    **{"concatenate": concatenate, "stack": stack, "split": split, "pad": pad},
    **{"conv_general_dilated": convolution, "dot_general": product, "top_k": top_k},
    **{"reduce_window_max": max_pool, "gather": gather},
    **{"argmax": arg_extreme("ArgMax"), "argmin": arg_extreme("ArgMin")},
    **dict.fromkeys(("copy", "stop_gradient", "optimization_barrier"), same),
}
"""By the name of the primitive."""
