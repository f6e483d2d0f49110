"""Asking a model about the images of a selection, those that have no answer yet."""

from collections.abc import Callable, Iterable, Sequence

from jaxqa.data.records import Example
from jaxqa.data.scales import score_scale
from jaxqa.evaluation.answer_store import WHOLE, AnswerStore, Shard
from jaxqa.evaluation.evaluator import Prediction
from jaxqa.evaluation.selection import Selection
from jaxqa.scoring.scorer import ScoredAnswer

Ask = Callable[[Sequence[Example]], Iterable[ScoredAnswer]]
"""Answers examples, in any order."""


def answer_all(
    ask: Ask,
    selection: Selection,
    store: AnswerStore,
    *,
    shard: Shard = WHOLE,
    advance: Callable[[int], None] = lambda done: None,
) -> bool:
    """Answer this process's share of what is missing; whether every image is answered now.

    Args:
      advance: called with the number of answered images of the share, after each.
    """
    mine = selection.examples[shard.index :: shard.count]
    missing = [example for example in mine if example.example_id not in store.answers]
    done = len(mine) - len(missing)
    try:
        for answer in ask(missing) if missing else ():
            store.append(to_prediction(answer, selection))
            done += 1
            advance(done)
    finally:
        store.close()
    return all(example.example_id in store.answers for example in selection.examples)


def to_prediction(answer: ScoredAnswer, selection: Selection) -> Prediction:
    """The record of one image, its number brought to the labels' range and direction.

    A number outside the range that the prompt asks for is an error, not a score.
    """
    scale = score_scale(selection.info, selection.template, selection.labels)
    example, error, score = answer.example, answer.error, None
    if error is None and answer.score is not None:
        error = selection.template.check_score(answer.score)
        if error is None:
            score = scale.to_label(answer.score) if scale else answer.score
    label = example.score
    assert label is not None  # `select` left the others out
    return Prediction(
        example_id=example.example_id,
        image=image_name(example),
        dataset=example.dataset,
        label=label,
        score=score,
        text=answer.text,
        error=error,
        distortion=example.metadata.get("distortion"),
        prompt=example.prompt,
        answer=answer.score,
        log_prob=answer.log_prob,
        samples=list(answer.samples) or None,
        spread=answer.spread,
        mass=answer.distribution.mass if answer.distribution else None,
    )


def image_name(example: Example) -> str:
    """What answers call the image: its path, or its place in a prepared data set."""
    if isinstance(example.image, bytes):
        return f"{example.dataset} {example.example_id}"
    return str(example.image)
