"""Defects made of good photos: CutPaste (Li et al., CVPR 2021), to choose by without test photos.

A piece of the photo is pasted elsewhere in it: a large one, or a thin scar that is turned. It keeps
the photo's light and texture, and breaks its order, as defects of many kinds do. What finds these
best need not find others best; but nothing that will be judged was seen.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

AREA = (0.02, 0.15)
"""Of a large piece, as a share of the photo."""
ASPECT = (0.3, 1 / 0.3)
SCAR = ((2, 16), (10, 25))
"""Width and height of a scar in a photo of 256 pixels."""
TURN = 45.0
"""A scar is turned by up to so many degrees, either way."""
JITTER = 0.1
"""Brightness and contrast of the piece change by up to this share."""


def cut_paste(image: Pixels, draw: np.random.Generator) -> tuple[Pixels, Mask]:
    """Paste a piece of a photo elsewhere in it: one of the two kinds, each as often.

    Args:
        image: `(H, W, 3)` uint8, 32 pixels a side at least.
        draw: Decides all that is drawn.

    Returns:
        The photo with the piece, and `(H, W)` bool: where it is.
    """
    height, width = image.shape[:2]
    if draw.random() < 0.5:
        area = draw.uniform(*AREA) * height * width
        aspect = math.exp(draw.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        size, angle = (math.sqrt(area * aspect), math.sqrt(area / aspect)), 0.0
    else:
        scale = min(height, width) / 256
        size = (scale * draw.uniform(*SCAR[1]), scale * draw.uniform(*SCAR[0]))
        angle = draw.uniform(-TURN, TURN)
    h, w = (max(2, min(round(s), side - 1)) for s, side in zip(size, (height, width)))
    top, left = draw.integers(0, height - h + 1), draw.integers(0, width - w + 1)
    piece = image[top : top + h, left : left + w].astype(np.float32)
    contrast, brightness = draw.uniform(1 - JITTER, 1 + JITTER, 2)
    piece = (piece - piece.mean()) * contrast + piece.mean() * brightness
    cut = Image.fromarray(np.clip(np.rint(piece), 0, 255).astype(np.uint8)).convert("RGBA")
    cut = cut.rotate(angle, expand=True)
    room = (max(width - cut.width, 0), max(height - cut.height, 0))
    at = (int(draw.integers(0, room[0] + 1)), int(draw.integers(0, room[1] + 1)))
    whole, mask = Image.fromarray(image), Image.new("L", (width, height))
    whole.paste(cut, at, cut)
    mask.paste(cut.getchannel("A"), at)
    return np.asarray(whole), np.asarray(mask) > 127
