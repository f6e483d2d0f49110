"""What GenEval and T2I-CompBench read and write; their detectors are programs of their own.

GenEval (arXiv:2310.11513): `evaluation_metadata.jsonl` holds a prompt a line; its evaluator reads
`IMAGES/00000/metadata.jsonl` and `IMAGES/00000/samples/00000.png`, and writes `results.jsonl` with
a line for each image. Its summary's overall score is the mean over tags of the share of correct
images. T2I-CompBench (arXiv:2307.06350): images are `samples/<prompt>_<000000>.png`; results are a
JSON list of `{"question_id": 0, "answer": "0.69"}`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxqa.data import tables
from jaxqa.errors import UserError

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""GenEval's, in the order in which papers print them."""

_LONGEST_NAME = 255


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """One result file.

    Attributes:
      benchmark: "GenEval" or "T2I-CompBench".
      scores: tag -> mean, and the overall score as "overall".
      counts: tag -> number of images.
      correct_prompts: share of prompts with at least one correct image; None if not of GenEval.
    """

    benchmark: str
    scores: Mapping[str, float]
    counts: Mapping[str, int]
    correct_prompts: float | None = None


def read_results(path: Path) -> BenchmarkResult:
    """The result file of either benchmark.

    Raises:
      UserError: it is neither.
    """
    if path.suffix.lower() == ".json":
        return _compbench(path)
    return _geneval(path)


def _geneval(path: Path) -> BenchmarkResult:
    tags: dict[str, list[bool]] = {}
    prompts: dict[str, bool] = {}
    for where, row in tables.read_json_lines(path, ("tag", "prompt")):
        correct = row.get("correct")
        if not isinstance(correct, bool | int):
            raise UserError(f"{where}: 'correct' is {correct!r}; expected true or false")
        tags.setdefault(row["tag"], []).append(bool(correct))
        prompt = str(row.get("metadata", row["prompt"]))
        prompts[prompt] = prompts.get(prompt, False) or bool(correct)
    if not tags:
        raise UserError(f"{path}: no result in it; expected GenEval's results.jsonl")
    named = [tag for tag in TAGS if tag in tags] + [tag for tag in tags if tag not in TAGS]
    means = {tag: sum(tags[tag]) / len(tags[tag]) for tag in named}
    return BenchmarkResult(
        benchmark="GenEval",
        scores={**means, "overall": sum(means.values()) / len(means)},
        counts={tag: len(tags[tag]) for tag in named},
        correct_prompts=sum(prompts.values()) / len(prompts),
    )


def _compbench(path: Path) -> BenchmarkResult:
    rows = tables.read_json_list(path)
    answers = [tables.number(row, "answer", where=where) for where, row in rows]
    if not answers:
        raise UserError(f"{path}: no result in it; expected T2I-CompBench's list of answers")
    return BenchmarkResult(
        benchmark="T2I-CompBench",
        scores={"overall": sum(answers) / len(answers)},
        counts={"images": len(answers)},
    )


def result_table(named: Mapping[str, BenchmarkResult]) -> tuple[list[str], list[list[str]]]:
    """Header and cells, a line for each result file."""
    tags = list(dict.fromkeys(tag for r in named.values() for tag in r.scores if tag != "overall"))
    tags = [tag for tag in TAGS if tag in tags] + [tag for tag in tags if tag not in TAGS]
    header = ["results", "overall", *tags, "correct prompts", "images"]
    return header, [[name, *_cells(result, tags)] for name, result in named.items()]


def _cells(result: BenchmarkResult, tags: Sequence[str]) -> list[str]:
    shares = [result.scores.get(tag) for tag in ("overall", *tags)] + [result.correct_prompts]
    cells = ["–" if share is None else f"{share:.4f}" for share in shares]
    return [*cells, str(sum(result.counts.values()))]


def compbench_name(prompt: str, number: int, suffix: str) -> str:
    """A file's name in T2I-CompBench's layout.

    Raises:
      UserError: the prompt cannot be part of a name.
    """
    name = f"{prompt}_{number:06d}{suffix}"
    if "/" in name or "\0" in name or len(name.encode()) > _LONGEST_NAME:
        raise UserError(
            f"prompt {prompt[:60]!r} cannot be part of a file's name, as T2I-CompBench's layout "
            "wants it; use --layout=geneval"
        )
    return name
