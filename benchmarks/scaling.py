"""Weak scaling of a training step over devices and processes, measured here, and a model on paper.

    python -m benchmarks.scaling --json FILE [--quick]      # 1, 2, 4 devices; 1, 2 processes
    python -m benchmarks.scaling --paper [--quick]          # 1, 8, 256 accelerators, as a table

Measured: every device has the same batch, each case in processes of its own. Virtual devices of a
CPU share its cores: there the ratio says what sharing, gradients' sums and processes cost, not what
more devices would bring.

On paper: operations of a step are XLA's count for its gradient, bytes are those of the parameters,
summed over devices in a ring; what accelerators and links do stands in `MACHINE`.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import machine, markdown
from jaxad.files import write_json

ROOT = Path(__file__).resolve().parents[1]
CASES = ((1, 1), (2, 1), (4, 1), (2, 2), (4, 2))
"""Devices, processes."""
SUBJECT = "simplenet"
EACH = 2
"""Photos a device."""


class Machine(NamedTuple):
    """What a step is reckoned with; round figures of an H100 node and its network."""

    flops: float = 2e14
    """A second and accelerator: 40 % of 495 TFLOP/s in TF32."""
    near: float = 3e11
    """Bytes a second and accelerator within a node."""
    far: float = 4e10
    """Between nodes."""
    node: int = 8
    call: float = 2e-4
    """Seconds that a step takes whatever is in it: launch, and the first word of a sum."""


MACHINE = Machine()
PAPER = {"mb_pfm": 8, "afrad": 16, "simplenet": 8, "adapted_moe": 8}
"""Subjects, and their published batch."""


def paper(name: str, *, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Operations and bytes of a detector's training step, and times for 1, 8, 256 accelerators.

    Args:
        name: In `detectors.SUBJECTS`.
        size: (H, W) instead of the published one.
    """
    import jax
    import jax.numpy as jnp

    from benchmarks.detectors import EXPERTS, configure
    from jaxad.recipes.build import build_backbones, models

    config = configure(name, image_size=size)
    backbones = build_backbones(config)
    detector, phases = models(config, backbones)(EXPERTS)
    shapes = detector.feature_shapes(backbones.variables, size=tuple(config.data.image_size))
    flops, trained = 0.0, 0
    for phase in phases:
        rows = EXPERTS  # one photo of each subclass: whole batches of a method that shares them
        found = {
            key: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), jnp.float32)
            for key, leaf in shapes.items()
            if key in phase.features
        }
        variables = jax.eval_shape(phase.method.init, jax.random.key(0), shapes)
        batch = {
            "element": jax.ShapeDtypeStruct((rows,), jnp.int32),
            "subclass": jax.ShapeDtypeStruct((rows,), jnp.int32),
        }

        def loss(params: Any, rest: Any, *given: Any, method: Any = phase.method) -> Any:
            return method.loss({"params": params, **rest}, *given)[0]

        rest = {key: tree for key, tree in variables.items() if key != "params"}
        lowered = (
            jax.jit(jax.grad(loss))
            .trace(variables["params"], rest, found, batch, jax.random.key(0))
            .lower(lowering_platforms=("cuda",))
        )
        flops += (lowered.cost_analysis() or {}).get("flops", 0.0) / rows
        trained += sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return {
        "name": name,
        "batch": PAPER[name],
        "gflop_per_image": round(flops / 1e9, 2),
        "gradient_megabytes": round(4 * trained / 1e6, 1),
        **times(flops, 4.0 * trained, PAPER[name]),
    }


def times(flops: float, gradient: float, batch: int, machine: Machine = MACHINE) -> dict[str, Any]:
    """Milliseconds of a step, and up to how many accelerators more of them pay.

    Args:
        flops: Of an image.
        gradient: Bytes.
        batch: Images a step: of every accelerator for weak scaling, of all together for strong.
        machine: What accelerators and links do.
    """

    def summed(n: int) -> float:
        speed = machine.near if n <= machine.node else machine.far
        return 2 * (n - 1) / n * gradient / speed

    def weak(n: int) -> float:
        return machine.call + batch * flops / machine.flops + summed(n)

    def strong(n: int) -> float:
        return machine.call + batch / n * flops / machine.flops + summed(n)

    pays = 1
    while 2 * pays <= batch and strong(2 * pays) < 0.8 * strong(pays):
        pays *= 2
    alone = weak(1)
    return {
        **{f"weak_{n}_ms": round(1e3 * weak(n), 2) for n in (1, 8, 256)},
        **{f"weak_{n}_efficiency": round(alone / weak(n), 3) for n in (8, 256)},
        "published_batch_pays_up_to": pays,
        "limit": "compute"
        if batch * flops / machine.flops > max(machine.call, summed(256))
        else ("sums of gradients" if summed(256) > machine.call else "calls"),
    }


def child(devices: int, processes: int, index: int, port: str, *, quick: bool) -> None:
    """Time steps in one of the processes; the first one prints them."""
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} "
        f"--xla_force_host_platform_device_count={devices // processes}"
    )
    from jaxad.runs.joining import join

    if processes > 1:
        join(f"127.0.0.1:{port}", processes, index)
    import jax
    import numpy as np

    from benchmarks.detectors import EXPERTS, configure
    from jaxad.parallel import data_parallel
    from jaxad.recipes.build import build_backbones, models
    from jaxad.training import phases as programs
    from jaxad.training.state import init_state

    config = configure(SUBJECT, image_size=(64, 64) if quick else (128, 128))
    backbones = build_backbones(config)
    detector, phases = models(config, backbones)(EXPERTS)
    phase, parallel = phases[0]._replace(positions=0), data_parallel("jit")
    shapes = detector.feature_shapes(backbones.variables, size=tuple(config.data.image_size))
    rng = np.random.default_rng(0)
    rows, own = EACH * devices, parallel.own(EACH * devices)
    batch: dict[str, Any] = {
        name: rng.normal(size=(rows, *shapes[name].shape[1:])).astype(np.float32)[own]
        for name in phase.features
    }
    batch["element"] = np.arange(rows, dtype=np.int32)[own]
    zeros: dict[str, Any] = {
        name: np.zeros(leaf.shape, np.float32) for name, leaf in shapes.items()
    }
    variables = phase.method.init(jax.random.key(0), zeros)
    state = parallel.replicate(init_state(variables, phase.method.optimizer(1000)))
    step = programs.cached_step(phase, 1000, groups=1, computing=programs.Computing(parallel))
    key, sent = parallel.replicate(jax.random.key(1)), parallel.shard(batch)
    seconds = []
    for _ in range(5 if quick else 15):
        start = time.perf_counter()
        state, metrics = step(state, {}, sent, key)
        jax.device_get(metrics["loss"])
        seconds.append(time.perf_counter() - start)
    if not index:
        print(json.dumps({"step_ms": 1e3 * statistics.median(seconds[2:])}))


def measure(devices: int, processes: int, *, quick: bool) -> float:
    """Milliseconds of a step.

    Raises:
        RuntimeError: A process failed.
    """
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        port = some.getsockname()[1]
    words = ["--child", str(devices), str(processes)]
    every = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.scaling", *words, str(index), str(port)]
            + (["--quick"] if quick else []),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NPROC": str(max(8, 2 * devices))},
        )
        for index in range(processes)
    ]
    said = [ran.communicate() for ran in every]
    if any(ran.returncode for ran in every):
        raise RuntimeError(f"{devices} devices, {processes} processes: {said[0][1][-500:]}")
    return float(json.loads(said[0][0].splitlines()[-1])["step_ms"])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, or reckon; print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--paper", action="store_true", help="the model, instead of measuring")
    parser.add_argument("--quick", action="store_true", help="small and few")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        devices, processes, index = map(int, args.child[:3])
        child(devices, processes, index, args.child[3], quick=args.quick)
        return
    rows: list[dict[str, Any]]
    if args.paper:
        rows = [paper(name, size=(64, 64) if args.quick else None) for name in PAPER]
    else:
        rows = []
        for devices, processes in CASES[:2] if args.quick else CASES:
            step = measure(devices, processes, quick=args.quick)
            alone = rows[0]["step_ms"] if rows else step
            rows.append(
                {
                    "name": SUBJECT,
                    "devices": devices,
                    "processes": processes,
                    "images_per_step": EACH * devices,
                    "step_ms": round(step, 1),
                    "images_per_second": round(1e3 * EACH * devices / step, 2),
                    "of_one_device": round(alone * devices / step, 2),
                }
            )
    print(markdown(list(rows[0]), [list(row.values()) for row in rows]))
    if args.json:
        write_json(args.json, {"benchmark": "scaling", "machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
