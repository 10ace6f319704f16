"""What the pages tell users to type is run, word by word, with a recipe that trains in moments."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

from jaxad.data.synthetic import write_dataset
from jaxad.main import main

PAGES = ("own_photos", "calibration", "predict", "export", "audit")
"""In this order: the first trains what the others take."""
NOT_HERE = ("--watch", "serve", "…", "find ", "runs/lite", "MVTEC")
"""In lines that wait for ever, or are tried elsewhere."""
REFUSED = {"--false-alarm 0.01": "take 99 or more"}
"""Of twenty photos."""
CONFIG = """
from configuring import configured
def get_config():
    return configured("", data__calibration=0.1)
"""


def lines(page: str) -> list[str]:
    """The commands of `jaxad` on a page, each on one line and without its comment."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.S):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            command = line.partition("  #")[0].strip()
            if "jaxad" in shlex.split(command)[:1] or "…" in command:
                found.append(command)
    return found


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the photos that the pages speak of."""
    write_dataset(
        tmp_path, categories=("made",), n_train=90, n_test_good=3, n_test_bad=3, size=(32, 32)
    )
    good = sorted((tmp_path / "made" / "train" / "good").iterdir())
    bad = sorted((tmp_path / "made" / "test").rglob("*.png"))
    for folder, photos in (
        ("parts/good", good[:60]),
        ("new_good", good[60:]),
        ("new_photos", bad),
        ("photos", bad),
        ("line3/a", bad[:1]),
    ):
        (tmp_path / folder).mkdir(parents=True)
        for photo in photos:
            shutil.copy(photo, tmp_path / folder)
    (tmp_path / "line3" / "a").joinpath(bad[0].name).rename(tmp_path / "line3" / "a" / "cam1_0.png")
    shutil.copy(bad[1], tmp_path / "extra.jpg")
    (tmp_path / "tiny.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(command: str, number: int) -> list[str]:
    """What is typed, with the names of this desk."""
    instead = {
        "mb_pfm_lite": "tiny.py",
        "patchcore:lite": "tiny.py",
        "W": "runs/parts",
        "results/": f"results{number}",
    }
    instead |= {"bottle.jaxad": "part.jaxad"}
    typed = [instead.get(word, word) for word in shlex.split(command)[1:]]
    return [word for word in typed if not word.startswith("--config.method.")]


def test_commands_of_the_pages_run(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = 0
    for page in PAGES:
        for number, command in enumerate(lines(page)):
            if any(word in command for word in NOT_HERE):
                continue
            if page == "audit" and not (desk / "runs" / "other").exists():
                shutil.copytree("runs/parts", "runs/other")
            if page == "export":  # the same file as on the first page
                (desk / "part.jaxad").unlink()
            code = main(words(command, number))
            printed, said = capsys.readouterr()
            refusal = next((told for part, told in REFUSED.items() if part in command), None)
            assert code == (0 if refusal is None else 2), (page, command, said)
            assert refusal is None or refusal in said
            ran += 1
            if page == "own_photos" and " train " in command:
                assert "next: jaxad predict --workdir runs/parts PHOTOS" in said
                assert re.search(r"for 5% false alarms, \d+ of 12 good test photos are", printed)
    assert ran >= 13
