"""How several processes that train together meet: by flags, or as a scheduler has started them."""

from __future__ import annotations

import os
import re
import sys
import threading

import jax
from jax._src.clusters.cloud_tpu_cluster import GceTpuCluster  # it has no public name

from jaxad.errors import InputError, first_line
from jaxad.runs.processes import SILENT

JOINED = 300
"""Seconds to wait for all processes."""
SCHEDULERS = {
    "SLURM": ("SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_STEP_TASKS_PER_NODE"),
    "Open MPI": ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),
}
"""Variables by which jax knows a scheduler (SLURM's is there under `srun` only), what says how many
processes there are, and how many on a host."""
HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
"""Variables of GKE that list the hosts of a TPU slice."""


def join(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    *,
    seconds: int = JOINED,
) -> bool:
    """Meet the other processes, if there are any; before JAX is used.

    Args:
        coordinator: HOST:PORT of the first process; None: as the scheduler says, if there is one.
        count: Of processes.
        index: Of this one.
        seconds: To wait for the others.

    Returns:
        Whether there are others.

    Raises:
        InputError: The arguments are not complete, or some do not come in time.
    """
    given = {"--coordinator": coordinator, "--num-processes": count, "--process-id": index}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        if scheduler() is None:
            return False
    elif missing:
        raise InputError(f"{', '.join(missing)} is missing: give all three, or none")
    elif count is None or index is None or not 0 <= index < count:
        raise InputError(f"--process-id {index} is not below --num-processes {count}: 0, 1, ...")
    # Its handler would take SIGTERM from ours.
    jax.config.update("jax_enable_preemption_service", False)
    where = f" at {coordinator}" if coordinator else ""
    told = (
        f"process {'?' if index is None else index} of {count or '?'} met not all others{where} "
        f"within {seconds} s: start them together, with the same --coordinator, which the first "
        "one must be able to bind"
    )
    # JAX ends the process where some do not come, with a trace of its own: so we do before.
    late = threading.Timer(seconds, _give_up, (told,))
    late.daemon = True
    late.start()
    try:
        # Ours notices sooner, and says who is gone.
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            initialization_timeout=seconds + 600,
            local_device_ids=_devices(),
            heartbeat_timeout_seconds=int(4 * SILENT),
            shutdown_timeout_seconds=60,
        )
    except Exception as error:
        raise InputError(f"{told} ({first_line(error, 160)})") from error
    finally:
        late.cancel()
    return jax.process_count() > 1


def scheduler() -> str | None:
    """The scheduler that has started several processes; None if none has."""
    for name, (there, count, _) in SCHEDULERS.items():
        if there in os.environ and int(os.environ.get(count, "1")) > 1:
            return name
    for hosts in HOSTS:
        if "," in os.environ.get(hosts, ""):
            return "GKE"
    if GceTpuCluster.is_env_present() and GceTpuCluster.get_process_count() > 1:
        return "TPU"
    if int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        raise InputError(
            "jax does not find the other processes of this Open MPI (5 or later): give each one "
            "--coordinator, --num-processes and --process-id (OMPI_COMM_WORLD_RANK)"
        )
    return None


def _devices() -> list[int] | None:
    """None: as jax has it, one for each process of a host; empty: all that the process sees."""
    if os.environ.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    on_host = [os.environ.get(name, "1") for _, _, name in SCHEDULERS.values()]
    return [] if all(re.fullmatch(r"1(\(x\d+\))?", count) for count in on_host) else None


def _give_up(told: str) -> None:
    print(f"jaxad: {told}", file=sys.__stderr__, flush=True)
    os._exit(2)
