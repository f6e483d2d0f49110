"""The flags of `score`."""

import argparse
from pathlib import Path

from jaxqa.cli import mesh_flags

TASKS = ("quality", "aesthetics", "alignment")
MODES = ("think", "fast", "expected", "mean")


def parser(description: str | None) -> argparse.ArgumentParser:
    """What `score` understands."""
    flags = argparse.ArgumentParser("score", description=description, allow_abbrev=False)
    _what(flags)
    add_mode(flags.add_argument_group("how scores are read from the model"))
    _where(flags.add_argument_group("files"))
    _filter(flags.add_argument_group("filter: which images to keep"))
    _machine(flags.add_argument_group("devices"))
    return flags


def add_model(flags: argparse._ActionsContainer) -> None:
    """The flags that say which model is asked what."""
    flags.add_argument("--model", required=True, type=Path, help="folder of the model")
    flags.add_argument("--task", choices=TASKS, help="what is rated (default: the model's first)")
    flags.add_argument(
        "--text", metavar="TEXT", help="what the images were made from, for --task=alignment"
    )
    flags.add_argument(
        "--prompt",
        metavar="[TASK=]NAME",
        nargs="+",
        action="extend",
        default=[],
        help="named prompts to ask instead of the model's own",
    )
    flags.add_argument("--samples", type=int, help="answers per image, of --mode=mean or expected")
    flags.add_argument("--seed", type=int, default=0, help="names the random draws (default 0)")
    flags.add_argument(
        "--allow_urls", action="store_true", help="fetch images that are URLs, with limits"
    )


def add_machine(flags: argparse._ActionsContainer) -> None:
    """The flags that say how a model is computed."""
    flags.add_argument("--max_new_tokens", type=int, help="longest answer (default: the model's)")
    flags.add_argument("--max_pixels", type=int, help="reduce larger images (default: the model's)")
    flags.add_argument(
        "--block_rows", type=int, help="images of a block (default: 8 for each device)"
    )
    flags.add_argument("--workers", type=int, help="threads that decode (default: cores, up to 8)")
    mesh_flags.add_flags(flags)


def _what(flags: argparse.ArgumentParser) -> None:
    flags.add_argument(
        "inputs",
        nargs="+",
        metavar="FILE|DIR|GLOB|LIST|URL",
        help="images; folders with all below them; lists are .txt (one path a line), .csv, .tsv or "
        ".jsonl (columns path and prompt), or - for standard input",
    )
    add_model(flags)


def add_mode(flags: argparse._ActionsContainer) -> None:
    """The flags that say how a score is read from a model."""
    flags.add_argument(
        "--mode",
        choices=MODES,
        help="think: the most probable answer with reasons; fast: without; expected: the exact "
        "expectation over all scores; mean: of sampled answers (default: the model's own)",
    )
    flags.add_argument("--temperature", type=float, help="of sampled answers (default 1)")


def _where(flags: argparse._ArgumentGroup) -> None:
    flags.add_argument(
        "--output",
        metavar="FILE|-",
        help=".csv, .jsonl or .parquet; - writes CSV to standard output; without it, a table is "
        "shown, or a card for one image",
    )
    flags.add_argument("--resume", action="store_true", help="go on after a run that was stopped")
    flags.add_argument("--overwrite", action="store_true", help="replace what is there")


def _filter(flags: argparse._ArgumentGroup) -> None:
    which = flags.add_mutually_exclusive_group()
    which.add_argument("--top", type=int, metavar="N", help="the N best")
    which.add_argument("--threshold", type=float, metavar="SCORE", help="those of at least SCORE")
    which.add_argument(
        "--quantile", type=float, metavar="Q", help="those from the Q-quantile on; 0.9: best tenth"
    )
    flags.add_argument("--keep", type=Path, metavar="FILE", help="list of the images to keep")
    flags.add_argument("--drop", type=Path, metavar="FILE", help="list of the others with a score")


def _machine(flags: argparse._ArgumentGroup) -> None:
    flags.add_argument(
        "--batch_size",
        type=int,
        default=2,
        help="blocks on the device at a time; changes no score (default 2)",
    )
    add_machine(flags)
