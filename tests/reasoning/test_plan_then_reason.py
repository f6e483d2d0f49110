"""Plan, reason, reject: which samples and images are kept, against a plain count."""

import itertools
import json
import math
import random
import threading
from collections import Counter

import pytest
from chat_server import Answer, item, pictures_of, prompt_of, serving, write_all

from jaxqa.errors import UserError
from jaxqa.reasoning.labels import FIVE_LEVELS
from jaxqa.reasoning.plan_then_reason import PlanThenReason
from jaxqa.sampling.config import SamplingConfig

PLAN = "1. Look at sharpness. 2. Look at noise. 3. Weigh both."
REASONING = "Edges are crisp on the left and soft on the right, noise is low in the shadows. " * 3


def completion(level: str, text: str = REASONING) -> str:
    return f"<think>{text.strip()}</think><answer>{level}</answer>"


def is_plan(body) -> bool:
    return "You do not see the image" in prompt_of(body)


def play(*answers: str | Answer):
    """Answers the requests for a plan, and the others in turn (the last for ever)."""
    left, lock = list(answers), threading.Lock()

    def reply(body):
        if is_plan(body):
            return Answer(text=PLAN)
        with lock:
            said = left.pop(0) if len(left) > 1 else left[0]
        return said if isinstance(said, Answer) else Answer(text=said)

    return reply


def run(tmp_path, reply, made=None, *, pipeline=None, samples: int = 4):
    sampling = SamplingConfig(num_samples=samples, max_new_tokens=200)
    with serving(reply) as server:
        try:
            write_all(
                tmp_path / "a.jsonl",
                [made or item(0, score=3.0, template="omniquality_technical")],
                pipeline or PlanThenReason(),
                server,
                sampling=sampling,
                concurrency=1,
            )
        except UserError as error:
            assert "was kept" in str(error)
        (line,) = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
        return line, server.bodies


def different(*levels: str) -> list[str]:
    return [completion(level, f"{REASONING} Number {n}.") for n, level in enumerate(levels)]


def test_the_plan_comes_from_the_question_and_stays_out_of_the_training_example(tmp_path):
    line, bodies = run(tmp_path, play(*different("fair", "bad", "good", "excellent")))
    plan, *reasonings = bodies
    assert pictures_of(plan) == [] and len(reasonings) == 4
    assert "Please provide a technical quality rating for the image" in prompt_of(plan)
    for body in reasonings:
        assert PLAN in prompt_of(body) and len(pictures_of(body)) == 1
        assert "bad, poor, fair, good, excellent" in prompt_of(body)
    assert line["kept"] and line["group"] == "quality" and len(line["rationales"]) == 1
    assert line["notes"]["plan"] == PLAN and line["notes"]["right_share"] == 0.25
    assert "Look at noise" not in line["rationales"][0]


def test_alignment_questions_carry_their_text(tmp_path):
    made = item(0, score=3.0, template="omniquality_alignment", prompt="two cats")
    line, (plan, *_) = run(tmp_path, play(*different("fair", "bad", "bad", "bad")), made)
    assert "made from this text: two cats" in prompt_of(plan) and line["group"] == "alignment"


@pytest.mark.parametrize("seed", range(6))
def test_images_and_samples_that_are_kept_against_a_plain_count(tmp_path, seed):
    rng = random.Random(seed)
    score = rng.uniform(1, 5)
    samples = rng.choice((1, 4, 5, 8))
    options = {
        "tolerance": rng.choice((0.5, 0.75, 1.5)),
        "easy_share": rng.choice((1.0, 0.75)),
        "hard_share": rng.choice((0.0, 0.25)),
        "texts": rng.choice((1, 2, 4)),
    }
    levels = [rng.choice(FIVE_LEVELS) for _ in range(samples)]
    made = item(0, score=score, template="omniquality_technical")
    pipeline = PlanThenReason(**options)
    line, _ = run(tmp_path, play(*different(*levels)), made, pipeline=pipeline, samples=samples)
    errors = [abs(FIVE_LEVELS.index(level) - (score - 1)) for level in levels]
    right = [n for n, error in enumerate(errors) if error <= options["tolerance"]]
    share = len(right) / samples
    if share >= options["easy_share"]:
        assert (line["kept"], line["reason"]) == (False, "too_easy")
    elif share <= options["hard_share"]:
        assert (line["kept"], line["reason"]) == (False, "too_hard")
    else:
        wanted = max(1, math.ceil(options["texts"] * (1 - share)))
        assert [int(text.split()[-1][:-1]) for text in line["rationales"]] == right[:wanted]
    assert line["notes"]["right_share"] == share
    assert sum(line["dropped"].values()) + len(line["rationales"]) == samples


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (REASONING, "layout"),
        (completion("splendid"), "no_level"),
        (completion("3"), "no_level"),
        (completion("fair", "Following the plan, " + REASONING), "mentions_plan"),
        (completion("fair", "As these words show, step 2 is done. " + REASONING), "mentions_plan"),
        (completion("fair", "Quite soft."), "too_short"),
        (completion("bad"), "wrong_level"),
        (Answer(text=completion("fair"), finish="length"), "cut_off"),
    ],
)
def test_samples_that_are_dropped(tmp_path, said, reason):
    good = completion("Fair.")
    line, _ = run(tmp_path, play(said, good, completion("bad", REASONING + "No.")), samples=3)
    assert line["rationales"] == [REASONING.strip()]
    assert line["dropped"][reason] == 1 + (reason == "wrong_level")


def test_without_a_plan_or_an_answer(tmp_path):
    reply = lambda body: Answer(text="") if is_plan(body) else Answer()  # noqa: E731
    line, bodies = run(tmp_path / "1", reply)
    assert line["reason"] == "no_plan" and len(bodies) == 1
    line, _ = run(tmp_path / "2", lambda body: Answer(status=500))
    assert line["reason"] == "expert_failed"
    line, _ = run(tmp_path / "3", play(Answer(status=500)))
    assert line["reason"] == "expert_failed" and line["dropped"] == {"expert_failed": 4}


def test_one_plan_serves_every_image_with_the_question_and_several_take_turns(tmp_path):
    made = [item(n, score=3.0, template="omniquality_technical") for n in range(8)]
    plans, lock = [], threading.Lock()

    def reply(body):
        if not is_plan(body):
            return Answer(text=completion("fair"))
        with lock:
            plans.append(f"Plan {len(plans)}: look.")
            return Answer(text=plans[-1])

    pipeline = PlanThenReason(
        plan_sampling=SamplingConfig(num_samples=3, max_new_tokens=64), tolerance=2.0
    )
    with serving(reply) as server, pytest.raises(UserError, match="too_easy 8"):
        write_all(tmp_path / "a.jsonl", made, pipeline, server)
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    used = [json.loads(line)["notes"]["plan"] for line in lines]
    assert len(plans) == 3 and len(server.bodies) == 3 + 8
    assert len(set(used)) > 1 and set(used) <= set(plans)


def test_no_more_images_are_asked_about_than_a_task_wants(tmp_path):
    names = ["omniquality_technical", "omniquality_alignment"] * 6
    made = [item(n, score=3.0, template=name, prompt="a cat") for n, name in enumerate(names)]
    pipeline = PlanThenReason(counts={"quality": 2, "alignment": 3})
    turns, lock = itertools.cycle(different("fair", "bad")), threading.Lock()

    def reply(body):
        with lock:
            return Answer(text=PLAN if is_plan(body) else next(turns))

    sampling = SamplingConfig(num_samples=2, max_new_tokens=200)
    options = {"sampling": sampling, "concurrency": 1, "size": 4}
    with serving(reply) as server:
        lines, audit = write_all(tmp_path / "a.jsonl", made, pipeline, server, **options)
    assert Counter(line["group"] for line in lines) == {"quality": 2, "alignment": 3}
    assert audit["images"] == {"asked": 5, "not_asked": 7, "kept": 5}


@pytest.mark.parametrize(
    "options",
    [
        {"easy_share": 0.0},
        {"hard_share": 0.5, "easy_share": 0.5},
        {"easy_share": 1.5},
        {"tolerance": 0.0},
        {"texts": 0},
        {"reason_prompt": "{score}"},
        {"counts": {"technical": 1}},
    ],
)
def test_impossible_options(options):
    with pytest.raises(ValueError):
        PlanThenReason(**options)
