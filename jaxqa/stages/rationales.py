"""The stage that writes rationales, and how fine-tuning reads them."""

import dataclasses
import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxqa import processes, sharding
from jaxqa.data.encoding import encode_target
from jaxqa.data.source import Source
from jaxqa.errors import UserError
from jaxqa.reasoning import audit, human_audit, rationale_file
from jaxqa.reasoning import pipeline as pipelines
from jaxqa.reasoning.endpoint import EndpointExpert
from jaxqa.reasoning.expert import Check, Expert, ExpertConfig
from jaxqa.reasoning.pipeline import Item, Role
from jaxqa.reasoning.policy import PolicyExpert
from jaxqa.reasoning.stand_in import StandIn
from jaxqa.reasoning.writer import write_rationales
from jaxqa.stages import progress
from jaxqa.stages.distill_sections import AlignStage
from jaxqa.stages.sections import RationalesStage, SectionConfig, SftStage
from jaxqa.stages.setup import Setup, labelled_share
from jaxqa.train.stop import Stopped, StopRequest
from jaxqa.typing import Params

_BATCHES_AT_ONCE = 4


def check(setup: Setup, name: str, stage: RationalesStage) -> None:
    """Find what the stage would refuse, before hours of training.

    Raises:
      UserError: no images, prompts and answers that do not fit, or no API key.
    """
    items = stage_items(setup, stage)
    if not items:
        raise UserError(f"stage {name}: there is no image to write about")
    _check_askable(name, stage, items)
    roles = _roles(stage)
    if processes.count() > 1 and _asks_policy(stage) and any(c.endpoint for c in roles.values()):
        raise UserError(
            f"config.{name}: of expert and judge one is the policy and the other an endpoint, "
            f"which {processes.count()} processes cannot ask in step; run this stage on one host"
        )
    for role, config in roles.items():
        if config.endpoint:
            _api_key(setup, name, role, config)
        elif not config.stand_in:
            sharding.check_rows(stage.batch_size, setup.mesh, name=f"config.{name}.batch_size")
            setup.check_room(stage.sampling.max_new_tokens, name=name)


def _check_askable(name: str, stage: RationalesStage, items: Sequence[Item]) -> None:
    """Raise UserError unless something can be asked about at least one image."""
    outcome = None
    for item in items:
        outcome = pipelines.unasked(stage.pipeline, item, stage.sampling)
        if outcome is None:
            return
    assert outcome is not None
    raise UserError(
        f"stage {name}: nothing can be asked about any of {len(items)} images; of the last: "
        f"{outcome.reason}: {outcome.detail}"
    )


def write(
    setup: Setup, name: str, stage: RationalesStage, params: Params, stop: StopRequest
) -> tuple[dict[str, Any], float]:
    """Write what is missing of the stage's file; the audit, and the seconds it took.

    Raises:
      UserError: an expert cannot be asked, nothing is kept, or people's verdicts are missing.
      stop.Stopped: a stop was requested; the lines so far stay.
    """
    begun = time.monotonic()
    if _asks_policy(stage) or processes.count() == 1:
        calls = _write(setup, name, stage, params, lambda: stop.check(f"stage {name}"))
    else:
        calls = _write_alone(setup, name, stage, params, stop)
    found = processes.from_first(lambda: _finish(setup, name, stage, calls))
    return found, time.monotonic() - begun


def _write_alone(
    setup: Setup, name: str, stage: RationalesStage, params: Params, stop: StopRequest
) -> dict[str, Any]:
    """`_write` in the first process, which asks others than the policy; all leave if it is told."""

    def write() -> dict[str, Any] | None:
        try:
            return _write(setup, name, stage, params, lambda: stop.check_own(f"stage {name}"))
        except Stopped:
            return None

    calls = processes.from_first(write)
    if calls is None:
        raise Stopped(f"stopped on request during stage {name}")
    return calls


def _write(
    setup: Setup, name: str, stage: RationalesStage, params: Params, check: Check
) -> dict[str, Any]:
    """Write what is missing; how often each expert was asked."""
    path, items = setup.work.rationales(name), stage_items(setup, stage)
    params = setup.sampling_copy(params) if _asks_policy(stage) else params
    experts = _experts(setup, name, stage, params)
    try:
        with progress.show_progress(setup.console, name, len(items), 0) as advance:
            write_rationales(
                path,
                items,
                stage.pipeline,
                experts,
                sampling=stage.sampling,
                size=_BATCHES_AT_ONCE * _at_once(stage),
                refuse=lambda item, text: refuse(setup, item, text),
                check=check,
                advance=lambda count: advance(count, {}),
            )
    finally:
        for expert in _distinct(experts).values():
            expert.close()
    return {role: dict(expert.calls) for role, expert in _distinct(experts).items()}


def _finish(
    setup: Setup, name: str, stage: RationalesStage, calls: Mapping[str, Any]
) -> dict[str, Any]:
    """Audit what was written, by the program and by people."""
    path, items = setup.work.rationales(name), stage_items(setup, stage)
    if stage.human_audit:
        pictures = {item.example.example_id: item.example.image for item in items}
        human_audit.write_sample(
            path, size=stage.human_audit, seed=setup.config.seed, images=pictures
        )
    found = audit.audit(path, calls=calls, total=len(items), wanted=stage.pipeline.quotas())
    audit.write_audit(path, found)
    _wait_for_verdicts(path)
    return found


def stage_items(setup: Setup, stage: RationalesStage) -> list[Item]:
    """The images that a stage writes about, each once; in drawn order where levels are balanced."""
    items: dict[int, Item] = {}
    for source in setup.train.values():
        if stage.sources and source.name not in stage.sources:
            continue
        skipped = {e.example_id for e in labelled_share(source.examples, stage.skip_fraction)}
        for example in labelled_share(source.examples, stage.label_fraction):
            if example.example_id not in skipped:
                items.setdefault(example.example_id, Item(example=example, source=source))
    found = list(items.values())
    if stage.pipeline.quotas():
        seed = setup.config.seed
        found.sort(key=lambda item: _drawn(seed, item.example.example_id))
    return found[: stage.limit] if stage.limit else found


def refuse(setup: Setup, item: Item, text: str) -> tuple[str, str] | None:
    """Why a text could not be learned, the reason and more of it, or None."""
    example = dataclasses.replace(item.example, rationale=text)
    try:
        length = len(encode_target(example, item.source, setup.tokenizer))
    except UserError as error:
        return "no_target", str(error)
    longest = max(setup.config.data.buckets.completion_lengths, default=0)
    if length <= longest:
        return None
    return "too_long", f"{length} tokens with its answer; data.buckets hold {longest}: {text[:100]}"


def is_awaited(stage: SectionConfig, left: Sequence[str]) -> bool:
    """Whether a stage reads what one of those that are `left` has yet to write."""
    reads = isinstance(stage, SftStage | AlignStage)
    return reads and any(name in left for name in stage.rationales)


def with_rationales(setup: Setup, stage: SftStage, sources: Sequence[Source]) -> list[Source]:
    """`sources` with the texts that the stage reads; images without a text are left out.

    Raises:
      UserError: a file is missing or damaged, or a source is left without examples.
    """
    texts: dict[int, tuple[str, ...]] = {}
    for name in stage.rationales:
        path = setup.work.rationales(name) if name in setup.config.sections else Path(name)
        for example_id, found in rationale_file.read_rationales(path).items():
            texts[example_id] = texts.get(example_id, ()) + found
    return [_rewritten(source, stage, texts) for source in sources]


def _rewritten(source: Source, stage: SftStage, texts: Mapping[int, tuple[str, ...]]) -> Source:
    taught = labelled_share(source.examples, stage.teacher_fraction)
    ids = {example.example_id for example in taught}
    others = [example for example in source.examples if example.example_id not in ids]
    examples = [*taught, *rationale_file.with_rationales(others, texts)]
    if not examples:
        raise UserError(
            f"source {source.name!r}: {', '.join(stage.rationales)} holds no text about any of its "
            f"{len(source.examples)} images; leave the source out or write texts about it"
        )
    return dataclasses.replace(source, examples=examples)


def _at_once(stage: RationalesStage) -> int:
    """Requests that are answered at once: calls in flight, or rows of a block."""
    return stage.expert.concurrency if stage.expert.endpoint else stage.batch_size


def _roles(stage: RationalesStage) -> dict[Role, ExpertConfig]:
    return {"expert": stage.expert, "judge": stage.judge or stage.expert}


def _asks_policy(stage: RationalesStage) -> bool:
    return any(not (c.endpoint or c.stand_in) for c in _roles(stage).values())


def _experts(setup: Setup, name: str, stage: RationalesStage, params: Params) -> dict[Role, Expert]:
    made: dict[Role, Expert] = {"expert": _expert(setup, name, stage, params, "expert")}
    made["judge"] = (
        made["expert"] if stage.judge is None else _expert(setup, name, stage, params, "judge")
    )
    return made


def _distinct(experts: Mapping[Role, Expert]) -> dict[Role, Expert]:
    """Each expert under the first of its roles."""
    same = experts["judge"] is experts["expert"]
    return {role: expert for role, expert in experts.items() if role == "expert" or not same}


def _expert(setup: Setup, name: str, stage: RationalesStage, params: Params, role: Role) -> Expert:
    config = _roles(stage)[role]
    if config.endpoint:
        own = setup.work.rationales(name).with_name(f"{name}_{role}_answers.jsonl")
        return EndpointExpert(
            config,
            Path(config.cache) if config.cache else own,
            api_key=_api_key(setup, name, role, config),
        )
    if config.stand_in:
        items = {item.example.example_id: item for item in stage_items(setup, stage)}
        return StandIn(items=items, seed=setup.config.seed)
    return PolicyExpert(
        model=setup.model,
        params=params,
        encoder=setup.encoder,
        mesh=setup.mesh,
        buckets=setup.config.data.buckets,
        batch_size=stage.batch_size,
        seed=setup.config.seed,
        stage=f"{name} {role}",
    )


def _api_key(setup: Setup, name: str, role: Role, config: ExpertConfig) -> str | None:
    if not config.api_key_env:
        return None
    key = setup.environment.get(config.api_key_env, "").strip()
    if not key:
        raise UserError(
            f"config.{name}.{role}.api_key_env: the environment has no {config.api_key_env}; "
            "set it to the endpoint's key, or leave the option empty for an endpoint without one"
        )
    return key


def _wait_for_verdicts(path: Path) -> None:
    verdicts = human_audit.read_verdicts(path)
    if verdicts.open:
        raise UserError(
            f"{human_audit.table_path(path)}: {verdicts.open} of {verdicts.asked} verdicts are "
            f"missing; read {human_audit.page_path(path)}, fill them in (keep or drop) and run the "
            "same command again"
        )


def _drawn(seed: int, example_id: int) -> bytes:
    words = np.array([seed, example_id], np.int64).tobytes()
    return hashlib.blake2b(words, digest_size=8).digest()
