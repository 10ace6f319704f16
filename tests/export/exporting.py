"""Files of small detectors, for tests."""

from __future__ import annotations

from typing import Any

from small_detectors import SIZE, detector_of, trained

from jaxad.export import archive, generated
from jaxad.export.manifest import About
from jaxad.runs.export_file import file_of
from jaxad.scorer import Scorer, make_scorer

BATCH = 8


def exported(method: str, **changes: Any) -> tuple[bytes, Scorer]:
    """The file of a method's detector, and what it is to score like."""
    detector, frozen = detector_of(method)
    variables = trained(detector, frozen)
    scorer = make_scorer(detector, variables, batch_size=BATCH, size=SIZE)
    about = About(
        detector="part",
        method=method,
        categories=("part",),
        size=SIZE,
        resample="bilinear",
        upright=True,
        platforms=("cpu", "cuda", "tpu"),
        check=generated.record(*scorer.score(generated.images(SIZE))),
    )
    texts = changes.pop("texts", {archive.PROVENANCE: {"made": "for a test"}})
    return file_of(detector, variables, about._replace(**changes), texts=texts)[0], scorer
