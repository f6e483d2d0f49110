"""The door `compile`: will a run fit on machines that are not there?

Lowers and compiles the programs of each stage at the largest shapes of the config, with the
shardings of training, and prints what they take on one chip. A TPU topology needs the package
libtpu (`pip install 'jaxqa[tpu]'`) and no TPU; `cpu:N` needs neither.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxqa.cli.config_flags import load_config, split_overrides
from jaxqa.cli.errors import run_door
from jaxqa.errors import UserError
from jaxqa.files import write_json

if TYPE_CHECKING:
    from jaxqa.stages.machines import Machine

DOES_NOT_FIT_STATUS = 1

# Compiling is all that is asked of libtpu: it is not to look for a TPU, nor to talk about it.
_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status."""
    return run_door(compile_run, argv)


def compile_run(argv: Sequence[str] | None) -> int:
    """Compile the stages of a config and say whether they fit.

    Returns:
      0 if every program fits, gives its donated memory up and streams its logits, else 1.

    Raises:
      UserError: a bad flag or config, an unknown machine, no libtpu, a mesh of another size.
    """
    overrides, others = split_overrides(sys.argv[1:] if argv is None else argv)
    flags = _parser().parse_args(others)
    config = load_config(flags.config, overrides)
    _prepare_jax(flags.topology)
    # Imported late: libtpu reads its environment when it is loaded.
    from jaxqa.cli import compile_screen
    from jaxqa.stages import ahead, ahead_programs, machines
    from jaxqa.stages.config import parse_config

    run = parse_config(config)
    names = _stages(run.stages, flags.stage)
    shape = ahead.architecture(run.model, preset=flags.preset, layers=flags.layers)
    machine = machines.find_machine(flags.topology)
    mesh = ahead.make_mesh(run, machine)
    limit = machine.usable if flags.limit is None else flags.limit
    records, screen = [], compile_screen.Screen(limit)
    screen.introduce(machine.name, dict(mesh.shape), shape, flags.layers)
    wanted = flags.program or ahead_programs.PROGRAMS
    for name in names:
        findings = []
        for program in ahead_programs.stage_programs(run, name, shape, mesh, wanted=wanted):
            screen.announce(name, program.name)
            rows = ahead.completions_on_chip(run.sections[name], mesh)
            findings.append(ahead.compile_program(program, shape, mesh, rows))
            records.append({"stage": name, **compile_screen.record(findings[-1], limit)})
        if findings:
            screen.show(name, findings)
    if not records:
        raise UserError(
            f"nothing to compile: no stage of {', '.join(names)} has {' or '.join(wanted)}; a "
            "rollout of one stretch (docs/sampling.md) has no prefill and decode of its own"
        )
    if flags.json is not None:
        _write(flags, machine, dict(mesh.shape), limit, records)
    streams = ahead.streams_logits(shape, mesh)
    good = all(
        record["fits"] and record["donation_honoured"] and not (streams and record["logits"])
        for record in records
    )
    return 0 if good else DOES_NOT_FIT_STATUS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("compile", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="FILE.py or FILE.py:mode, as for train")
    parser.add_argument(
        "--topology", required=True, help="the machine: v5e:8x8, v5p:2x2x1, v6e:2x4, cpu:8"
    )
    parser.add_argument("--stage", action="append", help="only this stage; may be given again")
    parser.add_argument(
        "--program",
        action="append",
        choices=("rollout", "prefill", "decode", "reference", "update"),
        help="only this program of a stage; may be given again. rollout is the whole of it as one "
        "program; prefill (with the first stretch of decoding) and decode (the last) are what "
        "training runs in its place (default: rollout, reference, update)",
    )
    parser.add_argument(
        "--preset", help="a released size (3B, 7B, 32B, 72B), in place of config.model.path"
    )
    parser.add_argument("--layers", type=int, help="so many text layers, for a quick look")
    parser.add_argument("--limit", type=float, help="GiB on a chip; the machine's own by default")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser


def _prepare_jax(topology: str) -> None:
    """Compile with the CPU as the process's own device, and without chatter."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import jax

    jax.config.update("jax_platforms", "cpu")
    kind, _, count = topology.partition(":")
    told = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if kind == "cpu" and count.isdecimal() and not told:
        with contextlib.suppress(RuntimeError):  # JAX runs already, with the devices that it has
            jax.config.update("jax_num_cpu_devices", int(count))


def _stages(stages: Sequence[str], wanted: Sequence[str] | None) -> Sequence[str]:
    if unknown := [name for name in wanted or () if name not in stages]:
        raise UserError(f"--stage: no stage {unknown[0]!r}; this run has {', '.join(stages)}")
    return wanted or stages


def _write(
    flags: argparse.Namespace,
    machine: "Machine",
    mesh: dict[str, int],
    limit: float | None,
    records: list[dict[str, Any]],
) -> None:
    import jax

    values = {
        "config": flags.config,
        "preset": flags.preset,
        "layers": flags.layers,
        "topology": machine.name,
        "mesh": mesh,
        "limit_gib": limit,
        "jax": jax.__version__,
        "programs": records,
    }
    write_json(flags.json, values)
