"""Every method trained at its published size on an accelerator: speed, memory, scores, a kill.

    python -m benchmarks.accelerator --data FOLDER --json FILE [--steps 300] [--only NAME ...]
    python -m benchmarks.accelerator --fake --quick --json FILE     # anywhere: small, drawn photos

Each row is one `jaxad train` in a process of its own, by pmap and by jit, in float32 and bfloat16:
what its log says of steps and photos a second and of memory, and what it scores. The detector is
then evaluated again on the CPU (`metrics_differ_by`; .002 is the bar). Once a method the run is
killed in its middle and started again: `resumed_alike` says whether its detector is the same to the
bit. FOLDER holds `mvtec_ad_256/bottle`; weights are looked for as training does.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import machine
from jaxad.data.synthetic import write_dataset
from jaxad.files import write_json

ROOT = Path(__file__).resolve().parents[1]
METHODS = {
    "mb_pfm": ("configs/mb_pfm.py", 3),
    "afrad": ("configs/afrad.py:mvtec", 1),
    "simplenet": ("configs/simplenet.py", 1),
    "adapted_moe": ("configs/adapted_moe.py:cloth", 2),
}
"""Published configurations, and their phases."""
BAR = 0.002
TOLD = ("steps_per_second", "images_per_second", "positions_per_second")
MEMORY = ("memory_peak_bytes", "device_memory_bytes")


def command(
    name: str, workdir: Path, *, root: Path, steps: int, changes: Sequence[str]
) -> list[str]:
    """The command of a method's run."""
    config, phases = METHODS[name]
    each = f"({','.join([str(steps)] * phases)},)"
    fixed = [f"data.root={root}", "data.layout=mvtec_ad", "data.categories=bottle"]
    fixed += ["data.calibration=0", f"train.steps={each}", f"train.log_every={max(steps // 10, 1)}"]
    if name == "adapted_moe":  # bottle has no subclasses: two clusters
        fixed += ["method.clusters=2", "data.train_subclasses=", "data.test_subclasses="]
    words = [f"--config.{change}" for change in (*fixed, *changes)]
    return [
        *(sys.executable, "-m", "jaxad", "train", "--config", str(ROOT / config)),
        *("--workdir", str(workdir), *words),
    ]


def told(workdir: Path) -> dict[str, float]:
    """What the log says of speed (median of its lines) and memory (most)."""
    lines = [json.loads(line) for line in (workdir / "train.jsonl").read_text().splitlines()]
    found = {}
    for keys, reduce in ((TOLD, lambda x: sorted(x)[len(x) // 2]), (MEMORY, max)):
        for key in keys:
            values = [line[key] for line in lines if key in line]
            if values:
                found[key] = reduce(values)
    return found


def metrics(workdir: Path) -> dict[str, float]:
    """The mean metrics of a work directory."""
    results = json.loads((workdir / "results.json").read_text())
    return {key: value for key, value in results["mean"].items() if value is not None}


def on_cpu(workdir: Path) -> dict[str, float]:
    """The metrics of the same detector, scored on the CPU."""
    subprocess.run(
        [sys.executable, "-m", "jaxad", "evaluate", "--workdir", str(workdir)],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return metrics(workdir)


def killed_and_resumed(words: Sequence[str], workdir: Path) -> None:
    """Run a command, kill it once it has saved, and run it to its end."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as ran:
        while ran.poll() is None and not list(workdir.glob("training/*/*/about.json")):
            time.sleep(0.02)
        ran.send_signal(signal.SIGKILL)
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def detectors(workdir: Path) -> dict[str, bytes]:
    """The arrays of its detectors, as bytes."""
    import jax
    import numpy as np

    from jaxad.runs.workdir import load

    found = {}
    for path in sorted((workdir / "checkpoints").iterdir()):
        tree = load(workdir, path.name)[1]["method"]
        found[path.name] = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Train everything that was asked for; print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--data", type=Path, help="folder of the data sets")
    given.add_argument("--fake", action="store_true", help="drawn photos, random networks")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--quick", action="store_true", help="few steps of small photos")
    args = parser.parse_args(argv)
    steps, rows = 4 if args.quick else args.steps, []
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "parts"
        changes: list[str] = []
        if args.fake:
            size = (64, 64) if args.quick else (256, 256)
            write_dataset(
                root, categories=("bottle",), n_train=8, n_test_good=3, n_test_bad=3, size=size
            )
            changes += ["method.random_weights=True", f"data.image_size={size}"]
        else:
            root = args.data.absolute() / "mvtec_ad_256"
        for name in args.only:
            for parallel in ("pmap", "jit"):
                for dtype in ("float32", "bfloat16"):
                    workdir = Path(place) / f"{name}-{parallel}-{dtype}"
                    own = [*changes, f"train.parallel={parallel}", f"train.dtype={dtype}"]
                    words = command(name, workdir, root=root, steps=steps, changes=own)
                    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
                    found = metrics(workdir)
                    row = {"name": name, "parallel": parallel, "dtype": dtype, **told(workdir)}
                    row |= found
                    if (parallel, dtype) == ("pmap", "float32"):
                        again = Path(place) / f"{name}-again"
                        saves = [*own, f"checkpoint.every_steps={max(steps // 3, 1)}"]
                        killed_and_resumed(
                            command(name, again, root=root, steps=steps, changes=saves), again
                        )
                        row["resumed_alike"] = detectors(again) == detectors(workdir)
                    cpu = on_cpu(workdir)
                    row["metrics_differ_by"] = max(abs(cpu[key] - found[key]) for key in found)
                    row["within_bar"] = row["metrics_differ_by"] <= BAR
                    rows.append(row)
                    print(json.dumps(row), flush=True)
    write_json(args.json, {"benchmark": "accelerator", "machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
