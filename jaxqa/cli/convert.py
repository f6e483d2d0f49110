"""`convert`: a model directory of one format into the other, with all that belongs to it.

With --vision_from, the vision tower of another model takes the place of the input's own.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxqa.cli.errors import run_door
from jaxqa.files import check_writable_target, weights_digest
from jaxqa.models.qwen2_5_vl import hf_config, surgery, weights


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
    if arguments.vision_from is None:
        config, params = weights.load_model_directory(arguments.input, dtype=arguments.dtype)
        more: dict[str, Any] = {}
    else:
        joined = surgery.load_joined(arguments.input, arguments.vision_from, dtype=arguments.dtype)
        (config, params), more = joined, _of_both(arguments.input, arguments.vision_from)
    weights.save_pretrained(
        arguments.output,
        config,
        params,
        format=arguments.format,
        source_dir=arguments.input,
        **more,
    )
    print(f"wrote {arguments.output}")
    return 0


def _of_both(language_from: Path, vision_from: Path) -> dict[str, Any]:
    """What goes with a model of two: the tower's image processor, and where each part is from."""
    origin = {
        part: {"path": str(path), "weights": weights_digest(path)}
        for part, path in (("language_model", language_from), ("vision_tower", vision_from))
    }
    found = {"json_files": {"provenance.json": origin}}
    configs = [
        (hf_config.read_config(path).vision, hf_config.read_image_config(path))
        for path in (language_from, vision_from)
    ]
    return found if configs[0] == configs[1] else found | {"image_config": configs[1][1]}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="convert", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--input",
        required=True,
        type=Path,
        metavar="PATH",
        help="Hugging Face directory (safetensors) or jaxqa directory of a Qwen2.5-VL model",
    )
    parser.add_argument(
        "--vision_from",
        type=Path,
        metavar="PATH",
        help="another such directory, whose vision tower (with its merger) takes the place of the "
        "input's; the rest, tokenizer and prompts are the input's",
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
