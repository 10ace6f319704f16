"""Prediction: rows as training reads and calibration judges, shards that kills do not hurt."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import HERE, ROOT, files
from PIL import Image
from scipy import ndimage

import jaxad
from jaxad.data.manifest import Manifest, Record
from jaxad.data.pipeline import batches
from jaxad.data.sources import Photo
from jaxad.data.synthetic import write_dataset
from jaxad.errors import InputError, Stopped
from jaxad.main import main
from jaxad.runs import predict as module
from jaxad.runs.calibrations import read_calibrations
from jaxad.runs.drawings import Drawing, name_of
from jaxad.runs.export import export
from jaxad.runs.models import open_judge
from jaxad.runs.predict import Limit, predict
from jaxad.runs.programs import counted_programs
from jaxad.runs.rows import decode


@pytest.fixture(scope="module")
def workdir(calibrated: Path) -> Path:
    return calibrated


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good and bad ones, and one that can not be read."""
    root = tmp_path_factory.mktemp("photos")
    write_dataset(
        root, categories=("a",), n_train=1, n_test_good=9, n_test_bad=9, size=(48, 40), seed=4
    )
    shutil.rmtree(root / "a" / "train")
    shutil.rmtree(root / "a" / "ground_truth")
    (root / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot")
    return root / "a"


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def run(
    workdir: Path, out: Path, *names: str | Path, category: str = "a", **options: Any
) -> dict[str, Any]:
    judge = open_judge(workdir=workdir, category=category)
    return predict([str(name) for name in names], out, judge, **options)


def test_every_row_is_what_detector_and_calibration_say(
    workdir: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["predict", "--workdir", str(workdir), "--category", "a", "--out", str(out)]
    assert main([*arguments, str(photos)]) == 0
    said = capsys.readouterr().out
    assert "19 photos: " in said
    rows = rows_of(out)
    names = sorted((photos / "test").rglob("*.png"))
    assert [row["path"] for row in rows] == [str(photos / "broken.png"), *map(str, names)]
    broken, *rest = rows
    assert (broken["decision"], broken["score"], broken["regions"]) == ("error", "", "[]")
    assert "broken.png: damaged" in broken["error"]

    detector, variables, config = jaxad.load(workdir, "a")
    (network,) = detector.backbones.values()
    stream = batches(
        Manifest(Path(), tuple(Record(str(n), "a", "", "test", "good", "") for n in names)),
        image_size=(24, 32),
        batch_size=len(names),
        resample=config.data.resize or network.preprocess.resize,
        with_masks=False,
    )
    (batch,) = stream
    found = detector.score(variables, batch["image"])
    maps, scores = np.asarray(found.map), np.asarray(found.image)
    np.testing.assert_allclose([float(row["score"]) for row in rest], scores, rtol=1e-5)
    limits = read_calibrations(workdir)["a"].limits("a")
    own = np.asarray([float(row["score"]) for row in rest], np.float32)
    np.testing.assert_array_equal([float(r["p_value"]) for r in rest], limits.p_values(own))
    assert [row["decision"] == "anomalous" for row in rest] == (own > limits.score).tolist()
    assert {row["decision"] for row in rest} == {"good", "anomalous"}
    assert {(r["width"], r["height"], r["category"], r["error"]) for r in rest} == {
        ("40", "48", "a", "")
    }
    assert {float(row["threshold"]) for row in rest} == {limits.score}
    assert len({row["model"] for row in rows}) == 1
    for row, one in zip(rest, maps):
        regions = json.loads(row["regions"])
        assert bool(regions) == bool((one > limits.pixel).any())
        for region in regions:  # boxes hold what is anomalous, in the photo's pixels
            x0, y0, x1, y1 = region["box"]
            assert 0 <= x0 < x1 <= 40
            assert 0 <= y0 < y1 <= 48
            assert region["peak"] > limits.pixel
    table = pq.read_table(out / "predictions.parquet")
    assert table.column_names == list(rows[0])
    assert table["score"].to_pylist() == [None, *own.tolist()]
    about = json.loads((out / "predictions.json").read_text())
    assert about["summary"]["photos"] == 19
    assert about["summary"]["errors"] == 1
    small = sum(float(row["p_value"]) <= 0.1 for row in rest)
    assert about["summary"]["rare"] == small
    told = "of 18 photos have a p-value of at most 0.1"
    assert f"{small} {told}; if all were good, it would be about 2" in said
    few = [str(path) for path in names[:9]]
    assert main([*arguments[:-1], str(tmp_path / "few"), *few]) == 0
    assert "p-value" not in capsys.readouterr().out  # too few to say


ODD = ("grey", "rgba", "palette", "turned", "jpeg", "wide", "one")


def write_odd(folder: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (30, 50, 4), np.uint8)
    colour = Image.fromarray(pixels[..., :3])
    colour.convert("L").save(folder / "grey.png")
    Image.fromarray(pixels).save(folder / "rgba.png")
    colour.quantize(17).save(folder / "palette.png", transparency=3)
    exif = Image.Exif()
    exif[0x0112] = 6
    colour.save(folder / "turned.jpg", exif=exif)
    colour.save(folder / "jpeg.JPEG", quality=40)
    Image.fromarray(rng.integers(0, 255, (3, 5000, 3), np.uint8)).save(folder / "wide.bmp")
    Image.new("RGB", (1, 1), "red").save(folder / "one.tif")


def test_photos_are_read_as_in_training_byte_for_byte(workdir: Path, tmp_path: Path) -> None:
    write_odd(tmp_path)
    names = sorted(tmp_path.iterdir())
    judge = open_judge(workdir=workdir, category="a")
    records = [Record(str(name), "a", "", "train", "good", "") for name in names]
    (batch,) = batches(
        records,
        image_size=judge.size,
        batch_size=len(ODD),
        resample=judge.resample,
        with_masks=False,
    )
    for name, pixels in zip(names, batch["image"], strict=True):
        found = decode(Photo(str(name), name.name), judge)
        assert found.pixels is not None
        assert found.pixels.tobytes() == pixels.tobytes()
        with Image.open(name) as image:
            turned = image.size if name.stem == "turned" else image.size[::-1]
            assert found.size == turned


def test_what_can_not_be_read_is_a_row_with_the_reason(workdir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(folder / "deep.png")
    chunk = b"IHDR" + (90_000).to_bytes(4) * 2 + b"\x08\x02\0\0\0"
    header = b"\x89PNG\r\n\x1a\n\0\0\0\r" + chunk + zlib.crc32(chunk).to_bytes(4)
    (folder / "huge.png").write_bytes(header + b"\0\0\0\0IDAT" + zlib.crc32(b"IDAT").to_bytes(4))
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("no photo")
    os.mkfifo(folder / "pipe.png")
    (folder / "gone.png").symlink_to("nowhere.png")
    Image.new("RGB", (9, 9)).save(folder / "fine.png")
    (folder / os.fsdecode(b"\xe9.png")).write_bytes((folder / "fine.png").read_bytes())
    found = run(workdir, tmp_path / "out", folder)
    rows = {Path(row["path"]).name: row for row in rows_of(tmp_path / "out")}
    told = {name: row["error"] for name, row in rows.items() if row["error"]}
    words = {
        "deep.png": "16 bits",
        "huge.png": "90000x90000",
        "empty.png": "empty",
        "text.png": "no PNG",
        "pipe.png": "no plain file",
        "gone.png": "no such file",
    }
    assert told.keys() == words.keys()
    assert [told[name] for name, word in words.items() if word not in told[name]] == []
    assert found["errors"] == 6
    assert rows[r"\udce9.png"]["score"] == rows["fine.png"]["score"]


def test_a_score_does_not_depend_on_the_batch(workdir: Path, photos: Path, tmp_path: Path) -> None:
    run(workdir, tmp_path / "all", photos)
    for row in rows_of(tmp_path / "all")[1:4]:
        out = tmp_path / Path(row["path"]).stem
        run(workdir, out, row["path"])
        assert rows_of(out) == [row]


def test_drawings_are_of_the_photos_size(workdir: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(workdir, out, photos, drawing=Drawing(maps=True, overlays=True, masks=True))
    limits = read_calibrations(workdir)["a"].limits("a")
    rows = rows_of(out)
    marked = 0
    for row in rows[1:]:
        name = Path(row["path"]).relative_to(photos).as_posix()
        with np.load(out / "maps" / f"{name}.npz", allow_pickle=False) as found:
            map_ = found["map"]
        assert (map_.shape, map_.dtype) == ((48, 40), np.float32)
        mask = np.asarray(Image.open(out / "masks" / f"{name}.png"))
        np.testing.assert_array_equal(mask, (map_ > limits.pixel) * 255)
        boxes = np.zeros(mask.shape, bool)
        for region in json.loads(row["regions"]):
            x0, y0, x1, y1 = region["box"]
            boxes[y0:y1, x0:x1] = True
        near = ndimage.binary_dilation(boxes, np.ones((7, 7)))  # edges are interpolated
        assert not ((mask > 0) & ~near).any()
        marked += mask.any()
        assert Image.open(out / "overlays" / f"{name}.jpg").size == (40, 48)
    assert marked
    again = run(
        *(workdir, out, photos),
        drawing=Drawing(maps=True, overlays=True, masks=True),
        limit=Limit(overwrite=True),
    )
    assert again["photos"] == len(rows)
    page = (out / "index.html").read_text()
    links = re.findall(r'<img [^>]*src="([^"]*)"', page)
    order = sorted(rows[1:], key=lambda row: -float(row["score"]))
    names = [Path(row["path"]).relative_to(photos).as_posix() for row in order]
    assert links == [f"overlays/{name}.jpg" for name in names]
    assert "broken.png: damaged" in page
    assert len(list((out / "maps").rglob("*.npz"))) == len(rows) - 1


def test_names_of_drawings() -> None:
    def name(below: str, path: str = "", *, unique: bool = True) -> str:
        return name_of(Photo(path or below, below), unique=unique)

    assert name("a/b 1.png") == "a/b 1.png"
    assert name("a.png", "x/a.png", unique=False) != name("a.png", "y/a.png", unique=False)
    assert name("a.png", "x/a.png", unique=False) == name("a.png", "x/a.png", unique=False)
    for odd in ("../../etc/a.png", "/a.png", "a\n.png", "a*.png", "x" * 255, os.fsdecode(b"\xe9")):
        safe = name(odd, unique=False)
        assert not safe.startswith("/")
        assert ".." not in safe.split("/")
        assert len(safe.encode()) < 200
        assert safe.isprintable()
        assert safe.rsplit("-", 1)[1].isalnum()


def test_a_stopped_job_goes_on(
    workdir: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS", 5)
    run(workdir, tmp_path / "whole", photos)
    out = tmp_path / "out"
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 6:  # three while photos are counted
            raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped):
        run(workdir, out, photos, check=stop)
    about = json.loads((out / "predictions.json").read_text())
    assert 0 < sum(shard["rows"] for shard in about["shards"]) < 19
    assert "summary" not in about
    (out / "shards" / "000099.parquet").write_bytes(b"half")  # of a kill; in no list
    (out / "shards" / ".jaxad-0123456789abcdef.tmp").write_bytes(b"half")
    run(workdir, out, photos)
    assert rows_of(out) == rows_of(tmp_path / "whole")
    assert not (out / "shards" / ".jaxad-0123456789abcdef.tmp").exists()
    before = files(out)
    run(workdir, out, photos)  # nothing is left to do
    assert files(out) == before


def test_more_photos_at_the_end_are_scored_others_are_refused(
    workdir: Path, photos: Path, tmp_path: Path
) -> None:
    out, folder = tmp_path / "out", tmp_path / "photos"
    good = sorted((photos / "test" / "good").iterdir())
    folder.mkdir()
    for number, photo in enumerate(good[:4]):
        shutil.copy(photo, folder / f"{number}.png")
    run(workdir, out, folder)
    first = rows_of(out)
    shutil.copy(good[5], folder / "9.png")
    assert run(workdir, out, folder)["photos"] == 5
    assert rows_of(out)[:4] == first
    shutil.copy(good[6], folder / "5.png")
    with pytest.raises(InputError, match=r"between the 5th and the 5th one is new.*--overwrite"):
        run(workdir, out, folder)
    for name in ("5.png", "9.png"):
        (folder / name).unlink()
    with pytest.raises(InputError, match="the table has 5 photos and 4 are named"):
        run(workdir, out, folder)
    assert run(workdir, out, folder, limit=Limit(overwrite=True))["photos"] == 4
    assert rows_of(out) == first


def test_other_settings_and_damage_are_refused(workdir: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(workdir, out, photos)
    with pytest.raises(InputError, match="begun with another choice of maps: repeat"):
        run(workdir, out, photos, drawing=Drawing(maps=True))
    judge = open_judge(workdir=workdir, category="a", false_alarm=0.2, batch_size=2)
    with pytest.raises(InputError, match="another batch size, false alarm rate, limit of pixels"):
        predict([str(photos)], out, judge)
    shard = out / "shards" / "000000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"000000\.parquet is missing or damaged"):
        run(workdir, out, photos)
    (out / "predictions.json").write_text("{}")
    with pytest.raises(InputError, match="damaged or of another jaxad"):
        run(workdir, out, photos)
    run(workdir, out, photos, limit=Limit(overwrite=True))


def test_only_what_is_ours_is_replaced(workdir: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "maps").mkdir(parents=True)
    with pytest.raises(InputError, match="maps is there and was not written by a jaxad run"):
        run(workdir, out, photos, drawing=Drawing(maps=True))
    (out / "predictions.csv").write_text("mine")
    with pytest.raises(InputError, match=r"predictions\.csv is there and was not written"):
        run(workdir, out, photos, limit=Limit(overwrite=True))
    assert (out / "predictions.csv").read_text() == "mine"
    with pytest.raises(InputError, match="is the work directory of a training"):
        run(workdir, workdir, photos, limit=Limit(overwrite=True))


def test_a_full_disk_loses_nothing(
    workdir: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS", 5)
    out = tmp_path / "out"
    real = Path.replace
    left = 6  # files that there is room for

    def replace(self: Path, target: Path) -> Path:
        nonlocal left
        if out in target.parents and target.suffix in (".parquet", ".jpg"):
            left -= 1
            if left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(InputError, match=r"No space left on device.*free space"):
        run(workdir, out, photos, drawing=Drawing(overlays=True))
    monkeypatch.setattr(Path, "replace", real)
    assert not list(out.rglob("*.tmp"))
    found = run(workdir, out, photos, drawing=Drawing(overlays=True))
    assert found["photos"] == len(rows_of(out)) == 19
    assert len(list((out / "overlays").rglob("*.jpg"))) == 18


def test_too_many_errors_end_the_job(workdir: Path, photos: Path, tmp_path: Path) -> None:
    listed = "\n".join(["none.png"] * 3 + [str(photos / "test" / "good" / "000.png")])
    out = tmp_path / "out"

    def listing() -> BinaryIO:
        return io.BytesIO(listed.encode())

    with pytest.raises(
        InputError, match=r"3 photos could not be read, --max-errors is 2.*none\.png"
    ):
        run(workdir, out, "-", listed=listing(), limit=Limit(max_errors=2))
    found = run(workdir, out, "-", listed=listing(), limit=Limit(max_errors=3))
    assert (found["photos"], found["errors"]) == (4, 3)
    with pytest.raises(InputError, match="none of 1 photos could be read"):
        run(workdir, tmp_path / "none", "-", listed=io.BytesIO(b"none.png"))
    assert len(rows_of(tmp_path / "none")) == 1


def test_exit_codes(
    workdir: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def code(*arguments: str, out: str) -> int:
        flags = ["--workdir", str(workdir), "--category", "a", "--out", str(tmp_path / out)]
        return main(["predict", *flags, *arguments])

    rows = {}
    assert code(str(photos), out="x") == 0
    for row in rows_of(tmp_path / "x"):
        rows[row["decision"]] = row["path"]
    assert code(rows["good"], "--fail-on-anomaly", out="good") == 0
    assert code(rows["anomalous"], "--fail-on-anomaly", out="bad") == 1
    assert code(rows["anomalous"], out="bad") == 0
    assert code(rows["good"], "--max-errors", "0", str(photos / "broken.png"), out="e") == 2
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["p"], "by --out, or one to be watched by --watch"),
        (["p", "--out", "o", "--watch", "w"], "by --out, or one to be watched by --watch"),
        (["p", "--watch", "w"], "it takes no PATH"),
        (["p", "--out", "o", "--fast"], "unknown argument '--fast'"),
        (["p", "--out", "o", "--model", "m"], "--workdir DIR, or --model FILE"),
        (["p", "--out", "o", "--max-errors=-1"], "it must be 0 or more"),
        (["p", "--out", "o", "--batch-size", "0"], "it must be 1 or more"),
        (["p", "--out", "o"], "judges 'a', 'b': name one of them by --category"),
        (["p", "--out", "o", "--category", "c"], "name one of them by --category, not 'c'"),
        (["p", "--out", "o", "--category", "b"], "no calibration of 'b': run jaxad calibrate"),
        (["p", "--out", "o", "--category", "a", "--false-alarm", "0.001"], "too few"),
        (["p", "--out", "o", "--category", "a"], "p: no such file or folder"),
        (["--out", "o", "--category", "a"], "name photos"),
        ([".", "--out", "o", "--category", "a"], r". holds no photo"),
    ],
)
def test_unusable_arguments(
    workdir: Path,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "--workdir", str(workdir), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def test_a_workdir_without_calibration(
    trained_once: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out"), str(photos)]
    assert main(["predict", "--workdir", str(trained_once), *out]) == 2
    assert f"run jaxad calibrate --workdir {trained_once}" in capsys.readouterr().err


def test_drift_is_said(
    workdir: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(workdir, tmp_path / "first", photos)
    good = next(row["path"] for row in rows_of(tmp_path / "first") if row["decision"] == "good")
    listed = io.BytesIO("\n".join([good] * 60).encode())  # one photo again and again
    found = run(workdir, tmp_path / "out", "-", listed=listed)
    assert found["drift"]["all"]["drifted"]
    assert found["drift"]["all"]["passed"] == 60
    assert "after 60 photos: drift: normal photos no longer look" in capsys.readouterr().err


def test_an_exported_file_judges_as_its_work_directory(
    workdir: Path, photos: Path, tmp_path: Path
) -> None:
    judge = open_judge(workdir=workdir, category="a")
    bare = Path(shutil.copytree(workdir, tmp_path / "bare"))
    (bare / "calibration.json").unlink()
    for folder in (workdir, bare):
        export(folder, tmp_path / f"{folder.name}.jaxad", detector="a", photos=False)
    with pytest.raises(InputError, match=r"bare\.jaxad has no calibration: run jaxad calibrate"):
        open_judge(model=tmp_path / "bare.jaxad")
    own = open_judge(model=tmp_path / f"{workdir.name}.jaxad", batch_size=judge.batch_size)
    for name in ("category", "size", "resample", "upright", "false_alarm"):
        assert getattr(own, name) == getattr(judge, name)
    assert (own.limits.score, own.limits.pixel) == (judge.limits.score, judge.limits.pixel)
    run(workdir, tmp_path / "one", photos)
    predict([str(photos)], tmp_path / "other", own)
    one, other = ([dict(row) for row in rows_of(tmp_path / n)] for n in ("one", "other"))
    score = own.compiled(own.batch_size)  # before anybody measures a rate
    with counted_programs() as programs:
        score(np.zeros((own.batch_size, *own.size, 3), np.uint8))
    assert not programs.names
    assert {row.pop("model") for row in other} == {own.id} != {row.pop("model") for row in one}
    assert one == other


def test_a_killed_job_ends_with_each_photo_once(
    workdir: Path, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    good = sorted((photos / "test").rglob("*.png"))
    for number in range(3000):
        os.link(good[number % len(good)], folder / f"{number:04}.png")
    out = tmp_path / "out"
    line = ["predict", "--workdir", str(workdir), "--category", "a", str(folder), "--out", str(out)]
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nfrom jaxad.runs import predict\npredict.ROWS = 200\n"
        "from jaxad.main import main\nsys.exit(main())\n"
    )
    path = os.pathsep.join([str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "XLA_FLAGS": ""}
    process = subprocess.Popen([sys.executable, str(script), *line], env=env)
    while len(list((out / "shards").glob("0*"))) < 2 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    found = run(workdir, out, folder)
    assert found["photos"] == 3000
    assert [row["path"] for row in rows_of(out)] == [str(p) for p in sorted(folder.iterdir())]
