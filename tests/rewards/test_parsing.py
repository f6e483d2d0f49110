import numpy as np
import pytest
from jaxtyping import TypeCheckError

from jaxqa.rewards.parsing import parse_answer, parse_answers

GOOD = {
    "3.42": 3.42,
    " 3.42 ": 3.42,
    "\n4\n": 4.0,
    "5.": 5.0,
    ".5": 0.5,
    "+2.5": 2.5,
    "-0.25": -0.25,
    "1e1": 10.0,
    "0": 0.0,
    '{"rating": 3.2}': 3.2,
    '{"rating": 4}': 4.0,
    '\n{\n  "why": "sharp", "rating": -1e-1\n}\n': -0.1,
    '```json\n{"rating": 2.75}\n```': 2.75,
    "``` 2.5 ```": 2.5,
}
BAD = [
    "",
    " ",
    "great",
    "3.4 of 5",
    "3,4",
    "1.2.3",
    "3 4",
    "nan",
    "inf",
    "-Infinity",
    "1e400",
    "9" * 5000,
    "1e39",  # infinite in float32
    "٣",  # a digit, though not one of ours
    "0x10",
    "1_000",
    "--3",
    "``````",
    "```",
    "true",
    "[3.4]",
    '"3.4"',
    "{}",
    '{"rating": "3.2"}',
    '{"rating": null}',
    '{"rating": true}',
    '{"rating": NaN}',
    '{"rating": [3]}',
    '{"rating": 1e999}',
    '{"score": 3}',
    '{"rating": 3',
    "[" * 100_000,
    '{"rating":' * 5000,
]


@pytest.mark.parametrize(("answer", "score"), GOOD.items())
def test_answers_that_are_scores(answer: str, score: float):
    parsed = parse_answer(f"<think>x</think><answer>{answer}</answer>")
    assert (parsed.score, parsed.error) == (score, None)


@pytest.mark.parametrize("answer", BAD)
def test_answers_that_are_not_scores(answer: str):
    parsed = parse_answer(f"<think>x</think><answer>{answer}</answer>")
    assert parsed.score is None
    assert parsed.error is not None and len(parsed.error) < 120
    assert parsed.format_ok  # the layout is right all the same


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("", None),
        ("3.42", None),
        ("<answer>3.42", None),
        ("3.42</answer>", None),
        ("</answer>3<answer>", None),
        ("<Answer>3</Answer>", None),
        ("<answer>1</answer> no, <answer>2</answer>", 2.0),
        ("<answer>1</answer><answer>2", 1.0),
        ("<answer><answer>2</answer>", 2.0),
        ("<answer>1</answer> so <answer>good</answer>", None),
    ],
)
def test_the_last_complete_answer_counts(text: str, score: float | None):
    assert parse_answer(text).score == score


@pytest.mark.parametrize(
    ("text", "tags", "lines"),
    [
        ("<think>x</think><answer>3</answer>", True, False),
        (" <think> x\ny </think>\n\n<answer> 3 </answer>\n", True, False),
        ("<think></think><answer></answer>", True, False),
        ('<think>\nx\n</think>\n<answer>\n{"rating": 3}\n</answer>', True, True),
        ('<think> \n\nx\n\n </think> \n\n<answer> \n{"rating": 3}\n \n</answer>', True, True),
        ('<think>\nx\n</think>\n<answer>\n{"a": {"rating": 3}}\n</answer>', True, False),
        ('<think>\nx\n</think>\n<answer>\n {"rating": 3}\n</answer>', True, False),
        ('<think>\nx\n</think>\n <answer>\n{"rating": 3}\n</answer>', True, False),
        ('<think>\nx\n</think>\n<answer>\n{"rating": 3}</answer>', True, False),
        ('<think>\n</think>\n<answer>\n{"rating": 3}\n</answer>', True, False),
        ('<think>\nx\n</think>\n<answer>\n{"rating": 3}\n</answer>\n', True, False),
        ("<think>\nx\n</think>\n<answer>\n3\n</answer>", True, False),
        ("<answer>3</answer>", False, False),
        ("<answer>3</answer><think>x</think>", False, False),
        ("<think>x</think>so<answer>3</answer>", False, False),
        ("<think>x</think><answer>3</answer>.", False, False),
        ("hm <think>x</think><answer>3</answer>", False, False),
        ("<think>x<answer>3</answer></think>", False, False),
        ("<think>x</think><answer>3</answer><answer>3</answer>", False, False),
        ("<think>x<think>y</think><answer>3</answer>", False, False),
        ("<think>x</think><answer>3", False, False),
    ],
)
def test_layouts(text: str, tags: bool, lines: bool):
    assert parse_answer(text, layout="tags").format_ok == tags
    assert parse_answer(text, layout="lines").format_ok == lines


def test_scores_outside_the_range_are_not_scores():
    for answer, valid in (("1", True), ("5.0", True), ("5.01", False), ("-3", False)):
        parsed = parse_answer(f"<answer>{answer}</answer>", score_range=(1.0, 5.0))
        assert (parsed.score is not None) == valid
        assert valid or "outside [1, 5]" in (parsed.error or "")


def test_words_are_counted_over_the_whole_text():
    assert parse_answer("<think> a  b\nc </think><answer> 3 </answer>").word_count == 7
    assert parse_answer("").word_count == 0


def test_hostile_white_space_takes_linear_time():
    space = "\n " * 200_000
    text = f"<think>{space}</think>{space}<answer>```{space}</answer>{space}x"
    assert parse_answer(text, layout="lines").score is None


def test_parsed_groups_are_arrays():
    answers = parse_answers(
        [
            ["<think>a b</think><answer>2.5</answer>", "<answer>7</answer>"],
            ["", "<answer>0</answer>"],
        ],
        score_range=(0.0, 5.0),
    )
    np.testing.assert_array_equal(answers.score, np.float32([[2.5, 0], [0, 0]]))
    np.testing.assert_array_equal(answers.valid, [[True, False], [False, True]])
    np.testing.assert_array_equal(answers.format_ok, [[True, False], [False, False]])
    np.testing.assert_array_equal(answers.word_count, [[2, 1], [0, 1]])
    assert (answers.score.dtype, answers.word_count.dtype) == (np.float32, np.int32)


def test_ragged_groups_and_unknown_layouts_are_refused():
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        parse_answers([["a", "b"], ["c"]])
    with pytest.raises(ValueError, match="at least one"):
        parse_answers([])
    with pytest.raises((ValueError, TypeCheckError), match="markdown"):
        parse_answer("x", layout="markdown")  # pyright: ignore[reportArgumentType]
