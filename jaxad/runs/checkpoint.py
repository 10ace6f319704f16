"""End states on disk, by orbax: one folder a detector, strict when read back."""

from __future__ import annotations

import shutil
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from jaxad.core import InputError, Variables


def save(path: Path, variables: Variables) -> None:
    """Write `variables` to the folder `path`, replacing what stood there only once it is whole."""
    path = path.absolute()
    new, old = path.with_name(path.name + ".new"), path.with_name(path.name + ".old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(new, variables)
        checkpointer.wait_until_finished()
    if path.exists():
        path.replace(old)
    new.replace(path)
    shutil.rmtree(old, ignore_errors=True)


def restore(path: Path, template: Variables) -> Variables:
    """Read variables of exactly the template's names and shapes.

    Args:
        path: Folder that `save` wrote.
        template: Tree of arrays or `jax.ShapeDtypeStruct`.

    Raises:
        InputError: No checkpoint there, a damaged one, or one of other names or shapes.
    """
    path = path.absolute()
    if not path.is_dir():
        raise InputError(f"no checkpoint at {path}: train first, or name another --workdir")
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), template
    )
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            restored: Variables = checkpointer.restore(path, abstract)
    # Orbax raises many kinds for damage (ValueError, KeyError, OSError, its storage's own).
    except Exception as error:
        line = str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)
        raise InputError(
            f"checkpoint {path} is damaged or of another model ({line}): train again"
        ) from error
    return restored
