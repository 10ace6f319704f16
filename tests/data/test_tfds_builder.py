"""Photos written once as array_record: the same batches, nothing half written, nothing stale."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxad.data import prepared, tfds_builder
from jaxad.data.images import decode_image, decode_mask
from jaxad.data.manifest import Manifest, Record, read_csv, write_csv
from jaxad.data.pipeline import batches
from jaxad.data.synthetic import write_dataset
from jaxad.errors import InputError

SIZE = (20, 24)
PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Photos of two categories, a defective one of them without its mask."""
    root = tmp_path_factory.mktemp("parts")
    data = write_dataset(
        root, categories=("p", "ü"), n_train=7, n_test_good=2, n_test_bad=4, size=(32, 40)
    )
    bad = next(i for i, r in enumerate(data.records) if r.mask)
    records = [r._replace(subclass=f"s{i % 3}") for i, r in enumerate(data.records)]
    records[bad] = records[bad]._replace(mask="")
    return Manifest(root, tuple(records))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def ready(parts: Manifest, folder: Path) -> Manifest:
    return prepared.write(parts, folder, size=SIZE)


def place(ready: Manifest) -> Path:
    """The folder of a prepared manifest's tfds dataset."""
    return Path(ready.records[0].prepared).parents[1]


def assert_same(found: Any, expected: Any) -> None:
    for a, b in zip(found, expected, strict=True):
        assert list(a) == list(b)
        for key in b:
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"with_masks": False},
        {"shuffle_seed": 3},
        {"shuffle_seed": 3, "process_index": 1, "process_count": 3},
        {"drop_remainder": True, "subclasses": ("s2", "s0")},
        {"shuffle_seed": 5, "repeat": True},
    ],
)
def test_batches_are_those_of_the_files(
    options: dict[str, Any], parts: Manifest, ready: Manifest
) -> None:
    from_files, from_records = (
        itertools.islice(batches(data, image_size=SIZE, batch_size=4, **options), 16)
        for data in (parts, ready)
    )
    assert_same(from_records, from_files)


def test_every_part_of_a_prepared_manifest_is_prepared(parts: Manifest, ready: Manifest) -> None:
    """What jobs do: choose by category, split and number, and go on where they were."""
    options: dict[str, Any] = {"image_size": SIZE, "batch_size": 3}
    a, b = (data.select("ü", "test") for data in (parts, ready))
    assert_same(batches(b, **options), batches(a, **options))
    backwards = [Manifest(m.root, m.records[::-2]) for m in (ready, parts)]
    assert_same(*(batches(m, **options) for m in backwards))

    first, second = (
        iter(batches(m, shuffle_seed=0, repeat=True, **options)) for m in (parts, ready)
    )
    for _ in range(3):
        next(first)
    second.set_state(first.get_state())
    assert_same([next(second)], [next(first)])


def test_worker_processes_read_what_is_prepared(parts: Manifest, ready: Manifest) -> None:
    """Threads do where all is prepared, so one photo is left to decode."""
    mixed = Manifest(ready.root, (parts.records[0], *ready.records[1:6]))
    expected = batches(Manifest(parts.root, parts.records[:6]), image_size=SIZE, batch_size=2)
    assert_same(batches(mixed, image_size=SIZE, batch_size=2, workers=1), expected)


def test_tfds_reads_it_without_tensorflow(parts: Manifest, ready: Manifest) -> None:
    builder = tfds.builder_from_directory(place(ready))
    assert (builder.name, builder.info.file_format.value) == ("visual_ad", "array_record")
    for split in ("train", "test"):
        source = builder.as_data_source(split)
        own = [(i, r) for i, r in enumerate(parts.records) if r.split == split]
        assert len(source) == len(own)
        for example, (index, r) in zip(source, own):
            image = decode_image(parts.root / r.path, size=SIZE)
            np.testing.assert_array_equal(example["image"], image)
            bits = np.unpackbits(example["mask"], count=SIZE[0] * SIZE[1]).reshape(SIZE)
            mask = decode_mask(parts.root / r.mask, size=SIZE) if r.mask else np.zeros(SIZE)
            np.testing.assert_array_equal(bits, mask)
            assert example["has_mask"] == (r.is_good or bool(r.mask))
            assert example["label"] == (not r.is_good)
            assert example["index"] == index
            words = [example[key].decode() for key in ("defect", "category", "subclass", "path")]
            assert words == [r.label, r.category, r.subclass, r.path]
    assert builder.info.features["label"].names == ["good", "defective"]
    assert "tensorflow" not in sys.modules


def test_a_split_may_take_several_files(
    parts: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tfds_builder, "SHARD_BYTES", 3 * prepared.nbytes(1, SIZE))
    found = prepared.write(parts, tmp_path, size=SIZE)
    files = sorted(path.name for path in place(found).glob("*array_record*"))
    assert files == [
        f"visual_ad-{split}.array_record-{i:05}-of-{n:05}"
        for split, n in (("test", 4), ("train", 5))
        for i in range(n)
    ]
    options: dict[str, Any] = {"image_size": SIZE, "batch_size": 8}
    assert_same(batches(found, **options), batches(parts, **options))


def test_what_it_takes_on_disk_is_known_before(ready: Manifest) -> None:
    count = 200
    photo = ready.root / ready.records[0].path
    records = [
        ready.records[0]._replace(path=f"{i}.png", mask="", prepared="") for i in range(count)
    ]
    many = ready.root.with_name("many")
    many.mkdir()
    for record in records:
        shutil.copy(photo, many / record.path)
    found = prepared.write(Manifest(many, tuple(records)), many / "out", size=(64, 64))
    taken = sum(path.stat().st_size for path in place(found).iterdir())
    assert taken == pytest.approx(prepared.nbytes(count, (64, 64)), rel=0.05)


def test_photos_are_written_once(ready: Manifest, parts: Manifest, folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert prepared.write(parts, folder, size=SIZE) == ready
    assert prepared.find(ready, folder, size=SIZE) == ready
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    with_csv = ready.root.with_name("as.csv")
    write_csv(ready, with_csv)
    assert read_csv(with_csv, root=parts.root) == parts


def test_other_photos_are_others(parts: Manifest, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(parts.root, root)
    data = Manifest(root, parts.records)
    seen = {prepared.locate(data, tmp_path, size=SIZE)}

    def is_new(data: Manifest, **options: Any) -> None:
        at = prepared.locate(data, tmp_path, **({"size": SIZE} | options))
        assert at not in seen
        assert prepared.find(data, tmp_path, **({"size": SIZE} | options)) is None
        seen.add(at)

    is_new(data, size=SIZE[::-1])
    is_new(data, resample="bilinear")
    is_new(Manifest(root, data.records[1:]))
    is_new(Manifest(root, (data.records[0]._replace(as_stored=True), *data.records[1:])))
    photo = root / data.records[0].path
    Image.new("RGB", (40, 32), "red").save(photo)
    is_new(data)
    os.utime(photo, ns=(0, 0))
    is_new(data)
    mask = root / next(r.mask for r in data.records if r.mask)
    os.utime(mask, ns=(0, 0))
    is_new(data)
    photo.unlink()
    with pytest.raises(InputError, match=r"000\.png: can not be read \(No such file"):
        prepared.locate(data, tmp_path, size=SIZE)


def test_images_within_containers(ready: Manifest, tmp_path: Path) -> None:
    """Rows of a CIFAR batch, and examples of tfds, among them those of this builder."""
    records = tuple(Record(f"test/{i}", "c", "", "test", "good") for i in (4, 1))
    inner = Manifest(place(ready), records)
    found = prepared.write(inner, tmp_path, size=(6, 5), resample="box")
    options: dict[str, Any] = {"image_size": (6, 5), "batch_size": 2, "resample": "box"}
    assert_same(batches(found, **options), batches(inner, **options))
    assert [path.name for path in place(found).glob("*array*")] == [
        "visual_ad-test.array_record-00000-of-00001"  # no split without images
    ]


@pytest.mark.parametrize("options", [{"image_size": SIZE[::-1]}, {"resample": "box"}])
def test_photos_prepared_otherwise_are_refused(options: dict[str, Any], ready: Manifest) -> None:
    wrong = {"image_size": SIZE, "resample": "lanczos"} | options
    with pytest.raises(InputError, match="prepared at another size or by another filter than"):
        next(iter(batches(ready, batch_size=2, **wrong)))


def counts(info: dict[str, Any], **changes: str) -> dict[str, Any]:
    for split in info["splits"]:
        split["shardLengths"] = [changes.get(split["name"], *split["shardLengths"])]
    return info


@pytest.mark.parametrize("how", ["pixels", "cut", "gone", "info", "fewer", "class", "elsewhere"])
def test_damage_is_told_in_one_line(how: str, parts: Manifest, tmp_path: Path) -> None:
    found = prepared.write(parts, tmp_path, size=SIZE)
    at = place(found)
    train = at / "visual_ad-train.array_record-00000-of-00001"
    info = at / "dataset_info.json"
    content = bytearray(train.read_bytes())
    if how == "pixels":
        pixels = decode_image(parts.root / parts.records[0].path, size=SIZE).tobytes()
        content[content.index(pixels[:100]) + 50] ^= 1
        train.write_bytes(content)
    elif how == "cut":
        train.write_bytes(content[: len(content) // 2])
    elif how == "gone":
        train.unlink()
    elif how == "info":
        info.write_bytes(b"{")
    elif how == "fewer":
        info.write_text(json.dumps(counts(json.loads(info.read_text()), train="9")))
    elif how == "class":
        features = at / "features.json"
        features.write_text(features.read_text().replace("tensorflow_datasets.", "os."))
    elif how == "elsewhere":
        shutil.move(train, tmp_path / "else")
        train.symlink_to(tmp_path / "else")
    os.utime(info)  # opened anew, as by a later run

    def read() -> None:
        again = prepared.find(parts, tmp_path, size=SIZE)
        list(batches(again or parts, image_size=SIZE, batch_size=4))

    with pytest.raises(InputError) as caught:
        read()
    text = str(caught.value)
    assert text.startswith(f"{at}: damaged prepared photos (")
    assert text.endswith("): delete the folder and run it again")
    assert "\n" not in text
    shutil.rmtree(at.parents[1])  # as it says
    assert prepared.write(parts, tmp_path, size=SIZE) == found


def test_examples_of_other_photos_are_refused(parts: Manifest, tmp_path: Path) -> None:
    found = prepared.write(parts, tmp_path, size=SIZE)
    at = place(found)
    other = prepared.write(parts.select("ü"), tmp_path, size=SIZE)
    for split in ("train", "test"):
        name = f"visual_ad-{split}.array_record-00000-of-00001"
        shutil.copy(place(other) / name, at / name)
    with pytest.raises(InputError, match=r"damaged prepared photos \(example 0: ValueError\)"):
        list(batches(found, image_size=SIZE, batch_size=4))


def test_a_damaged_photo_leaves_nothing_behind(parts: Manifest, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(parts.root, root)
    photo = root / parts.records[9].path
    photo.write_bytes(photo.read_bytes()[:300])
    with pytest.raises(InputError) as caught:
        prepared.write(Manifest(root, parts.records), tmp_path / "out", size=SIZE)
    assert str(caught.value).startswith(f"{photo}: damaged or truncated image")
    assert not any((tmp_path / "out").iterdir())


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from jaxad.data import prepared
from jaxad.data.manifest import read_csv
from jaxad.errors import InputError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    prepared.write(read_csv(sys.argv[1], root=sys.argv[2]), sys.argv[3], size=(64, 64))
except InputError as error:
    print(error)
"""


def test_a_full_disk_leaves_nothing_behind(parts: Manifest, tmp_path: Path) -> None:
    """A limit on the size of files meets array_record's writer as a full disk does."""
    write_csv(parts, tmp_path / "m.csv")
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path / "m.csv", parts.root, out],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"{out}: prepared photos can not be written (")
    assert "File too large" in done.stdout
    assert done.stdout.count("\n") == 1
    assert not any(out.iterdir())


def test_too_little_room_is_told_before(
    parts: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "_free", lambda folder: 1_400_000_000)
    with pytest.raises(InputError, match=r"26 images at this size need \d\.\d GB, and 1\.4 GB are"):
        prepared.write(parts, tmp_path / "out", size=(8192, 8192))
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_folder(parts: Manifest, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="file: prepared photos can not be written"):
        prepared.write(parts, tmp_path / "file", size=SIZE)


def test_two_runs_may_write_the_same(
    parts: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tfds_builder.VisualAD.download_and_prepare

    def overtaken(builder: Any) -> None:
        monkeypatch.setattr(tfds_builder.VisualAD, "download_and_prepare", slow)
        prepared.write(parts, tmp_path, size=SIZE)
        slow(builder)

    monkeypatch.setattr(tfds_builder.VisualAD, "download_and_prepare", overtaken)
    found = prepared.write(parts, tmp_path, size=SIZE)
    assert [path.name for path in tmp_path.iterdir()] == [place(found).parents[1].name]
    options: dict[str, Any] = {"image_size": SIZE, "batch_size": 8}
    assert_same(batches(found, **options), batches(parts, **options))


def test_photos_that_change_meanwhile_are_told(
    parts: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(parts.root, root)
    write = tfds_builder.VisualAD.download_and_prepare

    def changed(builder: Any) -> None:
        write(builder)
        os.utime(root / parts.records[0].path, ns=(0, 0))

    monkeypatch.setattr(tfds_builder.VisualAD, "download_and_prepare", changed)
    with pytest.raises(InputError, match="photos changed while they were decoded"):
        prepared.write(Manifest(root, parts.records), tmp_path / "out", size=SIZE)
