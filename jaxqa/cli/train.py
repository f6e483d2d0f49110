"""The door `train`: `--config=FILE.py[:mode] --workdir=DIR [--config.key=value ...]`."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxqa.cli.config_flags import load_config, split_overrides
from jaxqa.cli.errors import run_door
from jaxqa.errors import UserError
from jaxqa.train.stop import Stopped, StopRequest

STOPPED_STATUS = 0
"""Schedulers that take a machine back end a run so on purpose; a run that is not complete has no
table, and the same command goes on."""
DIVERGED_STATUS = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status."""
    return run_door(train, argv)


def train(argv: Sequence[str] | None) -> int:
    """Train as the config says; run again, the same command goes on where it stopped.

    Returns:
      0 when the run is complete or stopped on request, 3 when a loss was not finite.

    Raises:
      UserError: a bad flag, config, data set, model or work directory.
    """
    parser = argparse.ArgumentParser(prog="train", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="FILE.py or FILE.py:mode")
    parser.add_argument("--workdir", required=True, type=Path, help="where the run keeps its files")
    overrides, others = split_overrides(sys.argv[1:] if argv is None else argv)
    options, rest = parser.parse_known_args(others)
    if rest:
        raise UserError(
            f"unknown argument {rest[0]!r}; expected --config, --workdir or --config.KEY=VALUE"
        )
    with StopRequest() as stop:  # from now on: the imports that follow take seconds
        config = load_config(options.config, overrides)
        return _run(config, options.workdir, stop)


def _run(config, workdir: Path, stop: StopRequest) -> int:  # noqa: ANN001
    # Imported late: a wrong argument is answered before JAX is loaded.
    from jaxqa.stages import config as stages_config
    from jaxqa.stages import run
    from jaxqa.train.loop import TrainingDiverged

    # Orbax writes a traceback to this log for what it also raises, and `run_door` reports.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        parsed = stages_config.parse_config(config)
        run.run(parsed, workdir, stop=stop, environment=os.environ)
    except Stopped as stopped:
        print(f"{stopped}; run the same command again to go on", flush=True)
        return STOPPED_STATUS
    except TrainingDiverged as diverged:
        print(f"error: {diverged}", file=sys.stderr)
        return DIVERGED_STATUS
    return 0
