"""Reader of Keras' HDF5 files (`.h5`, `.weights.h5`) by way of h5py, which is optional.

h5py runs libhdf5, a C library that was not written for files of strangers: one wrong byte in a
string can make it loop for ever, and memory errors are found in it every year. So it never runs in
this process. `ports/hdf5_worker.py` reads the file in a process of its own, with bounded time and
memory and no way to open another file, and hands back safetensors; whatever happens to it becomes
one refusal. That keeps damaged files from doing harm. It is no sandbox: a file that is made to take
libhdf5 over would run as you, so bring `.h5` files from people you trust, and safetensors else.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from ports.source import DAMAGED, Refusal, budget

HDF5_START = b"\x89HDF\r\n\x1a\n"
KERAS_MEMBER = "model.weights.h5"
"""Where a `.keras` archive has its arrays."""
_WORKER = Path(__file__).with_name("hdf5_worker.py")
_REFUSED = 3  # of hdf5_worker, which is not imported: h5py may be missing
_START_SECONDS = 60  # to start Python on a machine that is busy; reading is bounded by the worker


def to_safetensors(data: bytes | memoryview) -> bytes:
    """Turn the bytes of a Keras HDF5 file into those of a safetensors file.

    Args:
        data: The whole file.

    Returns:
        Every floating-point array of the layers as "LAYER.LEAF", e.g. `stem_conv.kernel`, with the
        layer's own name and without TensorFlow's ":0"; kernels HWIO, depthwise ones HWC1.

    Raises:
        Refusal: h5py is not installed, or the file is damaged, not of Keras, over a bound, or more
            than arrays of numbers in one file.
    """
    if importlib.util.find_spec("h5py") is None:
        raise Refusal("it is an HDF5 file, which needs h5py to be read; pip install h5py")
    size = len(data)
    seconds = 1 + size // 25_000_000
    try:
        done = subprocess.run(
            # -P: the folder of the worker holds modules of other names than ours, too.
            [sys.executable, "-P", str(_WORKER), str(size), str(budget(size)), str(seconds)],
            input=data,
            capture_output=True,
            timeout=_START_SECONDS + 10 * seconds,
            # HDF5 loads no plugins then; numpy reserves no memory for threads.
            env={**os.environ, "HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired:
        raise Refusal("reading it takes far too long; " + DAMAGED) from None
    said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:400]
    if done.returncode == _REFUSED:
        raise Refusal(said)
    if done.returncode < 0:  # a signal: out of time, or a fault of libhdf5
        raise Refusal("reading it takes far too long or crashes; " + DAMAGED)
    if done.returncode:
        raise Refusal(f"h5py does not work here ({said}); pip install --force-reinstall h5py")
    return done.stdout
