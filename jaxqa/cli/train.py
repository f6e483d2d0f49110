"""The door `train`: `--config=FILE.py[:mode] --workdir=DIR [--config.key=value ...]`."""

import argparse
import dataclasses
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxqa.cli import compiled, distributed, gpu_environment, supervisor
from jaxqa.cli.config_flags import load_config, split_overrides
from jaxqa.cli.console import lasting_console
from jaxqa.cli.errors import run_door
from jaxqa.errors import UserError
from jaxqa.train.stop import Stopped, StopRequest

STOPPED_STATUSES = ("0", str(supervisor.UNFINISHED_STATUS))
"""Schedulers that take a machine back end a run so on purpose, so 0 is the default; a run that is
not complete has no table, and the same command goes on. Those that start again only what failed
have to tell it from a complete run."""
DIVERGED_STATUS = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status."""
    with lasting_console():
        return run_door(train, argv)


def train(argv: Sequence[str] | None) -> int:
    """Train as the config says; run again, the same command goes on where it stopped.

    Returns:
      0 when the run is complete, `--stopped_status` when it stopped on request, 3 when a loss was
      not finite.

    Raises:
      UserError: a bad flag, config, data set, model or work directory.
    """
    parser = argparse.ArgumentParser(prog="train", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="FILE.py or FILE.py:mode")
    parser.add_argument("--workdir", required=True, type=Path, help="where the run keeps its files")
    parser.add_argument(
        "--restarts",
        metavar="N",
        help="start again up to N times, from the last checkpoint, when the process or one of its "
        "peers dies or hangs (default: 0)",
    )
    parser.add_argument(
        "--stopped_status",
        choices=STOPPED_STATUSES,
        default=STOPPED_STATUSES[0],
        help="exit status of a run that was asked to stop and has saved (default: %(default)s); "
        "75 is for schedulers that start again what failed",
    )
    parser.add_argument(
        "--compilation_cache",
        metavar="DIR",
        help="where compiled programs are kept between runs; 'off' keeps none (default: "
        "jaxqa/compiled in the user's cache folder, WORKDIR/compiled with several processes; "
        "none on a CPU)",
    )
    parser.add_argument(
        "--profile",
        metavar="FIRST:LAST",
        help="trace these steps of each stage into WORKDIR/profile, for TensorBoard or Perfetto",
    )
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)  # of the supervisor
    distributed.add_flags(parser)
    arguments = list(sys.argv[1:] if argv is None else argv)
    overrides, own = split_overrides(arguments)
    options, rest = parser.parse_known_args(own)
    if rest:
        raise UserError(
            f"unknown argument {rest[0]!r}; expected --config, --workdir or --config.KEY=VALUE"
        )
    others = distributed.read_flags(options, os.environ)
    watched = options.restarts, options.heartbeat_timeout, options.step_timeout
    if options.child is None and (others.is_on or any(flag is not None for flag in watched)):
        return _supervise(options, arguments, others)
    stop = StopRequest()
    if options.child is not None:
        supervisor.show_life(options.child, stuck=lambda: _stuck(stop, others.step_timeout))
    machine = _Machine(
        others=others,
        cache=compiled.cache_folder(
            options.compilation_cache, os.environ, shared=options.workdir if others.is_on else None
        ),
        cache_is_named=options.compilation_cache is not None,
        profile=_profiled_steps(options.profile),
        stopped_status=int(options.stopped_status),
    )
    gpu_environment.prepare(os.environ)
    with stop:  # from now on: the imports that follow take seconds
        config = load_config(options.config, overrides)
        return _run(config, options.workdir, stop, machine)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Machine:
    """What is of the machines and not of the run.

    Attributes:
      others: the processes to join.
      cache: folder of compiled programs, or None.
      cache_is_named: whether the user has named it.
      profile: first and last step to trace, or None.
      stopped_status: what to end with when asked to stop.
    """

    others: distributed.Distributed
    cache: Path | None
    cache_is_named: bool
    profile: tuple[int, int] | None
    stopped_status: int


def _supervise(
    options: argparse.Namespace, arguments: Sequence[str], others: distributed.Distributed
) -> int:
    name = distributed.process_name(others, os.environ)
    return supervisor.supervise(
        [sys.executable, "-m", "jaxqa.cli.train", *arguments],
        supervisor.Supervision(
            restarts=distributed.number("restarts", options.restarts or "0", least=0),
            silence=float(others.heartbeat_timeout),
            log=options.workdir / f"{name.replace(' ', '_')}.stderr.txt",
            name=name,
            processes=others.num_processes,
        ),
    )


def _stuck(stop: StopRequest, timeout: int) -> str | None:
    seconds = stop.unseen_for()
    return f"no step ended for {seconds:.0f} s (--step_timeout)" if 0 < timeout < seconds else None


def _profiled_steps(flag: str | None) -> tuple[int, int] | None:
    if flag is None:
        return None
    first, _, last = flag.partition(":")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise UserError(f"--profile={flag}: expected FIRST:LAST, steps from 1, for example 3:5")
    return int(first), int(last)


def _run(config: Any, workdir: Path, stop: StopRequest, machine: _Machine) -> int:
    # Imported late: a wrong argument is answered before JAX is loaded.
    from jaxqa.stages import config as stages_config
    from jaxqa.stages import run
    from jaxqa.train.loop import TrainingDiverged

    # Orbax writes a traceback to this log for what it also raises, and `run_door` reports.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        parsed = stages_config.parse_config(config)
        with distributed.joined(machine.others):
            compiled.keep_compiled(machine.cache, on_cpu=machine.cache_is_named)
            run.run(
                parsed,
                workdir,
                stop=stop,
                environment=os.environ,
                profile=machine.profile,
            )
    except Stopped as stopped:
        print(f"{stopped}; run the same command again to go on", flush=True)
        return machine.stopped_status
    except TrainingDiverged as diverged:
        print(f"error: {diverged}", file=sys.stderr)
        return DIVERGED_STATUS
    return 0


if __name__ == "__main__":
    sys.exit(main())
