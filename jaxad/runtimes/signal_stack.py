"""Compiling by OpenVINO, which replaces and frees the calling thread's stack for signals.

OpenVINO's CPU plugin gives the thread that compiles a model another `sigaltstack`, and gives back
the one before when the model goes. Of two models that go in their order, the second gives back the
first's, which is unmapped by then: the next signal (Python's handlers use that stack) ends the
process with SIGSEGV. Seen with OpenVINO 2026.4: `jaxad evaluate` of two categories, then Ctrl-C.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any


class Stack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> Stack | None:
    """What this thread handles signals on; None where there is no such call."""
    if sys.platform != "linux":
        return None
    found = Stack()
    done = ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found))
    return found if done == 0 else None


def compiled_for_cpu(core: Any, model: Any, options: dict[str, str]) -> Any:
    """`core.compile_model` for the CPU, the thread's stack for signals put back.

    OpenVINO then leaves it alone when the model goes, too.
    """
    before = signal_stack()
    try:
        return core.compile_model(model, "CPU", options)
    finally:
        if before is not None:
            ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)
