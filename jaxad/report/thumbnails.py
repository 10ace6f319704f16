"""Photos and heatmaps of a report as small JPEG data URIs."""

from __future__ import annotations

import numpy as np
from PIL import Image

from jaxad.report.colour import outline, overlay
from jaxad.report.small import data_uri
from jaxad.report.view import Example

SIDE = 256  # pixels of a thumbnail's longer side, at most
_QUALITY = 82


def thumbnails(example: Example, colours: tuple[float, float]) -> tuple[str, str]:
    """The photo and its heatmap as data URIs, both with the mask outlined where it is known.

    Map and mask may be of another size than the photo; they are resized to the thumbnail, the map
    bilinearly in raw scores (colours come after), the mask so that no defect vanishes.
    """
    height, width = example.image.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    photo = np.asarray(Image.fromarray(example.image).resize(size, Image.Resampling.LANCZOS))
    scores = Image.fromarray(np.asarray(example.map, np.float32))
    heat = overlay(photo, np.asarray(scores.resize(size, Image.Resampling.BILINEAR)), colours)
    if example.mask is not None:
        grey = Image.fromarray(example.mask.astype(np.uint8) * 255)
        # BOX averages all pixels a thumbnail pixel covers; any defective one keeps it above 0.
        mask = np.asarray(grey.convert("F").resize(size, Image.Resampling.BOX)) > 0
        photo, heat = outline(photo, mask), outline(heat, mask)
    # No chroma subsampling: it would smear the one-pixel outlines.
    photo_uri, heat_uri = (
        data_uri(pixels, quality=_QUALITY, subsampling=0) for pixels in (photo, heat)
    )
    return photo_uri, heat_uri
