"""Image and mask files to arrays: values, colours, orientation, and every refusal."""

import io
import random
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxad.data.image_file import MAX_SIDE
from jaxad.data.images import (
    FILTERS,
    decode_image,
    decode_mask,
    read_header,
    read_mask,
    read_mask_header,
    resize_mask,
    vanishes,
)
from jaxad.errors import InputError


def picture(height: int = 23, width: int = 31, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def png(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        decode_image(path, size=(8, 8), **options)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.isprintable()
    return message


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("size", [(16, 16), (9, 40), (50, 12), (23, 31)])
def test_resizing_is_pillows(tmp_path: Path, resample: str, size: tuple[int, int]) -> None:
    Image.fromarray(picture()).save(tmp_path / "x.png")
    expected = Image.fromarray(picture()).resize(size[::-1], FILTERS[resample])
    actual = decode_image(tmp_path / "x.png", size=size, resample=resample)
    assert actual.shape == (*size, 3)
    assert actual.dtype == np.uint8
    np.testing.assert_array_equal(actual, np.asarray(expected))


def test_grey_is_resized_as_its_rgb_would_be(tmp_path: Path) -> None:
    grey = Image.fromarray(picture()[..., 0])
    grey.save(tmp_path / "x.bmp")
    expected = np.asarray(grey.convert("RGB").resize((17, 11), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(decode_image(tmp_path / "x.bmp", size=(11, 17)), expected)


def test_unknown_filter(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"'cubic'.*nearest, box, bilinear"):
        decode_image(tmp_path / "x.png", size=(4, 4), resample="cubic")


def test_every_8_bit_mode_becomes_the_rgb_it_shows(tmp_path: Path) -> None:
    colours = np.zeros((4, 6, 3), np.uint8)
    colours[:, :3] = (200, 30, 60)
    colours[:, 3:] = (10, 250, 90)
    rgb = Image.fromarray(colours)
    palette = rgb.quantize(4)
    bits = Image.fromarray((colours[..., 0] > 100).astype(np.uint8) * 255).convert("1")
    cases = {
        "rgb.png": (rgb, {}),
        "palette.png": (palette, {}),
        "palette_transparent.png": (palette, {"transparency": bytes([0, 128, 255, 255])}),
        "palette_one.png": (palette, {"transparency": 0}),
        "cmyk.tif": (rgb.convert("CMYK"), {}),
        "cmyk.jpg": (rgb.convert("CMYK"), {"quality": 100, "subsampling": 0}),
        "ycbcr.jpg": (rgb, {"quality": 100, "subsampling": 0}),
        "colour.BMP": (rgb, {}),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, (image, options) in cases.items():
            image.save(tmp_path / name, **options)
            actual = decode_image(tmp_path / name, size=(4, 6)).astype(int)
            assert np.abs(actual - colours).max() <= (4 if name.endswith("jpg") else 0), name
    bits.save(tmp_path / "bits.png")
    actual = decode_image(tmp_path / "bits.png", size=(4, 6))
    np.testing.assert_array_equal(actual, np.asarray(bits.convert("RGB")))


def test_alpha_is_dropped_not_blended(tmp_path: Path) -> None:
    alpha = Image.fromarray(picture(seed=1)[..., 0])
    rgb, grey = Image.fromarray(picture()), Image.fromarray(picture()[..., 1])
    for name, image in {"rgba.png": rgb, "la.png": grey}.items():
        expected = np.asarray(image.convert("RGB"))
        with_alpha = image.copy()
        with_alpha.putalpha(alpha)
        with_alpha.save(tmp_path / name)
        np.testing.assert_array_equal(decode_image(tmp_path / name, size=(23, 31)), expected)


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    stored = np.kron(picture(3, 5), np.ones((16, 16, 1), np.uint8))
    turns = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{suffix}"
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    Image.fromarray(stored).save(path, exif=exif, **options)
    upright = turns[orientation]
    assert read_header(path).size == upright.shape[:2]
    actual = decode_image(path, size=upright.shape[:2])
    assert np.abs(actual.astype(int) - upright).max() <= (12 if suffix == "jpg" else 0)


def test_deep_pixels_are_refused(tmp_path: Path) -> None:
    deep = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    Image.fromarray(deep).save(tmp_path / "grey16.png")
    Image.fromarray(deep).save(tmp_path / "grey16.tif")
    Image.fromarray(deep.astype(np.int32)).save(tmp_path / "grey32.tif")
    Image.fromarray(deep.astype(np.float32)).save(tmp_path / "float.tif")
    # Pillow reads this one as plain 8-bit RGB.
    (tmp_path / "colour16.png").write_bytes(png(2, 1, depth=16, data=bytes(13)))
    assert Image.open(tmp_path / "colour16.png").mode == "RGB"
    for path in sorted(tmp_path.iterdir()):
        assert "convert it to 8 bits a channel" in refusal(path)
        with pytest.raises(InputError, match="8 bits"):
            read_header(path)
    assert "16 bits" in refusal(tmp_path / "colour16.png")
    assert "mode F" in refusal(tmp_path / "float.tif")


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_deep_colour_tiff_is_refused(
    tmp_path: Path, byteorder: str, planarconfig: str, compression: str | None
) -> None:
    """Pillow reads most of them as plain RGB, and keeps the high bytes."""
    path = tmp_path / "x.tif"
    deep = picture(3, 4).astype(np.uint16) * 257
    if planarconfig == "separate":
        deep = deep.transpose(2, 0, 1)
    tifffile.imwrite(
        path,
        deep,
        photometric="rgb",
        byteorder=byteorder,
        planarconfig=planarconfig,
        compression=compression,
    )
    assert "16 bits a channel where 8 are read" in refusal(path)
    with pytest.raises(InputError, match="16 bits"):
        read_header(path)
    with pytest.raises(InputError, match="RGB with 16 bits is not understood: save it grey"):
        decode_mask(path, size=(1, 2))
    Image.fromarray(picture(3, 4)).save(path)
    np.testing.assert_array_equal(decode_image(path, size=(3, 4)), picture(3, 4))


def test_size_is_judged_before_decoding_and_not_by_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Beyond what Image.open itself warns of and refuses; nothing behind the header.
    huge = tmp_path / "huge.png"
    huge.write_bytes(png(30_000, 20_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = refusal(huge)
    assert "30000x20000" in message
    assert "67108864" in message
    assert "tiles" in message
    with pytest.raises(InputError, match="30000x20000"):
        read_header(huge)
    Image.fromarray(picture()).save(tmp_path / "x.png")
    assert f"{31}x{23}" in refusal(tmp_path / "x.png", max_pixels=31 * 23 - 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode_image(tmp_path / "x.png", size=(8, 8), max_pixels=31 * 23).shape == (8, 8, 3)


def test_a_side_is_bounded(tmp_path: Path) -> None:
    """One row of 64 megapixels: within the pixels, but a filter would need gigabytes for it."""
    row = tmp_path / "row.png"
    for width, height in ((2**26, 1), (1, 2**26), (MAX_SIDE + 1, 1)):
        row.write_bytes(png(width, height, colour=0))
        message = refusal(row)
        assert f"{width}x{height} pixels has a side longer than 65536: crop it" in message
        with pytest.raises(InputError, match="has a side longer"):
            decode_mask(row, size=(8, 8))
        with pytest.raises(InputError, match="has a side longer"):
            read_header(row)
    row.write_bytes(png(MAX_SIDE, 1, colour=0, data=bytes(MAX_SIDE + 1)))
    assert decode_image(row, size=(8, 8)).shape == (8, 8, 3)


PEAK = """
import sys
from pathlib import Path
from jaxad.data.images import read_image, read_mask

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

before = peak()
read_mask(sys.argv[1])
read_image(sys.argv[1])
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_of_decoding_is_bounded(tmp_path: Path) -> None:
    side = 2048
    path = tmp_path / "x.png"
    path.write_bytes(png(side, side, colour=6, data=bytes(side * (4 * side + 1))))
    done = subprocess.run(
        [sys.executable, "-c", PEAK, path], check=True, capture_output=True, text=True
    )
    assert int(done.stdout) < 9.5 * side * side


def test_no_wrong_bit_in_a_png_goes_unnoticed(tmp_path: Path) -> None:
    """The decoder alone lets 28 of these 60 pass, 21 of them with other pixels."""
    path = tmp_path / "x.png"
    marked = np.zeros((256, 256), np.uint8)
    marked[100:140, 80:150] = 255
    Image.fromarray(marked).save(path)
    whole = path.read_bytes()
    first = whole.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", whole[first - 8 : first - 4])
    chosen = random.Random(0)
    for number in range(60):
        wrong = bytearray(whole)
        wrong[first + chosen.randrange(length)] ^= 1 << number % 8
        path.write_bytes(wrong)
        assert "damaged or truncated" in refusal(path)
        with pytest.raises(InputError, match="damaged or truncated"):
            decode_mask(path, size=(8, 8))


def test_files_that_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    assert "empty (0 bytes)" in refusal(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("not pixels at all")
    assert "no PNG, JPEG, BMP or TIFF" in refusal(tmp_path / "text.png")
    assert "no such file" in refusal(tmp_path / "absent.png")
    (tmp_path / "folder.png").mkdir()
    assert "can not be read" in refusal(tmp_path / "folder.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(picture(64, 64)).save(path)
    whole = path.read_bytes()
    for share in (0.02, 0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert "damaged or truncated" in refusal(path)


@pytest.mark.filterwarnings("ignore:Tag data larger than file")
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(["png", "jpeg", "bmp", "tiff"]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damaged_bytes_give_pixels_or_one_line(
    tmp_path: Path, kind: str, changes: list[tuple[int, int]]
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture(8, 8)).save(buffer, kind)
    data = bytearray(buffer.getvalue())
    for place, value in changes:
        data[place % len(data)] = value
    path = tmp_path / "x.png"
    path.write_bytes(data)
    for decode in (decode_image, decode_mask):
        try:
            pixels = decode(path, size=(4, 4), max_pixels=10_000)
        except InputError:
            continue
        assert pixels.shape[:2] == (4, 4)


def test_masks_count_every_value_but_black(tmp_path: Path) -> None:
    kinds = np.zeros((6, 8), np.uint8)
    kinds[1:3, 2:5] = 1  # the number of a kind of defect, invisible to a threshold at 127
    kinds[4, 6] = 9
    grey = Image.fromarray(kinds)
    grey.save(tmp_path / "kinds.png")
    Image.fromarray(kinds.astype(np.uint16) * 300).save(tmp_path / "deep.png")
    Image.fromarray(kinds > 0).save(tmp_path / "bits.png")
    Image.fromarray(np.stack([kinds * 0, kinds, kinds * 0], -1)).save(tmp_path / "green.png")
    palette = Image.fromarray(kinds, "P")
    palette.putpalette([0, 0, 0] + [255, 0, 0] * 9)
    palette.save(tmp_path / "palette.png")
    for path in tmp_path.iterdir():
        mask = decode_mask(path, size=(6, 8))
        assert mask.dtype == np.bool_
        np.testing.assert_array_equal(mask, kinds > 0, err_msg=path.name)
        assert read_mask_header(path).size == (6, 8)


def test_jpeg_masks_ignore_the_blur_of_compression(tmp_path: Path) -> None:
    marked = np.zeros((32, 32), bool)
    marked[8:19, 5:23] = True
    Image.fromarray(marked.astype(np.uint8) * 255).save(tmp_path / "x.jpg", quality=60)
    assert (np.asarray(Image.open(tmp_path / "x.jpg")) != 0).sum() > marked.sum()
    np.testing.assert_array_equal(decode_mask(tmp_path / "x.jpg", size=(32, 32)), marked)


def test_masks_are_resized_by_nearest(tmp_path: Path) -> None:
    marked = picture(20, 30)[..., 0] > 200
    Image.fromarray(marked.astype(np.uint8) * 7).save(tmp_path / "x.png")
    rows, columns = (np.arange(7) * 2 + 1) * 20 // 14, (np.arange(9) * 2 + 1) * 30 // 18
    expected = marked[rows][:, columns]
    np.testing.assert_array_equal(decode_mask(tmp_path / "x.png", size=(7, 9)), expected)


def test_a_small_defect_keeps_a_pixel() -> None:
    for place in ((0, 0), (3, 59), (39, 2), (20, 31), (39, 59)):
        marked = np.zeros((40, 60), np.bool_)
        marked[place] = True
        found = resize_mask(marked, (4, 5))
        assert np.argwhere(found).tolist() == [[place[0] // 10, place[1] // 12]]
    assert vanishes(marked, (4, 5))
    assert not vanishes(marked, (40, 60))
    # Of several, one that is there, not what lies between them.
    marked = np.zeros((40, 60), np.bool_)
    marked[0, 0] = marked[0, 1] = marked[39, 59] = True
    assert np.argwhere(resize_mask(marked, (4, 5))).tolist() == [[0, 0]]
    # Nothing is added to what can be seen, nor to nothing.
    marked = np.zeros((40, 60), np.bool_)
    assert not resize_mask(marked, (4, 5)).any()
    assert not vanishes(marked, (4, 5))
    marked[5, 6] = marked[39, 59] = True
    assert np.argwhere(resize_mask(marked, (4, 5))).tolist() == [[0, 0]]
    assert not vanishes(marked, (4, 5))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_masks_are_turned_as_photos_are(tmp_path: Path, suffix: str) -> None:
    marked = np.zeros((24, 40), np.bool_)
    marked[:8, :24] = True
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(marked.astype(np.uint8) * 255).save(path, exif=exif)
    upright = np.rot90(marked, -1)
    assert read_mask_header(path).size == (40, 24)
    np.testing.assert_array_equal(decode_mask(path, size=(40, 24)), upright)
    assert decode_mask(path, size=(5, 3), image_size=(40, 24)).shape == (5, 3)
    if suffix != "tif":  # Pillow turns a TIFF whether asked to or not
        np.testing.assert_array_equal(read_mask(path, upright=False), marked)
        assert read_mask_header(path, upright=False).size == (24, 40)


def test_masks_are_read_strip_by_strip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxad.data.images._STRIP", 70)  # two rows, and one at the end
    marked = picture(23, 31)[..., 0] > 200
    palette = Image.fromarray(marked.astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 255, 0, 0])
    for image in (palette, Image.fromarray(marked), palette.convert("RGBA")):
        image.save(tmp_path / "x.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "x.png"), marked)


def test_mask_of_another_size_names_both_files(tmp_path: Path) -> None:
    Image.fromarray(np.ones((6, 8), np.uint8)).save(tmp_path / "m.png")
    assert decode_mask(tmp_path / "m.png", size=(3, 4), image_size=(6, 8)).all()
    with pytest.raises(InputError) as caught:
        decode_mask(tmp_path / "m.png", size=(3, 4), image_size=(12, 16), image_path="photo.png")
    message = str(caught.value)
    assert str(tmp_path / "m.png") in message
    assert "8x6" in message
    assert "photo.png is 16x12" in message
    assert "EXIF" not in message
    with pytest.raises(InputError, match="EXIF"):
        decode_mask(tmp_path / "m.png", size=(3, 4), image_size=(8, 6), image_path="photo.png")
    (tmp_path / "m.png").write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        decode_mask(tmp_path / "m.png", size=(3, 4))
