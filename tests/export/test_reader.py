"""What is exported scores as what is evaluated, without the code that made it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from exporting import exported
from small_detectors import SETTINGS, SIZE, detector_of, photos, trained

from jaxad import export
from jaxad.errors import InputError
from jaxad.export import archive, generated, manifest, program, tensors

ROOT = Path(__file__).resolve().parents[2]
ALONE = """
import sys
for name in ("flax", "optax", "orbax", "safetensors", "flatbuffers", "ml_collections", "grain",
             "PIL", "sklearn", "tensorflow_datasets", "jaxad.core", "jaxad.methods", "jaxad.ops"):
    sys.modules[name] = None
import numpy as np
import jaxad.export
detector = jaxad.export.load(sys.argv[1])
for batch in np.load(sys.argv[2]).values():
    found = detector.score(batch)
    np.save(f"{sys.argv[1]}.{len(batch)}.npy", np.column_stack(
        [np.asarray(found.map).reshape(len(batch), -1), found.image]))
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of PFM."""
    path = tmp_path_factory.mktemp("exported") / "part.jaxad"
    path.write_bytes(exported("pfm")[0])
    return path


@pytest.mark.parametrize("name", SETTINGS)
def test_exported_is_evaluated_for_any_batch_by_jax_and_numpy_alone(
    name: str, tmp_path: Path
) -> None:
    data, scorer = exported(name)
    path, batches = tmp_path / "part.jaxad", {str(n): photos(n, seed=n) for n in (1, 3, 8)}
    path.write_bytes(data)
    np.savez(tmp_path / "photos.npz", **batches)
    subprocess.run(
        [sys.executable, "-c", ALONE, str(path), str(tmp_path / "photos.npz")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    for count, images in batches.items():
        found = np.load(f"{path}.{count}.npy")
        want = jax.device_get(scorer.score(images))
        spread = np.ptp(want.map)
        np.testing.assert_allclose(
            found[:, :-1], want.map.reshape(len(images), -1), rtol=0, atol=1e-6 * spread
        )
        np.testing.assert_allclose(found[:, -1], want.image, rtol=0, atol=1e-6 * spread)


def test_says_what_it_is_and_scores_as_where_it_was_made(written: Path) -> None:
    found = export.load(written)
    assert (found.detector, found.categories, found.size) == ("part", ("part",), SIZE)
    assert (found.resample, found.upright, found.calibration) == ("bilinear", True, None)
    assert found.platforms == ("cpu", "cuda", "tpu")
    assert found.provenance == {"made": "for a test"}
    assert found.manifest["id"] == found.id
    assert found.verify() < 1e-6
    scores = found.score(photos(2))
    assert scores.map.shape == (2, *SIZE)
    assert scores.image.shape == (2,)
    assert scores.map.dtype == scores.image.dtype == np.float32
    on_device = found.score(jax.numpy.asarray(photos(2)))
    np.testing.assert_array_equal(on_device.map, scores.map)


def test_a_file_tells_what_images_are_taken_for(tmp_path: Path) -> None:
    path = tmp_path / "part.jaxad"
    path.write_bytes(exported("adapted_moe", subclasses=("cloth", "felt"))[0])
    found, images = export.load(path), photos(3)
    assert found.subclasses == ("cloth", "felt")
    assert found.manifest["format"] == 2
    assert found.manifest["outputs"]["subclass"] == {"shape": ["b"], "dtype": "int32"}
    detector, frozen = detector_of("adapted_moe")
    want = jax.jit(detector.routed)(trained(detector, frozen), images)
    routed, scores = found.routed(images), found.score(images)
    assert routed.subclass.dtype == np.int32
    np.testing.assert_array_equal(routed.subclass, want.subclass)
    for ours, theirs in zip((*routed[:2], *scores), (*want[:2], *want[:2])):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * float(np.ptp(want.map)))
    assert found.verify() < 1e-6


def test_files_of_all_others_are_of_the_format_that_older_readers_know(written: Path) -> None:
    found = export.load(written)
    assert found.manifest["format"] == 1
    assert "subclasses" not in found.manifest
    assert found.subclasses == ()
    with pytest.raises(InputError, match="'part' takes images for no subclasses"):
        found.routed(photos(1))


def test_the_same_detector_gives_the_same_bytes_without_a_trace_of_this_machine(
    written: Path,
) -> None:
    data = exported("pfm")[0]
    assert data == written.read_bytes()
    assert str(ROOT).encode() not in data
    assert b".py" not in data
    other = exported("pfm", detector="other", texts={archive.PROVENANCE: {}})[0]
    (written.parent / "other").write_bytes(other)
    assert other != data
    assert export.load(written.parent / "other").id == export.load(written).id


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (photos(2).astype(np.float32), "images are float32: give uint8"),
        (photos(1)[0], r"one image as image\[None\]"),
        (photos(2)[:, :8], r"takes \(B, 32, 48, 3\)"),
        (photos(2).transpose(0, 3, 1, 2), r"takes \(B, 32, 48, 3\)"),
        (photos(2)[:0], "one image or more"),
        ([[1, 2]], "images are a list"),
    ],
)
def test_images_of_another_kind_are_named(images: object, told: str, written: Path) -> None:
    with pytest.raises(InputError, match=told):
        export.load(written).score(images)


def repacked(written: Path, **members: object) -> Path:
    """The file with other members, which the manifest states, and other keys of the manifest."""
    every = {name: bytes(data) for name, data in archive.read(written)}
    about = json.loads(every.pop("manifest.json"))
    changes = members.pop("manifest", {})
    every |= {name.replace("_", "."): data for name, data in members.items()}
    stated = {n: (len(d), hashlib.sha256(d).hexdigest()) for n, d in every.items()}
    about["members"] = {n: {"bytes": size, "sha256": d} for n, (size, d) in stated.items()}
    about["id"] = manifest.identity(stated)
    about |= changes
    other = written.with_name("other.jaxad")
    other.write_bytes(archive.pack({"manifest.json": json.dumps(about).encode(), **every}))
    return other


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format": 3}, "written by a newer jaxad: format 3, this one reads up to 2"),
        ({"format": "1"}, "is damaged"),
        ({"format": 0}, "is damaged"),
        ({"format": 2}, "is damaged"),
        ({"format": 2, "subclasses": []}, "is damaged"),
        ({"format": 2, "subclasses": [1]}, "is damaged"),
        ({"format": 2, "subclasses": ["a"]}, "not those that the manifest states"),
        ({"kind": "other"}, "it is no manifest"),
        ({"platforms": ["tpu"]}, "is exported for tpu, and this is cpu"),
        ({"platforms": ["toaster"]}, "is damaged"),
        ({"upright": 1}, "is damaged"),
        ({"calling_convention": 99}, "calling convention 99"),
        ({"size": [32, 10**9]}, "is damaged"),
        ({"size": [24, 48]}, "arguments and results are not those that the manifest states"),
        ({"id": "0123456789abcdef"}, "its id is not that of program and weights"),
        ({"check": {"map": [[1]], "image": [10**400]}}, "is damaged"),
        ({"members": {}}, "is damaged"),
        ({"inputs": {"weights": []}}, "is damaged"),
        ({"inputs": {"weights": [["a", "F32", [1 << 30, 1 << 30]]]}}, "is damaged"),
        ({"inputs": {"weights": [["a", "F32", [1] * 40]]}}, "is damaged"),
    ],
)
def test_a_manifest_that_this_jaxad_can_not_follow_is_named(
    changes: dict[str, object], told: str, written: Path
) -> None:
    path = repacked(written, manifest=changes)
    with pytest.raises(InputError, match=told) as caught:
        export.load(path)
    assert "\n" not in str(caught.value)


def test_weights_and_texts_are_read_in_bounds(written: Path) -> None:
    weights = next(bytes(data) for name, data in archive.read(written) if "weights" in name)
    size = int.from_bytes(weights[:8], "little")
    header = weights[8 : 8 + size]
    for other in (
        b"\xff" * 8 + weights[8:],  # a header without end
        weights + b"\0" * 4,
        weights[:-4],
        weights[:8] + header.replace(b'"F32"', b'"F16"', 1) + weights[8 + size :],
        weights[:8] + header.replace(b"[0, ", b"[4, ", 1) + weights[8 + size :],
        weights[:8] + b"[" * size + weights[8 + size :],
        b"",
    ):
        with pytest.raises(InputError, match=r"is damaged \(weights.safetensors"):
            export.load(repacked(written, weights_safetensors=other))
    with pytest.raises(InputError, match=r"is damaged \(provenance.json"):
        export.load(repacked(written, provenance_json=b"[]"))


def test_a_program_that_is_none_or_does_more_than_compute_is_refused(written: Path) -> None:
    with pytest.raises(InputError, match="can not read its program"):
        export.load(repacked(written, program_mlir=b"ML\xefR not really"))

    def calling(weights: object, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        shape = jax.ShapeDtypeStruct((), np.float32)
        jax.debug.callback(lambda: None)
        value = jax.pure_callback(lambda: np.float32(1), shape)
        pixels = images.astype(np.float32)
        return pixels[..., 0] + value, pixels[:, 0, 0, 0] + value

    # jax.export refuses callbacks; a file may be made by another program.
    lowered = jax.jit(calling).trace([], jax.ShapeDtypeStruct((2, 4, 4, 3), np.uint8)).lower()
    from jax.extend.mlir import serialize_portable_artifact

    text = bytes(serialize_portable_artifact(lowered.compiler_ir("stablehlo"), "1.9.0"))
    told = program.look_through(text)
    assert any("callback" in name for name in told), told
    with pytest.raises(InputError, match=r"is refused: its program holds a call to .*callback"):
        export.load(repacked(written, program_mlir=text))


def test_generated_images_are_those_of_the_formula() -> None:
    images = generated.images((40, 50))
    for y, x, c in ((0, 0, 0), (17, 3, 1), (39, 49, 2)):
        want = (
            128,
            (y + x) // 4 + 40 * c,
            96 * ((y // 16 ^ x // 16) & 1) + 50 * c + 30,
            7 * y + 13 * x + y * x // 8 + 85 * c,
        )
        assert images[:, y, x, c].tolist() == [value % 256 for value in want]


def test_difference_is_in_parts_of_the_spread() -> None:
    before = np.asarray([1.0, 3.0])
    assert generated.relative(before, before) == 0
    assert generated.relative(before, np.asarray([1.0, 3.5])) == 0.25
    assert generated.relative(np.asarray([2.0]), np.asarray([3.0])) == 0.5
    assert generated.relative(before, np.asarray([np.nan, 3])) == np.inf


@pytest.mark.parametrize("dtype", tensors.DTYPES)
def test_arrays_come_back_as_they_were(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(tensors.DTYPES[dtype])
    every = {"a/b": array, "scalar": array[0, 1], "none": array[:0]}
    wanted = tuple(tensors.specification(name, value) for name, value in every.items())
    found = tensors.load(memoryview(tensors.save(every)), wanted)
    for value, back in zip(every.values(), found, strict=True):
        assert back.dtype == value.dtype
        np.testing.assert_array_equal(back, value)
    from safetensors import numpy as other

    if dtype != "BF16":  # ours are others' files
        np.testing.assert_array_equal(other.load(tensors.save(every))["a/b"], array)


def test_a_bit_flipped_anywhere_in_a_file_is_named(written: Path) -> None:
    whole, other = written.read_bytes(), written.with_name("flipped.jaxad")
    random = np.random.default_rng(0)
    for place in (0, 14, 26, len(whole) - 1, *random.integers(0, len(whole), 60)):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        other.write_bytes(data)
        with pytest.raises(InputError) as caught:
            export.load(other)
        assert str(other) in str(caught.value)
        assert "\n" not in str(caught.value)
