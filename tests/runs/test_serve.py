"""The command: a served answer is predict's row, docs' client works, a signal ends it in peace."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import HERE, ROOT

from jaxad.data.synthetic import write_dataset
from jaxad.main import main
from jaxad.runs.models import open_judge
from jaxad.runs.predict import predict

BATCH = 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sent")
    write_dataset(
        root, categories=("a",), n_train=1, n_test_good=5, n_test_bad=5, size=(40, 52), seed=7
    )
    return root / "a" / "test"


@pytest.fixture(scope="module")
def flags(calibrated: Path) -> list[str]:
    return ["serve", "--workdir", str(calibrated), "--category", "a", "--batch-size", str(BATCH)]


@pytest.fixture(scope="module")
def served(flags: list[str]) -> Iterator[tuple[str, Any]]:
    """The address and the process."""
    path = os.pathsep.join([str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-m", "jaxad", *flags, "--port", "0"],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = ""
        try:
            while "serving on" not in said:
                line = process.stderr.readline()
                assert line, said
                said += line
            (url,) = re.findall(r"serving on (http://127\.0\.0\.1:\d+) ", said)
            yield url, process
        finally:
            if process.poll() is None:
                process.kill()


def sent(url: str, photo: Path) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/v1/judge", photo.read_bytes()) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def test_an_answer_is_the_row_of_predict(
    served: tuple[str, Any], calibrated: Path, photos: Path, tmp_path: Path
) -> None:
    rows: dict[int, dict[str, dict[str, Any]]] = {}
    for size in (1, BATCH):
        judge = open_judge(workdir=calibrated, category="a", batch_size=size)
        predict([str(photos)], tmp_path / str(size), judge)
        table = pq.read_table(tmp_path / str(size) / "predictions.parquet").to_pylist()
        rows[size] = {row["path"]: row for row in table}
    files = [Path(path) for path in rows[1]]
    alone = [sent(served[0], file) for file in files]
    with ThreadPoolExecutor(len(files)) as pool:
        together = list(pool.map(lambda file: sent(served[0], file), files))
    for file, one, other in zip(files, alone, together):
        exact = [_as_answer(rows[size][str(file)]) for size in (1, BATCH)]
        assert one == exact[0]
        assert other in exact  # of how many were scored with it
        assert other["decision"] == one["decision"]
        assert other["score"] == pytest.approx(one["score"], rel=1e-5)
    assert {one["decision"] for one in alone} == {"good", "anomalous"}


def _as_answer(row: dict[str, Any]) -> dict[str, Any]:
    answer = {name: value for name, value in row.items() if name not in ("path", "error")}
    return answer | {"regions": json.loads(row["regions"])}


def test_the_client_of_the_docs(
    served: tuple[str, Any], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "serve.md").read_text(), re.S)
    photo = next(photos.rglob("*.png"))
    example = example.replace("http://127.0.0.1:8000", served[0]).replace("photo.png", str(photo))
    exec(compile(example, "docs/serve.md", "exec"), {})
    assert re.match(r"(good|anomalous) \d", capsys.readouterr().out)


def test_what_can_not_be_served_is_a_line(
    served: tuple[str, Any], flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    port = served[0].rpartition(":")[2]
    for more, told in (
        (["--port", port], f"127.0.0.1:{port} can not be listened on"),
        (["--max-body", "0"], "--max-body is 1 to 1024 MB"),
        (["--nothing"], "unknown argument '--nothing'"),
    ):
        capsys.readouterr()
        assert main([*flags, *more]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("jaxad: ")
        assert told in said


def test_a_signal_ends_it_in_peace(served: tuple[str, Any], photos: Path) -> None:
    url, process = served
    sent(url, next(photos.rglob("*.png")))
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "stopping: what is in flight is answered" in said
    assert "Traceback" not in said
