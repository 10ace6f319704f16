"""What photos hold, in files and within files."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest

from jaxad.data.digests import file_digests, photo_digests
from jaxad.data.fingerprint import fingerprint
from jaxad.data.layouts import scan_dataset
from jaxad.data.manifest import Manifest, Record
from jaxad.data.synthetic import write_dataset
from jaxad.errors import InputError


def test_of_files(tmp_path: Path) -> None:
    data = write_dataset(
        tmp_path, categories=("a",), n_train=3, n_test_good=1, n_test_bad=2, size=(16, 16)
    )
    found = photo_digests(data)
    assert found == {
        ("", r.path): hashlib.sha256((tmp_path / r.path).read_bytes()).hexdigest()
        for r in data.records
    }
    # What was read once is not read again.
    before = fingerprint(data)
    (tmp_path / data.records[0].path).unlink()
    assert fingerprint(data, found) == before
    with pytest.raises(InputError, match=r"can not be read \(No such file"):
        photo_digests(data)


def test_of_pixels_within_a_file(tmp_path: Path) -> None:
    """The same image is the same wherever it is."""
    rows = np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8)
    for name, order in (("data_batch_1", [0, 1, 2]), ("test_batch", [2, 0])):
        content = {b"data": rows[order], b"labels": [0] * len(order)}
        (tmp_path / name).write_bytes(pickle.dumps(content, 2))
    found = photo_digests(scan_dataset("cifar10", tmp_path))
    names = ("data_batch_1/0", "data_batch_1/1", "data_batch_1/2", "test_batch/0", "test_batch/1")
    assert [*found] == [("", name) for name in names]
    first, second, third, *tested = found.values()
    assert len({first, second, third}) == 3
    assert tested == [third, first]
    pixels = rows[0].reshape(3, 32, 32).transpose(1, 2, 0)
    assert first == hashlib.sha256(pixels.tobytes()).hexdigest()
    beyond = Record("test_batch/2", "c", "", "test", "good")
    with pytest.raises(InputError, match="only 2 images"):
        photo_digests(Manifest(tmp_path, (beyond,)))


def test_a_file_is_hashed_once(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert file_digests([path, path]) == {path: hashlib.sha256(b"abc").hexdigest()}
    assert file_digests([]) == {}
