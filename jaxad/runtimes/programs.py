"""A detector's scores by another run time, given out while they are still computed."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxad.core import Routed, Scores
from jaxad.errors import InputError
from jaxad.runtimes import engines
from jaxad.runtimes.convert import convert


class Later:
    """An array that is still computed: waited for where it is read.

    `numpy.asarray`, `jax.device_get`, indexing and every attribute of a NumPy array wait.
    """

    def __init__(self, parts: Sequence[Future[Any]], which: int) -> None:
        """One part of what each of several calls returns, one after the other."""
        self._parts, self._which = parts, which

    @functools.cached_property
    def _array(self) -> np.ndarray[Any, Any]:
        return np.concatenate([part.result()[self._which] for part in self._parts])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array(self._array, dtype, copy=copy)

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, item: Any) -> Any:
        return self._array[item]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._array, name)

    def block_until_ready(self) -> Later:
        """Wait, as for an array of JAX."""
        self._array  # noqa: B018
        return self


def program(
    score: Callable[[Any], Scores | Routed],
    *,
    runtime: str,
    batch_size: int,
    size: tuple[int, int],
    dtype: str = "float32",
    photos: Any = None,
) -> Callable[[Any], Scores | Routed]:
    """Compile `score((1, H, W, 3) uint8)` for other run times, and for up to `batch_size` photos.

    Args:
        score: Of images alone; weights that it holds become constants.
        runtime: "openvino" or "onnxruntime".
        batch_size: Photos of a call at most.
        size: (H, W).
        dtype: See `engines.openvino`.
        photos: Likewise.

    Returns:
        A function of `(k, H, W, 3)` uint8 on the host or on a device, which does not wait: its
        scores are of type `Later`.

    Raises:
        InputError: A package is missing, or the run time can not do this.
    """
    known = engines.DTYPES[runtime]
    if dtype not in known:
        raise InputError(f"run time {runtime} computes in {' or '.join(known)}, not in {dtype!r}")
    model = convert(score, batch_size=1, size=size).SerializeToString()
    if runtime == "openvino":
        engine = engines.openvino(model, requests=batch_size, dtype=dtype, photos=photos)
    else:
        engine = engines.onnxruntime(model, requests=batch_size, dtype=dtype)
    pool = ThreadPoolExecutor(engine.requests, thread_name_prefix=runtime)
    own = threading.local()

    def one(images: Any) -> Any:
        if not hasattr(own, "request"):
            own.request = engine.request()
        return own.request(images)

    # What is made at the first call is made now.
    outputs = len(one(np.zeros((1, *size, 3), np.uint8)))
    form: Any = Scores if outputs == len(Scores._fields) else Routed

    def run(images: Any) -> Any:
        host = np.ascontiguousarray(images)
        parts = [pool.submit(one, host[i : i + 1]) for i in range(len(host))]
        return form(*(Later(parts, which) for which in range(outputs)))

    return run
