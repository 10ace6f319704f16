"""Free memory: the machine's, and what the limits of a container leave; by made-up file trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxad.memory import GUESS, free_memory, peak_memory

GB = 1 << 30


def write(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def machine(root: Path, *, group: str = "0::/") -> Path:
    told = f"MemTotal: 99 kB\nMemFree: 1 kB\nMemAvailable:   {8 * GB // 1024} kB\nCached: 5 kB"
    return write(root, {"proc/meminfo": told, "proc/self/cgroup": group})


def v2(folder: str, most: object, used: int, cached: int = 0) -> dict[str, object]:
    return {
        f"{folder}/memory.max": most,
        f"{folder}/memory.current": used,
        f"{folder}/memory.stat": f"anon 5\ninactive_file {cached}\nactive_file 7",
    }


def v1(folder: str, most: int, used: int, cached: int = 0) -> dict[str, object]:
    return {
        f"{folder}/memory.limit_in_bytes": most,
        f"{folder}/memory.usage_in_bytes": used,
        f"{folder}/memory.stat": f"cache 5\ninactive_file {cached}\ntotal_inactive_file 9",
    }


def test_without_limits_it_is_the_machine_s(tmp_path: Path) -> None:
    assert free_memory(machine(tmp_path)) == 8 * GB
    write(tmp_path, v2("sys/fs/cgroup", "max", GB))
    assert free_memory(tmp_path) == 8 * GB
    write(tmp_path, v2("sys/fs/cgroup", 64 * GB, GB))  # a limit beyond the machine is none
    assert free_memory(tmp_path) == 8 * GB


def test_a_container_s_limit_of_version_2(tmp_path: Path) -> None:
    machine(tmp_path)  # its own group is the top that it sees
    write(tmp_path, v2("sys/fs/cgroup", 4 * GB, 3 * GB, GB))
    assert free_memory(tmp_path) == 2 * GB


@pytest.mark.parametrize("limited", ["a", "a/b", "a/b/c"])
def test_a_limit_of_any_group_above_counts(limited: str, tmp_path: Path) -> None:
    machine(tmp_path, group="0::/a/b/c")
    write(tmp_path, v2("sys/fs/cgroup/a/b/c", "max", GB))
    write(tmp_path, v2(f"sys/fs/cgroup/{limited}", 4 * GB, 3 * GB))
    write(tmp_path, v2("sys/fs/cgroup/other", GB, GB))
    assert free_memory(tmp_path) == GB


@pytest.mark.parametrize("place", ["", "/docker/x"])
def test_limits_of_version_1(place: str, tmp_path: Path) -> None:
    machine(tmp_path, group="12:cpu,cpuacct:/docker/x\n11:memory:/docker/x\n0::/elsewhere")
    write(tmp_path, v1(f"sys/fs/cgroup/memory{place}", 4 * GB, 3 * GB, GB))
    assert free_memory(tmp_path) == 2 * GB
    write(tmp_path, v1(f"sys/fs/cgroup/memory{place}", 2**63 - 4096, 3 * GB))  # none
    assert free_memory(tmp_path) == 8 * GB


def test_a_limit_counts_where_its_statistics_can_not_be_read(tmp_path: Path) -> None:
    machine(tmp_path)
    write(tmp_path, v2("sys/fs/cgroup", 4 * GB, 3 * GB))
    for damage in ("inactive_file many", "inactive_file ", ""):
        write(tmp_path, {"sys/fs/cgroup/memory.stat": damage})
        assert free_memory(tmp_path) == GB
    (tmp_path / "sys/fs/cgroup/memory.stat").unlink()
    assert free_memory(tmp_path) == GB


def test_nothing_is_left_is_nothing(tmp_path: Path) -> None:
    machine(tmp_path)
    write(tmp_path, v2("sys/fs/cgroup", GB, 2 * GB))
    assert free_memory(tmp_path) == 0


def test_where_nothing_tells_it_is_a_guess(tmp_path: Path) -> None:
    assert free_memory(tmp_path) == GUESS
    write(tmp_path, {"proc/meminfo": "MemAvailable: lots kB", "proc/self/cgroup": "?"})
    write(tmp_path, v2("sys/fs/cgroup", "none", 1))
    assert free_memory(tmp_path) == GUESS


def test_this_machine_has_a_plausible_amount() -> None:
    assert 1 << 26 < free_memory() < 1 << 50


def test_the_most_that_this_process_has_held(tmp_path: Path) -> None:
    write(tmp_path, {"proc/self/status": "VmPeak: 9 kB\nVmHWM:\t   1234 kB\nVmRSS: 5 kB"})
    assert peak_memory(tmp_path) == 1234 * 1024
    before = peak_memory()
    assert before is not None
    held = bytearray(GB // 4)
    assert (peak_memory() or 0) >= max(before, len(held))
    # Where Linux does not tell, the system call does: of the same order.
    told = peak_memory(tmp_path / "none")
    assert told is not None
    assert len(held) < told < 100 * GB
