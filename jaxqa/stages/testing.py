"""The test after a stage: every evaluated source, scored and recorded on its own."""

from pathlib import Path
from typing import Any

from jaxqa import processes
from jaxqa.data.records import ImageSource
from jaxqa.data.source import Source
from jaxqa.errors import UserError
from jaxqa.evaluation import evaluator, label_metrics
from jaxqa.rewards.parsing import parse_answer
from jaxqa.scoring.scorer import ScoredAnswer, Scorer
from jaxqa.stages import progress
from jaxqa.stages.setup import Setup
from jaxqa.stages.workdir import WorkDir
from jaxqa.train.stop import StopRequest
from jaxqa.typing import Params


def check(setup: Setup) -> None:
    """Find what a test would refuse, before hours of training.

    Raises:
      UserError: nothing to test, no readable image, a prompt that fits no bucket, or a block that
        the devices cannot share evenly.
    """
    if not setup.test:
        raise UserError(
            "config.data.sources: evaluate is False everywhere, so the stages' tests have nothing "
            "to test; set it for a source, or evaluate=False for the stages"
        )
    for source in setup.test.values():
        _scorer(setup, source).check(source.examples)


def test_policy(
    setup: Setup, name: str, params: Params, stop: StopRequest
) -> dict[str, dict[str, Any]]:
    """Results by source after stage `name`; predictions go to files of their own.

    Raises:
      stop.Stopped: a stop was requested.
    """
    params = setup.sampling_copy(params)
    return {
        source.name: _test_source(setup, name, source, params, stop)
        for source in setup.test.values()
    }


def _test_source(
    setup: Setup, stage: str, source: Source, params: Params, stop: StopRequest
) -> dict[str, Any]:
    several = len(setup.test) > 1
    answers = []
    label = f"{stage} test of {source.name}" if several else f"{stage} test"
    with progress.show_progress(setup.console, label, len(source.examples), 0) as advance:
        for answer in _scorer(setup, source).score(params, source.examples):
            stop.check(label)
            answers.append(answer)
            advance(len(answers), {})
    path = setup.work.evaluation(f"{stage}.{source.name}" if several else stage)
    if source.template.low is None:
        named = [_named(answer, source, setup.work) for answer in answers]
        processes.first_does(lambda: label_metrics.write_predictions(path, named))
        return label_metrics.summarise(named)
    scored = [prediction(answer, source, setup.work) for answer in answers]
    processes.first_does(lambda: evaluator.write_predictions(path, scored))
    return evaluator.summarise(scored)


def _scorer(setup: Setup, source: Source) -> Scorer:
    config = setup.config
    return Scorer(
        model=setup.model,
        encoder=setup.encoder,
        template=source.template,
        mesh=setup.mesh,
        buckets=config.data.buckets,
        max_new_tokens=config.evaluation.max_new_tokens,
        batch_size=config.evaluation.batch_size,
        num_workers=config.data.workers,
    )


def prediction(answer: ScoredAnswer, source: Source, work: WorkDir) -> evaluator.Prediction:
    """The record of one test image, its number brought to the data set's range.

    A number outside the range that the prompt asks for is an error, not a score.
    """
    example, error, score = answer.example, answer.error, answer.score
    assert example.score is not None  # `read_sources` looked
    answered = score if source.scale is not None and not source.scale.is_identity else None
    if error is None and score is not None:
        error = source.template.check_score(score)
        score = None if error else source.label(score)
    return evaluator.Prediction(
        example_id=example.example_id,
        image=_place(example.image, work),
        dataset=example.dataset,
        label=example.score,
        score=score,
        text=answer.text,
        error=error,
        distortion=example.metadata.get("distortion"),
        prompt=example.prompt,
        answer=answered,
    )


def _named(answer: ScoredAnswer, source: Source, work: WorkDir) -> label_metrics.NamedPrediction:
    example, parsed = answer.example, parse_answer(answer.text)
    unread = answer.error if answer.parsed is None else None  # of the image, not of the answer
    return label_metrics.NamedPrediction(
        example_id=example.example_id,
        image=_place(example.image, work),
        dataset=example.dataset,
        wanted=label_metrics.wanted(source.template.task, example.answer_labels),
        answered=label_metrics.answered(source.template.task, parsed),
        text=answer.text,
        error=unread,
    )


def _place(image: ImageSource, work: WorkDir) -> str:
    """Path of an image file, relative to the work directory where it is inside."""
    if not isinstance(image, Path):
        return "" if isinstance(image, bytes) else str(image)
    return str(image.relative_to(work.root) if image.is_relative_to(work.root) else image)
