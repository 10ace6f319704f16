"""Recipes that are not jaxad's: found, looked at and named before any of their code runs.

A work directory of a stranger may name any module that can be imported here. Importing runs it. So
only a module whose own text has a `RECIPE` is imported, and standard error says which file it is.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import re
import sys
import tokenize
from types import ModuleType

from jaxad.errors import InputError

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_HAS_RECIPE = re.compile(r"\bRECIPE\b")


@functools.cache
def import_recipe(name: str) -> ModuleType:
    """Import the module `package.module` that a configuration names as its method.

    Raises:
        InputError: There is no such module, it has no `RECIPE`, or it does not import.
    """
    if len(name) > 200 or not _NAME.fullmatch(name):
        raise InputError(f"method.name is {name[:200]!r}, which is no package.module")
    path = _file(name)
    try:
        with tokenize.open(path) as file:
            text = file.read()
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise InputError(f"method.name is {name!r}: {path} can not be read ({error})") from error
    if not _HAS_RECIPE.search(text):
        raise InputError(
            f"method.name is {name!r}: {path} has no RECIPE, a jaxad.recipes.recipe.Recipe"
        )
    print(f"recipe {name} is taken from {InputError(path)}", file=sys.stderr)
    try:
        return importlib.import_module(name)
    # A module of the user's is a program: whatever it raises is theirs to read, in one line.
    except Exception as error:
        raise InputError(
            f"method.name is {name!r}, and {path} does not import: {type(error).__name__}: {error}"
        ) from error


def _file(name: str) -> str:
    """The source file of a module, found without running the packages above it.

    Raises:
        InputError: There is none.
    """
    if name in sys.modules and getattr(sys.modules[name], "__file__", None):
        return str(sys.modules[name].__file__)
    path: list[str] | None = None
    spec: importlib.machinery.ModuleSpec | None = None
    done = []
    for part in name.split("."):
        done.append(part)
        found = (finder.find_spec(".".join(done), path) for finder in sys.meta_path)
        spec = next((one for one in found if one is not None), None)
        if spec is None:
            break
        path = list(spec.submodule_search_locations or ())
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise InputError(
            f"method.name is {name!r}, and there is no such Python module: install it, or set "
            "PYTHONPATH to the folder above it"
        )
    return spec.origin
