"""The program behind the table of input rates."""

import json

import pytest

from benchmarks.input import check_same, main, write_photos


def test_every_form_of_photo_is_timed(tmp_path, capsys):
    to = tmp_path / "out" / "input.json"
    sizes = ["--images", "20", "--size", "16", "--native", "40"]
    main([*sizes, "--workers", "0", "--pairs", "3", "--json", str(to)])
    _, _, *rows = capsys.readouterr().out.splitlines()
    written = json.loads(to.read_text())
    assert (written["images"], written["size"], written["native"]) == (20, 16, 40)
    assert "device" in written["machine"]
    assert list(written["rows"]) == [
        "PNG, 40 px; threads",
        "JPEG, 40 px; threads",
        "PNG, 16 px; threads",
        "array_record, 16 px; threads",
    ]
    for line, (name, row) in zip(rows, written["rows"].items(), strict=True):
        assert line.startswith(f"| {name} |")
        assert len(row["seconds_per_image"]) == 3
        assert row["images_per_second"] * row["ms_per_image"] == pytest.approx(1e3)
    assert written["rows"]["PNG, 40 px; threads"]["faster"]["median"] == 1


def test_a_form_that_differs_is_told(tmp_path):
    forms = write_photos(tmp_path, images=3, native=32, size=16)
    png, jpeg, _, record = forms.values()
    check_same(png, record, size=16)
    with pytest.raises(RuntimeError, match="not those of the files"):
        check_same(png, jpeg, size=16)


def test_too_few_photos_to_tell_a_rate(capsys):
    with pytest.raises(SystemExit):
        main(["--images", "16", "--workers", "2"])
    assert "--images must be more than 16" in capsys.readouterr().err
