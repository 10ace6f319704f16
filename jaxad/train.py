"""The training job: a data set and a configuration to a work directory with a trained detector."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from jaxad import checkpoint
from jaxad.build import build_backbones, build_method
from jaxad.config import save_config
from jaxad.core import InputError
from jaxad.detector import Cost, Detector
from jaxad.evaluate import (
    Outcome,
    check_config,
    evaluate_job,
    jobs,
    read_dataset,
    write_results,
)
from jaxad.fit import fit_detector
from jaxad.parallel import data_parallel


def train(config: Any, workdir: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Train and evaluate a detector for every category (or one for all); write the work directory.

    Same configuration, data, weights and devices give the same detector and metrics.

    Args:
        config: See `jaxad.config`.
        workdir: Made if needed; gets `config.json`, `train.jsonl`, `checkpoints/`, `results.json`
            and `report/index.html`.
        overwrite: Replace an earlier run in `workdir` instead of refusing.

    Returns:
        The content of `results.json`.

    Raises:
        InputError: Whatever a user can mend, found before anything is written where possible.
    """
    parallel = data_parallel(config.train.parallel)
    check_config(config, parallel)
    manifest = read_dataset(config)
    backbones = build_backbones(config)
    # Complains before the work directory is touched.
    detector = Detector(backbones.networks, build_method(config, backbones.networks)[0])
    cost = detector.cost(backbones.variables, size=tuple(config.data.image_size))
    if any((workdir / "checkpoints").glob("*")) and not overwrite:
        raise InputError(f"{workdir} holds a run: choose another --workdir or add --overwrite")
    clear(workdir)
    save_config(workdir / "config.json", config, weights=backbones.sha256)

    print(describe(cost, config), file=sys.stderr)
    outcomes: list[Outcome] = []
    results: dict[str, Any] = {}
    with (workdir / "train.jsonl").open("w", buffering=1) as log_file:
        log_file.write(json.dumps({"cost": cost._asdict()}) + "\n")
        for job in jobs(manifest, config):

            def log(job_name: str = job.name, **values: Any) -> None:
                log_file.write(json.dumps({"detector": job_name, **values}) + "\n")

            detector, fit = fit_detector(job, manifest.root, backbones, config, parallel, log)
            checkpoint.save(workdir / "checkpoints" / job.name, fit.variables["method"])
            outcomes.append(
                evaluate_job(job, manifest.root, detector, fit.variables, config, parallel)
            )
            outcomes[-1].seconds.update(fit.seconds)
            # After every detector: what is done is on disk, whatever happens to the next.
            results = write_results(outcomes, config, workdir)
    return results


def describe(cost: Cost, config: Any) -> str:
    """Say in one line what a detector holds and computes."""
    height, width = config.data.image_size
    gflop = "unknown" if cost.gflop is None else f"{cost.gflop:.2f}"
    return (
        f"{config.method.name}: {cost.trained / 1e6:.2f} M parameters to train, "
        f"{cost.frozen / 1e6:.2f} M frozen; {gflop} GFLOP to score an image of {height} x {width}"
    )


def clear(workdir: Path) -> None:
    """Make the folder, without what an earlier run wrote there: never a mixture of two.

    Anything else in it stays.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    for name in ("checkpoints", "report"):
        shutil.rmtree(workdir / name, ignore_errors=True)
    for name in ("config.json", "train.jsonl", "results.json"):
        (workdir / name).unlink(missing_ok=True)
