"""Any manifest as a dataset of tensorflow_datasets."""

import sys
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from jaxad.data import tfds_builder
from jaxad.data.decode import decode_image as decode_record
from jaxad.data.images import decode_image, decode_mask
from jaxad.data.manifest import Manifest, Record
from jaxad.data.pipeline import batches
from jaxad.data.prepared import nbytes
from jaxad.data.synthetic import write_dataset
from jaxad.data.tfds_builder import VisualAD
from jaxad.data.write_prepared import write_prepared

SIZE = (20, 24)


def test_tfds_reads_it_without_tensorflow(tmp_path: Path, monkeypatch) -> None:
    data = write_dataset(
        tmp_path / "parts",
        categories=("p", "ü"),
        n_train=3,
        n_test_good=1,
        n_test_bad=2,
        size=(32, 40),
    )
    records = [r._replace(subclass=f"s{i % 3}") for i, r in enumerate(data.records)]
    bad = next(i for i, r in enumerate(records) if r.mask)
    records[bad] = records[bad]._replace(mask="")
    records[0] = records[0]._replace(split="calibration")
    parts = Manifest(data.root, tuple(records))
    monkeypatch.setattr(tfds_builder, "SHARD_BYTES", 4 * nbytes(1, SIZE))
    VisualAD(parts, size=SIZE, data_dir=tmp_path / "out").download_and_prepare()

    at = tmp_path / "out" / "visual_ad" / "1.0.0"
    files = sorted(path.name for path in at.glob("*array_record*"))
    assert files == [
        "visual_ad-calibration.array_record-00000-of-00001",
        *(
            f"visual_ad-{split}.array_record-{i:05}-of-00002"
            for split in ("test", "train")
            for i in range(2)
        ),
    ]
    builder = tfds.builder_from_directory(at)
    assert (builder.name, builder.info.file_format.value) == ("visual_ad", "array_record")
    for split in ("train", "calibration", "test"):
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

    # Its photos are images of a container, and can be decoded once like any others.
    inner = Manifest(at, tuple(Record(f"test/{i}", "c", "", "test", "good") for i in (4, 1)))
    held = Record("calibration/0", "c", "", "test", "good")
    np.testing.assert_array_equal(
        decode_record(at, held, size=SIZE), decode_image(parts.root / records[0].path, size=SIZE)
    )
    found = write_prepared(inner, tmp_path / "again", size=(6, 5), resample="box")
    options = {"image_size": (6, 5), "batch_size": 2, "resample": "box"}
    for a, b in zip(batches(found, **options), batches(inner, **options), strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
    folder = Path(found.records[0].prepared).parents[1]
    assert [path.name for path in folder.iterdir()] == ["test.array_record"]  # no empty split
