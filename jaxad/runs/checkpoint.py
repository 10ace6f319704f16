"""End states on disk, by orbax: one folder a detector, with checksums, strict when read back."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import secrets
import shutil
import stat
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxad.core import InputError, Variables
from jaxad.errors import first_line
from jaxad.files import make_folder, read_json, write_json
from jaxad.memory import free_memory
from jaxad.runs import record

SUMS = record.NAME
"""In a checkpoint's folder: names, shapes and dtypes of its arrays, and every file's SHA-256."""
ABOUT = "about.json"
"""In a checkpoint's folder: what else was to be kept with the arrays."""
FORMAT = 3
_MEND = "bring back an undamaged copy, or train again"


def save(path: Path, variables: Variables, about: Mapping[str, Any] | None = None) -> None:
    """Write `variables` to the folder `path`, replacing what stood there only once it is whole.

    Until then all lies in a folder beside it, whose name begins with `record.UNFINISHED`.

    Args:
        path: The folder.
        variables: Tree of arrays.
        about: JSON-able, read back by `about`.

    Raises:
        InputError: It can not be written (a full disk, say); what stood there is as it was.
    """
    path = path.absolute()
    record.check_ours(path)
    beside = make_folder(path.parent / f"{record.UNFINISHED}{secrets.token_hex(8)}")
    new, old = beside / "new", beside / "old"
    failed = True
    try:
        with _silence(), _checkpointer() as checkpointer:
            checkpointer.save(new, jax.tree.map(np.asarray, variables))
            checkpointer.wait_until_finished()
        seal(new, about or {}, arrays_of(variables))
        if path.exists():
            path.replace(old)
        try:
            new.replace(path)
        except OSError:
            if old.exists():
                old.replace(path)
            raise
        failed = False
    except InputError:
        raise
    # Orbax raises many kinds where it can not write (OSError, ValueError, its storage's own).
    except Exception as error:
        raise InputError(
            f"checkpoint {path} can not be written ({_line(error)}): make room, or choose another "
            "--workdir"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if failed:
            _remove_again(beside)


def _remove_again(folder: Path) -> None:
    """Delete what orbax's threads still write: one of them fails, and others go on."""
    quiet = 0
    for _ in range(100):  # five seconds; the next run sweeps what is there even then
        time.sleep(0.05)
        quiet = 0 if folder.exists() else quiet + 1
        if quiet == 2:
            return
        shutil.rmtree(folder, ignore_errors=True)


def seal(folder: Path, about: Mapping[str, Any], arrays: Mapping[str, Any] | None = None) -> None:
    """Add to a folder what is known of its files, and the list of their checksums.

    Raises:
        InputError: It can not be written.
    """
    write_json(folder / ABOUT, about)
    listed = {"format": FORMAT, "arrays": arrays or {}, "wrote": _sums(folder)}
    write_json(folder / SUMS, listed)


def restore(path: Path, template: Variables, *, grows: Collection[str] = ()) -> Variables:
    """Read variables of exactly the template's names and shapes.

    Args:
        path: Folder that `save` wrote.
        template: Tree of arrays or `jax.ShapeDtypeStruct`.
        grows: Collections whose arrays may have any number of rows, see `jaxad.core.Method`.

    Raises:
        InputError: No checkpoint there, a damaged one, one of other names or shapes, or one that
            the memory has no room for.
    """
    path = path.absolute()
    if not path.is_dir():
        raise InputError(f"no checkpoint at {path}: train first, or name another --workdir")
    # Orbax is only asked once all is known to be right: what it says of damage is long and comes
    # from several threads.
    listed = check_files(path)
    template = grown(template, listed, grows)
    if listed != arrays_of(template):
        raise InputError(f"checkpoint {path} is of another model, or damaged: {_MEND}")
    if grows:  # a list may name any length
        need = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(template))
        free = free_memory()
        if need > free:
            raise InputError(
                f"checkpoint {path} has arrays of {need / 1e9:.2f} GB, and {free / 1e9:.2f} GB of "
                "memory are free: read it where there is more"
            )
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), template
    )
    try:
        with _silence(), _checkpointer() as checkpointer:
            if grows:  # a list of other rows would have orbax's threads speak
                stored = checkpointer.metadata(path).item_metadata.tree
                if jax.tree.map(_shape, stored) != jax.tree.map(_shape, template):
                    raise ValueError("its list has other rows")
            restored: Variables = checkpointer.restore(path, abstract)
    # Sums can be forged, and then anything may come.
    except Exception as error:
        raise InputError(f"checkpoint {path} is damaged ({_line(error)}): {_MEND}") from error
    return restored


def grown(template: Variables, listed: Any, grows: Collection[str]) -> Variables:
    """The template with the numbers of rows that a list of `arrays_of` has for what `grows`.

    What is not as it should be in a list stays as in the template, so that these differ.
    """

    def own(path: Any, leaf: Any) -> Any:
        if path[0].key not in grows or not leaf.shape:
            return leaf
        match listed.get(jax.tree_util.keystr(path)) if isinstance(listed, dict) else None:
            case [[int(rows), *_], _] if 0 < rows < 1 << 40:
                return jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype)
        return leaf

    tree: Variables = jax.tree_util.tree_map_with_path(own, template)
    return tree


def _checkpointer() -> ocp.StandardCheckpointer:
    """Orbax for this process alone: others neither write nor wait."""
    if jax.process_count() == 1:
        return ocp.StandardCheckpointer()
    own = jax.process_index()
    return ocp.StandardCheckpointer(
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"jaxad{own}"
        )
    )


@contextmanager
def _silence() -> Iterator[None]:
    """Have orbax log nothing: what it raises says the same in one line, without its tracebacks."""
    logger = logging.getLogger("absl")
    level = logger.level
    try:
        logger.setLevel(logging.CRITICAL)
        yield
    finally:
        logger.setLevel(level)


def check_files(path: Path) -> Any:
    """Compare the files of a checkpoint's folder with its list; return the list's `arrays`.

    Raises:
        InputError: One is missing, of another content, or not in it; or the list is damaged.
    """
    kept = read_json(path / SUMS, "the checkpoint's list", _MEND)
    if not isinstance(kept, dict) or kept.get("format") != FORMAT:
        told = kept.get("format") if isinstance(kept, dict) else None
        raise InputError(
            f"checkpoint {path} is damaged, or of another jaxad (format {told!r}, this one reads "
            f"{FORMAT}): {_MEND}"
        )
    wrote, found = kept.get("wrote"), _sums(path)
    if wrote != found:
        listed = wrote if isinstance(wrote, dict) else {}
        wrong = sorted(n for n in {*listed, *found} if listed.get(n) != found.get(n))
        told = f"the checksum of {wrong[0]} differs" if wrong else "it has no list of files"
        raise InputError(f"checkpoint {path} is damaged ({told}): {_MEND}")
    return kept.get("arrays")


def about(path: Path) -> dict[str, Any]:
    """What `save` was told of the arrays; `restore` says whether it is undamaged.

    Raises:
        InputError: There is nothing that can be read.
    """
    found = read_json(path / ABOUT, "what is known of a checkpoint", _MEND)
    if not isinstance(found, dict):
        raise InputError(f"{path / ABOUT} is damaged: {_MEND}")
    return found


def _line(error: Exception) -> str:
    full = os.strerror(errno.ENOSPC)  # orbax says so at the end of a long line
    return full if full in str(error) else first_line(error, 200)


def _shape(leaf: Any) -> list[int]:
    return list(leaf.shape)


def arrays_of(tree: Any) -> dict[str, list[Any]]:
    """Name -> shape and dtype, JSON-able."""
    return {
        jax.tree_util.keystr(path): [list(leaf.shape), str(leaf.dtype)]
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _sums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but the list of them.

    Raises:
        InputError: Something is no file, or can not be read.
    """
    found = {}
    for place, folders, names in os.walk(folder):
        for path in (Path(place) / name for name in (*folders, *names)):
            relative = path.relative_to(folder).as_posix()
            try:
                mode = path.lstat().st_mode
                if stat.S_ISREG(mode) and relative != SUMS:
                    with path.open("rb") as file:
                        found[relative] = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise InputError(f"{path} can not be read ({error.strerror})") from error
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a link may lead anywhere
                raise InputError(f"{path} is no plain file: bring back an undamaged copy")
    return dict(sorted(found.items()))
