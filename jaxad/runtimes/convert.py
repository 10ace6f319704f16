"""From a function of images to an ONNX graph, by what JAX traces of it.

JAX's own trace is walked equation by equation; what depends on weights alone is computed on the
way. Of what is written in one way for XLA and in another for the rest (`jaxad.ops`), the graph gets
the branch for the platform "onnx", else the default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.core import Routed, Scores
from jaxad.errors import InputError
from jaxad.runtimes.graph import Graph, Value, constant
from jaxad.runtimes.packages import needed
from jaxad.runtimes.primitives import RULES, stack

OPSET = 20
"""Of ONNX's operations."""
IR_VERSION = 10
"""Of its file format."""
PLATFORM = "onnx"
INPUT, OUTPUTS = "images", Routed._fields
MOST_TURNS = 1024
"""Of a loop, which a graph has one after the other."""
CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "remat2": "jaxpr"}
CALLS |= {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr", "checkpoint": "jaxpr"}
"""Primitives that are other functions, and the parameter that has them."""


def convert(
    score: Callable[[Any], Scores | Routed], *, batch_size: int, size: tuple[int, int]
) -> Any:
    """Trace `score((B, H, W, 3) uint8) -> Scores` (or `Routed`) into an `onnx.ModelProto`.

    Its input is `images`, its outputs `map`, `image` (and `subclass`); weights that `score` holds
    are constants.

    Args:
        score: Of images alone.
        batch_size: B, which the graph keeps to.
        size: (H, W), likewise.

    Raises:
        InputError: `onnx` is not installed, or a primitive has no form in ONNX here.
    """
    shape = (batch_size, *size, 3)
    traced = jax.make_jaxpr(score)(jax.ShapeDtypeStruct(shape, jnp.uint8))
    graph = Graph()
    images = Value(shape, np.dtype(np.uint8), shape, tuple(range(4)), INPUT)
    # What is computed on the way must be exact, whatever the caller's setting.
    with jax.default_matmul_precision("highest"):
        found = walk(graph, traced.jaxpr, traced.consts, [images])
    outputs = dict(zip(OUTPUTS, found))  # without the last, where there is none
    for name, value in outputs.items():
        graph.nodes.append(("Identity", [graph.plain(value)], [name], {}))
    return model(graph, images, outputs)


def walk(graph: Graph, jaxpr: Any, consts: Sequence[Any], args: Sequence[Value]) -> list[Value]:
    """Add a trace's equations to a graph; returns what it returns."""
    values: dict[Any, Value] = dict(zip(jaxpr.invars, args, strict=True))
    values |= {var: constant(array) for var, array in zip(jaxpr.constvars, consts, strict=True)}

    def read(atom: Any) -> Value:
        return constant(atom.val) if hasattr(atom, "val") else values[atom]

    for equation in jaxpr.eqns:
        found = _equation(graph, equation, [read(atom) for atom in equation.invars])
        values |= dict(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _equation(graph: Graph, equation: Any, operands: list[Value]) -> list[Value]:
    name, params = equation.primitive.name, equation.params
    if name == "platform_index":
        return [constant(np.int32(_branch(params["platforms"])))]
    if name == "cond" and operands[0].number is not None:
        return walk(graph, *_opened(params["branches"][int(operands[0].number)]), operands[1:])
    if name == "cond":
        return _every_branch(graph, params["branches"], *operands)
    if name in CALLS:
        return walk(graph, *_opened(params[CALLS[name]]), operands)
    if name == "scan" and params["length"] <= MOST_TURNS:
        return _scan(graph, equation, operands)
    lazy = name in ("broadcast_in_dim", "reshape")  # a constant stays as small as it was
    if all(x.known is not None for x in operands) and not lazy:
        whole = [jnp.asarray(graph.full(x).known) for x in operands]
        found = equation.primitive.bind(*whole, **params)
        return [constant(x) for x in (found if equation.primitive.multiple_results else [found])]
    if name not in RULES:
        raise InputError(
            f"a graph for other run times can not have JAX's {name!r}: give jaxad.runtimes."
            "primitives a rule for it, or keep to the run time xla"
        )
    return RULES[name](graph, params, *operands)


def _opened(inner: Any) -> tuple[Any, Sequence[Any]]:
    """A trace within another and its constants, which not all of JAX's versions keep together."""
    return getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())


def _branch(platforms: Sequence[Sequence[str] | None]) -> int:
    """Which branch of `lax.platform_dependent` is ours."""
    own = [i for i, names in enumerate(platforms) if names is not None and PLATFORM in names]
    return own[0] if own else platforms.index(None)


def _every_branch(
    graph: Graph, branches: Sequence[Any], which: Value, *operands: Value
) -> list[Value]:
    """What the graph alone knows to choose: all branches are computed, and one result taken."""
    results = [walk(graph, *_opened(own), operands) for own in branches]
    found = []
    for column in zip(*results):
        if all(x.known is not None for x in column):
            every = constant(np.stack([np.asarray(graph.full(x).known) for x in column]))
        else:
            (every,) = stack(graph, {"axis": 0}, *column)
        starts = (which, *(constant(np.int32(0)) for _ in every.shape[1:]))
        (own,) = RULES["dynamic_slice"](
            graph, {"slice_sizes": (1, *every.shape[1:])}, every, *starts
        )
        found.append(graph.reshape(own, every.shape[1:]))
    return found


def _scan(graph: Graph, equation: Any, operands: list[Value]) -> list[Value]:
    """A loop, as its turns one after the other."""
    params, (jaxpr, body_consts) = equation.params, _opened(equation.params["jaxpr"])
    # What goes through row by row has an axis more outside; JAX's versions name the rest otherwise.
    pairs = zip(equation.outvars, jaxpr.outvars, strict=True)
    n_carry = sum(out.aval.ndim == own.aval.ndim for out, own in pairs)
    pairs = zip(operands, jaxpr.invars, strict=True)
    n_consts = sum(len(x.shape) == own.aval.ndim for x, own in pairs) - n_carry
    consts, carry = operands[:n_consts], operands[n_consts : n_consts + n_carry]
    arrays, length = operands[n_consts + n_carry :], params["length"]
    turns = []
    for turn in reversed(range(length)) if params["reverse"] else range(length):
        own = [_row(graph, x, turn) for x in arrays]
        found = walk(graph, jaxpr, body_consts, [*consts, *carry, *own])
        carry = found[:n_carry]
        turns.append(found[n_carry:])
    if params["reverse"]:
        turns.reverse()
    return [*carry, *(stack(graph, {"axis": 0}, *column)[0] for column in zip(*turns))]


def _row(graph: Graph, x: Value, turn: int) -> Value:
    if x.known is not None:
        return constant(np.broadcast_to(x.known, x.shape)[turn])
    limits = {"start_indices": (turn, *(0 for _ in x.shape[1:])), "strides": None}
    row = RULES["slice"](graph, {**limits, "limit_indices": (turn + 1, *x.shape[1:])}, x)[0]
    return graph.reshape(row, x.shape[1:])


def model(graph: Graph, images: Value, outputs: dict[str, Value]) -> Any:
    """The graph as ONNX has it.

    Raises:
        InputError: `onnx` is not installed.
    """
    onnx = needed("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper

    def told(name: str, value: Value) -> Any:
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        return helper.make_tensor_value_info(name, kind, [int(n) for n in value.shape])

    def attribute(value: Any) -> Any:
        return helper.np_dtype_to_tensor_dtype(value) if isinstance(value, np.dtype) else value

    nodes = [
        helper.make_node(kind, inputs, names, **{key: attribute(v) for key, v in given.items()})
        for kind, inputs, names, given in graph.nodes
    ]
    made = helper.make_graph(
        nodes,
        "detector",
        [told(INPUT, images)],
        [told(name, value) for name, value in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
    )
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(
        made, opset_imports=[opset], ir_version=IR_VERSION, producer_name="jaxad"
    )
