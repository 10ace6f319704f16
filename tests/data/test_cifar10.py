"""CIFAR-10: both forms, the four settings, images within files, and every refusal."""

import io
import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxad.config import default_config
from jaxad.data.check import check_dataset, require_readable
from jaxad.data.layouts import load_dataset
from jaxad.data.layouts.cifar10 import SETTINGS
from jaxad.data.manifest import Manifest, Record, read_csv, validate, write_csv
from jaxad.data.members import find_member, open_container
from jaxad.data.pipeline import batches
from jaxad.errors import InputError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cifar10_subset"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
CLASSES = ["airplane", "automobile", "bird", "cat", "deer"]
CLASSES += ["dog", "frog", "horse", "ship", "truck"]


def pixels(count: int, seed: int) -> np.ndarray:
    """`(N, 3072)` uint8: red, green and blue planes of 32 x 32 one after the other."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8)


def save(path: Path, **entries: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({k.encode(): v for k, v in entries.items()}, 2))


def write_batches(root: Path) -> None:
    """Write 20 images in two training batches, 30 in the test batch, as many of each class."""
    for n in (1, 2):
        save(root / f"data_batch_{n}", data=pixels(10, n), labels=list(range(10)))
    save(root / "test_batch", data=pixels(30, 9), labels=[i % 10 for i in range(30)])
    save(root / "batches.meta", label_names=[c.encode() for c in CLASSES], num_vis=3072)


def refusal(root: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        require_readable(load_dataset("cifar10", root, **options))
    assert str(caught.value).isprintable()
    return str(caught.value)


def check_settings(manifest: Manifest, train: Counter[str], test: Counter[str]) -> None:
    """Hold a manifest against the protocol; `train` and `test` are images by digit of the class."""
    assert set(manifest.categories) == {"01234", "56789", "02468", "13579"}
    for setting in SETTINGS:
        part = manifest.select(setting)
        expected = Counter({("train", "good"): sum(train[digit] for digit in setting)})
        expected["test", "good"] = sum(test[digit] for digit in setting)
        for digit in set("0123456789") - set(setting):
            expected["test", CLASSES[int(digit)]] = test[digit]
        assert Counter((r.split, r.label) for r in part.records) == expected
        assert {r.subclass for r in part.select(split="train").records} == {
            CLASSES[int(digit)] for digit in setting
        }
        assert len(part.select(split="test")) == sum(test.values())
        assert all(r.is_good or r.label == r.subclass for r in part.records)
        assert not any(r.mask for r in part.records)


@needs_shared
def test_the_subset() -> None:
    manifest = load_dataset("cifar10", SHARED)
    assert load_dataset("cifar10", SHARED / "cifar-10-batches-py") == manifest
    require_readable(manifest)
    there = {}
    for name in ("data_batch_1", "test_batch"):
        with (SHARED / "cifar-10-batches-py" / name).open("rb") as file:
            there[name] = pickle.load(file, encoding="bytes")  # the oracle; we made this file
    counts = [Counter(str(n) for n in there[name][b"labels"]) for name in there]
    assert [sum(c.values()) for c in counts] == [4000, 1500]
    check_settings(manifest, *counts)
    for name, number in [("data_batch_1", 0), ("data_batch_1", 3999), ("test_batch", 777)]:
        expected = there[name][b"data"][number].reshape(3, 32, 32).transpose(1, 2, 0)
        np.testing.assert_array_equal(
            find_member(manifest.root / name / str(number)).read(), expected
        )
    text, ok = check_dataset(SHARED)
    assert ok, text
    assert text.startswith("layout cifar10\n")
    assert "  modes: RGB 3" in text


def test_the_four_settings(tmp_path: Path) -> None:
    write_batches(tmp_path / "cifar-10-batches-py")
    manifest = load_dataset("cifar10", tmp_path)
    require_readable(manifest)
    train, test = (Counter(dict.fromkeys("0123456789", n)) for n in (2, 3))
    check_settings(manifest, train, test)
    one = load_dataset("cifar10", tmp_path, categories="13579")
    assert one.records == manifest.select("13579").records
    assert one.records[0] == Record("data_batch_1/1", "13579", "automobile", "train", "good")
    assert one.records[-2] == Record("test_batch/28", "13579", "ship", "test", "ship")


@pytest.mark.parametrize("workers", [0, 1])
def test_images_reach_the_pipeline(tmp_path: Path, workers: int) -> None:
    write_batches(tmp_path)
    test = load_dataset("cifar10", tmp_path, categories="01234").select(split="test")
    found = list(
        batches(test, image_size=(64, 48), batch_size=16, resample="bicubic", workers=workers)
    )
    assert len(found) == 2
    for position, planes in enumerate(pixels(30, 9)):
        image = Image.fromarray(planes.reshape(3, 32, 32).transpose(1, 2, 0))
        expected = np.asarray(image.resize((48, 64), Image.Resampling.BICUBIC))
        batch, row = found[position // 16], position % 16
        np.testing.assert_array_equal(batch["image"][row], expected)
        assert batch["label"][row] == (position % 10 > 4)
        assert batch["has_mask"][row] == (position % 10 <= 4)
        assert not batch["mask"][row].any()
        assert batch["subclass"][row] == position % 10
    assert found[1]["_mask"].sum() == 14


def test_one_detector_for_settings_that_contradict_each_other(tmp_path: Path) -> None:
    from jaxad.runs.dataset import jobs_of, read_dataset

    write_batches(tmp_path)
    config = default_config()
    config.data.root, config.data.layout = str(tmp_path), "cifar10"
    config.data.categories, config.data.calibration = "02468", 0.0
    assert [job.name for job in jobs_of(read_dataset(config), config)] == ["02468"]
    config.data.one_for_all = True
    assert len(jobs_of(read_dataset(config), config)[0].train) == 10
    config.data.categories = ""
    with pytest.raises(InputError, match=r"50 images are in more than one .*data\.categories"):
        read_dataset(config)
    config.data.one_for_all = False
    assert [job.name for job in jobs_of(read_dataset(config), config)] == sorted(SETTINGS)


def test_files_that_are_missing_or_something_else(tmp_path: Path) -> None:
    write_batches(tmp_path)
    (tmp_path / "batches.meta").unlink()
    assert load_dataset("cifar10", tmp_path).records[0].subclass == "airplane"
    save(tmp_path / "batches.meta", label_names=[b"x"] * 9)
    assert "has not ten classes" in refusal(tmp_path)
    save(tmp_path / "batches.meta", label_names=3)
    assert "batches.meta: its entry 'label_names' is no list of names" in refusal(tmp_path)
    (tmp_path / "batches.meta").unlink()
    (tmp_path / "data_batch_1").rename(tmp_path / "data_batch_3")
    assert "data_batch_1: no such file: unpack cifar-10-python.tar.gz anew" in refusal(tmp_path)
    for n in (2, 3):
        (tmp_path / f"data_batch_{n}").unlink()
    assert "data_batch_1: no such file" in refusal(tmp_path)
    (tmp_path / "test_batch").rename(tmp_path / "data_batch_1")
    assert "test_batch: no such file" in refusal(tmp_path)
    (tmp_path / "data_batch_1").rename(tmp_path / "data_batch_1.bin")
    assert "get the python version instead" in refusal(tmp_path)
    (tmp_path / "data_batch_1.bin").unlink()
    assert "holds neither cifar-10-batches-py nor cifar10 of tensor" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"labels": [1]}, "entry 'data' is not N x 3072 bytes"),
        ({"data": pixels(2, 0)[:, :3071], "labels": [1, 2]}, "entry 'data' is not N x 3072"),
        ({"data": pixels(2, 0).reshape(-1), "labels": [1]}, "entry 'data' is not N x 3072"),
        ({"data": pixels(2, 0)}, "entry 'labels' is not a number for each of 2 rows"),
        ({"data": pixels(2, 0), "labels": [1]}, "entry 'labels' is not a number for each of 2"),
        ({"data": pixels(2, 0), "labels": [1, 10]}, "labels are not numbers from 0 to 9"),
        ({"data": pixels(2, 0), "labels": ["1", "2"]}, "labels are not numbers from 0 to 9"),
        ({"data": pixels(2, 0), "fine_labels": [1, 2]}, "entry 'labels' is not"),  # CIFAR-100
        ({"data": pixels(2, 0).astype(float), "labels": [1, 2]}, "type is not uint8"),
    ],
)
def test_batches_of_another_form(tmp_path: Path, entries: dict[str, Any], expected: str) -> None:
    write_batches(tmp_path)
    save(tmp_path / "data_batch_2", **entries)
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path / 'data_batch_2'}: ")
    assert expected in message


def test_a_hostile_batch_runs_nothing(tmp_path: Path) -> None:
    write_batches(tmp_path)
    trace = tmp_path / "trace"
    (tmp_path / "test_batch").write_bytes(
        f"cpathlib\nPath\n(V{trace}\ntR(dp0\n.".encode()
        + b"\x80\x02cos\nsystem\n(X\x05\0\0\0touchtR."
    )
    assert "not read as pickled arrays: its pickle asks for 'pathlib.Path'" in refusal(tmp_path)
    assert not trace.exists()


def test_a_batch_that_changes_is_read_anew(tmp_path: Path) -> None:
    write_batches(tmp_path)
    assert len(open_container(tmp_path / "test_batch").examples) == 30
    assert open_container(tmp_path / "test_batch") is open_container(tmp_path / "test_batch")
    save(tmp_path / "test_batch", data=pixels(5, 3), labels=[0] * 5)
    assert len(open_container(tmp_path / "test_batch").examples) == 5
    np.testing.assert_array_equal(
        find_member(tmp_path / "test_batch" / "4").read().transpose(2, 0, 1).ravel(),
        pixels(5, 3)[4],
    )


def test_members_can_be_listed_in_a_manifest(tmp_path: Path) -> None:
    """They are paths like any other: written, read, held to the root and judged."""
    write_batches(tmp_path / "data")
    manifest = load_dataset("cifar10", tmp_path / "data", categories="01234")
    write_csv(manifest, tmp_path / "data" / "some.csv")
    again = read_csv(tmp_path / "data" / "some.csv")
    assert again == manifest
    require_readable(validate(again))

    def with_path(path: str) -> Manifest:
        root = tmp_path / "data"
        return Manifest(root, (*manifest.records, manifest.records[0]._replace(path=path)))

    (tmp_path / "data" / "inside").symlink_to(tmp_path / "data" / "test_batch")
    (tmp_path / "outside").write_bytes((tmp_path / "data" / "test_batch").read_bytes())
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "outside")
    require_readable(validate(with_path("inside/2")))
    for path, expected in {
        "linked/0": "links that leave",
        "../outside/0": "paths that leave",
        "test_batch/x": "files are missing",
        "test_batch/-1": "files are missing",
        "test_batch/1/1": "files are missing",
        "test_batch/²": "files are missing",
        "test_batch/1234567890": "files are missing",
        "data_batch_1/0": "listed more than once",
        "./data_batch_1//0": "listed more than once",
        "test_batch/0": "in both train and test",
    }.items():
        with pytest.raises(InputError, match=expected):
            validate(with_path(path))
    with pytest.raises(InputError, match=r"there are only 30 images in .*test_batch, counted"):
        require_readable(validate(with_path("test_batch/30")))
    with pytest.raises(InputError, match=r"some\.csv: not read as pickled arrays"):
        require_readable(validate(with_path("some.csv/0")))


def test_files_with_names_like_members(tmp_path: Path) -> None:
    Image.new("L", (5, 4)).save(tmp_path / "17", "PNG")
    assert find_member(tmp_path / "17") is None
    records = (Record("17", "c", "", "train", "good"),)
    require_readable(validate(Manifest(tmp_path, records)))
    batch = next(iter(batches(Manifest(tmp_path, records), image_size=(4, 5), batch_size=1)))
    assert not batch["image"].any()


# A split of tensorflow_datasets


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What tfds makes of CIFAR-10, smaller: 20 training images and 10 for the test."""
    import tensorflow_datasets as tfds

    class Cifar10(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "cifar10"
        VERSION = tfds.core.Version("3.0.2")

        def _info(self) -> Any:
            features = {
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=(32, 32, 3)),
                "label": tfds.features.ClassLabel(names=CLASSES),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, downloads: Any) -> Any:
            return {"train": self._generate_examples(20), "test": self._generate_examples(10)}

        def _generate_examples(self, count: int) -> Any:
            for number, planes in enumerate(pixels(count, count)):
                file = io.BytesIO()
                Image.fromarray(planes.reshape(3, 32, 32).transpose(1, 2, 0)).save(file, "PNG")
                file.seek(0)
                yield number, {"id": f"{number}", "image": file, "label": number % 10}

    root = tmp_path_factory.mktemp("tfds")
    Cifar10(data_dir=root, file_format="array_record").download_and_prepare()
    return root


def test_a_folder_of_tfds(prepared: Path) -> None:
    manifest = load_dataset("cifar10", prepared)
    version = prepared / "cifar10" / "3.0.2"
    assert manifest.root == version
    assert load_dataset("cifar10", prepared / "cifar10") == manifest
    assert load_dataset("cifar10", version) == manifest
    require_readable(manifest)
    train, test = (Counter(dict.fromkeys("0123456789", n)) for n in (2, 1))
    check_settings(manifest, train, test)
    part = manifest.select("56789", "test")
    batch = next(iter(batches(part, image_size=(32, 32), batch_size=10)))
    shown = {r.subclass: image for r, image in zip(part.records, batch["image"])}
    for name, planes in zip(CLASSES, pixels(10, 10)):  # tfds has an order of its own
        np.testing.assert_array_equal(shown[name].transpose(2, 0, 1).ravel(), planes)
    assert [r.label == "good" for r in part.records] == [not label for label in batch["label"]]
    with pytest.raises(InputError, match=r"there are only 10 images in .*test, counted"):
        find_member(version / "test" / "10")


def damaged(prepared: Path, to: Path, name: str, old: bytes, new: bytes) -> Path:
    """Copy a prepared folder with other bytes in one file."""
    version = to / "cifar10" / "3.0.2"
    version.mkdir(parents=True)
    for file in (prepared / "cifar10" / "3.0.2").iterdir():
        data = file.read_bytes()
        assert file.name != name or old in data
        (version / file.name).write_bytes(data.replace(old, new) if file.name == name else data)
    return to


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("features.json", b"{", b"", "not read as a tfds dataset of images and labels"),
        ("dataset_info.json", b'"3.0.2"', b'"x"', "not read as a tfds dataset"),
        ("features.json", b'"label"', b'"other"', "not read as a tfds dataset"),
        ("dataset_info.json", b'"test"', b'"validation"', "has no split 'test'"),
        ("dataset_info.json", b"array_record", b"tfrecord", "needs tensorflow to read: prepare it"),
        ("cifar10-test.array_record-00000-of-00001", b"", b"\xff", "damaged examples"),
        ("features.json", b"tensorflow_datasets.core.features.class_label", b"antigravity", "asks"),
        ("dataset_info.json", b"{DATASET}", b"../../{DATASET}", "names files elsewhere"),
    ],
)
def test_damaged_folders_of_tfds(
    prepared: Path, tmp_path: Path, name: str, old: bytes, new: bytes, expected: str
) -> None:
    root = damaged(prepared, tmp_path, name, old, new)
    message = refusal(root)
    assert message.startswith(str(root))
    assert expected in message


def test_features_that_tfds_would_import(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = damaged(prepared, tmp_path, "features.json", b"{", b"{")
    path = root / "cifar10" / "3.0.2" / "features.json"
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    features = json.loads(path.read_text())
    features["featuresDict"]["features"]["id"]["pythonClassName"] = "evil.Feature"
    path.write_text(json.dumps(features))
    assert "features.json asks for 'evil.Feature', which is not of tfds" in refusal(root)
    assert not (tmp_path / "trace").exists()
