"""`convert`: a model directory of one format into the other, with all that belongs to it."""

import argparse
from collections.abc import Sequence

import jax

from jaxqa.cli.errors import run_door
from jaxqa.files import check_writable_target
from jaxqa.models.qwen2_5_vl import weights


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status."""
    return run_door(convert, argv)


def convert(argv: Sequence[str] | None) -> int:
    """Parse flags, load, save.

    Raises:
      UserError: see `weights.load_model_directory` and `weights.save_pretrained`.
    """
    arguments = _parser().parse_args(argv)
    check_writable_target(arguments.output)  # before minutes of reading
    jax.config.update("jax_platforms", "cpu")  # conversion needs memory, no accelerator
    config, params = weights.load_model_directory(arguments.input, dtype=arguments.dtype)
    weights.save_pretrained(
        arguments.output, config, params, format=arguments.format, source_dir=arguments.input
    )
    print(f"wrote {arguments.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="convert", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--input",
        required=True,
        metavar="PATH",
        help="Hugging Face directory (safetensors) or jaxqa directory of a Qwen2.5-VL model",
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="new or empty directory to write"
    )
    parser.add_argument(
        "--format",
        required=True,
        choices=("hf", "jaxqa"),
        help="hf: loads in transformers; jaxqa: Orbax checkpoint, for quick sharded restores",
    )
    parser.add_argument(
        "--dtype",
        choices=weights.DTYPES,
        help="type of the written weights; without it, that of the input",
    )
    return parser
