"""Flags that make one run of several processes: who they are, and how they find each other.

    --distributed=auto         under Cloud TPU, Slurm, Kubernetes or MPI, which JAX asks
    --coordinator=HOST:PORT --num_processes=N --process_id=I   under anything else

Each flag can also come from the environment, as `JAXQA_COORDINATOR` and so on.
"""

import argparse
import contextlib
import dataclasses
import os
import re
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from jaxqa.errors import UserError
from jaxqa.train.stop import Stopped

_SHUTDOWN_SECONDS = 60
_LEAST_SECONDS = {"heartbeat_timeout": 1, "step_timeout": 0, "initialization_timeout": 1}
_NAMES = ("coordinator", "num_processes", "process_id")
# What Open MPI (first: it may run under Slurm, as JAX has it) and Slurm set for each process.
_DETECTED_IDS = ("OMPI_COMM_WORLD_RANK", "SLURM_PROCID")
_DETECTED_TASKS = ("OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_STEP_TASKS_PER_NODE")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distributed:
    """How this process joins the others of a run.

    Attributes:
      detect: whether JAX finds out the next three from what started the process.
      coordinator: HOST:PORT of the first process; None to detect it, or without others.
      num_processes: how many there are.
      process_id: which one this is, from 0.
      heartbeat_timeout: seconds after which a silent process counts as dead and the run ends.
      step_timeout: seconds after which a process that ends no step counts as hung; 0: never.
      initialization_timeout: seconds that processes wait for each other at the start.
    """

    detect: bool = False
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    heartbeat_timeout: int = 100
    step_timeout: int = 3600
    initialization_timeout: int = 300

    @property
    def is_on(self) -> bool:
        """Whether there are other processes."""
        return self.detect or self.coordinator is not None


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this file."""
    group = parser.add_argument_group("several processes (see docs/clusters.md)")
    group.add_argument(
        "--distributed",
        choices=("off", "auto"),
        help="auto: JAX detects Cloud TPU, Slurm, Kubernetes or MPI; default: off",
    )
    group.add_argument("--coordinator", help="HOST:PORT of the first process, to say it yourself")
    group.add_argument("--num_processes", help="with --coordinator: how many processes")
    group.add_argument("--process_id", help="with --coordinator: which one this is, from 0")
    group.add_argument(
        "--heartbeat_timeout",
        help="seconds after which a silent process ends the run (default: "
        f"{Distributed.heartbeat_timeout})",
    )
    group.add_argument(
        "--step_timeout",
        help="seconds after which a process that ends no step counts as hung: longer than setting "
        f"up, the slowest step and its compilation; 0: never (default: {Distributed.step_timeout})",
    )
    group.add_argument(
        "--initialization_timeout",
        help="seconds that processes wait for each other at the start (default: "
        f"{Distributed.initialization_timeout})",
    )


def read_flags(flags: argparse.Namespace, environment: Mapping[str, str]) -> Distributed:
    """What flags and environment say; flags win.

    Raises:
      UserError: a number that is none, or half of the flags that belong together.
    """

    def value(name: str) -> str | None:
        return getattr(flags, name) or environment.get(f"JAXQA_{name.upper()}") or None

    given = {name: getattr(flags, name) for name in _LEAST_SECONDS}
    seconds: dict[str, Any] = {
        name: number(name, text, least=_LEAST_SECONDS[name])
        for name, text in given.items()
        if text is not None
    }
    times = Distributed(detect=(value("distributed") or "off") == "auto", **seconds)
    found = {name: value(name) for name in _NAMES}
    if flags.distributed == "off" or not any(found.values()):
        if flags.initialization_timeout is not None and not times.detect:
            raise UserError("--initialization_timeout: this run has no other process to wait for")
        return times
    if missing := [name for name in _NAMES if found[name] is None]:
        raise UserError(
            f"--{', --'.join(name for name in _NAMES if found[name] is not None)} given without "
            f"--{', --'.join(missing)}; give all three, or --distributed=auto"
        )
    total = number("num_processes", found["num_processes"], least=1)
    mine = number("process_id", found["process_id"], least=0)
    if mine >= total:
        raise UserError(f"--process_id={mine}: expected 0 to {total - 1}")
    if ":" not in (found["coordinator"] or ""):
        raise UserError(f"--coordinator={found['coordinator']}: expected HOST:PORT")
    return dataclasses.replace(
        times,
        detect=False,
        coordinator=found["coordinator"],
        num_processes=total,
        process_id=mine,
    )


@contextlib.contextmanager
def joined(distributed: Distributed) -> Iterator[None]:
    """Meet the other processes, whose devices and this one's make a whole for the block.

    Raises:
      UserError: nothing tells who the others are, or they do not come.
    """
    if not distributed.is_on:
        yield
        return
    _join(distributed)
    import jax

    from jaxqa.train.loop import TrainingDiverged  # late: it loads JAX

    agreed = False
    try:
        yield
        agreed = True
    except (UserError, Stopped, TrainingDiverged):
        agreed = True
        raise
    finally:
        if not agreed:
            # The others are gone, or will not hear of this: to wait for them only takes time.
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        jax.distributed.shutdown()  # the others leave now, too


def process_name(distributed: Distributed, environment: Mapping[str, str]) -> str:
    """What to call this process before JAX has been asked; on every host something else."""
    if not distributed.is_on:
        return "this process"
    detected = next((environment[name] for name in _DETECTED_IDS if name in environment), None)
    number = detected if distributed.process_id is None else distributed.process_id
    return f"process on {socket.gethostname()}" if number is None else f"process {number}"


def device_ids(environment: Mapping[str, str]) -> list[int] | None:
    """Which of its host's devices this process takes: [] for all, None where JAX decides.

    Under Slurm and Open MPI, JAX takes it that there is a process per device, and hides all but
    one. Only where the host does have several processes is that right.
    """
    tasks = next((environment[name] for name in _DETECTED_TASKS if name in environment), "1")
    counts = re.sub(r"\(x\d+\)", "", tasks).split(",")  # Slurm: "8(x3),4" for 8, 8, 8 and 4
    is_alone = set(counts) == {"1"} and "JAX_LOCAL_DEVICE_IDS" not in environment
    return [] if is_alone else None


def _join(distributed: Distributed) -> None:
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # of no matter elsewhere
    # JAX's service would take SIGTERM from `StopRequest`, on which all processes vote.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator_address=distributed.coordinator,
            num_processes=distributed.num_processes,
            process_id=distributed.process_id,
            local_device_ids=device_ids(os.environ),
            heartbeat_timeout_seconds=distributed.heartbeat_timeout,
            initialization_timeout=distributed.initialization_timeout,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except ValueError as error:  # what JAX says where it detects nothing
        raise UserError(
            f"--distributed=auto: {error}; give --coordinator, --num_processes and --process_id"
        ) from error


def number(name: str, text: str | None, *, least: int) -> int:
    """The whole number of at least `least` that flag `name` holds, or a UserError."""
    if text is None or not text.isdecimal() or int(text) < least:
        raise UserError(f"--{name}={text}: expected a whole number of at least {least}")
    return int(text)
