"""The pages: the site builds without a warning, its links lead somewhere, its commands exist."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jaxad.flags import make_parser
from tools.notebook import notebook

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="pip install 'jaxad[docs]'")
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-qW",
            "--keep-going",
            "-b",
            "html",
            "docs",
            str(tmp_path),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    reference = (tmp_path / "api.html").read_text()
    for name in ("jaxad.detector.Detector.score", "jaxad.scorer.make_scorer", "jaxad.core.Method"):
        assert f'id="{name}"' in reference


@pytest.mark.parametrize("name", NAMES)
def test_links_between_files_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("name", NAMES)
def test_commands_are_known_to_the_command_line(name: str) -> None:
    for block in re.findall(r"```(?:sh|bash|console)\n(.*?)```", (ROOT / name).read_text(), re.S):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            for command in re.split(r"&&|\||(?<=\s);", line.partition("  #")[0]):
                words = shlex.split(command.replace("…", ""), comments=True)
                if words[:1] == ["jaxad"]:
                    _, rest = make_parser().parse_known_args(words[1:])
                    told = [word for word in rest if not word.startswith("--config")]
                    names = [b for a, b in itertools.pairwise(rest) if a == "--config"]
                    assert told == names, line


def test_readme_is_two_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110


def test_the_notebook_is_the_tour() -> None:
    page = (ROOT / "docs" / "tour.md").read_text()
    assert (ROOT / "docs" / "tour.ipynb").read_text() == notebook(page)
