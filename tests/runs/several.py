"""One of several processes that train every method a few steps: `several.py DATA OUT N I PORT`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

STEPS = {"mb_pfm": "(3,3,3)", "afrad": "(3,)", "simplenet": "(4,)", "adapted_moe": "(3,3)"}


def main(data: Path, out: Path, count: int, index: int, port: str) -> None:
    """Join the others, and train one method after the other."""
    # The last of two flags counts.
    os.environ["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={4 // count}"
    from jaxad.runs.joining import join
    from jaxad.runs.processes import only_the_first_speaks

    if count > 1:
        assert join(f"127.0.0.1:{port}", count, index)

    import jax

    from benchmarks.soak_runs import SUBJECTS, command
    from jaxad.config import parse_config
    from jaxad.runs.train import train

    assert jax.device_count() == 4
    found: dict[str, Any] = {}
    folders = {layout: data / layout for layout in ("mvtec_ad", "texture_ad")}
    with only_the_first_speaks():
        for name, subject in SUBJECTS.items():
            changes = {
                **subject.changes,
                "train.parallel": "jit",
                "train.steps": STEPS[name],
                "data.workers": "0",
                "checkpoint.every_steps": "2",
                **({"data.categories": "cloth"} if name == "adapted_moe" else {}),
                **({"method.levels": "(2,)"} if name == "mb_pfm" else {}),
            }
            line = command(subject._replace(changes=changes), folders, out / name)
            words = [word for word in line[4:] if "workdir" not in word]
            words.remove(str(out / name))
            found[name] = train(parse_config(words), out / name).get("categories")
    (out / f"found-{count}-{index}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
