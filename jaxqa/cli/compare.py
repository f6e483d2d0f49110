"""Compare two images with a model, in both orders where it is shown both."""

import argparse
import dataclasses
import json
from collections.abc import Sequence

from jaxqa.cli import score_flags
from jaxqa.cli.errors import FAILED_STATUS, run_door
from jaxqa.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status."""
    return run_door(compare, argv)


def compare(argv: Sequence[str] | None) -> int:
    """Ask the model and print its choice, or one JSON object.

    Returns:
      0, or 1 where there is no answer.

    Raises:
      UserError: a bad flag or model.
    """
    flags = _parser().parse_args(argv)
    from jaxqa.cli.score import load_scorer  # here: it loads JAX

    scorer, question = load_scorer(flags)
    if question.task == "alignment" and flags.text is None:
        raise UserError("--task=alignment rates how well images show a text: give --text=TEXT")
    found = scorer.compare(
        flags.a,
        flags.b,
        flags.reference,
        task=question.task,
        prompt=flags.text,
        samples=flags.samples or 1,
        seed=flags.seed,
        allow_urls=flags.allow_urls,
    )
    if flags.json:
        print(json.dumps(dataclasses.asdict(found)))
    elif found.error is not None:
        print(f"no answer: {found.error}")
    else:
        names = {"Image A": flags.a, "Image B": flags.b}
        print(names.get(str(found.choice), "similar"))
        position = "" if found.consistent else "; the orders contradict each other"
        print(f"preference for the first: {found.preference:.2f}, by {found.method}{position}")
    return 0 if found.error is None else FAILED_STATUS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("compare", description=__doc__, allow_abbrev=False)
    parser.add_argument("a", metavar="A", help="the first image")
    parser.add_argument("b", metavar="B", help="the second image")
    parser.add_argument("--reference", help="what both were made from, such as a degraded image")
    score_flags.add_model(parser)
    score_flags.add_machine(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(mode=None, temperature=None)
    return parser
