"""Exact pixel metrics: seconds and memory, against a straightforward exact implementation.

    python -m benchmarks.metrics [--images 120] [--size 256] [--pairs 7] [--memory] [--json FILE]

Pixel AUROC, AP and AUPRO@0.3 of one generated category, three ways that must agree to 1e-9:
`pixel_metrics` of the whole arrays, the same streamed in batches, and a straightforward way: AUROC
and AP by scikit-learn, AUPRO by sorting all pixels, as MVTec's official evaluation defines it.
Peak memory is what a process of its own takes beyond the maps and masks that it is given; the
stream makes its batches as it goes. `--memory` adds the stream of 2,000 images.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.measure import interleave, machine, markdown, ratio
from jaxad.files import write_json
from jaxad.metrics import PixelStream, pixel_metrics, stream_metrics

BATCH = 16
LIMIT = 0.3
AGREE = 1e-9
Scene = tuple[np.ndarray, np.ndarray]
Metrics = dict[str, float | None]


def scene(index: int, size: int) -> Scene:
    """Generate one test image: `(H, W)` mask and float32 scores, the same for an index always.

    Three of five have 1 to 3 round defects, which smooth noise outshines in places.
    """
    rng = np.random.default_rng(index)
    noise = rng.normal(size=(size, size)).astype(np.float32)
    scores = ndimage.gaussian_filter(noise, size / 64, truncate=3) * np.float32(size / 20)
    y, x = np.mgrid[:size, :size]
    mask = np.zeros((size, size), bool)
    for _ in range(rng.integers(1, 4) if index % 5 < 3 else 0):
        centre, radius = rng.integers(0, size, 2), rng.uniform(size / 32, size / 10)
        mask |= (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2
    return mask, scores + np.float32(1.5) * ndimage.uniform_filter(mask.astype(np.float32), 5)


def scenes(start: int, stop: int, size: int) -> Scene:
    """Masks and maps of some images, `(N, H, W)` each."""
    masks = np.empty((stop - start, size, size), bool)
    maps = np.empty(masks.shape, np.float32)
    for n in range(stop - start):
        masks[n], maps[n] = scene(start + n, size)
    return masks, maps


def generated(images: int, size: int) -> Iterator[Scene]:
    """The batches of a category, made as they are asked for."""
    for start in range(0, images, BATCH):
        yield scenes(start, min(start + BATCH, images), size)


def whole(masks: np.ndarray, maps: np.ndarray) -> Metrics:
    """All at once."""
    return pixel_metrics(masks, maps, limits=(LIMIT,))


def streamed(masks: np.ndarray, maps: np.ndarray) -> Metrics:
    """Batch by batch."""
    stream = PixelStream(masks.size)
    for start in range(0, len(masks), BATCH):
        stream.add(masks[start : start + BATCH], maps[start : start + BATCH])
    return stream_metrics(stream, limits=(LIMIT,))


def straightforward(masks: np.ndarray, maps: np.ndarray) -> Metrics:
    """By the book: every pixel sorted with its label, once for each metric."""
    labels, scores = masks.reshape(-1), maps.reshape(-1)
    return {
        "pixel_auroc": float(roc_auc_score(labels, scores)),
        "pixel_ap": float(average_precision_score(labels, scores)),
        f"aupro_{LIMIT:.2f}": sorted_aupro(masks, maps),
    }


def sorted_aupro(masks: np.ndarray, maps: np.ndarray) -> float:
    """AUPRO: false positives and overlaps of all pixels, summed up from the highest score down."""
    overlap, regions = np.zeros(masks.shape), 0
    for mask, share in zip(masks, overlap):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        areas = np.bincount(labels.reshape(-1))
        share[mask] = 1 / areas[labels[mask]]
        regions += count
    order = np.argsort(-maps, axis=None)
    ordered, false = maps.reshape(-1)[order], ~masks.reshape(-1)[order]
    last = np.append(ordered[1:] != ordered[:-1], True)
    fpr = np.append(0, (np.cumsum(false) / false.sum())[last])
    pro = np.append(0, (np.cumsum(overlap.reshape(-1)[order]) / regions)[last])
    inside = fpr <= LIMIT
    x, y = np.append(fpr[inside], LIMIT), np.append(pro[inside], np.interp(LIMIT, fpr, pro))
    return float(np.trapezoid(y, x) / LIMIT)


WAYS: dict[str, Callable[[np.ndarray, np.ndarray], Metrics]] = {
    "whole": whole,
    "streamed": streamed,
    "straightforward": straightforward,
}


def check(found: dict[str, Metrics]) -> None:
    """Stop where the ways differ by more than `AGREE`."""
    reference = found["straightforward"]
    for name, metrics in found.items():
        for key, value in reference.items():
            if value is None or not abs(metrics[key] - value) <= AGREE:  # type: ignore[operator]
                raise SystemExit(f"{name}: {key} is {metrics[key]}, by the book {value}")


def peak(way: str, images: int, size: int) -> dict[str, Any]:
    """Measure in this process, which should be a fresh one: bytes beyond its input, and metrics."""
    if way == "generated":
        before, stream = memory("VmRSS"), PixelStream(images * size * size)
        for masks, maps in generated(images, size):
            stream.add(masks, maps)
        metrics = stream_metrics(stream, limits=(LIMIT,))
    else:
        masks, maps = scenes(0, images, size)
        before, metrics = memory("VmRSS"), WAYS[way](masks, maps)
    return {"bytes": memory("VmHWM") - before, "metrics": metrics}


def memory(key: str) -> int:
    """Bytes of this process: "VmRSS" now, "VmHWM" at most.

    Linux's `getrusage` would count what the process that started this one held.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"this system does not tell {key} of a process")


def alone(way: str, images: int, size: int) -> dict[str, Any]:
    """`peak` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(peak, way, images, size).result()


def measure(images: int, size: int, pairs: int, many: int) -> dict[str, Any]:
    """All numbers: seconds and memory of each way, memory of a stream of `many` images."""
    masks, maps = scenes(0, images, size)
    found = {name: way(masks, maps) for name, way in WAYS.items()}
    check(found)
    runs = {name: lambda way=way: way(masks, maps) for name, way in WAYS.items()}
    seconds = interleave(runs, pairs=pairs, warmup=1)
    return {
        "machine": machine(),
        "images": images,
        "size": size,
        "defective_pixels": float(masks.mean()),
        "metrics": found,
        "seconds": seconds,
        "ratio": {name: ratio(seconds["straightforward"], each) for name, each in seconds.items()},
        "peak_bytes": {name: alone(name, images, size)["bytes"] for name in WAYS},
        "many": {"images": many, **alone("generated", many, size)} if many else None,
    }


def table(results: dict[str, Any]) -> str:
    """The numbers as a Markdown table."""
    rows: list[Sequence[Any]] = []
    for name, each in results["seconds"].items():
        times, mega = results["ratio"][name], results["peak_bytes"][name] / 1e6
        rows.append(
            (
                name,
                results["images"],
                f"{statistics.median(each):.3f}",
                f"{times['median']:.1f} ({times['low']:.1f} to {times['high']:.1f})",
                f"{mega:.0f}",
            )
        )
    if results["many"]:
        images, mega = results["many"]["images"], results["many"]["bytes"] / 1e6
        rows.append(("streamed, batches made on the way", images, "", "", f"{mega:.0f}"))
    head = ("way", "images", "seconds", "times faster", "peak memory (MB)")
    return markdown(head, rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=120, help="test images of the category")
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels")
    parser.add_argument("--pairs", type=int, default=7, help="rounds that are timed")
    parser.add_argument(
        "--memory", type=int, nargs="?", const=2000, default=0, help="a stream of so many images"
    )
    parser.add_argument("--json", type=Path, help="write all numbers here")
    args = parser.parse_args(argv)
    results = measure(args.images, args.size, args.pairs, args.memory)
    print(table(results))
    if args.json:
        write_json(args.json, results)


if __name__ == "__main__":
    main()
