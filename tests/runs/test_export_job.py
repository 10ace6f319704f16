"""The export job: a file is left where it scores as its work directory, and nowhere else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import files

import jaxad
import jaxad.export
from benchmarks import exported as exported_benchmark
from jaxad.data.images import decode_image
from jaxad.errors import InputError
from jaxad.main import main
from jaxad.runs import export as job
from jaxad.runs.calibrate import calibrate
from jaxad.runs.calibrations import read_calibrations
from jaxad.scorer import make_scorer


@pytest.fixture(scope="module")
def exported(trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of detector "a"."""
    path = tmp_path_factory.mktemp("out") / "a.jaxad"
    job.export(trained_once, path, detector="a")
    return path


def test_file_scores_photos_as_the_work_directory(
    exported: Path, trained_once: Path, parts: Path
) -> None:
    found = jaxad.export.load(exported)
    detector, variables, config = jaxad.load(trained_once, "a")
    assert (found.detector, found.categories) == ("a", ("a",))
    assert found.size == tuple(config.data.image_size)
    paths = sorted((parts / "a").rglob("test/*/*.png"))
    images = np.stack([decode_image(p, size=found.size, resample=found.resample) for p in paths])
    for count in (1, 3, len(images)):
        scorer = make_scorer(detector, variables, batch_size=count, size=found.size)
        want = jax.device_get(scorer.score(images[:count]))
        own = found.score(images[:count])
        atol = 1e-6 * np.ptp(want.map)
        np.testing.assert_allclose(own.map, want.map, rtol=0, atol=atol)
        np.testing.assert_allclose(own.image, want.image, rtol=0, atol=atol)


def test_the_benchmark_compares_every_batch_size(
    trained_once: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--workdir", str(trained_once), "--detector", "a", "--pairs", "1"]
    assert exported_benchmark.main([*arguments, "--json", str(tmp_path / "r.json")]) == 0
    assert "| outside.tiny | tiny | 24 |" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert all(row[f"{kind}_{n}"] <= 1e-6 for kind in ("map", "image") for n in (1, 3, 8))
    assert all(row[f"speed_{n}"] > 0 for n in (1, 3, 8))


def test_says_where_it_comes_from(exported: Path, trained_once: Path) -> None:
    found = jaxad.export.load(exported)
    config = json.loads((trained_once / "config.json").read_text())
    assert found.provenance["configuration"] == config["config"]
    assert found.provenance["weights"] == {"backbone": {"sha256": "seed 888"}}
    assert found.provenance["data"]["photos"] == {"a": 5}
    assert found.provenance["versions"]["jax"] == jax.__version__
    assert found.manifest["method"] == "outside.tiny"


def test_the_command_says_by_how_much_scores_differ_and_changes_nothing_in_the_work_directory(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, out = files(trained), tmp_path / "b.jaxad"
    command = ["export", "--workdir", str(trained), "--out", str(out), "--detector", "b"]
    assert main([*command, "--platforms", "cpu"]) == 0
    assert files(trained) == before
    told = capsys.readouterr().out
    found = jaxad.export.load(out)
    assert found.platforms == ("cpu",)
    assert found.id in told
    assert "10 photos and generated images score as" in told
    assert main(command) == 2
    assert "is there already" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--no-photos"]) == 0
    assert "0 photos and generated" in capsys.readouterr().out
    assert jaxad.export.load(out).platforms == ("cpu", "cuda", "tpu")
    assert [path.name for path in tmp_path.iterdir()].count("b.jaxad") == 1
    assert not list(tmp_path.glob(".jaxad-*"))


def test_the_same_export_gives_the_same_bytes(exported: Path, trained_once: Path) -> None:
    again = exported.with_name("again.jaxad")
    job.export(trained_once, again, detector="a", photos=False)
    assert again.read_bytes() == exported.read_bytes()


def test_calibration_goes_with_the_detector_that_it_is_of(
    trained: Path, parts: Path, tmp_path: Path
) -> None:
    shutil.copytree(parts / "a" / "test" / "good", tmp_path / "new")
    calibrate(trained, tmp_path / "new", category="a", false_alarm=0.4)
    for name in ("a", "b"):
        job.export(trained, tmp_path / name, detector=name, photos=False)
    own = read_calibrations(trained)["a"].to_json(photos=False)  # a customer need not know them
    assert jaxad.export.load(tmp_path / "a").calibration == own
    assert jaxad.export.load(tmp_path / "b").calibration is None


@pytest.mark.parametrize("part", ["map", "image"])
def test_a_file_that_scores_otherwise_is_not_left(
    part: str, trained_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = job.load_file

    def wrong(path: Path) -> Any:
        class Off:
            def score(self, images: Any) -> Any:
                found = read(path).score(images)
                return found._replace(**{part: getattr(found, part) * 1.001})

        return Off()

    monkeypatch.setattr(job, "load_file", wrong)
    with pytest.raises(InputError, match=rf"its {part} scores differ .* by \d\.\de-0\d of their"):
        job.export(trained_once, tmp_path / "a.jaxad", detector="a", photos=False)
    assert not list(tmp_path.iterdir())


def test_what_can_not_be_exported_so_is_named_and_nothing_is_written(
    trained: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, foreign = tmp_path / "o.jaxad", tmp_path / "foreign"
    foreign.write_text("mine")
    cases: list[tuple[list[str], str]] = [
        (["--out", str(out)], "name one of them by --detector"),
        (["--out", str(out), "--detector", "c"], "not 'c'"),
        (["--out", str(out), "--detector", "a", "--platforms", "gpu"], "name some of cpu, cuda"),
        (["--out", str(out), "--detector", "a", "--platforms", "tpu"], "add cpu"),
        (["--out", str(foreign), "--detector", "a"], "is there already"),
        (["--out", str(foreign), "--detector", "a", "--overwrite"], "not written by jaxad export"),
        (["--out", str(tmp_path / "no" / "o"), "--detector", "a"], "is no folder"),
        (["--out", str(tmp_path), "--detector", "a", "--overwrite"], "not written by jaxad"),
        (
            ["--out", str(out), "--detector", "a", "--config.data.image_size=(8,8)"],
            "belongs to the",
        ),
        (
            ["--out", str(out), "--detector", "a", "--config.data.root=/absent"],
            "--config.data.root=DIR, or compare by generated images alone: --no-photos",
        ),
    ]
    for arguments, told in cases:
        assert main(["export", "--workdir", str(trained), *arguments]) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    assert main(["export", "--workdir", str(tmp_path / "none"), "--out", str(out)]) == 2
    assert not out.exists()
    assert foreign.read_text() == "mine"


def test_a_method_that_needs_to_know_the_batch_is_named(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from outside import tiny

    real = tiny.RECIPE.method

    def knowing(*args: Any, **options: Any) -> Any:
        method, phases = real(*args, **options)

        def score(variables: Any, features: Any, *, size: tuple[int, int]) -> Any:
            found = method.score(variables, features, size=size)
            return found._replace(image=found.image / range(1, 1 + len(found.image))[0])

        return method._replace(score=score), phases

    monkeypatch.setattr(tiny, "RECIPE", tiny.RECIPE._replace(method=knowing))
    with pytest.raises(InputError, match=r"method outside.tiny can not be exported for any number"):
        job.export(trained, tmp_path / "a.jaxad", detector="a", photos=False)
    assert not list(tmp_path.glob("*.jaxad"))
