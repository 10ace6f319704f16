"""The half of the HDF5 reader that meets the file: a program of its own, run by `ports/hdf5.py`.

    python -P ports/hdf5_worker.py < model.h5 > model.safetensors

It takes the arrays of a Keras file and names them "LAYER.LEAF" (`stem_conv.kernel`). libhdf5, which
does the reading, is a large C library with a long record of memory errors on damaged files. So this
process lowers its own limits before it looks at a byte (no further file can be opened, bounded
memory and time), and whatever kills it is only an answer to its parent.

Two layouts:

- legacy `.h5` (Keras 1 and 2, and `model.save("x.h5")` of Keras 3): a group for each name in the
  attribute `layer_names`, in it the arrays that its attribute `weight_names` lists;
- Keras 3 (`.weights.h5`, also inside `.keras`): `.../CLASS_3/vars/0`, `1`, ..., in the order in
  which the layer made them; since Keras 3.6 `vars` has the layer's name as its attribute `name`.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

REFUSED = 3
"""Exit status where stderr says in one line why the file is not read."""
MAX_OBJECTS = 20_000
"""EfficientNet-B7 has 1,040 arrays in 1,634 groups."""
MAX_DEPTH = 24
MAX_RANK = 8
MAX_TEXT = 200
"""Characters of a name; the longest of Keras' own are around 60."""
MAX_NAME_BYTES = 2**22
"""Of all names in one attribute."""
DAMAGED = "the file is damaged; fetch it again"
MEND = "save it again in Keras with model.save('NAME.h5')"

_NAMES = {
    "kernel": ("kernel", "bias"),
    "norm": ("gamma", "beta", "moving_mean", "moving_variance"),
    "normalization": ("mean", "variance", "count"),
}
_LEAVES = {
    "conv2d": _NAMES["kernel"],
    "depthwise_conv2d": _NAMES["kernel"],
    "dense": _NAMES["kernel"],
    "batch_normalization": _NAMES["norm"],
    "normalization": _NAMES["normalization"],
}
"""Class of a layer, as Keras 3 writes it -> its arrays in the order of their creation."""
_KERAS_1 = {"W": "kernel", "b": "bias"}
"""Keras' VGG files are as Keras 1 wrote them: `block1_conv1_W_1:0`."""
_TAGS = {"f2": "F16", "f4": "F32", "f8": "F64"}


class Refused(Exception):  # noqa: N818 - a verdict on the file, not a fault of the program
    """Why the file is not read, and the mend: one line."""


def translate(image: bytes, out: BinaryIO, *, most: int) -> None:
    """Write the arrays of a Keras file as safetensors.

    Floating-point arrays are taken as they are (bfloat16 too); integers (counters and states of
    random generators) and the optimizer's arrays are left out.

    Args:
        image: The bytes of the HDF5 file.
        out: What to write to.
        most: Bytes that the arrays may take in all.

    Raises:
        Refused: No file of Keras, or more than hard links to plain arrays of numbers, or over a
            bound. libhdf5 and h5py raise anything else where the file is damaged.
    """
    file = h5py.File(h5py.h5f.open_file_image(image))
    root = _step(file, "model_weights") if "model_weights" in file else file
    legacy = any(name.startswith("layer_names") for name in root.attrs)
    header: dict[str, Any] = {}
    datasets: list[tuple[h5py.Dataset, np.dtype[Any]]] = []
    end = 0
    for name, dataset in _legacy(root) if legacy else _keras_3(file):
        tag, dtype = _type(dataset, name)
        if not tag:
            continue
        size = math.prod(dataset.shape) * dtype.itemsize
        if end + size > most:
            raise Refused("its arrays take many times the bytes of the file; " + DAMAGED)
        _check_storage(dataset, name, size=size, most=most)
        if name in header:
            raise Refused(f"it has two arrays {name!a}; save the part that is the backbone alone")
        offsets = [end, end + size]
        header[name] = {"dtype": tag, "shape": dataset.shape, "data_offsets": offsets}
        datasets.append((dataset, dtype))
        end += size
    if not header:
        raise Refused(f"it holds no layers of Keras; {MEND}")
    text = json.dumps(header).encode()
    out.write(len(text).to_bytes(8, "little") + text)
    for dataset, dtype in datasets:
        array = np.empty(dataset.shape, dtype)
        if array.size:
            dataset.read_direct(array)
        out.write(array.reshape(-1).view(np.uint8).data)


def _legacy(root: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield the arrays of every layer; those of a model that is a layer under its own layers."""
    count = 0
    for layer in _texts(root, "layer_names"):
        group = _step(root, *layer.split("/"))
        paths = [path.split("/") for path in _texts(group, "weight_names")]
        owners = {path[-2] for path in paths if len(path) > 1}
        for path in paths:
            count += 1
            if count > MAX_OBJECTS:
                raise Refused(f"it has more than {MAX_OBJECTS} arrays; no backbone has so many")
            dataset = _step(group, *path)
            if not isinstance(dataset, h5py.Dataset):
                raise Refused(DAMAGED)
            leaf = re.sub(r":\d+$", "", path[-1])
            if keras_1 := re.fullmatch(rf"{re.escape(layer)}_([Wb])(_\d+)?", leaf):
                leaf = _KERAS_1[keras_1[1]]
            owner = path[-2] if len(owners) > 1 and len(path) > 1 else layer
            yield f"{owner}.{leaf}", dataset


def _keras_3(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Walk all groups but the optimizer's and yield what lies in those that are called `vars`."""
    seen: set[tuple[int, int]] = set()
    stack: list[tuple[h5py.Group, tuple[str, ...]]] = [(file, ())]
    while stack:
        group, path = stack.pop()
        if len(path) > MAX_DEPTH:
            raise Refused("its groups are nested too deeply; " + DAMAGED)
        layer = ""
        keys = _keys(group)
        if path[-1:] == ("vars",):
            layer = next(iter(_texts(group, "name")), "") if "name" in group.attrs else ""
        for key in keys:
            if path == () and key == "optimizer":
                continue
            item = _step(group, key)
            about = h5py.h5o.get_info(item.id)
            if (about.fileno, about.addr) in seen:
                raise Refused("it links twice to one object; " + DAMAGED)
            seen.add((about.fileno, about.addr))
            if len(seen) > MAX_OBJECTS:
                raise Refused(f"it has more than {MAX_OBJECTS} objects; no backbone has so many")
            if isinstance(item, h5py.Group):
                stack.append((item, (*path, key)))
            elif isinstance(item, h5py.Dataset) and path[-1:] == ("vars",):
                if not layer:
                    raise Refused(
                        f"it was written by a Keras before 3.6, without the names of layers; {MEND}"
                    )
                kind = re.sub(r"_\d+$", "", path[-2]) if len(path) > 1 else ""
                leaves = _LEAVES.get(kind, ())
                known = key.isdecimal() and len(key) < 3 and int(key) < len(leaves)
                yield f"{layer}.{leaves[int(key)] if known else key}", item


def _keys(group: h5py.Group) -> list[str]:
    if len(group) > MAX_OBJECTS:
        raise Refused(f"it has more than {MAX_OBJECTS} objects; no backbone has so many")
    return [_name(key) for key in group]


def _name(text: str) -> str:
    if not (0 < len(text) <= MAX_TEXT and text.isprintable()):
        raise Refused(f"it has the name {text[:40]!a}, which is none of Keras'; {DAMAGED}")
    return text


def _step(group: Any, *path: str) -> Any:
    """Follow hard links only: the others lead anywhere, also to other files."""
    for key in path:
        if not isinstance(group, h5py.Group) or key in ("", ".", ".."):
            raise Refused(DAMAGED)
        link = group.get(key, getlink=True)
        if link is None:
            raise Refused(f"it has no {key[:100]!a}, which it promises; {DAMAGED}")
        if not isinstance(link, h5py.HardLink):
            raise Refused(f"{key[:100]!a} is a link elsewhere, which is not followed; {MEND}")
        group = group[key]
    return group


def _texts(group: h5py.Group, name: str) -> list[str]:
    """Read an attribute of names, which Keras cuts into `name0`, `name1`, ... where it is long."""
    pieces = [name] if name in group.attrs else []
    while name not in pieces and f"{name}{len(pieces)}" in group.attrs:
        pieces.append(f"{name}{len(pieces)}")
    texts: list[str] = []
    for piece in pieces:
        attribute = group.attrs.get_id(piece)
        count = math.prod(attribute.shape)
        if count == 0:
            continue
        if len(attribute.shape) > 1 or attribute.get_storage_size() > MAX_NAME_BYTES:
            raise Refused(DAMAGED)
        text = h5py.check_string_dtype(attribute.dtype)
        if text is None or count + len(texts) > MAX_OBJECTS:
            raise Refused(DAMAGED)
        found = group.attrs[piece]
        for item in [found] if not attribute.shape else list(found):
            texts.append(_name(item.decode() if isinstance(item, bytes) else item))
    return texts


def _type(dataset: h5py.Dataset, name: str) -> tuple[str, np.dtype[Any]]:
    """Return safetensors' word for the numbers, "" for those that are left out, and their dtype."""
    dtype = dataset.dtype
    if len(dataset.shape or ()) > MAX_RANK or dataset.shape is None:
        raise Refused(f"{name[:100]!a} has no shape of an array; {DAMAGED}")
    if dtype.kind in "iub":
        return "", dtype
    if dtype == np.dtype("V2") and _texts(dataset, "dtype") == ["bfloat16"]:
        return "BF16", dtype
    key = f"{dtype.kind}{dtype.itemsize}"
    if key not in _TAGS or dtype.subdtype or h5py.check_string_dtype(dtype):
        raise Refused(f"{name[:100]!a} has the type {str(dtype)[:40]!a}; save it as float32")
    return _TAGS[key], np.dtype(f"<{key}")


def _check_storage(dataset: h5py.Dataset, name: str, *, size: int, most: int) -> None:
    """Refuse data that are elsewhere, packed by anything but gzip, or not there."""
    how = dataset.id.get_create_plist()
    layout = how.get_layout()
    known = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED)
    if layout not in known or how.get_external_count():
        raise Refused(f"the numbers of {name[:100]!a} are in another file; {MEND}")
    filters = {how.get_filter(i)[0] for i in range(min(how.get_nfilters(), 32))}
    if filters - {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}:
        raise Refused(f"{name[:100]!a} is compressed with something other than gzip; {MEND}")
    if layout == h5py.h5d.CHUNKED:
        # A chunk is unpacked whole, so one that is larger than its array is no way to save room.
        if math.prod(how.get_chunk()) * dataset.dtype.itemsize > most:
            raise Refused(
                f"the chunks of {name[:100]!a} are larger than the file may be; {DAMAGED}"
            )
        parts = [-(-n // m) for n, m in zip(dataset.shape, how.get_chunk())]
        if dataset.id.get_num_chunks() != math.prod(parts):
            raise Refused(f"parts of {name[:100]!a} were never written; {DAMAGED}")
    elif dataset.id.get_storage_size() != size:
        raise Refused(f"the data of {name[:100]!a} have another length than its shape; {DAMAGED}")


def rehearse() -> None:
    """Read a small file of our own, so that h5py has imported all it needs before `limit`."""
    with h5py.File("rehearsal", "w", driver="core", backing_store=False) as file:
        file.attrs["layer_names"] = ["layer"]
        layer = file.create_group("layer")
        layer.attrs["weight_names"] = np.array([b"layer/kernel:0"])
        layer.create_dataset("layer/kernel:0", data=np.ones(9, np.float32), compression="gzip")
        file.flush()
        image = file.id.get_file_image()
    translate(image, io.BytesIO(), most=2**20)


def limit(memory: int, seconds: int) -> None:
    """Take from this process what reading needs not: other files, memory, time, a core dump."""
    try:
        import resource
    except ImportError:  # Windows: the parent still waits only so long
        return
    taken = 0
    with contextlib.suppress(OSError, ValueError):
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, taken + memory),
        (resource.RLIMIT_NOFILE, 3),
    ):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(what, (most, most))
    signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF then ends the process


def main(image_size: int, most: int, seconds: int) -> int:
    """Read stdin, write stdout; `image_size` is the number of bytes to come."""
    rehearse()
    limit(2**28 + 2 * image_size + most, seconds)  # the image, libhdf5's copy, one array
    image = sys.stdin.buffer.read(image_size + 1)
    try:
        if len(image) != image_size:
            raise Refused(DAMAGED)
        translate(image, sys.stdout.buffer, most=most)
    except Refused as verdict:
        print(verdict, file=sys.stderr)
        return REFUSED
    except Exception:  # h5py raises a dozen unrelated kinds on damaged files
        print(DAMAGED, file=sys.stderr)
        return REFUSED
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(*(int(number) for number in sys.argv[1:])))
