"""jaxad's side of `benchmarks.anomalib_peer`: answers what `anomalib_run` answers, likewise.

python -m benchmarks.peers.jaxad_run WORKDIR
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.peers.lines import serve
from benchmarks.peers.photos import SIZE
from jaxad.backbones import load_backbone
from jaxad.data.images import decode_image
from jaxad.runs.drawings import Drawing
from jaxad.runs.models import Judge, open_judge
from jaxad.runs.predict import Limit, predict
from jaxad.runs.workdir import load
from jaxad.scorer import Scorer, make_scorer, stream

BATCH = 8


@functools.cache
def read(photos: tuple[str, ...]) -> np.ndarray:
    """Photos as `(N, H, W, 3)` uint8."""
    return np.stack([decode_image(path, size=SIZE) for path in photos])


class Answers:
    """What is asked of a trained work directory; what is compiled is kept."""

    def __init__(self, workdir: Path) -> None:
        """Nothing is read yet."""
        self._workdir = workdir
        self._scorers: dict[tuple[int, bool], Scorer] = {}
        self._judges: dict[tuple[int, bool], Judge] = {}

    def features(self, photos: list[str], to: str) -> None:
        """Write ResNet-18's feature maps, by level, `(N, C, h, w)`."""
        backbone, variables = load_backbone("resnet18")
        found = jax.jit(backbone.features)(variables, read(tuple(photos)))
        levels: dict[str, Any] = {k: np.transpose(x, (0, 3, 1, 2)) for k, x in found.items()}
        np.savez(to, **levels)

    def score(self, photos: list[str], to: str, openvino: bool = False) -> None:
        """Write maps and image scores."""
        scorer, images = self._scorer(BATCH, openvino), read(tuple(photos))
        parts = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
        found = list(stream(scorer, parts))
        maps, scores = (np.concatenate([s[i] for s in found]) for i in (0, 1))
        np.savez(to, maps=maps, scores=scores)

    def bare(self, photos: list[str], batch: int, openvino: bool = False) -> float:
        """Seconds to score photos that are in memory, so many at a time."""
        scorer, images = self._scorer(batch, openvino), read(tuple(photos))
        start = time.perf_counter()
        for i in range(0, len(images), batch):
            jax.device_get(scorer.score(images[i : i + batch]))
        return time.perf_counter() - start

    def job(self, folder: str, batch: int, pictures: bool, openvino: bool = False) -> float:
        """Seconds to judge a folder by the job of `jaxad predict`, compiling left out."""
        key = batch, openvino
        if key not in self._judges:
            runtime = "openvino" if openvino else "xla"
            judge = open_judge(workdir=self._workdir, batch_size=batch, runtime=runtime)
            compiled = functools.cache(judge.compiled)
            self._judges[key] = dataclasses.replace(judge, compiled=compiled)
        self._judges[key].compiled(batch)
        drawing, limit = Drawing(False, pictures, False), Limit(max_errors=0)
        with tempfile.TemporaryDirectory() as out:
            start = time.perf_counter()
            predict([folder], Path(out), self._judges[key], drawing=drawing, limit=limit)
            return time.perf_counter() - start

    def _scorer(self, batch: int, openvino: bool) -> Scorer:
        key = batch, openvino
        if key not in self._scorers:
            detector, variables, _ = load(self._workdir)
            self._scorers[key] = make_scorer(
                detector,
                variables,
                batch_size=batch,
                size=SIZE,
                runtime="openvino" if openvino else "xla",
            )
        return self._scorers[key]


def main() -> None:
    """Answer."""
    answers: Any = Answers(Path(sys.argv[1]))
    serve({name: getattr(answers, name) for name in ("features", "score", "bare", "job")})


if __name__ == "__main__":
    main()
