"""Runs a pipeline over images into a file, and goes on where a killed one stopped."""

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jaxqa import processes
from jaxqa.data import images
from jaxqa.data.encoding import named_images
from jaxqa.errors import UserError
from jaxqa.reasoning import pipeline as pipelines
from jaxqa.reasoning.expert import EXPERT_FAILED, NO_IMAGE, Check, Expert
from jaxqa.reasoning.pipeline import UNLABELLED, Item, Outcome, Pipeline, Role
from jaxqa.reasoning.rationale_file import record_of
from jaxqa.sampling.config import SamplingConfig
from jaxqa.train.json_lines import JsonLines, keep_json_lines, read_json_lines

Advance = Callable[[int], None]
Refuse = Callable[[Item, str], tuple[str, str] | None]
"""Why a text cannot be learned: the reason and more of it, or None."""


def write_rationales(
    path: Path,
    items: Sequence[Item],
    pipeline: Pipeline,
    experts: Mapping[Role, Expert],
    *,
    sampling: SamplingConfig,
    size: int,
    refuse: Refuse,
    check: Check,
    advance: Advance,
) -> None:
    """Append a line for each of `items` that has none yet.

    Images that nobody answered about in an earlier attempt are asked about again.

    Args:
      path: the file.
      items: images, in the order of the lines.
      pipeline: what is asked and kept.
      experts: who is asked.
      sampling: how the expert's answers are sampled.
      size: conversations that advance together.
      refuse: why a text that the pipeline keeps cannot be learned all the same, or None.
      check: raises to stop; the lines of whole batches stay.
      advance: told how many of the items are done.

    Raises:
      UserError: an expert cannot be asked, the disk cannot be written, or no image is kept.
    """
    done, kept = _so_far(path)
    left = [item for item in items if item.example.example_id not in done]
    count = len(items) - len(left)
    with JsonLines(path) if processes.is_first() else contextlib.nullcontext() as file:
        for batch in pipelines.take(left, pipeline, size=size, kept=kept):
            check()
            outcomes = _outcomes(batch, pipeline, experts, sampling, check)
            records = [
                record_of(
                    item,
                    _learnable(item, outcome, refuse),
                    group=pipelines.group_of(pipeline, item),
                )
                for item, outcome in zip(batch, outcomes, strict=True)
            ]
            if file is not None:
                file.append(records)
            kept.update(record["group"] for record in records if record["kept"])
            count += len(batch)
            advance(count)
    if not kept.total():
        reasons = Counter(str(record["reason"]) for record in read_json_lines(path))
        raise UserError(
            f"{path}: none of {count} images was kept ({_listed(reasons)}); the file says what "
            "was answered; change the expert or the filters, and delete it to ask again"
        )


def _so_far(path: Path) -> tuple[set[int], Counter[str]]:
    """Examples that have a line, and how many are kept of each group; no line of a failed call."""
    if processes.is_first():
        keep_json_lines(path, lambda record: record.get("reason") != EXPERT_FAILED)
    done: set[int] = set()
    kept: Counter[str] = Counter()
    for record in read_json_lines(path):
        if record.get("reason") != EXPERT_FAILED:
            done.add(record["example_id"])
            kept[record["group"]] += record["kept"]
    return done, kept


def _outcomes(
    batch: Sequence[Item],
    pipeline: Pipeline,
    experts: Mapping[Role, Expert],
    sampling: SamplingConfig,
    check: Check,
) -> list[Outcome]:
    """Ask about every image that can be asked about."""
    unfit = [_unfit(item, pipeline) for item in batch]
    pairs = zip(batch, unfit, strict=True)
    talks = [pipeline.write(item, sampling) for item, outcome in pairs if outcome is None]
    found = iter(pipelines.converse(talks, experts, check))
    return [next(found) if outcome is None else outcome for outcome in unfit]


def _unfit(item: Item, pipeline: Pipeline) -> Outcome | None:
    """What becomes of an image about which nothing can be asked; None of others."""
    if (problem := pipeline.lacks(item)) is not None:
        return Outcome(reason=UNLABELLED, detail=problem)
    try:
        for name, image in named_images(item.example):
            images.read_size(image, name=name)
    except UserError as error:
        return Outcome(reason=NO_IMAGE, detail=str(error))
    return None


def _learnable(item: Item, outcome: Outcome, refuse: Refuse) -> Outcome:
    """`outcome` without the texts that cannot be learned."""
    refusals = [refuse(item, text) for text in outcome.rationales]
    if not any(refusals):
        return outcome
    problems = [None if refusal is None else refusal[0] for refusal in refusals]
    texts = zip(outcome.rationales, problems, strict=True)
    kept = tuple(text for text, problem in texts if problem is None)
    notes = dict(outcome.notes)
    if "texts" in notes:
        pairs = zip(notes["texts"], problems, strict=True)
        notes["texts"] = [note for note, problem in pairs if problem is None]
    return Outcome(
        rationales=kept,
        dropped=Counter(outcome.dropped) + Counter(p for p in problems if p is not None),
        reason=None if kept else problems[0],
        detail="" if kept or refusals[0] is None else refusals[0][1],
        notes=notes,
    )


def _listed(reasons: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in reasons.most_common(5))
