import dataclasses
import hashlib
import json
import re

import pytest
from tiny_set import tokenizer

from jaxqa.data import prompts
from jaxqa.data.records import Example
from jaxqa.errors import UserError

EXAMPLE = Example(example_id=1, image=b"", score=3.0, dataset="d", task="quality")


def saying(rationale):
    return dataclasses.replace(EXAMPLE, rationale=rationale)


def test_q_insight_is_the_published_wording():
    """The RACT paper's Table A.4, to the letter: released checkpoints were trained on it."""
    template = prompts.get_template("q_insight")
    text = f"{template.system}\n{template.question}"
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "689c7a0dc5ff53be7814e8ec89dc04a8f7f1a49a846f87d1c112e504391f8455"


def test_messages_put_the_image_before_the_question():
    template = prompts.get_template("q_insight")
    system, user = template.messages(EXAMPLE)
    assert system == {"role": "system", "content": template.system}
    assert user["role"] == "user"
    assert user["content"] == [{"type": "image"}, {"type": "text", "text": template.question}]
    silent = dataclasses.replace(template, system=None)
    assert silent.messages(EXAMPLE) == [user]


def test_concise_asks_for_thought_and_answer_in_few_tokens():
    template = prompts.get_template("concise")
    for part in ("<think>", "</think>", "<answer>", "</answer>", "1 to 5", "two decimals"):
        assert part in template.question
    rendered = tokenizer().render_chat(template.messages(EXAMPLE))
    assert len(tokenizer().encode(rendered)) <= 60  # a placeholder counts once


@pytest.mark.parametrize(
    ("score", "written"), [(3.4249, "3.42"), (1.0, "1.00"), (5.0, "5.00"), (2.995, "3.00")]
)
def test_target_of_a_number(score, written):
    target = prompts.get_template("concise").target(saying(" mild blur\n"), score)
    assert target == f"<think> mild blur </think><answer> {written} </answer><|im_end|>"


def test_target_of_json_is_json():
    target = prompts.get_template("q_insight").target(saying("mild blur"), 3.42)
    inside = re.fullmatch(r"<think> mild blur </think><answer> (.*) </answer><\|im_end\|>", target)
    assert inside is not None and json.loads(inside[1]) == {"rating": 3.42}


def test_target_ends_with_the_stop_token():
    ids = tokenizer().encode(prompts.get_template("concise").target(saying("mild blur"), 2.0))
    assert ids[-1] == tokenizer().eos_token_id
    assert ids.count(tokenizer().eos_token_id) == 1


@pytest.mark.parametrize("score", [0.99, 5.01, float("nan"), float("inf")])
def test_scores_outside_the_asked_range_are_refused(score):
    with pytest.raises(UserError, match="outside 1..5"):
        prompts.get_template("concise").target(saying("mild blur"), score)


@pytest.mark.parametrize(
    "rationale", ["", " \n", "blur </think> more", "a <answer> 5", "<|im_end|>"]
)
def test_rationales_that_break_the_format_are_refused(rationale):
    with pytest.raises(UserError, match="cannot be a target"):
        prompts.get_template("concise").target(saying(rationale), 2.0)


def test_unknown_names_list_the_known_ones():
    assert all(name == template.name for name, template in prompts.TEMPLATES.items())
    with pytest.raises(UserError, match="'brief'.*q_insight, .*concise"):
        prompts.get_template("brief")
