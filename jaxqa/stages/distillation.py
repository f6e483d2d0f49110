"""The stages `align` and `basis`: from a reasoning model's texts to a distilled scorer."""

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxqa import processes, sharding
from jaxqa.data.encoding import image_name
from jaxqa.data.source import Source
from jaxqa.distill.alignment import AlignmentObjective, AlignmentSource, aligned_params
from jaxqa.distill.artifact import Artifact, load_artifact, save_artifact
from jaxqa.distill.embedding import embed_images
from jaxqa.distill.pipeline import Distilled, distill, labels_of
from jaxqa.distill.pixels import ImagePool
from jaxqa.distill.scorer import RaliScorer
from jaxqa.distill.texts import embed_texts
from jaxqa.distill.triplets import ScoreRange, Triplet, check_triplets
from jaxqa.errors import UserError
from jaxqa.evaluation import evaluator
from jaxqa.models.clip.model import Clip, image_params
from jaxqa.reasoning import rationale_file
from jaxqa.scoring.scorer import ScoredAnswer
from jaxqa.stages import progress, testing, training
from jaxqa.stages.distill_sections import AlignStage, BasisStage
from jaxqa.stages.prepared import Prepared
from jaxqa.stages.sections import SectionConfig
from jaxqa.stages.setup import Setup, labelled_share, stage_key
from jaxqa.train.checkpoint import Checkpoints
from jaxqa.train.optimizer import learning_rate_schedule, make_optimizer
from jaxqa.train.state import create_state
from jaxqa.train.step import make_update
from jaxqa.train.stop import StopRequest
from jaxqa.typing import Params


def is_distillation(stage: SectionConfig) -> bool:
    """Whether a stage is one of this file's."""
    return isinstance(stage, AlignStage | BasisStage)


def check(setup: Setup, name: str, stage: SectionConfig, *, awaits_texts: bool) -> None:
    """Find what a stage would refuse, before hours of training.

    Args:
      setup: what the stages share.
      name: the stage.
      stage: its section.
      awaits_texts: whether it reads texts that an earlier stage has yet to write.

    Raises:
      UserError: triplets, encoder, devices and stage do not fit together.
    """
    sharding.check_rows(stage.batch_size, setup.mesh, name=f"config.{name}.batch_size")
    scores = _score_range(setup, stage)
    if isinstance(stage, AlignStage):
        stage.encoder.model()
        if not awaits_texts:
            triplets = read_triplets(setup, stage, stage.rationales)
            check_triplets(triplets, scores)
            stage.encoder.tokenizer(t for triplet in triplets for t in triplet.rationales)
    elif isinstance(stage, BasisStage):
        triplets = read_triplets(setup, stage, None)
        check_triplets(triplets, scores, with_texts=False)
        width = _align_stage(setup, stage).encoder.model().config.projection_dim
        stage.distill.check(len(triplets), width)
        if stage.evaluate and not setup.test:
            raise UserError(f"config.{name}.evaluate: no source is tested; set it to False")


def read_triplets(
    setup: Setup, stage: SectionConfig, rationales: Sequence[str] | None
) -> list[Triplet]:
    """The labelled training images of a stage, each once, in the prompt's score range.

    Args:
      setup: what the stages share.
      stage: names sources and share.
      rationales: stages and files whose texts are taken, images without any left out; empty for
        the data set's own; None for no texts.
    """
    texts = None if not rationales else _texts(setup, rationales)
    triplets: dict[int, Triplet] = {}
    for source in _sources(setup, stage):
        for example in labelled_share(source.examples, stage.label_fraction):
            score = source.score(example)
            own = () if example.rationale is None else (example.rationale,)
            found = own if texts is None else texts.get(example.example_id, ())
            if score is None or (rationales is not None and not found):
                continue
            triplet = Triplet(
                name=image_name(example),
                example_id=example.example_id,
                image=example.image,
                rationales=found,
                score=score,
            )
            triplets.setdefault(example.example_id, triplet)
    return list(triplets.values())


def run_stage(setup: Setup, name: str, stop: StopRequest) -> dict[str, Any]:
    """Do stage `name`; its entry in summary.json.

    Raises:
      UserError: see `check`; or an image that cannot be read.
      loop.TrainingDiverged: a loss was not finite.
      stop.Stopped: a stop was requested.
    """
    stage = setup.config.sections[name]
    if isinstance(stage, AlignStage):
        return _align(setup, name, stage, stop)
    assert isinstance(stage, BasisStage)  # `is_distillation` has no other
    return _basis(setup, name, stage, stop)


def _align(setup: Setup, name: str, stage: AlignStage, stop: StopRequest) -> dict[str, Any]:
    with processes.together():
        triplets = read_triplets(setup, stage, stage.rationales)
        check_triplets(triplets, _score_range(setup, stage))  # some texts may be new
    state, seconds = training.train_stage(
        setup,
        name,
        lambda _: _prepare(setup, name, stage, triplets),
        steps=stage.steps,
        save_every=stage.save_every,
        stop=stop,
    )
    del state  # the stages that follow read the checkpoint
    texts = sum(len(stage.alignment.rationales(triplet)) for triplet in triplets)
    counts = {"images": len(triplets), "texts": texts}
    return {"name": name, "steps": stage.steps, "seconds": seconds, "evaluation": None, **counts}


def _prepare(setup: Setup, name: str, stage: AlignStage, triplets: Sequence[Triplet]) -> Prepared:
    model, params = stage.encoder.model(), _encoder_params(setup, stage)
    used = [stage.alignment.rationales(triplet) for triplet in triplets]
    flat = [text for texts in used for text in texts]
    embedded = embed_texts(
        model,
        params,
        stage.encoder.tokenizer(flat),
        flat,
        policy=stage.alignment.text_policy,
    )
    ends = np.cumsum([len(texts) for texts in used])[:-1]
    optimizer = make_optimizer(stage.optimizer, stage.steps)
    update = make_update(
        AlignmentObjective(model=model, config=stage.alignment),
        optimizer,
        learning_rate=learning_rate_schedule(stage.optimizer, stage.steps),
    )
    source = AlignmentSource(
        triplets,
        np.split(embedded, ends),
        pool=ImagePool(model.config, workers=_threads(setup)),
        mesh=setup.mesh,
        batch_size=stage.batch_size,
        seed=int(jax.random.bits(stage_key(setup.config.seed, name), dtype=np.uint32)),
        cache_mb=setup.config.data.cache_mb,
    )
    trained = _placed(setup, aligned_params(params, stage.alignment))
    return Prepared(
        state=create_state(trained, optimizer),
        update=lambda state, batch: update(state, batch)[:2],
        source=source,
    )


def _basis(setup: Setup, name: str, stage: BasisStage, stop: StopRequest) -> dict[str, Any]:
    begun = time.monotonic()
    align = _align_stage(setup, stage)
    model, params = align.encoder.model(), _image_tower(setup, stage)
    triplets, scores = read_triplets(setup, stage, None), _score_range(setup, stage)
    with progress.show_progress(setup.console, f"{name} embeds", len(triplets), 0) as advance:

        def count(done: int) -> None:
            stop.check(name)
            advance(done, {})

        embeddings = embed_images(
            model,
            params,
            [triplet.image for triplet in triplets],
            size=stage.batch_size,
            workers=_threads(setup),
            mesh=setup.mesh,
            advance=count,
        )
    encoder, directory = sharding.fetch(params, setup.mesh), setup.work.artifact(name)

    def make() -> dict[str, int]:
        found = distill(
            embeddings,
            labels_of(triplets),
            score_range=scores,
            config=stage.distill,
            seed=setup.config.seed,
        )
        artifact = Artifact(
            config=model.config.image_only(),
            encoder=encoder,
            basis=found.basis,
            provenance=_provenance(setup, stage, triplets, found),
        )
        shutil.rmtree(directory, ignore_errors=True)  # of a run that was killed right here
        save_artifact(directory, artifact)
        return {"steps": len(found.losses), "vectors": len(found.clusters.scores)}

    made = processes.from_first(make)
    seconds = time.monotonic() - begun
    entry: dict[str, Any] = {"name": name, "steps": made["steps"], "seconds": seconds}
    entry |= {"evaluation": None, "images": len(triplets), "vectors": made["vectors"]}
    if stage.evaluate:
        begun = time.monotonic()
        with processes.together():
            artifact = load_artifact(directory)
        entry |= _test(setup, name, stage, artifact, stop)
        entry["evaluation_seconds"] = time.monotonic() - begun
    return entry


def _test(
    setup: Setup, name: str, stage: BasisStage, artifact: Artifact, stop: StopRequest
) -> dict[str, Any]:
    """Results on every tested source of the same score range; predictions go to files."""
    scorer = RaliScorer(
        artifact,
        block_size=stage.batch_size,
        workers=_threads(setup),
        compute_dtype=_align_stage(setup, stage).encoder.compute_dtype,
        mesh=setup.mesh,
    )
    results = {}
    for source in setup.test.values():
        if source.template.low is None:
            continue  # asks for something else than a score
        predictions = []
        images = [example.image for example in source.examples]
        for example, found in zip(source.examples, scorer.score(images), strict=True):
            stop.check(f"{name} test")
            answer = ScoredAnswer(example=example, text="", score=found.score, error=found.error)
            predictions.append(testing.prediction(answer, source, setup.work))
        stem = f"{name}.{source.name}" if len(setup.test) > 1 else name
        _write_predictions(setup.work.evaluation(stem), predictions)
        results[source.name] = evaluator.summarise(predictions)
    entry: dict[str, Any] = {"evaluation": next(iter(results.values()), None)}
    return entry | ({"evaluations": results} if len(results) > 1 else {})


def _write_predictions(path: Path, predictions: Sequence[evaluator.Prediction]) -> None:
    processes.first_does(lambda: evaluator.write_predictions(path, predictions))


def _sources(setup: Setup, stage: SectionConfig) -> list[Source]:
    return [
        source
        for source_name, source in setup.train.items()
        if (not stage.sources or source_name in stage.sources) and source.template.low is not None
    ]


def _score_range(setup: Setup, stage: SectionConfig) -> ScoreRange:
    """The range that all of the stage's sources share.

    Raises:
      UserError: none of them asks for a score, or they ask for scores of different ranges.
    """
    ranges = {
        (source.template.low, source.template.high): source.name
        for source in _sources(setup, stage)
    }
    if len(ranges) != 1:
        found = ", ".join(f"{name}: {low} to {high}" for (low, high), name in ranges.items())
        raise UserError(
            f"the sources of a distillation need prompts with one range of scores; found "
            f"{found or 'none'}"
        )
    ((low, high),) = ranges
    return ScoreRange(low=float(low or 0.0), high=float(high or 0.0))


def _texts(setup: Setup, rationales: Sequence[str]) -> Mapping[int, tuple[str, ...]]:
    texts: dict[int, tuple[str, ...]] = {}
    for name in rationales:
        path = setup.work.rationales(name) if name in setup.config.sections else Path(name)
        for example_id, found in rationale_file.read_rationales(path).items():
            texts[example_id] = texts.get(example_id, ()) + found
    return texts


def _align_stage(setup: Setup, stage: BasisStage) -> AlignStage:
    return setup.config.sections[stage.align]


def _encoder_params(setup: Setup, stage: AlignStage) -> Params:
    """Both towers before alignment; equal encoders of a run start from equal draws."""
    return stage.encoder.params(stage_key(setup.config.seed, "encoder"))


def _image_tower(setup: Setup, stage: BasisStage) -> Params:
    """The image tower that a basis stands on, on the mesh."""
    align = _align_stage(setup, stage)
    if not stage.aligned:
        return _placed(setup, image_params(_encoder_params(setup, align)))
    model: Clip = align.encoder.model()
    abstract = image_params(model.abstract_params())
    places = sharding.tree_shardings(abstract, sharding.CLIP_RULES, setup.mesh)
    like = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        abstract,
        places,
    )
    checkpoints = Checkpoints(setup.work.checkpoints(stage.align))
    try:
        step = checkpoints.latest_step()
        if step != align.steps:
            raise UserError(
                f"{checkpoints.directory}: stage {stage.align} is finished, but its checkpoint of "
                f"step {align.steps} is not there (newest: {step}); restore it or use a new "
                "--workdir"
            )
        return checkpoints.restore_params(align.steps, like)
    finally:
        checkpoints.close()


def _placed(setup: Setup, params: Params) -> Params:
    return sharding.place(params, sharding.tree_shardings(params, sharding.CLIP_RULES, setup.mesh))


def _threads(setup: Setup) -> int:
    return max(2, setup.config.data.workers)


def _provenance(
    setup: Setup, stage: BasisStage, triplets: Sequence[Triplet], found: Distilled
) -> dict[str, Any]:
    align = _align_stage(setup, stage)
    return {
        "encoder": align.encoder.path or "random weights",
        "aligned": stage.aligned,
        "rationales": list(align.rationales) or "the data set's own",
        "data": [
            setup.config.data.sources[source.name].dataset for source in _sources(setup, stage)
        ],
        "images": len(triplets),
        "vectors": len(found.clusters.scores),
        "seed": setup.config.seed,
    }
