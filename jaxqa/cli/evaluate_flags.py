"""The flags of `evaluate`."""

import argparse
from pathlib import Path
from typing import get_args

from jaxqa.cli import mesh_flags
from jaxqa.data.prompts import TEMPLATES
from jaxqa.evaluation.protocols import PROTOCOLS
from jaxqa.evaluation.suites import SUITES
from jaxqa.scoring.decoding import MEAN_SAMPLES, Mode

_SEVERAL = {"nargs": "+", "action": "extend", "default": []}


def parser(description: str | None) -> argparse.ArgumentParser:
    """What `evaluate` understands."""
    flags = argparse.ArgumentParser("evaluate", description=description, allow_abbrev=False)
    _what(flags.add_argument_group("what is compared"))
    _how(flags.add_argument_group("how scores are read from models"))
    _figures(flags.add_argument_group("figures and files"))
    return flags


def _what(flags: argparse._ArgumentGroup) -> None:
    flags.add_argument(
        "--model",
        metavar="[NAME=]PATH",
        help="directory (Hugging Face, jaxqa or RALI), or openai:URL#MODEL for an endpoint",
        **_SEVERAL,
    )
    flags.add_argument(
        "--scores",
        metavar="NAME:FILE",
        help="scores of another tool: CSV or JSON lines with path and score",
        **_SEVERAL,
    )
    flags.add_argument(
        "--lower_is_better",
        metavar="NAME",
        help="tools of --scores whose low scores mean good images, such as NIQE",
        **_SEVERAL,
    )
    flags.add_argument(
        "--dataset",
        metavar="NAME[:SPLIT]",
        help="data set, and a split, its part or all: koniq10k:deqa, kadid10k:tatar/test, spaq:all",
        **_SEVERAL,
    )
    flags.add_argument(
        "--suite", help=f"a paper's data sets: {', '.join(SUITES)}", choices=SUITES, **_SEVERAL
    )
    flags.add_argument(
        "--data_root", required=True, type=Path, metavar="DIR", help="folder of the data sets"
    )
    flags.add_argument(
        "--skip_missing",
        action="store_true",
        help="leave out data sets of a suite that cannot be read, and say so in the table",
    )
    flags.add_argument(
        "--limit", type=int, default=0, help="first so many images of each data set; 0 for all"
    )


def _how(flags: argparse._ArgumentGroup) -> None:
    flags.add_argument(
        "--prompt",
        metavar="[TASK=]NAME",
        help="prompt, or one for each task (default: what a model was trained on, else q_insight, "
        f"aes_r1 and omniquality_alignment); known are {', '.join(TEMPLATES)}",
        **_SEVERAL,
    )
    flags.add_argument(
        "--decoding",
        choices=get_args(Mode),
        default="greedy",
        help="greedy answer; mean of sampled answers; or expected score, exact over all numbers "
        "with two decimals after the rationale (default greedy)",
    )
    flags.add_argument(
        "--samples", type=int, help=f"answers per image (default {MEAN_SAMPLES} for mean, else 1)"
    )
    flags.add_argument(
        "--temperature", type=float, help="of sampled answers; 0 is greedy (1 for mean, else 0)"
    )
    flags.add_argument("--top_p", type=float, default=1.0, help="of sampled answers (default 1)")
    flags.add_argument("--seed", type=int, default=0, help="names the random draws (default 0)")
    flags.add_argument(
        "--max_new_tokens",
        type=int,
        help="longest answer (default: what a model was trained for, else 512)",
    )
    flags.add_argument("--max_pixels", type=int, help="reduce larger images (default: the model's)")
    flags.add_argument(
        "--scale",
        choices=("label", "measured"),
        default="label",
        help="what the prompt's range stands for: the range that labels can have, or that of the "
        "published labels; changes RMSE and MAE only (default label)",
    )
    flags.add_argument("--batch_size", type=int, default=16, help="rows of a block (default 16)")
    flags.add_argument(
        "--workers", type=int, default=2, help="image decoding processes; 0 for none"
    )
    flags.add_argument(
        "--api_key_env",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="environment variable with the key of endpoints (default OPENAI_API_KEY)",
    )
    flags.add_argument(
        "--retries", type=int, default=5, help="of a request that an endpoint failed (default 5)"
    )
    mesh_flags.add_flags(flags)
    flags.add_argument(
        "--shard",
        default="0/1",
        metavar="I/N",
        help="answer only every N-th image from number I on; one process of N, on any machine that "
        "sees the same --answers; when all are done, run without --shard for the table",
    )


def _figures(flags: argparse._ArgumentGroup) -> None:
    flags.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        help="presets, one table each (default: the suite's, or raw)",
        **_SEVERAL,
    )
    flags.add_argument(
        "--resamples", type=int, default=1000, help="of the bootstrap; 0 for none (default 1000)"
    )
    flags.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        nargs="+",
        action="extend",
        type=Path,
        help="table to write; the suffix says how: .md, .tex, .csv or .json",
    )
    flags.add_argument(
        "--answers",
        type=Path,
        metavar="DIR",
        help="where every answer is kept, so that a killed evaluation goes on (default: beside the "
        "first output, with the suffix .answers)",
    )
