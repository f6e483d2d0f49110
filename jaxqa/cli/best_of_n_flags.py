"""The flags of `best-of-n`."""

import argparse
from pathlib import Path

from jaxqa.cli import score_flags


def parser(description: str | None) -> argparse.ArgumentParser:
    """What `best-of-n` understands."""
    flags = argparse.ArgumentParser("best-of-n", description=description, allow_abbrev=False)
    flags.add_argument(
        "source",
        type=Path,
        metavar="FOLDER|TABLE|PROMPTS",
        help="images: a folder for each prompt, GenEval's or T2I-CompBench's layout, or a table "
        "with the columns prompt and path; with --generator a file of prompts (.txt: one a line; "
        ".jsonl, such as GenEval's evaluation_metadata.jsonl; .csv, .tsv)",
    )
    _judges(flags)
    _makers(flags.add_argument_group("what makes images"))
    _reflection(
        flags.add_argument_group("reflection: rounds that answer what was found fault with")
    )
    _outputs(flags.add_argument_group("output"))
    score_flags.add_machine(flags.add_argument_group("devices"))
    return flags


def _judges(flags: argparse.ArgumentParser) -> None:
    group = flags.add_argument_group("judges")
    group.add_argument("--model", required=True, type=Path, help="folder of the model that judges")
    group.add_argument(
        "--weights",
        nargs="+",
        metavar="TASK=WEIGHT",
        default=[],
        help="what counts how much, such as quality=1 aesthetics=0.5 alignment=2; 0 only reports "
        "(default: all tasks of the model alike)",
    )
    group.add_argument(
        "--judge",
        nargs="+",
        action="extend",
        metavar="NAME=[TASK@]FOLDER",
        default=[],
        help="further models, which look on unless --weights names them",
    )
    group.add_argument(
        "--prompt",
        metavar="[TASK=]NAME",
        nargs="+",
        action="extend",
        default=[],
        help="named prompts to ask instead of the model's own",
    )
    score_flags.add_mode(group)
    group.add_argument("--samples", type=int, help="answers per image, of --mode=mean or expected")
    group.add_argument("--seed", type=int, default=0, help="names the random draws (default 0)")


def _makers(flags: argparse._ArgumentGroup) -> None:
    kinds = "command=TEMPLATE, callable=MODULE:FUNCTION or diffusers=FOLDER"
    flags.add_argument(
        "--generator",
        metavar="KIND=WHAT",
        help=f"{kinds}; a command's template holds {{prompt}}, {{output}} and perhaps {{seed}} and "
        "{n}, the candidate's number",
    )
    flags.add_argument(
        "--editor",
        metavar="KIND=WHAT",
        help="the same for rounds of reflection, from the best image so far, {image}",
    )
    flags.add_argument("--n", type=int, default=4, help="candidates of each prompt (default 4)")
    flags.add_argument(
        "--image_seed", type=int, default=0, help="seed of each prompt's first candidate"
    )
    flags.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="commands, or calls of a function, at a time; changes no image (default 1)",
    )
    flags.add_argument(
        "--images_per_call",
        type=int,
        default=1,
        metavar="N",
        help="that a pipeline makes together, each from its own seed (default 1)",
    )
    flags.add_argument(
        "--timeout", type=float, default=600.0, help="seconds that a command may take (default 600)"
    )
    flags.add_argument(
        "--shell", action="store_true", help="run commands by /bin/sh; fields stand without quotes"
    )
    flags.add_argument(
        "--pipeline_options",
        metavar="JSON",
        default="{}",
        help="what a pipeline is called with, such as '{\"num_inference_steps\": 20}'",
    )
    flags.add_argument(
        "--device", default="", help="of a pipeline (default: a GPU if there is one)"
    )


def _reflection(flags: argparse._ArgumentGroup) -> None:
    flags.add_argument("--reflect", type=int, default=0, metavar="R", help="rounds, at most")
    flags.add_argument(
        "--reflect_candidates", type=int, default=1, metavar="N", help="images a round (default 1)"
    )
    flags.add_argument(
        "--template", help="the instruction; {prompt}, {rationale}, {score} and {round} stand in it"
    )
    flags.add_argument(
        "--reflect_on",
        default="worst",
        metavar="JUDGE",
        help="whose rationale (default: the judge whose normalised score is lowest)",
    )
    flags.add_argument("--stop_at", type=float, help="enough: a combined score of 0 to 1")
    flags.add_argument("--epsilon", type=float, default=0.0, help="the least that is a gain")
    flags.add_argument(
        "--patience", type=int, default=0, help="stop after so many rounds without a gain"
    )
    flags.add_argument("--budget", type=int, default=0, help="images in all, at most")


def _outputs(flags: argparse._ArgumentGroup) -> None:
    flags.add_argument("--output", required=True, type=Path, help="folder; nothing is overwritten")
    flags.add_argument("--resume", action="store_true", help="go on after a run that was stopped")
    flags.add_argument(
        "--layout",
        choices=("geneval", "compbench"),
        default="geneval",
        help="of the chosen images (default geneval)",
    )
    flags.add_argument("--link", action="store_true", help="link chosen images, do not copy them")
    flags.add_argument(
        "--shown", type=int, default=50, help="prompts with pictures on the page (default 50)"
    )
