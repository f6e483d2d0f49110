"""TATAR's two ways of thinking against an endpoint that plays expert and judge."""

import json

import pytest
from chat_server import Answer, item, pictures_of, prompt_of, serving, write_all

from jaxqa.data.readers.artimuse import KEY as ATTRIBUTES_KEY
from jaxqa.errors import UserError
from jaxqa.reasoning import keywords, wording
from jaxqa.reasoning.fast_slow import FastSlow, remarks

FAST = (
    "Fine grain covers the darker half of the frame and softens the bark of the trees, where "
    "texture should be crisp. The sky stays smooth and the exposure is even, so the flaw is plain "
    "to see without spoiling the view."
)
SLOW = (
    "The framing sets the lone tree against an empty field, and because the lines of the furrows "
    "run towards it, the eye has one way to go. Muted color and low light keep to one register. "
    "The focus is exact on the bark, while the far hedge dissolves. None of this is unusual, yet "
    "the idea of waiting comes across and the mood stays with the viewer. The parts hold together "
    "as a whole; what weakens it is the bare upper third, which asks for more than it gives. On "
    "balance the picture persuades by restraint rather than by surprise."
)
ATTRIBUTES = {
    "overall_evaluation": "Restrained and convincing.",
    "composition_structure": "A lone tree, furrows lead to it.",
    "visual_elements": "",
    "unheard_of": "Never shown.",
}


def completion(text: str, answer: str = "3.00") -> str:
    return f"<think>\n{text}\n</think>\n<answer>{answer}</answer>"


def fast_verdict(**changes) -> str:
    marks = {"visual_fidelity": 4, "technical_rigor": 1, "score_consistency": 3}
    return json.dumps({"decision": "keep", "reason": "ok"} | marks | changes)


def slow_verdict(**changes) -> str:
    marks = dict.fromkeys(("groundedness_no_fabrication", "reasoning_cohesion"), 4) | dict.fromkeys(
        ("attribute_coverage", "score_derivation_smoothness"), 0
    )
    return json.dumps({"decision": "keep", "reason": "ok"} | marks | changes)


def quality(number: int = 0, **fields):
    return item(number, score=3.0, **fields)


def beauty(number: int = 0, **fields):
    metadata = {"metadata": {ATTRIBUTES_KEY: ATTRIBUTES}} | fields
    return item(number, score=3.0, template="concise_aesthetics", **metadata)


def run(tmp_path, made, said: str, verdict: str, pipeline=None):
    def reply(body):
        judge = body["messages"][0]["role"] == "system"
        return Answer(text=verdict if judge else said)

    with serving(reply) as server:
        try:
            write_all(tmp_path / "a.jsonl", [made], pipeline or FastSlow(), server)
        except UserError as error:
            assert "none of 1 images was kept" in str(error)
        (line,) = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
        return line, server.bodies


def test_quality_gets_two_sentences_about_what_can_be_seen(tmp_path):
    line, (asked, judged) = run(tmp_path, quality(), completion(FAST), fast_verdict())
    assert line["kept"] and line["rationales"] == [FAST] and line["group"] == "fast"
    assert "measured as 3.00, from 1 (worst) to 5 (best)" in prompt_of(asked)
    assert "30 to 50 words" in prompt_of(asked) and len(pictures_of(asked)) == 1
    assert judged["messages"][0]["role"] == "system" and len(pictures_of(judged)) == 1
    assert FAST in prompt_of(judged) and judged["temperature"] == 0.0
    assert line["notes"]["texts"][0]["marks"]["visual_fidelity"] == 4


def test_what_follows_the_second_sentence_is_left_out(tmp_path):
    said = completion(FAST + " A third sentence (of no use) follows. And a fourth.")
    line, _ = run(tmp_path, quality(), said, fast_verdict())
    assert line["rationales"] == [FAST]


def test_aesthetics_gets_a_narrative_from_the_remarks_in_order(tmp_path):
    line, (asked, judged) = run(tmp_path, beauty(), completion(SLOW), slow_verdict())
    assert line["kept"] and line["rationales"] == [SLOW] and line["group"] == "slow"
    told = "composition structure: A lone tree, furrows lead to it.\noverall evaluation: Restr"
    assert told in prompt_of(asked) and "unheard" not in prompt_of(asked)
    assert "about 100 words, at least 80 and at most 260" in prompt_of(asked)
    assert pictures_of(asked) == [] and len(pictures_of(judged)) == 1
    assert "causal wording: yes" in prompt_of(judged)
    aspects = line["notes"]["texts"][0]["aspects"]
    assert len(aspects) >= 7 and f"by keyword: {', '.join(aspects)}" in prompt_of(judged)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (FAST, "layout"),
        (completion(FAST) + completion(FAST), "layout"),
        (completion(FAST) + "<answer>3</answer>", "layout"),
        (completion(FAST) + " So it is.", "layout"),
        (completion(f"<answer>3</answer>{FAST}"), "layout"),
        (completion("  "), "layout"),
        (f"<answer>3</answer><think>{FAST}</think>", "layout"),
        (completion(FAST + " ```python"), "bad_marker"),
        (completion(FAST + " <tool_call>"), "bad_marker"),
        (completion(FAST + " <Assistant>"), "bad_marker"),
        (completion(FAST + " The END"), "bad_marker"),
        ("Assistant: " + completion(FAST), "bad_marker"),
        (completion(FAST, "about 3"), "answer_not_a_number"),
        (completion(FAST, "3e0"), "answer_not_a_number"),
        (completion(FAST, "nan"), "answer_not_a_number"),
        (completion(FAST, "0.99"), "answer_out_of_range"),
        (completion(FAST, "73"), "answer_out_of_range"),
        (completion(FAST.replace("flaw", "3.0 flaw")), "score_leak"),
        (completion(FAST.replace("plain", "rated")), "score_leak"),
        (completion("Grainy. Dark."), "too_short"),
        (completion(FAST.replace(". The", ", and the")), "few_sentences"),
        (completion(FAST.replace(". The", ", and the") + " " + FAST), "too_long"),
    ],
)
def test_hard_checks_come_before_the_judge(tmp_path, said, reason):
    line, bodies = run(tmp_path, quality(), said, fast_verdict())
    assert line["reason"] == reason and line["dropped"] == {reason: 1} and len(bodies) == 1


def test_a_narrative_may_come_to_its_end(tmp_path):
    said = SLOW + " To begin with the tree was right, and in the end it succeeds."
    line, _ = run(tmp_path, beauty(), completion(said), slow_verdict())
    assert line["rationales"] == [said]


def test_narratives_have_checks_of_their_own(tmp_path):
    said = completion("word " * 79)
    line, _ = run(tmp_path / "1", beauty(), said, slow_verdict())
    assert line["reason"] == "too_short"
    line, _ = run(tmp_path / "2", beauty(), completion("word " * 261), slow_verdict())
    assert line["reason"] == "too_long"
    line, _ = run(tmp_path / "3", beauty(), completion("color tree light " * 40), slow_verdict())
    assert line["reason"] == "few_aspects" and line["detail"] == "visual_elements"
    line, bodies = run(tmp_path / "4", beauty(metadata={}), completion(SLOW), slow_verdict())
    assert line["reason"] == "no_attributes" and bodies == []
    line, bodies = run(tmp_path / "5", beauty(image=b"rubbish"), completion(SLOW), slow_verdict())
    assert line["reason"] == "unreadable_image" and bodies == []


@pytest.mark.parametrize(
    ("made", "said", "verdict", "reason"),
    [
        (quality, FAST, fast_verdict(visual_fidelity=2), "judge_visual_fidelity"),
        (quality, FAST, fast_verdict(score_consistency=2), "judge_score_consistency"),
        (quality, FAST, fast_verdict(decision="drop"), "judge_drop"),
        (quality, FAST, slow_verdict(), "judge_unreadable"),
        (quality, FAST, "fine by me", "judge_unreadable"),
        (beauty, SLOW, slow_verdict(reasoning_cohesion=2), "judge_reasoning_cohesion"),
        (beauty, SLOW, slow_verdict(attribute_coverage="?"), "judge_unreadable"),
    ],
)
def test_a_strict_judge(tmp_path, made, said, verdict, reason):
    line, bodies = run(tmp_path, made(), completion(said), verdict)
    assert line["reason"] == reason and len(bodies) == 2


def test_either_task_can_be_thought_about_either_way(tmp_path):
    swapped = FastSlow(
        fast_tasks=("aesthetics",),
        fast_prompt=wording.FAST_AESTHETICS,
        slow_prompt=wording.SLOW_QUALITY,
        min_aspects=0,
    )
    line, (asked, _) = run(tmp_path / "1", beauty(), completion(FAST), fast_verdict(), swapped)
    assert line["kept"] and line["group"] == "fast"
    assert "aesthetic score is 3.00" in prompt_of(asked) and len(pictures_of(asked)) == 1
    # No remarks stand behind a quality label: the picture has to do.
    line, (asked, _) = run(tmp_path / "2", quality(), completion(SLOW), slow_verdict(), swapped)
    assert line["kept"] and line["group"] == "slow" and line["rationales"] == [SLOW]
    assert "about 100 words" in prompt_of(asked) and len(pictures_of(asked)) == 1
    line, _ = run(
        tmp_path / "3", quality(), completion(SLOW), slow_verdict(), FastSlow(fast_tasks=())
    )
    assert line["reason"] == "no_attributes"


def test_options(tmp_path):
    long = FastSlow(slow_words=(125, 300), slow_aim=150, slow_judge_prompt="")
    line, (asked,) = run(tmp_path / "1", beauty(), completion(SLOW), "", long)
    assert line["reason"] == "too_short" and "about 150 words, at least 125" in prompt_of(asked)
    alone = FastSlow(fast_judge_prompt="")
    line, bodies = run(tmp_path / "2", quality(), completion(FAST), "", alone)
    assert line["kept"] and len(bodies) == 1
    words = FastSlow(fast_sentences=1, fast_words=(1, 30))
    line, _ = run(tmp_path / "3", quality(), completion(FAST), fast_verdict(), words)
    assert line["rationales"] == [FAST.split(". ")[0] + "."]
    line, _ = run(
        tmp_path / "4",
        quality(),
        completion(FAST),
        fast_verdict(visual_fidelity=1, score_consistency=1),
        FastSlow(min_mark=1.0),
    )
    assert line["kept"]
    for options in (
        {"fast_words": (50, 30)},
        {"fast_sentences": 0},
        {"min_aspects": 9},
        {"fast_tasks": ("speed",)},
        {"slow_prompt": "{remarks}"},
    ):
        with pytest.raises(ValueError):
            FastSlow(**options)


def test_keywords():
    touched = keywords.touched(SLOW, keywords.ATTRIBUTES)
    assert touched == [name for name in keywords.ATTRIBUTES if name in touched]
    assert keywords.touched("", keywords.ATTRIBUTES) == []
    assert keywords.touched("decomposition", keywords.DIMENSIONS) == []  # a word's beginning counts
    assert keywords.touched("Composed", keywords.DIMENSIONS) == ["composition"]
    assert keywords.has_causal_wording("It works BECAUSE of this.")
    assert not keywords.has_causal_wording("Sophisticated, sincere, thusly.")
    assert remarks(None) == "" == remarks({"overall_gestalt": " "}) == remarks("text")
