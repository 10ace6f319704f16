"""Records to batches: values, order, padding, epochs, sharing, errors of threads and workers."""

import gc
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxad.data import workers as workers_module
from jaxad.data.images import decode_image, decode_mask
from jaxad.data.manifest import Manifest, Record
from jaxad.data.pipeline import batches
from jaxad.data.synthetic import write_dataset
from jaxad.data.write_prepared import write_prepared
from jaxad.errors import InputError

SIZE = (20, 24)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    root = tmp_path_factory.mktemp("parts")
    return write_dataset(
        root, categories=("p",), n_train=7, n_test_good=2, n_test_bad=4, size=(32, 40)
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Eleven one-colour images, so that an image tells its index."""
    root = tmp_path_factory.mktemp("tiny")
    for i in range(11):
        Image.new("L", (2, 2), 10 * i).save(root / f"{i}.png")
    return Manifest(
        root, tuple(Record(f"{i}.png", "c", f"s{i % 3}", "train", "good") for i in range(11))
    )


def read(data: Any, **options: Any) -> list[dict[str, np.ndarray]]:
    return list(batches(data, **({"image_size": (2, 2), "batch_size": 4} | options)))


def order(found: list[dict[str, np.ndarray]]) -> list[int]:
    return [int(i) for b in found for i in b["index"][b["_mask"]]]


def test_fields(dataset: Manifest) -> None:
    found = read(dataset, image_size=SIZE, batch_size=5, resample="bicubic")
    assert [b["_mask"].sum() for b in found] == [5, 5, 3]
    for b in found:
        assert {k: (v.shape, v.dtype.name) for k, v in b.items()} == {
            "image": ((5, *SIZE, 3), "uint8"),
            "label": ((5,), "int32"),
            "mask": ((5, *SIZE), "bool"),
            "has_mask": ((5,), "bool"),
            "subclass": ((5,), "int32"),
            "index": ((5,), "int32"),
            "_mask": ((5,), "bool"),
        }
    assert order(found) == list(range(13))
    for position, r in enumerate(dataset.records):
        b, i = found[position // 5], position % 5
        image = decode_image(dataset.root / r.path, size=SIZE, resample="bicubic")
        np.testing.assert_array_equal(b["image"][i], image)
        assert b["label"][i] == (not r.is_good)
        assert b["has_mask"][i]
        expected = decode_mask(dataset.root / r.mask, size=SIZE) if r.mask else np.zeros(SIZE, bool)
        np.testing.assert_array_equal(b["mask"][i], expected)
    assert all(not v[3:].any() for v in found[-1].values())


def test_masks_can_be_left_out_or_missing(dataset: Manifest) -> None:
    bare = read(dataset, with_masks=False)
    assert set(bare[0]) == {"image", "label", "subclass", "index", "_mask"}
    records = tuple(r._replace(mask="") for r in dataset.records)
    found = read(Manifest(dataset.root, records), batch_size=13)[0]
    assert found["label"].sum() == 4
    np.testing.assert_array_equal(found["has_mask"], found["label"] == 0)
    assert not found["mask"].any()


def test_labels_come_from_the_record_not_the_mask(tmp_path: Path) -> None:
    Image.new("L", (64, 64)).save(tmp_path / "a.png")
    mask = Image.new("L", (64, 64))
    mask.putpixel((9, 40), 255)  # lost when the mask is made small
    mask.save(tmp_path / "m.png")
    found = read(Manifest(tmp_path, (Record("a.png", "c", "", "test", "dot", "m.png"),)))[0]
    assert np.argwhere(found["mask"][0]).tolist() == [[1, 0]]  # but for one pixel, where it is
    assert found["label"][0] == 1
    assert found["has_mask"][0]


def test_subclasses(tiny: Manifest) -> None:
    found = read(tiny, batch_size=11)[0]
    np.testing.assert_array_equal(found["subclass"], np.arange(11) % 3)
    found = read(tiny, batch_size=11, subclasses=("s2", "s0"))[0]
    np.testing.assert_array_equal(found["subclass"][:4], [1, -1, 0, 1])


def test_records_without_a_root(tiny: Manifest) -> None:
    loose = [r._replace(path=str(tiny.root / r.path)) for r in tiny.records]
    np.testing.assert_array_equal(read(loose)[0]["image"], read(tiny)[0]["image"])


def test_shuffling_is_by_seed(tiny: Manifest) -> None:
    first = order(read(tiny, shuffle_seed=3))
    assert sorted(first) == list(range(11))
    assert first != list(range(11))
    assert order(read(tiny, shuffle_seed=3)) == first
    assert order(read(tiny, shuffle_seed=4)) != first
    # A data set can be gone through again.
    again = batches(tiny, image_size=(2, 2), batch_size=4, shuffle_seed=3)
    assert order(list(again)) == order(list(again)) == first


def test_repeating_goes_through_epochs_without_a_gap(tiny: Manifest) -> None:
    stream = iter(batches(tiny, image_size=(2, 2), batch_size=4, shuffle_seed=0, repeat=True))
    found = list(itertools.islice(stream, 11))  # 44 images: four epochs
    assert all(b["_mask"].all() for b in found)
    for b in found:
        np.testing.assert_array_equal(b["image"][:, 0, 0, 0], b["index"] * 10)
    epochs = np.reshape(order(found), (4, 11))
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    one_by_one = iter(batches(tiny, image_size=(2, 2), batch_size=1, repeat=True))
    assert order(list(itertools.islice(one_by_one, 13))) == [*range(11), 0, 1]


def test_an_iterator_continues_at_the_next_batch(tiny: Manifest) -> None:
    def stream() -> Any:
        return iter(batches(tiny, image_size=(2, 2), batch_size=4, shuffle_seed=0, repeat=True))

    first = stream()
    for _ in range(5):
        next(first)
    state = first.get_state()
    expected = [order([next(first)]) for _ in range(4)]
    second = stream()
    second.set_state(state)
    assert [order([next(second)]) for _ in range(4)] == expected


def test_remainder(tiny: Manifest) -> None:
    assert order(read(tiny, drop_remainder=True)) == list(range(8))
    with pytest.raises(InputError, match=r"11 images.*batch_size=12 make no batch"):
        read(tiny, batch_size=12, drop_remainder=True)
    assert [b["_mask"].sum() for b in read(tiny, batch_size=64)] == [11]


@settings(max_examples=12, deadline=None)
@given(
    count=st.integers(1, 11),
    processes=st.integers(1, 5),
    batch_size=st.integers(1, 4),
    seed=st.none() | st.integers(0, 9),
)
def test_processes_share_every_image_once(
    tiny: Manifest, count: int, processes: int, batch_size: int, seed: int | None
) -> None:
    part = Manifest(tiny.root, tiny.records[:count])
    found = [
        read(
            part,
            batch_size=batch_size,
            shuffle_seed=seed,
            process_index=i,
            process_count=processes,
            with_masks=False,
        )
        for i in range(processes)
    ]
    assert len({len(f) for f in found}) == 1  # or a collective would wait for ever
    together = [i for f in found for i in order(f)]
    assert sorted(together) == list(range(count))
    if seed is None:
        assert order(found[0]) == list(range(0, count, processes))


def test_processes_share_endless_streams_evenly(tiny: Manifest) -> None:
    options = {"image_size": (2, 2), "batch_size": 5, "shuffle_seed": 1, "repeat": True}
    streams = [iter(batches(tiny, process_index=i, process_count=2, **options)) for i in range(2)]
    epochs = [[order([next(s)]) for s in streams] for _ in range(4)]
    for halves in epochs:
        assert len(set(halves[0] + halves[1])) == 10  # of 11, disjoint
    assert len({tuple(h[0]) for h in epochs}) == 4
    with pytest.raises(InputError, match="11 images for 12 processes"):
        batches(tiny, process_count=12, **options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"batch_size": 0}, "batch_size=0 must be 1 or more"),
        ({"process_index": 1}, "process_index=1 below process_count=1"),
        ({"resample": "cubic"}, "unknown resize filter 'cubic'"),
    ],
)
def test_unusable_arguments(tiny: Manifest, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        read(tiny, **options)


def test_no_records(tiny: Manifest) -> None:
    with pytest.raises(InputError, match="0 images"):
        read(tiny.select("nothing"))


def with_damage(data: Manifest, root: Path) -> tuple[Manifest, str]:
    """Put a truncated image at position 6."""
    whole = (data.root / data.records[0].path).read_bytes()
    (root / "cut.png").write_bytes(whole[:40])
    records = [r if r.prepared else r._replace(path=str(data.root / r.path)) for r in data.records]
    records[6] = records[6]._replace(path=str(root / "cut.png"))
    return Manifest(Path(), tuple(records)), str(root / "cut.png")


def test_errors_in_threads_keep_their_line(tiny: Manifest, tmp_path: Path) -> None:
    damaged, name = with_damage(tiny, tmp_path)
    stream = iter(batches(damaged, image_size=(2, 2), batch_size=4))
    assert order([next(stream)]) == [0, 1, 2, 3]
    with pytest.raises(InputError) as caught:
        next(stream)
    assert str(caught.value).startswith(f"{name}: damaged or truncated image")


def test_a_mask_that_does_not_fit_names_both_files(tiny: Manifest) -> None:
    Image.new("L", (3, 2)).save(tiny.root / "m.png")
    bad = Manifest(tiny.root, (Record("0.png", "c", "", "test", "x", "m.png"),))
    with pytest.raises(InputError, match=r"m\.png: the mask is 3x2 .*0\.png is 2x2"):
        read(bad)
    assert len(read(bad, with_masks=False)) == 1


def test_worker_processes_give_the_same(tiny: Manifest, tmp_path: Path) -> None:
    """The same batches in the same order, of photos decoded or prepared, up to the same error."""
    ready = write_prepared(tiny, tmp_path / "prepared", size=(2, 2))
    mixed = Manifest(tiny.root, (*ready.records[:5], *tiny.records[5:]))
    damaged, name = with_damage(mixed, tmp_path)

    def until_it_fails(workers: int) -> tuple[list[dict[str, np.ndarray]], str]:
        options: dict[str, Any] = {"image_size": (2, 2), "batch_size": 2, "shuffle_seed": 5}
        found = []
        with pytest.raises(InputError) as caught:  # noqa: PT012 - what came before it counts
            for batch in batches(damaged, workers=workers, **options):
                found.append(batch)
        return found, str(caught.value)

    expected, message = until_it_fails(0)
    assert len(expected) > 2
    assert message.startswith(f"{name}: damaged or truncated image")
    found, same = until_it_fails(2)
    assert same == message
    for a, b in zip(found, expected, strict=True):
        for key in b:
            np.testing.assert_array_equal(a[key], b[key])


def test_workers_end_with_the_iteration_and_continue_where_asked(
    tiny: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    start = workers_module._start
    monkeypatch.setattr(workers_module, "_start", lambda: started.append(start()) or started[-1])
    options: dict[str, Any] = {"image_size": (2, 2), "batch_size": 2, "shuffle_seed": 5}
    expected = order(read(tiny, **options))
    stream = iter(batches(tiny, workers=2, **options))
    assert order([next(stream)]) == expected[:2]
    state = stream.get_state()
    other = iter(batches(tiny, workers=1, **options))
    other.set_state(state)
    assert order(list(other)) == expected[2:]
    assert len(started) == 3
    del stream, other
    gc.collect()
    assert all(worker.process.wait(20) for worker in started)  # killed
