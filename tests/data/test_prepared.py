"""Photos written once as array_record: the same batches, nothing half written, nothing stale."""

import itertools
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxad.data import prepared
from jaxad.data import write_prepared as writing
from jaxad.data.manifest import Manifest, read_csv, write_csv
from jaxad.data.pipeline import batches
from jaxad.data.synthetic import write_dataset
from jaxad.data.write_prepared import write_prepared
from jaxad.errors import InputError

SIZE = (20, 24)


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
    records[1] = records[1]._replace(split="calibration")
    return Manifest(root, tuple(records))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def ready(parts: Manifest, folder: Path) -> Manifest:
    return write_prepared(parts, folder, size=SIZE)


def place(ready: Manifest) -> Path:
    """The folder of a prepared manifest's examples."""
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


def test_what_it_takes_on_disk_is_known_before(ready: Manifest) -> None:
    count = 60
    photo = ready.root / ready.records[0].path
    records = [
        ready.records[0]._replace(path=f"{i}.png", mask="", prepared="") for i in range(count)
    ]
    many = ready.root.with_name("many")
    many.mkdir()
    for record in records:
        shutil.copy(photo, many / record.path)
    found = write_prepared(Manifest(many, tuple(records)), many / "out", size=(64, 64))
    taken = sum(path.stat().st_size for path in place(found).iterdir())
    assert taken == pytest.approx(prepared.nbytes(count, (64, 64)), rel=0.1)


def test_photos_are_written_once(ready: Manifest, parts: Manifest, folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert write_prepared(parts, folder, size=SIZE) == ready
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
    is_new(Manifest(root, data.records[::-1]))
    is_new(Manifest(root, (data.records[0]._replace(as_stored=True), *data.records[1:])))
    photo = root / data.records[0].path
    Image.new("RGB", (40, 32), "red").save(photo)
    is_new(data)
    os.utime(photo, ns=(0, 0))
    is_new(data)
    mask = root / next(r.mask for r in data.records if r.mask)
    os.utime(mask, ns=(0, 0))
    is_new(data)
    with photo.open("ab") as file:  # another size at the same time
        file.write(b"more")
    os.utime(photo, ns=(0, 0))
    is_new(data)
    photo.unlink()
    with pytest.raises(InputError, match=r"000\.png: can not be read \(No such file"):
        prepared.locate(data, tmp_path, size=SIZE)


@pytest.mark.parametrize("options", [{"image_size": SIZE[::-1]}, {"resample": "box"}])
def test_photos_prepared_otherwise_are_refused(options: dict[str, Any], ready: Manifest) -> None:
    wrong = {"image_size": SIZE, "resample": "lanczos"} | options
    with pytest.raises(InputError, match="prepared at another size or by another filter than"):
        next(iter(batches(ready, batch_size=2, **wrong)))


@pytest.mark.parametrize("how", ["pixels", "cut", "gone", "fewer", "elsewhere"])
def test_damage_is_told_in_one_line(how: str, parts: Manifest, tmp_path: Path) -> None:
    found = write_prepared(parts, tmp_path, size=SIZE)
    at = place(found)
    train = at / "train.array_record"
    content = bytearray(train.read_bytes())
    if how == "pixels":
        image, _ = prepared.read(found.records[0], size=SIZE, resample="lanczos", with_mask=False)
        content[content.index(image.tobytes()[:100]) + 50] ^= 1
        train.write_bytes(content)
    elif how == "cut":
        train.write_bytes(content[: len(content) // 2])
    elif how == "gone":
        train.unlink()
    elif how == "fewer":
        shutil.copy(at / "test.array_record", train)
    elif how == "elsewhere":
        shutil.move(train, tmp_path / "else")
        train.symlink_to(tmp_path / "else")

    def read() -> None:
        again = prepared.find(parts, tmp_path, size=SIZE)
        list(batches(again or parts, image_size=SIZE, batch_size=4))

    with pytest.raises(InputError) as caught:
        read()
    text = str(caught.value)
    assert text.startswith(f"{at}: damaged prepared photos (")
    assert text.endswith("): delete the folder and run it again")
    assert "\n" not in text
    shutil.rmtree(at)  # as it says
    assert write_prepared(parts, tmp_path, size=SIZE) == found


def test_no_wrong_bit_goes_unnoticed(parts: Manifest, tmp_path: Path) -> None:
    """array_record's own sums, anywhere in the file: an error, or the very same examples."""
    few = Manifest(parts.root, parts.records[:3])
    found = write_prepared(few, tmp_path, size=SIZE)
    file = place(found) / "train.array_record"
    whole = file.read_bytes()

    def read() -> list[bytes]:
        images = (
            prepared.read(r, size=SIZE, resample="lanczos", with_mask=False)[0]
            for r in found.records
        )
        return [image.tobytes() for image in images]

    sound = read()
    first = whole.index(sound[0])
    chosen = random.Random(0)
    places = [first + chosen.randrange(len(sound[0])) for _ in range(60)]
    places += [chosen.randrange(len(whole)) for _ in range(60)]
    refused = []
    for number, at in enumerate(places):
        wrong = bytearray(whole)
        wrong[at] ^= 1 << number % 8
        file.write_bytes(wrong)
        os.utime(file, ns=(number, number))
        try:
            assert read() == sound
            refused.append(False)
        except InputError:
            refused.append(True)
    assert all(refused[:60])


def test_examples_of_other_photos_are_refused(parts: Manifest, tmp_path: Path) -> None:
    found = write_prepared(parts, tmp_path, size=SIZE)
    at = place(found)
    other = write_prepared(parts.select("ü"), tmp_path, size=SIZE)
    for split in ("train", "test"):
        name = f"{split}.array_record"
        shutil.copy(place(other) / name, at / name)
    with pytest.raises(InputError, match=r"damaged prepared photos \(example 0: ValueError\)"):
        list(batches(found, image_size=SIZE, batch_size=4))


def test_a_damaged_photo_leaves_nothing_behind(parts: Manifest, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(parts.root, root)
    photo = root / parts.records[9].path
    photo.write_bytes(photo.read_bytes()[:300])
    with pytest.raises(InputError) as caught:
        write_prepared(Manifest(root, parts.records), tmp_path / "out", size=SIZE)
    assert str(caught.value).startswith(f"{photo}: damaged or truncated image")
    assert not any((tmp_path / "out").iterdir())


def test_a_full_disk_leaves_nothing_behind(parts: Manifest, tmp_path: Path) -> None:
    """A limit on the size of files meets array_record's writer as a full disk does."""
    out = tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limits[1]))
    try:
        with pytest.raises(InputError) as caught:
            write_prepared(parts, out, size=(64, 64))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    text = str(caught.value)
    assert text.startswith(f"{out}: prepared photos can not be written (")
    assert "File too large" in text
    assert "\n" not in text
    assert not any(out.iterdir())


def test_too_little_room_is_told_before(
    parts: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_free", lambda folder: 1_400_000_000)
    with pytest.raises(InputError, match=r"26 images at this size need \d\.\d GB, and 1\.4 GB are"):
        write_prepared(parts, tmp_path / "out", size=(8192, 8192))
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_folder(parts: Manifest, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="file: prepared photos can not be written"):
        write_prepared(parts, tmp_path / "file", size=SIZE)


def test_two_runs_may_write_the_same(
    parts: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = writing.batches

    def overtaken(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(writing, "batches", slow)
        write_prepared(parts, tmp_path, size=SIZE)
        return slow(*args, **options)

    monkeypatch.setattr(writing, "batches", overtaken)
    found = write_prepared(parts, tmp_path, size=SIZE)
    assert list(tmp_path.iterdir()) == [place(found)]
    options: dict[str, Any] = {"image_size": SIZE, "batch_size": 8}
    assert_same(batches(found, **options), batches(parts, **options))


def test_what_a_killed_process_left_is_deleted_and_what_a_live_one_writes_is_not(
    parts: Manifest, tmp_path: Path
) -> None:
    script = (
        "import sys, os; from pathlib import Path\n"
        "from jaxad.data.write_prepared import _unfinished\n"
        "with _unfinished(Path(sys.argv[1]) / '24x32-lanczos-0123456789abcdef') as folder:\n"
        "    (folder / 'train.array_record').write_bytes(b'x')\n"
        "    print(folder, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    theirs = Path(os.fsdecode(process.stdout.readline()).strip())
    (tmp_path / ".mine").mkdir()
    write_prepared(parts, tmp_path, size=(20, 24))
    assert theirs.is_dir()
    process.kill()
    process.communicate()
    found = write_prepared(parts, tmp_path, size=(24, 20))
    assert place(found).is_dir()
    assert not theirs.exists()
    assert (tmp_path / ".mine").is_dir()


def test_photos_that_change_meanwhile_are_told(
    parts: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(parts.root, root)
    read = writing.batches

    def changed(*args: Any, **options: Any) -> Any:
        os.utime(root / parts.records[0].path, ns=(0, 0))
        return read(*args, **options)

    monkeypatch.setattr(writing, "batches", changed)
    with pytest.raises(InputError, match="photos changed while they were decoded"):
        write_prepared(Manifest(root, parts.records), tmp_path / "out", size=SIZE)
