"""No dead options: changing any field of a rationales stage changes what is asked or kept.

Each row sets one field to another valid value, on the command line as a user would, in a stage
that an endpoint answers. A field without a row fails.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_run
from chat_server import Answer, pictures_of, prompt_of, serving
from rich.console import Console
from test_aescot import CRITIQUE
from test_fast_slow import ATTRIBUTES, FAST, SLOW, completion
from test_plan_then_reason import PLAN, REASONING

from jaxqa import configuration
from jaxqa.data.prompts import get_template
from jaxqa.data.readers.artimuse import KEY as ATTRIBUTES_KEY
from jaxqa.errors import UserError
from jaxqa.reasoning.expert import ExpertConfig
from jaxqa.reasoning.labels import FIVE_LEVELS
from jaxqa.stages import rationales
from jaxqa.stages.config import parse_config
from jaxqa.stages.sections import RationalesStage
from jaxqa.stages.setup import set_up
from jaxqa.stages.workdir import WorkDir
from jaxqa.train.json_lines import read_json_lines
from jaxqa.train.stop import StopRequest

# Marks of 3 exactly, so that a stricter judge drops; half of them say no.
MARKS = ("consistency", "factual", "natural", "visual_fidelity", "technical_rigor")
MARKS += ("score_consistency", "attribute_coverage", "groundedness_no_fabrication")
MARKS += ("reasoning_cohesion", "score_derivation_smoothness")
VERDICT = json.dumps({"decision": "keep", "reason": "", **dict.fromkeys(MARKS, 3)})


def play():
    """An endpoint that plays every part; what it says of a request depends on how often it came."""
    seen: Counter[Any] = Counter()
    critique = CRITIQUE.replace("Warm color holds it together, though", "It all coheres, but")
    narrative = SLOW.replace("On balance the", "The")

    def reply(body):
        prompt = prompt_of(body)
        key = (prompt, *(picture.tobytes() for picture in pictures_of(body)))
        number = seen[key]
        seen[key] += 1
        if '"decision"' in prompt or "critic" in prompt:
            return Answer(text=VERDICT)
        if "aesthetic expert" in prompt or "Look hard" in prompt:
            return Answer(text=f"{critique} Shot at 0.33 s, {number}.")
        if "plan that a careful assessor" in prompt or "Plan it" in prompt:
            return Answer(text=f"{PLAN} ({number})")
        if "Work through these steps" in prompt or "Go on" in prompt:
            text = f"{REASONING} ({number})" if number else "Short."
            return Answer(text=completion(text, FIVE_LEVELS[1 + number]))
        if "wordy remarks" in prompt or "aesthetic review" in prompt:
            return Answer(text=completion(f"{narrative} It takes 0.33 s."))
        if "was measured as" in prompt or "See here" in prompt:
            return Answer(text=completion(f"{FAST} It takes 0.33 s. A fourth sentence."))
        return Answer(text=completion(f"five words with number {number}"))

    return reply


ROOM = ("data.buckets.completion_lengths", "(2000,)")


class World:
    """Shared by the probes; filled by the fixture."""

    folder: Path
    setup: Any
    counter = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def world(tmp_path_factory) -> Iterator[None]:
    World.folder = tmp_path_factory.mktemp("options")
    data = tiny_run.write_dataset(World.folder / "data")
    config = tiny_run.get_config(str(data))
    configuration.apply_override(config, *ROOM)
    made = set_up(parse_config(config), WorkDir(World.folder), Console(quiet=True))
    (plain,) = made.train.values()
    remarks = {ATTRIBUTES_KEY: ATTRIBUTES}
    loved = [dataclasses.replace(e, metadata=remarks) for e in plain.examples[:4:2]]
    fine = dataclasses.replace(
        plain, name="fine", examples=loved, template=get_template("concise_aesthetics")
    )
    demo = dataclasses.replace(plain, examples=plain.examples[4::2])
    World.setup = dataclasses.replace(made, train={"fine": fine, "demo": demo})
    yield
    undisturbed.cache_clear()


def start(pipeline: str) -> dict[str, str]:
    several = "3" if pipeline in ("own", "plan_then_reason") else "1"
    return {
        "stages": "('sft','own')",
        "own.pipeline.name": pipeline,
        "own.expert.model": "some-model",
        "own.expert.concurrency": "1",
        "own.expert.retries": "0",
        "own.sampling.num_samples": several,
        "own.sampling.max_new_tokens": "64",
    }


def outcome(pipeline: str, changes: dict[str, str]) -> Any:
    """What the stage asks, keeps and writes."""
    folder = World.folder / str(next(World.counter))
    config = tiny_run.get_config(str(World.folder / "data"))
    section = dataclasses.replace(RationalesStage(batch_size=1), pipeline=PIPELINES[pipeline]())
    config.own = configuration.to_config_dict({"own": section}).own
    configuration.apply_override(config, *ROOM)
    handed, real = [], rationales.write_rationales

    def watched(*arguments, size, **options):
        handed.append(size)
        return real(*arguments, size=size, **options)

    with serving(play()) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(rationales, "write_rationales", watched)
        values = start(pipeline) | {"own.expert.endpoint": server.url} | changes
        for key, text in values.items():
            configuration.apply_override(config, key, text)
        parsed = parse_config(config)
        stage = parsed.sections["own"]
        environment = {"SOME_KEY": "secret"}
        made = dataclasses.replace(
            World.setup, config=parsed, work=WorkDir(folder), environment=environment
        )
        rationales.check(made, "own", stage)
        problem = ""
        try:
            rationales.write(made, "own", stage, {}, StopRequest())
        except UserError as error:
            problem = str(error).replace(str(folder), "")
        bodies = [_readable(body) for body in server.bodies]
    written = [line | {"image": ""} for line in read_json_lines(made.work.rationales("own"))]
    waits = {name: getattr(stage.expert, name) for name in UNSEEN}
    names = sorted(path.name for path in (folder / "rationales").iterdir())
    keys = [headers.get("authorization") for headers in server.headers[:1]]
    return bodies, written, problem, waits, handed, names, keys, parsed.start_of("own")


def _readable(body: dict[str, Any]) -> Any:
    pictures = [(picture.format, picture.size) for picture in pictures_of(body)]
    plain = {name: value for name, value in body.items() if name != "messages"}
    roles = [message["role"] for message in body["messages"]]
    return prompt_of(body), roles, pictures, plain


UNSEEN = ("timeout_seconds", "backoff_seconds", "retries")
"""What only a failing endpoint shows: see test_endpoint.py. Here: that it reaches the client."""

PIPELINES = {
    option.__dataclass_fields__["name"].default: option
    for option in RationalesStage.__dataclass_fields__["pipeline"].type.__args__
}

STAND_IN = {
    "own.expert.endpoint": "",
    "own.expert.model": "",
    "own.expert.stand_in": "True",
}

STAGE: dict[str, Any] = {
    "batch_size": ("2", STAND_IN),
    "sources": "('demo',)",
    "label_fraction": "0.5",
    "start_from": "initial",
    "kind": None,
    "evaluate": None,
    "judge": None,
    "skip_fraction": "0.5",
    "limit": "3",
    "human_audit": "2",
    "expert.endpoint": None,
    "expert.model": "other",
    "expert.stand_in": ("True", {"own.expert.endpoint": "", "own.expert.model": ""}),
    "expert.api_key_env": "SOME_KEY",
    "expert.concurrency": "2",
    "expert.timeout_seconds": "3.0",
    "expert.retries": "1",
    "expert.backoff_seconds": "0.5",
    "expert.max_pixels": "100",
    "expert.cache": "answers-of-all",
    "expert.extra": None,
    "sampling.num_samples": "2",
    "sampling.max_new_tokens": "17",
    "sampling.temperature": "0.5",
    "sampling.top_k": "2",
    "sampling.top_p": "0.5",
    "sampling.min_p": "0.5",
}
"""Rows of the stage; None: see REASONS."""

REASONS = {
    "kind": "the stage's own name",
    "evaluate": "one valid value; refused otherwise in tests/stages/test_rationales_stage.py",
    "judge": "the same section as expert; see test_a_judge_of_its_own",
    "expert.endpoint": "set in every row",
    "expert.extra": "free keys; see test_endpoint.py",
}

PIPELINE: dict[str, dict[str, Any]] = {
    "own": {},
    "reasoning_text": {"min_words": "6"},
    "aescot": {
        "prompt": "Look hard<image> {score}",
        "guidance": "",
        "judge_prompt": "<image>critic {text}",
        "bounds": "(0.2,0.3)",
        "counts": None,
        "leak_tolerance": "0.9",
        "min_dimensions": "5",
        "min_mark": "3.5",
    },
    "fast_slow": {
        "fast_tasks": "('aesthetics',)",
        "fast_prompt": "See here<image> {score}",
        "slow_prompt": "wordy remarks {score}",
        "judge_system": "Be quick.",
        "fast_judge_prompt": "<image>critic {text}",
        "slow_judge_prompt": "<image>critic, slowly, {text}",
        "fast_sentences": "3",
        "fast_words": "(1,10)",
        "slow_words": "(1,10)",
        "slow_aim": "123",
        "leak_tolerance": "0.9",
        "min_aspects": "8",
        "min_mark": "3.5",
    },
    "plan_then_reason": {
        "plan_prompt": "Plan it {question}",
        "reason_prompt": "<image>Go on {question} {plan} {levels}",
        "tolerance": "1.6",
        "easy_share": "0.3",
        "hard_share": "0.4",
        "texts": ("1", {"own.pipeline.tolerance": "0.75"}),  # several right samples of an image
        "min_words": "1",
        "counts": None,
    },
}

JUDGES = ("aescot", "fast_slow")
JUDGED = {"judge_sampling": JUDGES, "plan_sampling": ("plan_then_reason",)}


def places(value: Any, path: str = "") -> Iterator[str]:
    """Every field under a dataclass."""
    for field in dataclasses.fields(value):
        at, held = f"{path}{field.name}", getattr(value, field.name)
        if dataclasses.is_dataclass(held) and field.name != "pipeline":
            yield from places(held, f"{at}.")
        elif field.name not in ("pipeline", "name"):
            yield at


@pytest.mark.parametrize("pipeline", JUDGES)
def test_one_verdict_is_read(pipeline):
    with pytest.raises(UserError, match="judge_sampling.num_samples is 2; one reply is read"):
        outcome(pipeline, {"own.pipeline.judge_sampling.num_samples": "2"})


@functools.cache
def undisturbed(pipeline: str, also: tuple = ()) -> Any:
    return outcome(pipeline, dict(also))


def rows() -> Iterator[tuple[str, str, Any]]:
    for at, row in STAGE.items():
        yield "own", at, row
    for name, options in PIPELINE.items():
        for at, row in options.items():
            yield name, f"pipeline.{at}", row
    for section, names in JUDGED.items():
        for name, at in itertools.product(names, (a for a in STAGE if a.startswith("sampling."))):
            # The section travels as a whole, so one field shows that it arrives; its number of
            # samples counts apart, see test_one_verdict_is_read.
            shown = ("sampling.temperature", *(("sampling.num_samples",) * (name not in JUDGES)))
            row = STAGE[at] if at in shown else None
            yield name, f"pipeline.{section}.{at.removeprefix('sampling.')}", row


@pytest.mark.parametrize(("pipeline", "at", "row"), [row for row in rows() if row[2] is not None])
def test_an_option_changes_what_is_asked_or_kept(pipeline, at, row, monkeypatch):
    monkeypatch.chdir(World.folder)
    value, also = row if isinstance(row, tuple) else (row, {})
    before = undisturbed(pipeline, tuple(also.items()) if at != "expert.stand_in" else ())
    assert outcome(pipeline, also | {f"own.{at}": value}) != before


def test_the_same_stage_asks_and_keeps_the_same():
    for pipeline in PIPELINES:
        assert outcome(pipeline, {}) == undisturbed(pipeline)


def test_every_field_has_a_row():
    known = {at for _, at, _ in rows()}
    found = set(places(RationalesStage(batch_size=1)))
    for made in PIPELINES.values():
        found |= {f"pipeline.{at}" for at in places(made())}
    assert found == known and {at for at, row in STAGE.items() if row is None} == set(REASONS)


def test_counts_of_levels():
    plain = outcome("aescot", {})
    assert {line["group"] for line in plain[1]} == {"bad", "fair", "good"}
    config = tiny_run.get_config(str(World.folder / "data"))
    section = RationalesStage(batch_size=1, pipeline=PIPELINES["aescot"](counts={"bad": 2}))
    config.own = configuration.to_config_dict({"own": section}).own
    stage = parse_config(config).sections["own"]
    assert stage.pipeline.quotas() == {"bad": 2}
    items = rationales.stage_items(World.setup, stage)
    ids = [item.example.example_id for item in items]
    unbalanced = dataclasses.replace(stage, pipeline=PIPELINES["aescot"]())
    plain_ids = [i.example.example_id for i in rationales.stage_items(World.setup, unbalanced)]
    assert sorted(ids) == sorted(plain_ids) and ids != plain_ids  # in drawn order


def test_a_stage_that_could_ask_nothing_is_refused_at_the_start():
    """Narratives need remarks: without any, hours of earlier stages would be for nothing."""
    stage = RationalesStage(batch_size=1, sources=("fine",), pipeline=PIPELINES["fast_slow"]())
    stage = dataclasses.replace(stage, expert=ExpertConfig(stand_in=True))
    rationales.check(World.setup, "slow", stage)
    fine = World.setup.train["fine"]
    bare = [dataclasses.replace(example, metadata={}) for example in fine.examples]
    train = {"fine": dataclasses.replace(fine, examples=bare)}
    message = "stage slow: nothing can be asked about any of 2 images; of the last: no_attributes: "
    with pytest.raises(UserError, match=message):
        rationales.check(dataclasses.replace(World.setup, train=train), "slow", stage)
    partly = {"fine": dataclasses.replace(fine, examples=[bare[0], fine.examples[1]])}
    rationales.check(dataclasses.replace(World.setup, train=partly), "slow", stage)


def test_a_judge_of_its_own():
    made = configuration.from_dict
    stage = RationalesStage(batch_size=1, pipeline=PIPELINES["aescot"]())
    with contextlib.ExitStack() as stack:
        expert, judge = (stack.enter_context(serving(play())) for _ in range(2))
        values = configuration.to_dict(stage) | {
            "expert": {"endpoint": expert.url, "model": "writer"},
            "judge": {"endpoint": judge.url, "model": "judge", "api_key_env": "SOME_KEY"},
        }
        stage = made(RationalesStage, values, at="config.own")
        setup = dataclasses.replace(
            World.setup, work=WorkDir(World.folder / "judge"), environment={"SOME_KEY": "k"}
        )
        rationales.check(setup, "own", stage)
        found, _ = rationales.write(setup, "own", stage, {}, StopRequest())
        assert {body["model"] for body in expert.bodies} == {"writer"}
        assert {body["model"] for body in judge.bodies} == {"judge"}
        assert judge.headers[0]["authorization"] == "Bearer k"
    assert found["calls"]["expert"]["sent"] == 6 >= found["calls"]["judge"]["sent"] > 0
    with pytest.raises(UserError, match="config.own.judge.api_key_env"):
        rationales.check(dataclasses.replace(setup, environment={}), "own", stage)
