"""Pixel metrics of a stream of batches: the same as of the whole, bit for bit, in little memory."""

import subprocess
import sys
import textwrap
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxad.errors import InputError
from jaxad.metrics import PixelStream, label_regions, pixel_metrics, stream_metrics

STATUS = Path("/proc/self/status")
LIMITS = (0.05, 0.3, 1.0)
KEYS = ("pixel_auroc", "pixel_ap", "aupro_0.05", "aupro_0.30", "aupro_1.00")
Scene = tuple[np.ndarray, np.ndarray]


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Masks and maps, ties among them; masks of one kind of pixel too."""
    shape = draw(st.tuples(st.integers(0, 6), st.integers(1, 6), st.integers(1, 6)))
    masks = draw(
        st.one_of(
            hnp.arrays(bool, shape, fill=st.nothing()),
            st.sampled_from([np.zeros(shape, bool), np.ones(shape, bool)]),
        )
    )
    few = st.sampled_from([-3.0, -0.0, 0.0, 0.1, 0.25, 1e-30, 7.5, 3e30])
    scores = st.one_of(few, st.floats(-100, 100, width=32))
    return masks, draw(hnp.arrays(np.float32, shape, elements=scores, fill=st.nothing()))


def streamed(masks: np.ndarray, maps: np.ndarray, sizes: list[int]) -> dict[str, float | None]:
    """The metrics, the images coming in batches of `sizes`, the last one as often as needed."""
    stream, done = PixelStream(masks.size), 0
    while done < len(masks):
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        stream.add(masks[done : done + size], maps[done : done + size])
        done += size
    return stream_metrics(stream, limits=LIMITS)


def brute_force(masks: np.ndarray, maps: np.ndarray) -> dict[str, float | None]:
    """Every metric by its definition, threshold by threshold over all pixels."""
    if masks.all() or not masks.any():
        return dict.fromkeys(KEYS)
    labels, areas = label_regions(masks)
    bad, good = maps[masks], maps[~masks]
    order = np.sign(bad[:, None].astype(np.float64) - good[None, :])
    fpr, pro, ap = [0.0], [0.0], 0.0
    for threshold in np.unique(maps)[::-1]:
        flagged = maps >= threshold
        hits = np.sum(flagged & masks)
        ap += np.sum((maps == threshold) & masks) / len(bad) * hits / flagged.sum()
        fpr.append(np.mean(good >= threshold))
        pro.append(np.mean([np.mean(flagged[labels == r + 1]) for r in range(len(areas))]))
    found = {"pixel_auroc": np.mean((order + 1) / 2), "pixel_ap": ap}
    for limit in LIMITS:
        x = np.array([*(v for v in fpr if v <= limit), limit])
        y = np.array([*pro[: len(x) - 1], np.interp(limit, fpr, pro)])
        # At a jump `interp` may answer with either end; the area up to it is 0 wide then.
        found[f"aupro_{limit:.2f}"] = np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) / limit
    return found


@hypothesis.given(scenes(), st.lists(st.integers(1, 4), min_size=1, max_size=6))
@hypothesis.settings(max_examples=80, deadline=None)
def test_batches_of_any_size_give_the_whole_bit_for_bit(scene: Scene, sizes: list[int]) -> None:
    masks, maps = scene
    assert streamed(masks, maps, sizes) == pixel_metrics(masks, maps, limits=LIMITS)


@hypothesis.given(scenes(), st.integers(1, 3))
@hypothesis.settings(max_examples=60, deadline=None)
def test_a_stream_is_what_the_definitions_say(scene: Scene, size: int) -> None:
    masks, maps = scene
    found, expected = streamed(masks, maps, [size]), brute_force(masks, maps)
    assert tuple(found) == KEYS
    for key, value in expected.items():
        assert found[key] == (None if value is None else pytest.approx(value, abs=1e-12)), key


def test_images_of_unknown_mask_are_left_out_batch_by_batch() -> None:
    rng = np.random.default_rng(0)
    masks, maps = rng.random((9, 5, 5)) < 0.2, rng.normal(size=(9, 5, 5)).astype(np.float32)
    known = np.array([1, 1, 0, 0, 0, 0, 1, 0, 1], bool)
    stream = PixelStream(masks.size)  # room for all: how many masks are known comes to light later
    for i in range(0, 9, 2):
        part = known[i : i + 2]  # of the second and third batch none is left
        stream.add(masks[i : i + 2][part], maps[i : i + 2][part])
    assert stream_metrics(stream) == pixel_metrics(masks[known], maps[known])


def test_nothing_came() -> None:
    assert set(stream_metrics(PixelStream(0)).values()) == {None}


def test_precomputed_regions_of_a_batch() -> None:
    rng = np.random.default_rng(1)
    masks, maps = rng.random((6, 8, 8)) < 0.3, rng.normal(size=(6, 8, 8)).astype(np.float32)
    stream = PixelStream(masks.size)
    for part in (slice(0, 4), slice(4, 6)):
        stream.add(masks[part], maps[part], regions=label_regions(masks[part]))
    assert stream_metrics(stream) == pixel_metrics(masks, maps)
    with pytest.raises(InputError, match="other masks"):
        # As many defective pixels, at other places.
        PixelStream(masks.size).add(masks, maps, regions=label_regions(masks[:, ::-1]))


def test_bad_batches_are_named() -> None:
    masks, maps = np.zeros((2, 4, 4), bool), np.zeros((2, 4, 4), np.float32)
    stream = PixelStream(100)
    stream.add(masks, maps)
    broken = maps.copy()
    broken[1, 2, 3] = np.inf
    with pytest.raises(InputError, match="score map 3 holds NaN"):
        stream.add(masks, broken)
    with pytest.raises(ValueError, match="float64, the stream is float32"):
        stream.add(masks, maps.astype(np.float64))
    with pytest.raises(ValueError, match="more than the 40 pixels"):
        PixelStream(40).add(np.zeros((3, 4, 4), bool), np.zeros((3, 4, 4), np.float32))
    with pytest.raises(InputError, match="limit is 30"):
        stream_metrics(stream, limits=(30,))


@pytest.mark.skipif(not STATUS.exists(), reason="needs /proc/self/status")
def test_a_stream_takes_little_more_than_its_scores() -> None:
    """A tenth of what the benchmark measures: 200 images of 256 x 256, 52 MB of scores."""
    # VmHWM, not getrusage, which on Linux counts what the starting process held, too.
    program = """
        import numpy as np
        from jaxad.metrics import PixelStream, stream_metrics

        def memory(key):
            status = open("/proc/self/status").read().splitlines()
            return int(next(line.split()[1] for line in status if line.startswith(key))) * 1024

        rng = np.random.default_rng(0)
        maps, masks = rng.random((20, 256, 256), np.float32), np.zeros((20, 256, 256), bool)
        masks[:, 100:144, 100:144] = True  # 3 %
        before, stream = memory("VmRSS"), PixelStream(10 * masks.size)
        for shift in range(10):
            stream.add(masks, maps + np.float32(shift / 100))
        assert stream_metrics(stream)["pixel_auroc"] is not None
        print(memory("VmHWM") - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert 50e6 < int(done.stdout) < 100e6  # a tenth of 1 GB
