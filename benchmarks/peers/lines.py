"""A process that answers requests, one JSON line each: by the standard library alone."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any


def serve(handlers: Mapping[str, Callable[..., Any]]) -> None:
    """Answer lines of standard input until it ends.

    A request is an object of "do", the name of a handler, and its arguments. Whatever libraries
    print goes to standard error, so that standard output has answers alone.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        found = handlers[request.pop("do")](**request)
        print(json.dumps(found), file=answers, flush=True)
