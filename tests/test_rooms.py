"""Imports point one way: no circles among modules, and rooms stand on those below them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("jaxad", "ports", "benchmarks")

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "memory"),
    (
        "compiling",
        "conformal",
        "core",
        "drift",
        "files",
        "flags",
        "held",
        "keys",
        "metrics",
        "normal",
        "progress",
    ),
    ("calibration", "data", "export", "ops", "parallel"),
    ("backbones", "methods", "report"),
    ("detector", "runtimes"),
    ("own_keys", "recipes", "scorer"),
    ("config", "training"),
    ("runs",),
    ("serve",),
    ("main",),
    ("__main__",),
)
"""The rooms of `jaxad`: a room imports from those on lower floors only. `jaxad/__init__.py` imports
nothing before it is asked to. docs/architecture.md says what each is for."""

ALONE = {
    "data": {"jax", "flax", "optax"},
    "metrics": {"jax", "flax", "optax"},
    "report": {"jax", "flax", "optax"},
    "core": {"grain", "tensorflow_datasets", "orbax", "PIL", "ml_collections", "sklearn"},
    "ops": {"grain", "tensorflow_datasets", "orbax", "PIL", "ml_collections", "sklearn"},
    "methods": {"grain", "tensorflow_datasets", "orbax", "PIL", "ml_collections", "sklearn"},
    "detector": {"grain", "tensorflow_datasets", "orbax", "PIL", "ml_collections", "sklearn"},
    "runtimes": {"onnx", "onnxruntime", "openvino", "nncf", "grain", "orbax"},
    "scorer": {"grain", "tensorflow_datasets", "orbax", "PIL", "ml_collections", "sklearn"},
    "training": {"ml_collections"},
    "export": {"flax", "optax", "safetensors", "flatbuffers", "scipy", "grain", "PIL", "orbax"},
}
"""What a room does without: pure functions where file formats are missing, photos without JAX."""

WHOLE_CONFIGURATION = ("recipes", "runs", "config", "main")
"""Rooms whose functions may take a whole configuration."""


def modules(package: str) -> dict[str, Path]:
    """Dotted name -> file."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, *, lazy: bool) -> Iterator[str]:
    """Names that a module imports, `a.b` and `a.b.name`; with `lazy`, within functions too."""
    tree = ast.parse(path.read_text())
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    inside = {
        inner for node in ast.walk(tree) if isinstance(node, functions) for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in typing_only or (not lazy and node in inside):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def graph() -> dict[str, set[str]]:
    every = {name: path for package in PACKAGES for name, path in modules(package).items()}
    found: dict[str, set[str]] = {}
    for name, path in every.items():
        wanted = set(imports(path, lazy=True))
        # `from a.b import c` is an import of module a.b.c where there is one, of a.b otherwise.
        named = {other for other in wanted if other in every}
        deeper = {other.rpartition(".")[0] for other in named}
        found[name] = {
            n for n in named if n != name and not (n in deeper and _is_package(every[n]))
        }
    return found


def _is_package(path: Path) -> bool:
    return path.name == "__init__.py"


def room(module: str) -> str:
    """`jaxad.data.layouts.visa` -> data."""
    return module.split(".")[1]


def test_no_module_imports_itself_by_way_of_others() -> None:
    edges, done, open_ = graph(), set[str](), list[str]()

    def visit(name: str) -> None:
        assert name not in open_, " -> ".join([*open_[open_.index(name) :], name])
        if name in done:
            return
        open_.append(name)
        for other in sorted(edges[name]):
            visit(other)
        open_.pop()
        done.add(name)

    for name in edges:
        visit(name)
    assert len(done) > 100


def test_rooms_stand_on_those_below() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    there = {room(name) for name in modules("jaxad") if "." in name}
    assert there == set(floor)
    for name, others in graph().items():
        if not name.startswith("jaxad."):
            continue
        for other in others:
            if other == "jaxad":  # its version
                continue
            assert other.startswith("jaxad."), f"{name} imports {other}"
            here, below = room(name), room(other)
            assert here == below or floor[below] < floor[here], f"{name} imports {other}"


@pytest.mark.parametrize("where", sorted(ALONE))
def test_rooms_do_without_what_is_not_theirs(where: str) -> None:
    for name, path in modules("jaxad").items():
        if "." in name and room(name) == where:
            roots = {wanted.partition(".")[0] for wanted in imports(path, lazy=False)}
            assert not roots & ALONE[where], name


def test_below_recipes_and_runs_no_function_takes_the_whole_configuration() -> None:
    for name, path in modules("jaxad").items():
        if "." not in name or room(name) in WHOLE_CONFIGURATION:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                every = [*node.args.args, *node.args.kwonlyargs]
                assert "config" not in {a.arg for a in every}, f"{name}.{node.name}"
