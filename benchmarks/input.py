"""How fast photos come in: decoded and resized from their files, and read from array_record.

    python -m benchmarks.input --json runs/benchmarks/input.json

Draws photos of 900 x 900 pixels with `jaxad.data.synthetic`, stores them as PNG, as JPEG, as PNG of
the training size and prepared (`data.prepared`), checks that prepared ones give the same batches,
and times one pass over each, in turn, `--pairs` times; over the PNG files by processes too. Files
are in the memory of the system by then, so that none is faster or slower for the disk's sake. Rates
are those between a pass's first batches and its last: worker processes take seconds to start and to
end, once a pass.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxad.data.images import decode_image
from jaxad.data.manifest import Manifest
from jaxad.data.pipeline import batches
from jaxad.data.synthetic import write_dataset
from jaxad.data.write_prepared import write_prepared
from jaxad.files import write_json

BATCH = 8
QUALITY = 92
"""Of JPEG, about what cameras write."""


def write_photos(root: Path, *, images: int, native: int, size: int) -> dict[str, Manifest]:
    """Draw photos and store them in each form.

    Args:
        root: Folder to write to.
        images: How many.
        native: Pixels a side of the photos.
        size: … of training.

    Returns:
        Form -> manifest.
    """
    drawn = write_dataset(
        root / "png",
        categories=("part",),
        n_train=images,
        n_test_good=0,
        n_test_bad=0,
        size=(native, native),
    )
    forms = {f"PNG, {native} px": drawn}
    for name, suffix, side in (
        (f"JPEG, {native} px", ".jpg", native),
        (f"PNG, {size} px", ".png", size),
    ):
        records = []
        for record in drawn.records:
            to = Path(name.replace(", ", "_").replace(" ", "")) / Path(record.path).name
            path = (root / to).with_suffix(suffix)
            path.parent.mkdir(exist_ok=True)
            photo = Image.fromarray(decode_image(drawn.root / record.path, size=(side, side)))
            photo.save(path, quality=QUALITY)  # of JPEG
            records.append(record._replace(path=path.relative_to(root).as_posix()))
        forms[name] = Manifest(root, tuple(records))
    name = f"array_record, {size} px"
    forms[name] = write_prepared(drawn, root / "prepared", size=(size, size))
    return forms


def a_pass(manifest: Manifest, *, size: int, workers: int) -> float:
    """Read every photo once; seconds an image, from the first batches to the last."""
    stream = batches(
        manifest,
        image_size=(size, size),
        batch_size=BATCH,
        workers=workers,
        with_masks=False,
    )
    counted, times = [], []
    for batch in stream:
        times.append(time.perf_counter())
        counted.append(int(batch["_mask"].sum()))
    first = max(1, workers)  # each worker's first batch comes when it has started
    return (times[-1] - times[first - 1]) / sum(counted[first:])


def check_same(one: Manifest, other: Manifest, *, size: int) -> None:
    """Compare all batches of two manifests.

    Raises:
        RuntimeError: They differ.
    """
    options: dict[str, Any] = {"image_size": (size, size), "batch_size": BATCH}
    for a, b in zip(batches(one, **options), batches(other, **options), strict=True):
        if a.keys() != b.keys() or any(not np.array_equal(a[key], b[key]) for key in a):
            raise RuntimeError("prepared photos are not those of the files")


def measure_passes(
    passes: dict[str, Callable[[], float]], *, pairs: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Take what every pass says of itself, once a round, in turn: as `measure.interleave` does."""
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for number in range(warmup + pairs):
        for name, run in passes.items():
            found = run()
            if number >= warmup:
                seconds[name].append(found)
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table; `--json` keeps every number."""
    from benchmarks.measure import machine, markdown, ratio  # jax, which workers need not import

    parser = argparse.ArgumentParser(prog="python -m benchmarks.input")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=256, help="pixels a side in training")
    parser.add_argument("--native", type=int, default=900, help="pixels a side of the photos")
    parser.add_argument("--workers", type=int, default=2, help="processes; 0: threads only")
    parser.add_argument("--pairs", type=int, default=7, help="rounds that count")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    if args.images <= BATCH * max(1, args.workers):
        parser.error(f"--images must be more than {BATCH * max(1, args.workers)}")

    with tempfile.TemporaryDirectory() as folder:
        forms = write_photos(Path(folder), images=args.images, native=args.native, size=args.size)
        first, last = next(iter(forms)), list(forms)[-1]
        check_same(forms[first], forms[last], size=args.size)
        passes: dict[str, Callable[[], float]] = {}
        for workers in dict.fromkeys((0, args.workers)):
            by = f"{workers} processes" if workers else "threads"
            for name in (first,) if workers else forms:
                passes[f"{name}; {by}"] = functools.partial(
                    a_pass, forms[name], size=args.size, workers=workers
                )
        seconds = measure_passes(passes, pairs=args.pairs)

    base = seconds[next(iter(seconds))]
    rows: dict[str, dict[str, Any]] = {}
    for name, each in seconds.items():
        middle = sorted(each)[len(each) // 2]
        rows[name] = {
            "images_per_second": 1 / middle,
            "ms_per_image": 1e3 * middle,
            "faster": ratio(base, each),
            "seconds_per_image": each,
        }
    print(
        markdown(
            ("photos; read by", "images a second", "ms an image", "times as fast (quartiles)"),
            [
                (
                    name,
                    f"{row['images_per_second']:.0f}",
                    f"{row['ms_per_image']:.2f}",
                    "{median:.1f} ({low:.1f}–{high:.1f})".format(**row["faster"]),
                )
                for name, row in rows.items()
            ],
        )
    )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        settings = {key: value for key, value in vars(args).items() if key != "json"}
        write_json(args.json, {"machine": machine(), **settings, "rows": rows})


if __name__ == "__main__":
    main()
