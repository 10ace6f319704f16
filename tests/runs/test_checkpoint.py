"""Checkpoints come back to the bit or not at all, and are there whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from conftest import ROOT, files

from jaxad.core import InputError
from jaxad.runs import checkpoint, record


def variables(seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return {
        "params": {"a": rng.normal(size=(5, 7)).astype(np.float32), "b": np.ones(3, np.float32)},
        "routing": {"used": np.asarray([3, 1], np.int32)},
    }


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "a"
    checkpoint.save(path, variables())
    return path


@pytest.fixture
def saved(saved_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved_once, tmp_path / "a"))


def test_what_is_saved_comes_back(saved: Path) -> None:
    assert [path.name for path in saved.parent.iterdir()] == ["a"]
    restored = checkpoint.restore(saved, variables(1))
    jax.tree.map(np.testing.assert_array_equal, restored, variables())
    assert jax.tree.map(lambda x: x.dtype, restored) == jax.tree.map(lambda x: x.dtype, variables())


def test_one_wrong_bit_anywhere_is_named(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    whole = [path for path in sorted(saved.rglob("*")) if path.is_file()]
    assert len(whole) >= 8
    for case in range(max(20, len(whole))):  # every file, and the larger ones again
        path = whole[case % len(whole)]
        before = path.read_bytes()
        if not before:
            continue
        bit = int(rng.integers(8 * len(before)))
        wrong = bytearray(before)
        wrong[bit // 8] ^= 1 << bit % 8
        path.write_bytes(wrong)
        with pytest.raises(InputError) as refused:
            checkpoint.restore(saved, variables())
        assert str(saved) in str(refused.value), (path, bit)
        assert "\n" not in str(refused.value)
        path.write_bytes(before)
    assert capfd.readouterr() == ("", "")
    checkpoint.restore(saved, variables())


@pytest.mark.parametrize("kind", ["missing", "more", "shorter", "link", "folder link", "pipe"])
def test_other_files_than_were_saved_are_refused(kind: str, saved: Path, tmp_path: Path) -> None:
    victim = saved / "manifest.ocdbt"
    content = victim.read_bytes()
    if kind == "more":
        (saved / "d" / "more").write_text("x")
    elif kind == "folder link":
        (saved / "d").rename(tmp_path / "d")
        (saved / "d").symlink_to(tmp_path / "d")
    else:
        victim.unlink()
    if kind == "shorter":
        victim.write_bytes(content[:-1])
    elif kind == "link":  # to the very content
        (tmp_path / "content").write_bytes(content)
        victim.symlink_to(tmp_path / "content")
    elif kind == "pipe":
        os.mkfifo(victim)
    with pytest.raises(InputError, match=str(saved)):
        checkpoint.restore(saved, variables())


@pytest.mark.parametrize("change", ["shape", "dtype", "less", "more", "name"])
def test_a_checkpoint_of_another_model_is_refused(change: str, saved: Path) -> None:
    other = variables()
    params = other["params"]
    if change == "shape":
        params["a"] = params["a"].T
    elif change == "dtype":
        params["a"] = params["a"].astype(np.float16)
    elif change == "less":
        del params["b"]
    elif change == "more":
        params["c"] = params["b"]
    else:
        params["c"] = params.pop("b")
    with pytest.raises(InputError, match="is of another model"):
        checkpoint.restore(saved, other)


def forge(saved: Path) -> None:
    """Damage all that orbax reads, and make the sums fit."""
    for name in ("manifest.ocdbt", "_METADATA"):
        (saved / name).write_bytes(b"nothing")
    kept = json.loads((saved / checkpoint.SUMS).read_text())
    kept["wrote"] = checkpoint._sums(saved)
    (saved / checkpoint.SUMS).write_text(json.dumps(kept))


def test_forged_sums_are_one_error_too(saved: Path) -> None:
    forge(saved)
    with pytest.raises(InputError, match="is damaged"):
        checkpoint.restore(saved, variables())


def listing(saved: Path, shape: Any) -> None:
    """Have the checkpoint's list say another shape of "a"."""
    kept = json.loads((saved / checkpoint.SUMS).read_text())
    kept["arrays"]["['params']['a']"][0] = shape
    (saved / checkpoint.SUMS).write_text(json.dumps(kept))


def test_what_grows_comes_back_with_the_rows_that_were_saved(saved: Path) -> None:
    template = variables(1)
    template["params"]["a"] = np.zeros((1, 7), np.float32)
    restored = checkpoint.restore(saved, template, grows=("params",))
    jax.tree.map(np.testing.assert_array_equal, restored, variables())
    for grows in ((), ("routing",)):
        with pytest.raises(InputError, match="is of another model"):
            checkpoint.restore(saved, template, grows=grows)
    template["params"]["a"] = np.zeros((1, 6), np.float32)
    with pytest.raises(InputError, match="is of another model"):
        checkpoint.restore(saved, template, grows=("params",))


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        *((shape, "is damaged") for shape in ([4, 7], [6, 7], [600, 7])),
        ([10**11, 7], "GB of memory are free"),
        *((s, "is of another model") for s in ([10**400, 7], [-5, 7], [0, 7], [5, 8], [5], [])),
        *((s, "is of another model") for s in ("57", None, 5, {}, [[5], 7], ["5", 7], [5.0, 7.5])),
    ],
)
def test_forged_rows_are_one_error(shape: Any, told: str, saved: Path, capfd: Any) -> None:
    listing(saved, shape)
    with pytest.raises(InputError, match=told) as refused:
        checkpoint.restore(saved, variables(), grows=("params",))
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"format": 1}', '{"format": 2, "arrays": 3}', "[" * 100_000]
)
def test_a_damaged_list_is_named(text: str, saved: Path) -> None:
    (saved / checkpoint.SUMS).write_text(text)
    with pytest.raises(InputError, match=str(saved)):
        checkpoint.restore(saved, variables())


@pytest.mark.parametrize("moment", ["writing", "listing", "renaming"])
def test_a_save_that_fails_leaves_what_was_there(
    moment: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(saved.parent)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if moment == "writing":
        monkeypatch.setattr(ocp.StandardCheckpointer, "wait_until_finished", full)
    elif moment == "listing":
        monkeypatch.setattr(checkpoint, "_sums", full)
    else:
        own = Path.replace

        def replace(self: Path, target: Path) -> Path:
            return full() if self.name == "new" else own(self, target)

        monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(InputError, match=r"No space left.*make room"):
        checkpoint.save(saved, variables(1))
    assert files(saved.parent) == before
    assert [path.name for path in saved.parent.iterdir()] == ["a"]


def test_threads_that_go_on_writing_after_a_failure_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of orbax's threads finds the disk full, and others still write what they began."""
    late: list[threading.Thread] = []

    def write(new: Path) -> None:
        for n in range(60):
            with suppress(OSError):  # deleted meanwhile
                new.mkdir(parents=True, exist_ok=True)
                (new / str(n)).write_bytes(b"")
            time.sleep(0.005)

    def fails(self: Any, new: Path, tree: Any) -> None:
        late.append(threading.Thread(target=write, args=(new,)))
        late[0].start()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ocp.StandardCheckpointer, "save", fails)
    with pytest.raises(InputError, match="No space left"):
        checkpoint.save(tmp_path / "one", {"a": np.zeros(3)})
    late[0].join()
    assert not list(tmp_path.iterdir())


KILLED = """
import os, sys
from pathlib import Path
import numpy as np, orbax.checkpoint as ocp
from jaxad.runs import checkpoint, record
claimed = record.claim(Path(sys.argv[1]), ["checkpoints/a"], overwrite=True)
path = claimed.tree("checkpoints", "a")
own = ocp.StandardCheckpointer.wait_until_finished
def wait(self):
    if sys.argv[2] == "after":
        own(self)
    os._exit(9)
ocp.StandardCheckpointer.wait_until_finished = wait
checkpoint.save(path, {"params": {"x": np.ones(1000)}})
"""


@pytest.mark.parametrize("moment", ["during", "after"])
def test_a_killed_save_leaves_nothing_that_is_taken_for_a_checkpoint(
    moment: str, tmp_path: Path
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), moment],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    assert ran.returncode == 9, ran.stderr
    left = list((tmp_path / "checkpoints").iterdir())
    assert left
    assert all(path.name.startswith(".") for path in left)
    assert not any(record.is_whole(path) for path in left)
    record.claim(tmp_path, ["checkpoints/a"], overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["jaxad.json"]
