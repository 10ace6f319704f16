"""The program that times the pixel metrics, at a size where it takes no time."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.metrics import WAYS, check, generated, main, peak, scenes

if not Path("/proc/self/status").exists():
    pytest.skip("peak memory is read from /proc/self/status", allow_module_level=True)


def test_a_category_looks_like_one() -> None:
    masks, maps = scenes(0, 40, 64)
    assert maps.dtype == np.float32
    assert not masks[3::5].any()
    assert not masks[4::5].any()
    assert masks[0::5].any(axis=(1, 2)).all()
    assert 0.005 < masks.mean() < 0.1
    parts = list(generated(40, 64))
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), masks)
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), maps)
    assert 0.6 < WAYS["whole"](masks, maps)["pixel_auroc"] < 0.999  # neither blind nor done


@pytest.mark.parametrize("levels", [None, 5])
def test_all_ways_agree(levels: int | None) -> None:
    masks, maps = scenes(0, 20, 48)
    if levels:  # ties
        maps = np.round(maps * levels / np.ptp(maps))
    found = {name: way(masks, maps) for name, way in WAYS.items()}
    assert found["whole"] == found["streamed"]
    check(found)
    found["streamed"]["pixel_ap"] += 1e-8
    with pytest.raises(SystemExit, match="streamed: pixel_ap"):
        check(found)


def test_a_run_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "numbers.json"
    main(f"--images 20 --size 32 --pairs 1 --memory 40 --json {path}".split())
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 2 + len(WAYS) + 1
    assert len({row.count("|") for row in rows}) == 1
    numbers = json.loads(path.read_text())
    assert list(numbers["seconds"]) == list(numbers["peak_bytes"]) == list(WAYS)
    assert numbers["ratio"]["straightforward"]["median"] == 1
    assert min(numbers["peak_bytes"].values()) > 0
    assert numbers["many"]["images"] == 40
    assert numbers["many"]["metrics"] == peak("generated", 40, 32)["metrics"]
