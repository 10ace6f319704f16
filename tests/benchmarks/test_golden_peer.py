"""Ours compute what the PyTorch peers computed, with PyTorch nowhere near.

`python -m benchmarks.golden_peer` stored it.
"""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from benchmarks.detectors import build, trained_like
from benchmarks.golden_peer import SUBJECTS, images, our_steps, scores, small

QUICK = {"xla_backend_optimization_level": 0}
"""Programs that run once: to compile them well would take longer than they do."""
FILE = Path(__file__).parents[1] / "golden" / "peer.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(FILE) as stored:
        return dict(stored)


def part(golden: dict[str, np.ndarray], start: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(start): x for key, x in golden.items() if key.startswith(start)}


SCORED = ("mb_pfm_fast", "pfm", "simplenet", "afrad", "afrad_fast")
"""`mb_pfm` scores as these two of its kind do; what it trains is compared below."""


@pytest.mark.parametrize("name", SCORED)
def test_detectors_score_as_the_peers_did(name: str, golden: dict[str, np.ndarray]) -> None:
    detector, variables = build(small(name))
    statistics = unflatten_dict(part(golden, f"{name}/batch_stats/"), sep="/")
    variables = trained_like(detector, variables, seed=0, statistics=statistics)
    found = jax.device_get(jax.jit(detector.score, compiler_options=QUICK)(variables, images()))
    scale = float(np.abs(found.map).max())
    assert float(np.ptp(found.map)) > 1e-3 * scale  # not one value all over
    for peer in (name, f"{name}_rewritten"):
        if peer in SUBJECTS:
            for key, value in scores(found.map, found.image).items():
                stored = golden[f"{peer}/{key}"]
                np.testing.assert_allclose(value, stored, rtol=0, atol=1e-5 * scale)


def test_training_is_as_the_peer_trained(golden: dict[str, np.ndarray]) -> None:
    found = our_steps(*build(small("mb_pfm", size=(64, 64))), options=QUICK)
    for key, value in found.items():
        np.testing.assert_allclose(value, golden[f"training/{key}"], rtol=1e-3)
    assert found["loss"][-1] < found["loss"][0]


def test_all_is_compared(golden: dict[str, np.ndarray]) -> None:
    expected = {f"{name}/{key}" for name in SUBJECTS for key in ("map", "image")}
    found = {key for key in golden if "/batch_stats/" not in key}
    assert found == expected | {"training/loss", "training/var"}
    assert FILE.stat().st_size < 200_000
