"""docs/own_method.md: a method from outside trains, evaluates and loads, each in its process."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HERE, ROOT, Jaxad, files

from jaxad.config import default_config
from jaxad.core import InputError
from jaxad.main import main
from jaxad.recipes.build import recipe_named
from jaxad.runs.workdir import load


def test_the_example_of_the_docs(
    parts: Path,
    tmp_path: Path,
    jaxad: Jaxad,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (ROOT / "docs" / "own_method.md").read_text()
    module, config = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(module.splitlines()) < 60
    (tmp_path / "my_methods").mkdir()
    (tmp_path / "my_methods" / "autoencoder.py").write_text(module)
    (tmp_path / "autoencoder.py").write_text(config)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    workdir = tmp_path / "w"
    trained = jaxad(
        *("train", f"--config={tmp_path / 'autoencoder.py'}", f"--workdir={workdir}"),
        *(f"--config.data.root={parts}", "--config.data.image_size=24,32"),
        *("--config.method.random_weights=true", "--config.method.level=layer1"),
        *("--config.train.steps=(2,)", "--config.train.positions=(16,)"),
        "--config.score.batch_size=4",
        PYTHONPATH=path,
    )
    assert trained.returncode == 0, trained.stderr
    assert f"taken from {tmp_path / 'my_methods' / 'autoencoder.py'}\n" in trained.stderr
    before = json.loads((workdir / "results.json").read_text())
    assert before["method"] == "my_methods.autoencoder"
    evaluated = jaxad("evaluate", f"--workdir={workdir}", PYTHONPATH=path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads((workdir / "results.json").read_text())["mean"] == before["mean"]
    # Without the module it is one line that says what to do.
    assert main(["evaluate", f"--workdir={workdir}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "my_methods.autoencoder" in line
    assert "PYTHONPATH" in line
    monkeypatch.syspath_prepend(str(tmp_path))
    detector, variables, config = load(workdir, "a")
    assert config.method.name == "my_methods.autoencoder"
    images = np.zeros((1, 24, 32, 3), np.uint8)
    assert detector.score(variables, images).map.shape == (1, 24, 32)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "foreign_package").mkdir()
    (tmp_path / "foreign_package" / "__init__.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("foreign_package.absent", "", "no such Python module"),
        ("foreign_package.plain", "import os\n", "has no RECIPE"),
        ("foreign_package.latin", b"x = '\xe9'\n", "can not be read"),
        ("idlelib.idle", "", "has no RECIPE"),  # importing it opens a window
        ("os.path", "", "no such Python module|has no RECIPE"),
        ("foreign_package..x", "", "is no package.module"),
        ("../foreign_package.x", "", "is no package.module"),
        ("foreign_package.x\nRECIPE", "", "is no package.module"),
        ("a." * 5000 + "b", "", "is no package.module"),
    ],
)
def test_a_module_without_a_recipe_is_not_run(
    name: str, text: Any, message: str, own: Path
) -> None:
    if text:
        path = own / f"{name.replace('.', '/')}.py"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message) as refused:
        recipe_named(name)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600
    assert not (own / "ran").exists()


def test_a_recipe_that_fails_is_one_line(own: Path, capsys: Any) -> None:
    (own / "foreign_package" / "broken.py").write_text("1 / 0\nRECIPE = 1")
    with pytest.raises(InputError, match=r"broken\.py does not import: ZeroDivisionError"):
        recipe_named("foreign_package.broken")
    (own / "foreign_package" / "other.py").write_text("RECIPE = 1")
    with pytest.raises(InputError, match="has no RECIPE, a jaxad"):
        recipe_named("foreign_package.other")
    assert f"is taken from {own / 'foreign_package' / 'other.py'}\n" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"known are .*, or package\.module"):
        default_config("tiny")


def test_the_tiny_recipe_of_the_tests_is_one_from_outside() -> None:
    assert Path(recipe_named("outside.tiny").backbones.__code__.co_filename).is_relative_to(HERE)
    assert files(HERE / "outside")
