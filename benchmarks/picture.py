"""The picture in README: made-up parts, found defects. Writes `docs/result.jpg`.

    python -m benchmarks.picture --out docs/result.jpg

Draws parts with `jaxad.data.synthetic` (so that nobody's photos are redistributed), trains the fast
recipe on the normal ones at a tenth of its steps, and lays the heatmaps below the photos; the thin
line is the true mask. Needs converted `resnet18` and `resnet50_keras` weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from jaxad.config import parse_config
from jaxad.data.images import decode_image, decode_mask
from jaxad.data.synthetic import write_dataset
from jaxad.report.colour import colour_range, outline, overlay
from jaxad.runs.train import train
from jaxad.runs.workdir import load

SIZE = 192
CATEGORIES = ("washer", "plate")
GAP = 6


def main() -> None:
    """Draw, train, score, compose."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/result.jpg"))
    parser.add_argument("--runs", type=Path, default=Path("runs/picture"))
    args = parser.parse_args()
    manifest = write_dataset(
        args.runs / "data",
        categories=CATEGORIES,
        n_train=60,
        n_test_good=6,
        n_test_bad=9,
        size=(SIZE, SIZE),
    )
    config = parse_config(
        [
            "--config=configs/mb_pfm_fast.py",
            f"--config.data.root={args.runs / 'data'}",
            f"--config.data.image_size=({SIZE},{SIZE})",
            "--config.data.calibration=0",
            "--config.train.steps=(60,60,80)",
        ]
    )
    train(config, args.runs / "work", overwrite=True)
    rows: list[np.ndarray] = []
    for category in CATEGORIES:
        detector, variables, _ = load(args.runs / "work", category)
        records = manifest.select(category, "test").records
        images = np.stack(
            [decode_image(manifest.root / r.path, size=(SIZE, SIZE)) for r in records]
        )
        scores = jax.jit(detector.score)(variables, images)
        maps = np.asarray(scores.map)
        labels = np.asarray([not r.is_good for r in records])
        colours = colour_range(maps, labels)
        # One good part, then one of each defect, then more defects.
        defects = sorted({r.label for r in records if not r.is_good})
        first = [next(i for i, r in enumerate(records) if r.label == d) for d in ["good", *defects]]
        rest = [i for i in range(len(records)) if labels[i] and i not in first]
        shown = [*first, *rest][:6]
        heat = [overlay(images[i], maps[i], colours) for i in shown]
        for n, i in enumerate(shown):
            if records[i].mask:
                mask = decode_mask(manifest.root / records[i].mask, size=(SIZE, SIZE))
                heat[n] = outline(heat[n], mask)
        rows += [beside([images[i] for i in shown]), beside(heat)]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    whole = beside([row.swapaxes(0, 1) for row in rows]).swapaxes(0, 1)
    Image.fromarray(whole).save(args.out, quality=88, subsampling=0, optimize=True)


def beside(pictures: list[np.ndarray]) -> np.ndarray:
    """Put pictures of equal height side by side with white gaps: `(H, W, 3)` uint8."""
    gap = np.full((pictures[0].shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1)


if __name__ == "__main__":
    main()
