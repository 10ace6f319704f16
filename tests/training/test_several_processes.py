"""Two processes with two devices each take the very steps of one with four."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from test_same_everywhere import METHODS, three_steps

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    """What each of the two has at the end."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        port = str(some.getsockname()[1])
    path = os.pathsep.join([*map(str, (ROOT, HERE, HERE.parent)), os.environ.get("PYTHONPATH", "")])
    both = [
        subprocess.Popen(
            [sys.executable, str(HERE / "several_steps.py"), str(out), str(index), port],
            env={**os.environ, "PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, out in enumerate((folder / "0.npz", folder / "1.npz"))
    ]
    said = [ran.communicate()[1] for ran in both]
    assert [ran.returncode for ran in both] == [0, 0], said
    return [dict(np.load(folder / f"{index}.npz")) for index in (0, 1)]


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_take_the_steps_of_one(name: str, ends: list[dict[str, np.ndarray]]) -> None:
    # In float64, as `test_same_everywhere`, which says why.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        state, _ = three_steps(name, 1, "jit", 4)
    leaves = jax.tree.leaves(state)
    assert len(leaves) == sum(key.startswith(f"{name}-") for key in ends[0]) > 3
    for number, leaf in enumerate(leaves):
        for end in ends:
            found = end[f"{name}-{number}"]
            assert found.dtype == leaf.dtype
            np.testing.assert_allclose(found, leaf, rtol=1e-5, atol=1e-5)
