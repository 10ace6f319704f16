"""The training job: a data set and a configuration to a work directory with a trained detector."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from jaxad import checkpoint
from jaxad.build import build_backbones, build_method
from jaxad.config import save_config
from jaxad.core import InputError
from jaxad.evaluate import check_config, evaluate_job, finish, jobs, read_dataset
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
    build_method(config, backbones.networks)  # complains before the work directory is touched
    if (workdir / "config.json").exists():
        if not overwrite:
            raise InputError(f"{workdir} holds a run: choose another --workdir or add --overwrite")
        # The old run is gone as a whole: never a mixture of two.
        shutil.rmtree(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    save_config(workdir / "config.json", config, weights=backbones.sha256)

    outcomes = []
    with (workdir / "train.jsonl").open("w", buffering=1) as log_file:
        for job in jobs(manifest, config):

            def log(job_name: str = job.name, **values: Any) -> None:
                log_file.write(json.dumps({"detector": job_name, **values}) + "\n")

            detector, fit = fit_detector(job, manifest.root, backbones, config, parallel, log)
            checkpoint.save(workdir / "checkpoints" / job.name, fit.variables["method"])
            outcomes.append(
                evaluate_job(job, manifest.root, detector, fit.variables, config, parallel)
            )
            outcomes[-1].seconds.update(fit.seconds)
    return finish(outcomes, config, workdir)
