"""Photos changed at random before a step sees them: mirrored, turned, moved.

For methods that learn from pixels and have few photos. What is drawn for a photo goes by the run's
seed, the phase, the step and the photo's place in the batch alone: a resumed run, other threads and
several processes draw the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from jaxad.errors import InputError

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]

KINDS = ("mirror", "flip", "turn", "shift")
"""Left to right, upside down, by quarter turns, by up to `SHIFT`."""
SHIFT = 1 / 16
"""Of either side; what comes in at the border is the photo mirrored there."""


def check_kinds(kinds: Sequence[str], size: tuple[int, int]) -> None:
    """See that photos of `size = (H, W)` can be changed so.

    Raises:
        InputError: They are to be turned, and are no squares.
    """
    height, width = size
    if "turn" in kinds and height != width:
        raise InputError(
            f"train.augment has 'turn', and photos of {height} x {width} are no squares: leave it "
            "out, or set data.image_size"
        )


def augmented(
    images: Pixels, kinds: Sequence[str], *, seed: int, phase: str, step: int, places: Iterable[int]
) -> Pixels:
    """Change each photo of a batch `(B, H, W, 3)`, every kind at random.

    Args:
        images: Of the step, or a process's share of them.
        kinds: Of `KINDS`; the order does not matter.
        seed: Of the run.
        phase: Name of the phase.
        step: Number of the step.
        places: Of the photos in the batch of all devices, B of them.
    """
    words = [seed, step, *phase.encode()]
    every = [
        _one(image, kinds, np.random.default_rng([place, *words]))
        for image, place in zip(images, places, strict=True)
    ]
    return np.stack(every)


def _one(image: Pixels, kinds: Sequence[str], draw: np.random.Generator) -> Pixels:
    # All is drawn, whatever is used: a kind more does not change the others.
    mirror, flip, turns = draw.integers(2), draw.integers(2), int(draw.integers(4))
    most = [int(SHIFT * side) for side in image.shape[:2]]
    down, right = (int(draw.integers(-far, far + 1)) for far in most)
    if "mirror" in kinds and mirror:
        image = image[:, ::-1]
    if "flip" in kinds and flip:
        image = image[::-1]
    if "turn" in kinds:
        image = np.rot90(image, turns)
    if "shift" in kinds and (down or right):
        # At most a sixteenth is missing, so one reflection fills it.
        rows, columns = (
            _reflected(np.arange(side) - by, side) for side, by in zip(image.shape, (down, right))
        )
        image = image[rows][:, columns]
    return image


def _reflected(index: np.ndarray, side: int) -> np.ndarray:
    """Places within `0..side-1`; those beyond are mirrored at the border pixel."""
    index = np.abs(index)
    return np.minimum(index, 2 * (side - 1) - index)
