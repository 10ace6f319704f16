"""Small made-up industrial parts with drawn defects and their exact masks.

For tests, documentation and benchmarks: hard enough that a detector has to look at texture, small
enough to be written in a moment, and the same for the same arguments on every machine.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from jaxad.data.layouts import mvtec_ad, texture_ad
from jaxad.data.manifest import Manifest, write_csv
from jaxad.errors import InputError

_Draw = Callable[[np.random.Generator, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(rng, picture (H, W, 3) float in 0..1, part (H, W) bool) -> (picture, mask (H, W) bool)."""


def write_dataset(
    root: str | os.PathLike[str],
    *,
    layout: str = "mvtec_ad",
    categories: Sequence[str] = ("washer", "plate"),
    subclasses: Sequence[str] = ("first", "second"),
    n_train: int = 20,
    n_test_good: int = 6,
    n_test_bad: int = 9,
    size: tuple[int, int] = (128, 128),
    seed: int = 0,
) -> Manifest:
    """Write PNG photos and masks of `size = (H, W)` as the tree of MVTec AD.

    A category's name decides its look: a turned washer or a brushed plate, its colour and grain.
    Of layout "texture_ad" every subclass has a tree and a look of its own.
    Defects are scratches, spots and missing pieces, in turn.

    Args:
      root: Folder to write to, made if absent; files of the same names are overwritten.
      layout: "mvtec_ad", "manifest": the same tree with a `manifest.csv`, or "texture_ad".
      categories: Names.
      subclasses: Names, the same in each category; used by layout "texture_ad" only.
      n_train: Normal training images a category (or subclass).
      n_test_good: Normal test images, likewise.
      n_test_bad: Defective test images, likewise.
      size: `(H, W)`, at least 16 each.
      seed: Of everything random.

    Raises:
      InputError: unknown layout, or a size too small to draw on.
    """
    if layout not in ("mvtec_ad", "manifest", "texture_ad"):
        raise InputError(
            f"synthetic data has no layout {layout!r}: use mvtec_ad, manifest or texture_ad"
        )
    if min(size) < 16:
        raise InputError(f"size={size} is too small to draw on: use 16 pixels or more a side")
    root = Path(root)
    defects = list(DEFECTS)
    kinds: Sequence[str] = categories
    if layout == "texture_ad":
        kinds = [f"{category}/{subclass}" for category in categories for subclass in subclasses]
    for kind in kinds:
        look = zlib.crc32(kind.encode())
        places = [("train", "good", i) for i in range(n_train)]
        places += [("test", "good", i) for i in range(n_test_good)]
        places += [
            ("test", defects[i % len(defects)], i // len(defects)) for i in range(n_test_bad)
        ]
        for number, (split, label, i) in enumerate(places):
            rng = np.random.default_rng([seed, look, number])
            picture, part = draw_part(rng, look=look, size=size)
            if label != "good":
                picture, mask = DEFECTS[label](rng, picture, part)
                _save(mask, root / kind / "ground_truth" / label / f"{i:03d}_mask.png")
            picture = picture + rng.normal(0, 0.015, picture.shape)  # the camera's noise
            _save(picture, root / kind / split / label / f"{i:03d}.png")
    manifest = texture_ad.scan(root) if layout == "texture_ad" else mvtec_ad.scan(root)
    if layout == "manifest":
        write_csv(manifest, root / "manifest.csv")
    return manifest


def draw_part(
    rng: np.random.Generator, *, look: int, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one normal part: picture `(H, W, 3)` float in 0..1, and where the part is, bool.

    Place, light and grain differ from part to part, by `rng`; kind and colour follow from `look`.
    """
    height, width = size
    style = np.random.default_rng(look)
    colour = style.uniform(0.45, 0.8, 3)
    grain_scale = style.uniform(0.04, 0.08)
    y, x = np.mgrid[:height, :width]
    y = (y - height * (0.5 + rng.uniform(-0.03, 0.03))) / (height / 2)
    x = (x - width * (0.5 + rng.uniform(-0.03, 0.03))) / (width / 2)
    radius = np.hypot(x, y)
    if look % 2:  # a washer with turning marks around its centre
        part = (radius < 0.82) & (radius > 0.3)
        along = radius * 2
    else:  # a plate with rounded corners, brushed along its height
        part = (np.abs(x) ** 6 + np.abs(y) ** 6) < 0.75**6
        along = x + 1
    lines = rng.normal(0, 1, 96)
    marks = np.interp(along * 32, np.arange(96), lines) * grain_scale
    light = rng.uniform(0, 2 * np.pi)
    shading = 1 + 0.15 * (x * np.cos(light) + y * np.sin(light)) + rng.uniform(-0.05, 0.05)
    surface = (colour[None, None] * (shading + marks)[..., None]).clip(0, 1)
    ground = np.full((height, width, 3), 0.12)
    return np.where(part[..., None], surface, ground), part


def _scratch(
    rng: np.random.Generator, picture: np.ndarray, part: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    y, x = _point_on(rng, part)
    angle, length = rng.uniform(0, np.pi), min(part.shape) * rng.uniform(0.2, 0.4)
    turns = angle + np.cumsum(rng.normal(0, 0.25, 4))
    line = [(x, y)]
    for turn in turns:
        x, y = x + length / 4 * np.cos(turn), y + length / 4 * np.sin(turn)
        line.append((x, y))
    canvas = Image.new("L", part.shape[::-1])
    ImageDraw.Draw(canvas).line(line, fill=255, width=max(1, min(part.shape) // 60), joint="curve")
    mask = (np.asarray(canvas) != 0) & part
    bright = picture * 0.3 + 0.7
    return np.where(mask[..., None], bright, picture), mask


def _spot(
    rng: np.random.Generator, picture: np.ndarray, part: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    cy, cx = _point_on(rng, part)
    y, x = np.mgrid[: part.shape[0], : part.shape[1]]
    a, b = min(part.shape) * rng.uniform(0.04, 0.1, 2)
    distance = ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2
    mask = (distance <= 1) & part
    dark = picture * np.clip(0.35 + 0.3 * distance, 0, 1)[..., None]
    return np.where(mask[..., None], dark, picture), mask


def _missing_piece(
    rng: np.random.Generator, picture: np.ndarray, part: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    inner = part[:-1, :-1] & (~part[1:, :-1] | ~part[:-1, 1:])  # on the edge of the part
    cy, cx = _point_on(rng, inner)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 7))
    reach = min(part.shape) * rng.uniform(0.06, 0.14, 7)
    corners = [(cx + r * np.cos(t), cy + r * np.sin(t)) for r, t in zip(reach, angles)]
    canvas = Image.new("L", part.shape[::-1])
    ImageDraw.Draw(canvas).polygon(corners, fill=255)
    mask = (np.asarray(canvas) != 0) & part
    mask[cy, cx] = True
    return np.where(mask[..., None], 0.12, picture), mask


DEFECTS: dict[str, _Draw] = {"scratch": _scratch, "spot": _spot, "missing_piece": _missing_piece}
"""Name of a defect to the function that draws it on a part."""


def _point_on(rng: np.random.Generator, where: np.ndarray) -> tuple[int, int]:
    rows, columns = np.nonzero(where)
    i = rng.integers(len(rows))
    return int(rows[i]), int(columns[i])


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8)).save(path)
