"""End states on disk, by orbax: one folder a detector, with checksums, strict when read back."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxad.core import InputError, Variables
from jaxad.files import confined, make_folder, read_json, write_json
from jaxad.runs import record

SUMS = record.NAME
"""In a checkpoint's folder: names, shapes and dtypes of its arrays, and every file's SHA-256."""
FORMAT = 2


def save(path: Path, variables: Variables) -> None:
    """Write `variables` to the folder `path`, replacing what stood there only once it is whole.

    Raises:
        InputError: It can not be written (a full disk, say).
    """
    path = path.absolute()
    make_folder(path.parent)
    new, old = (path.with_name(f".{path.name}.{uuid.uuid4().hex}.{end}") for end in ("new", "old"))
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(new, variables)
            checkpointer.wait_until_finished()
        write_json(
            new / SUMS, {"format": FORMAT, "arrays": _arrays(variables), "wrote": _sums(new)}
        )
        if path.exists():
            path.replace(old)
        new.replace(path)
    except InputError:
        raise
    # Orbax raises many kinds where it can not write (OSError, ValueError, its storage's own).
    except Exception as error:
        raise InputError(
            f"checkpoint {path} can not be written ({_line(error)}): make room, or choose another "
            "--workdir"
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
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
    mend = "bring back an undamaged copy, or train again"
    # Orbax is only asked once all is known to be right: what it says of damage is long and comes
    # from several threads.
    kept = read_json(path / SUMS, "the checkpoint's list", mend)
    if not isinstance(kept, dict) or kept.get("format") != FORMAT:
        raise InputError(f"checkpoint {path} is damaged or of another jaxad: {mend}")
    if kept.get("wrote") != _sums(path):
        raise InputError(f"checkpoint {path} is damaged (a checksum differs): {mend}")
    if kept.get("arrays") != _arrays(template):
        raise InputError(f"checkpoint {path} is of another model: {mend}")
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), template
    )
    logger = logging.getLogger("absl")
    level = logger.level
    try:
        logger.setLevel(logging.CRITICAL)
        with ocp.StandardCheckpointer() as checkpointer:
            restored: Variables = checkpointer.restore(path, abstract)
    # Sums can be forged, and then anything may come.
    except Exception as error:
        raise InputError(f"checkpoint {path} is damaged ({_line(error)}): {mend}") from error
    finally:
        logger.setLevel(level)
    return restored


def _line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def _arrays(tree: Any) -> dict[str, list[Any]]:
    """Name -> shape and dtype, JSON-able."""
    return {
        jax.tree_util.keystr(path): [list(leaf.shape), str(leaf.dtype)]
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _sums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but the list of them.

    Raises:
        InputError: A link leads out of the folder.
    """
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            relative = (Path(place) / name).relative_to(folder).as_posix()
            if relative != SUMS:
                with confined(folder, relative).open("rb") as file:
                    found[relative] = hashlib.file_digest(file, "sha256").hexdigest()
    return dict(sorted(found.items()))
