"""Draw what `benchmarks.fps` or `benchmarks.pareto` measured.

    python -m benchmarks.plots FILE --out PNG

FILE is the JSON of `fps`, of `run_all` or of `pareto`. `fps`: left, images on the device, one line
for each detector; right, arithmetic done per second over operations per byte moved, below what the
machine was measured to do: a sloping roof where memory limits, a level one where arithmetic does.
The bytes are those that convolutions and matrix products read and write (`benchmarks.work`).
`pareto`: each metric over frames per second.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from benchmarks.compare import read
from jaxad.errors import InputError

COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#444444", "#e69f00"),
    *("#7b3fb5", "#a0522d"),
)
"""Okabe and Ito's, which most colour-blind people can tell apart, and three more."""
FINE = 3
"""Drawn so many times larger, then reduced: PIL's lines have hard edges."""
WIDTH, HEIGHT, PANEL = 1240, 500, 430
LEFT, TOP, BOTTOM = 75, 45, 440
DTYPE_WIDTHS = {"float32": 2, "bfloat16": 5}
Point = tuple[float, float]


class Axes(NamedTuple):
    """A panel: `left` in pixels, ranges in units of what is drawn; logarithmic where not linear."""

    draw: ImageDraw.ImageDraw
    left: int
    x: tuple[float, float]
    y: tuple[float, float]
    linear: bool = False
    width: int = PANEL
    linear_x: bool = False

    def place(self, point: Point) -> Point:
        """Pixels of a point."""

        def share(value: float, ends: tuple[float, float], *, linear: bool) -> float:
            low, high = ends
            if linear:
                return (value - low) / (high - low)
            return math.log(value / low) / math.log(high / low)

        x = share(point[0], self.x, linear=self.linear_x)
        y = share(point[1], self.y, linear=self.linear)
        return FINE * (self.left + x * self.width), FINE * (BOTTOM - y * (BOTTOM - TOP))

    def line(self, points: Sequence[Point], colour: str, width: int) -> None:
        """Connect points."""
        placed = [self.place(p) for p in points]
        self.draw.line(placed, fill=colour, width=FINE * width // 2, joint="curve")

    def dot(self, point: Point, colour: str, size: float) -> None:
        """Mark a point."""
        x, y = self.place(point)
        self.draw.ellipse(
            [x - FINE * size, y - FINE * size, x + FINE * size, y + FINE * size], colour
        )

    def text(self, x: float, y: float, text: str, anchor: str = "lm", colour: str = "#222") -> None:
        """Write at pixels."""
        font = ImageFont.load_default(FINE * 12)
        self.draw.text((FINE * x, FINE * y), text, fill=colour, font=font, anchor=anchor)

    def frame(self, title: str, x: str, y: str, ticks: Sequence[float]) -> None:
        """Draw axes, powers of ten (or tenths, if linear) and the given ticks, and their names."""
        for value in ticks:
            px, _ = self.place((value, self.y[0]))
            self.line([(value, self.y[0]), (value, self.y[1])], "#ddd", 2)
            self.text(px / FINE, BOTTOM + 12, f"{value:g}", "mm")
        tenths = [self.y[0] + i / 10 * (self.y[1] - self.y[0]) for i in range(11)]
        form = ".3f" if self.linear else ",.10g"
        for value in tenths if self.linear else powers(self.y, 10):
            _, py = self.place((self.x[0], value))
            self.line([(self.x[0], value), (self.x[1], value)], "#ddd", 2)
            self.text(self.left - 8, py / FINE, f"{value:{form}}", "rm")
        self.text(self.left, TOP - 25, f"{title}   ({y})")
        self.text(self.left + self.width / 2, BOTTOM + 35, x, "mm")


def powers(ends: tuple[float, float], base: int) -> list[float]:
    """The powers of `base` within a range, and its ends' included."""
    low, high = (math.log(end, base) for end in ends)
    return [float(base) ** n for n in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]


def around(values: Sequence[float], base: int) -> tuple[float, float]:
    """The smallest range between powers of `base` that holds all values and is not empty."""
    low, high = (math.log(v, base) for v in (min(values), max(values)))
    first = math.floor(low)
    return float(base) ** first, float(base) ** max(math.ceil(high), first + 1)


def timed(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that have a rate.

    Raises:
        InputError: None has.
    """
    found = [row for row in rows if row.get("fps")]
    if not found:
        raise InputError("no row has a rate: there is nothing to draw")
    return found


def draw(rows: Sequence[dict[str, Any]], peaks: dict[str, Any], title: str) -> Image.Image:
    """Both panels.

    Args:
        rows: Of `fps`; those without a rate are left out.
        peaks: Of `fps`: by dtype `gflops` and `gbyte_per_second`.
        title: What was measured on.

    Raises:
        InputError: Nothing was measured.
    """
    rows = timed(rows)
    names = list(dict.fromkeys(row["name"] for row in rows))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    image = Image.new("RGB", (FINE * WIDTH, FINE * HEIGHT), "white")
    canvas = ImageDraw.Draw(image)

    batches = around([row["batch"] for row in rows], 2)
    fps = Axes(canvas, LEFT, batches, around([row["fps"] for row in rows], 10))
    fps.frame(title, "batch", "images / s", powers(batches, 2))
    for name in names:
        for dtype, width in DTYPE_WIDTHS.items():
            mine = sorted(
                (r["batch"], r["fps"]) for r in rows if (r["name"], r["dtype"]) == (name, dtype)
            )
            if len(mine) > 1:
                fps.line(mine, colours[name], width)
            for point in mine:
                fps.dot(point, colours[name], 1.5 + width / 2)
        y = TOP + 20 * names.index(name)
        canvas.rectangle(
            [FINE * v for v in (WIDTH - 150, y - 4, WIDTH - 138, y + 4)], colours[name]
        )
        fps.text(WIDTH - 130, y, name)
    for number, (dtype, width) in enumerate(DTYPE_WIDTHS.items()):
        y = TOP + 20 * (len(names) + 1 + number)
        canvas.line([FINE * v for v in (WIDTH - 150, y, WIDTH - 136, y)], "#222", FINE * width // 2)
        fps.text(WIDTH - 130, y, dtype)

    points = [
        (r, roof_point(r)) for r in rows if r.get("gflop_per_image") and r.get("gbyte_per_image")
    ]
    roofs = {dtype: (p["gflops"], p["gbyte_per_second"]) for dtype, p in peaks.items()}
    if not points or not roofs:
        return image.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    ridges = [flops / bytes_ for flops, bytes_ in roofs.values()]
    x = around([*(p[0] for _, p in points), *(r / 2 for r in ridges), *(r * 2 for r in ridges)], 10)
    y_range = around([*(p[1] for _, p in points), *(flops for flops, _ in roofs.values())], 10)
    roof = Axes(canvas, LEFT + PANEL + 100, x, y_range)
    roof.frame("Roofline", "operations per byte moved", "GFLOP / s", powers(x, 10))
    for dtype, (flops, bytes_) in roofs.items():
        start = max(x[0], y_range[0] / bytes_)
        line = [(start, bytes_ * start), (flops / bytes_, flops), (x[1], flops)]
        roof.line(line, "#222", DTYPE_WIDTHS[dtype])
    for row, point in points:
        roof.dot(point, colours[row["name"]], 1.5 + DTYPE_WIDTHS[row["dtype"]] / 2)
    return image.resize((WIDTH, HEIGHT), Image.Resampling.BOX)


def draw_pareto(rows: Sequence[dict[str, Any]], title: str) -> Image.Image:
    """Accuracy over speed, a panel for each metric (mean of the data sets); open: others beat it.

    Args:
        rows: Of `pareto`.
        title: What was measured on.

    Raises:
        InputError: Nothing was timed.
    """
    rows = timed(rows)
    sets = list(rows[0]["metrics"])
    metrics = list(rows[0]["metrics"][sets[0]])
    width, gap = 300, 90
    legend = LEFT + len(metrics) * (width + gap) - gap // 2
    whole = (FINE * (legend + 150), FINE * HEIGHT)
    image = Image.new("RGB", whole, "white")
    canvas = ImageDraw.Draw(image)
    for number, metric in enumerate(metrics):
        points = [
            (row["fps"], sum(row["metrics"][name][metric] for name in sets) / len(sets), row)
            for row in rows
        ]
        x = around([fps for fps, _, _ in points], 2)
        y = [value for _, value, _ in points]
        ends = (math.floor(100 * min(y)) / 100, math.ceil(100 * max(y) + 1e-9) / 100)
        axes = Axes(canvas, LEFT + number * (width + gap), x, ends, linear=True, width=width)
        axes.frame(title if not number else "", "images / s", metric, powers(x, 2))
        for i, (fps, value, row) in enumerate(points):
            axes.dot((fps, value), COLOURS[i % len(COLOURS)], 5)
            if row["beaten"]:
                axes.dot((fps, value), "white", 3)
    for i, row in enumerate(rows):
        at = TOP + 20 * i
        box = [FINE * v for v in (legend, at - 4, legend + 12, at + 4)]
        canvas.rectangle(box, COLOURS[i % len(COLOURS)])
        axes.text(legend + 20, at, row["name"])
    return image.resize((whole[0] // FINE, HEIGHT), Image.Resampling.BOX)


def roof_point(row: dict[str, Any]) -> Point:
    """Operations per byte, and 1e9 operations per second."""
    work = row["gflop_per_image"]
    return work / row["gbyte_per_image"], work * row["fps"]


def main(argv: Sequence[str] | None = None) -> int:
    """Read, draw, write; 2 for a file that can not be drawn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="PNG")
    args = parser.parse_args(argv)
    try:
        tree = read(args.file)
        every = tree.get("benchmarks", {})
        found = every.get("fps") or every.get("pareto")
        if not isinstance(found, dict) or "rows" not in found:
            raise InputError(
                f"{args.file}: it has no rows of fps or pareto: run one of them with --json"
            )
        head = found.get("machine") or tree.get("machine") or {}
        title = f"{head.get('device', '')}, {head.get('date', '')}"
        if "fps" in every:
            image = draw(found["rows"], found.get("peaks", {}), title)
        else:
            image = draw_pareto(found["rows"], title)
        image.save(args.out, "PNG", optimize=True)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{args.out}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
