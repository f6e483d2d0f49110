"""AesCoT against an endpoint that plays expert and judge."""

import json
import random
from collections import Counter

import pytest
from chat_server import Answer, item, pictures_of, prompt_of, serving, write_all

from jaxqa.errors import UserError
from jaxqa.reasoning.aescot import AESCOT_3K, AESCOT_10K, AesCot
from jaxqa.sampling.config import SamplingConfig

CRITIQUE = (
    "Low sunlight models the faces, and the shadow leads inward. The mood is quiet. The "
    "composition leaves room on the left. Warm color holds it together, though the exposure costs "
    "some highlights."
)
MARKS = {"consistency": 4, "factual": 5, "natural": 4}


def judged(**changes) -> str:
    return json.dumps({"decision": "keep", "reason": "sound"} | MARKS | changes)


def is_judge(body) -> bool:
    return "critique" in prompt_of(body) and CRITIQUE[:20] in prompt_of(body)


def play(critique: str = CRITIQUE, verdict: str | Answer | None = None):
    def reply(body):
        if not is_judge(body):
            return Answer(text=critique)
        return verdict if isinstance(verdict, Answer) else Answer(text=verdict or judged())

    return reply


def outcome(tmp_path, reply, pipeline=None, **fields):
    made = item(0, **({"score": 0.62, "template": "aes_r1"} | fields))
    items = [made, item(1, score=0.9, template="aes_r1")]  # so that something may be kept
    with serving(reply) as server:
        try:
            lines, _ = write_all(tmp_path / "a.jsonl", items, pipeline or AesCot(), server)
        except UserError:
            lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
        return lines[0], server


def test_what_is_asked_and_what_is_kept(tmp_path):
    line, server = outcome(tmp_path, play())
    assert line["kept"] and line["rationales"] == [CRITIQUE] and line["group"] == "fair"
    (note,) = line["notes"]["texts"]
    assert len(note["dimensions"]) == 5 and note["marks"] == MARKS
    expert, judge = (
        next(b for b in server.bodies if is_judge(b) == wanted and "0.62" in prompt_of(b))
        for wanted in (False, True)
    )
    (message,) = expert["messages"]
    before, image, after = message["content"]
    assert image["type"] == "image_url"
    assert before["text"].endswith("The aesthetic rating of this picture ")
    assert after["text"].startswith(" is 0.62. Treat rating score (range 0-1, two-decimal")
    assert "Use English as your answer language.\nGo through five dimensions" in after["text"]
    assert "level is fair" in after["text"]
    assert len(pictures_of(judge)) == 1 and judge["temperature"] == 0.0
    assert '"decision": "keep" or "drop"' in prompt_of(judge)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (play(CRITIQUE + " Overall 0.6."), "score_leak"),
        (play(CRITIQUE + " It would be rated well."), "score_leak"),
        (play("The light is soft. The colors are warm."), "few_dimensions"),
        (play(f"<think>{CRITIQUE}"), "tags"),
        (play(verdict=judged(consistency=2)), "judge_consistency"),
        (play(verdict=judged(factual=0)), "judge_factual"),
        (play(verdict=judged(natural=2.9)), "judge_natural"),
        (play(verdict=judged(decision="drop")), "judge_drop"),
        (play(verdict=judged(decision="maybe")), "judge_unreadable"),
        (play(verdict=judged(factual="5")), "judge_unreadable"),
        (play(verdict=judged(factual=True)), "judge_unreadable"),
        (play(verdict=judged(factual=6)), "judge_unreadable"),
        (play(verdict=judged(factual=None)), "judge_unreadable"),
        (play(verdict=judged(factual=float("nan"))), "judge_unreadable"),
        (play(verdict="I like it."), "judge_unreadable"),
        (play(verdict="[1, 2]"), "judge_unreadable"),
        (play(verdict="[" * 100_000), "judge_unreadable"),
        (play(verdict=Answer(status=500)), "expert_failed"),
        (play(verdict=Answer(status=400)), "judge_unreadable"),
        (play(verdict=Answer(text='{"decision": "ke', finish="length")), "judge_unreadable"),
    ],
)
def test_what_is_dropped(tmp_path, reply, reason):
    line, _ = outcome(tmp_path, reply)
    assert not line["kept"] and line["reason"] == reason and line["rationales"] == []
    assert line["dropped"] == {reason: 1}


def test_verdicts_in_a_code_fence_and_critiques_in_think_tags_are_read(tmp_path):
    reply = play(f"<think>\n{CRITIQUE}\n</think>", f"```json\n{judged()}\n```")
    line, _ = outcome(tmp_path, reply)
    assert line["rationales"] == [CRITIQUE]


def test_options(tmp_path):
    line, server = outcome(tmp_path / "1", play(), AesCot(judge_prompt="", guidance=""))
    assert line["kept"] and not any(map(is_judge, server.bodies))
    assert "Go through" not in prompt_of(server.bodies[0])
    line, _ = outcome(tmp_path / "2", play(verdict=judged(natural=2)), AesCot(min_mark=2.0))
    assert line["kept"]
    line, _ = outcome(
        tmp_path / "3", play("Soft light."), AesCot(min_dimensions=0, judge_prompt="")
    )
    assert line["kept"]
    line, _ = outcome(tmp_path / "4", play(CRITIQUE + " 0.7 s."), AesCot(leak_tolerance=0.1))
    assert line["reason"] == "score_leak"
    line, _ = outcome(tmp_path / "5", play(), AesCot(bounds=(0.1, 0.3)))
    assert line["group"] == "good"
    for options, message in (
        ({"bounds": (0.7, 0.4)}, "bounds"),
        ({"counts": {"splendid": 1}}, "splendid"),
        ({"min_dimensions": 6}, "min_dimensions"),
        ({"prompt": "{scare}"}, r"gaps \['scare'\]"),
        ({"prompt": "{"}, "prompt: "),
        ({"prompt": "<image> and <image>"}, "several <image>"),
    ):
        with pytest.raises(ValueError, match=message):
            AesCot(**options)


def test_critiques_are_asked_for_until_every_level_has_enough(tmp_path):
    rng = random.Random(3)
    scores = [round(rng.betavariate(4, 4), 2) for _ in range(40)]
    items = [item(number, score=score, template="aes_r1") for number, score in enumerate(scores)]
    level = lambda s: "bad" if s < 0.4 else "fair" if s < 0.7 else "good"  # noqa: E731
    there = Counter(map(level, scores))
    assert there["bad"] > 4 and there["fair"] > 3
    pipeline = AesCot(counts={"bad": 4, "fair": 3}, judge_prompt="")
    with serving(lambda body: Answer(text=CRITIQUE)) as server:
        lines, audit = write_all(tmp_path / "a.jsonl", items, pipeline, server, size=5)
        assert len(server.bodies) == 7
        again, _ = write_all(tmp_path / "a.jsonl", items, pipeline, server, size=5)
        assert again == lines and len(server.bodies) == 7
    assert Counter(line["group"] for line in lines) == {"bad": 4, "fair": 3}
    assert audit["images"] == {"asked": 7, "not_asked": 33, "kept": 7}
    assert audit["groups"] == {
        "bad": {"wanted": 4, "asked": 4, "kept": 4},
        "fair": {"wanted": 3, "asked": 3, "kept": 3},
    }


def test_a_level_goes_on_after_critiques_that_were_dropped(tmp_path):
    items = [item(number, score=0.5, template="aes_r1") for number in range(10)]
    first = {"left": 3}

    def reply(body):
        first["left"] -= 1
        return Answer(text="0.5" if first["left"] >= 0 else CRITIQUE)

    pipeline = AesCot(counts={"fair": 4}, judge_prompt="")
    with serving(reply) as server:
        lines, audit = write_all(
            tmp_path / "a.jsonl", items, pipeline, server, size=4, concurrency=1
        )
    assert audit["images"] == {"asked": 7, "not_asked": 3, "kept": 4, "score_leak": 3}
    assert len(lines) == 7


def test_several_critiques_of_a_picture(tmp_path):
    sampling = SamplingConfig(num_samples=3, max_new_tokens=64)
    texts = [CRITIQUE, CRITIQUE + " It is scored.", CRITIQUE + " Calm."]

    def reply(body):
        return Answer(text=judged() if is_judge(body) else texts.pop())

    with serving(reply) as server:
        lines, audit = write_all(
            tmp_path / "a.jsonl",
            [item(0, score=0.5, template="aes_r1")],
            AesCot(),
            server,
            sampling=sampling,
        )
    assert sorted(map(len, lines[0]["rationales"])) == [len(CRITIQUE), len(CRITIQUE) + 6]
    assert audit["texts"] == {"asked": 3, "kept": 2, "score_leak": 1}


def test_published_compositions():
    assert sum(AESCOT_3K.values()) == 3000 and sum(AESCOT_10K.values()) == 9900
    AesCot(counts=AESCOT_3K)


def test_an_image_without_a_score_is_dropped_and_counted(tmp_path):
    labels = (None, float("nan"), float("inf"), -0.2, 1.01, 0.5)
    items = [item(n, score=label, template="aes_r1") for n, label in enumerate(labels)]
    with serving(play()) as server:
        lines, audit = write_all(tmp_path / "a.jsonl", items, AesCot(), server)
        assert len(server.bodies) == 2
    assert audit["images"] == {"asked": 6, "not_asked": 0, "kept": 1, "unlabelled": 5}
    assert "1.01 is outside 0..1" in lines[4]["detail"] and lines[1]["score"] is None
    with serving(play()) as server:
        pipeline = AesCot(counts={"fair": 1, "good": 2})
        _, audit = write_all(tmp_path / "b.jsonl", items, pipeline, server)
        assert len(server.bodies) == 2
    assert audit["images"] == {"asked": 6, "not_asked": 0, "kept": 1, "unlabelled": 5}
    assert audit["groups"]["good"] == {"wanted": 2, "asked": 0, "kept": 0}  # none is there
