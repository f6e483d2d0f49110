import time

import numpy as np
import pytest

from jaxqa.rewards.answers import LAYOUTS
from jaxqa.rewards.labels import CHOICES, DISTORTION_CLASSES, SEVERITIES
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
    "-7": -7.0,
    "1e38": 1e38,
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
    assert parsed.layouts[LAYOUTS.index("tags")]  # the layout is right all the same


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
    ("text", "layouts"),
    [
        ("<think>x</think><answer>3</answer>", "tags"),
        (" <think> x\ny </think>\n\n<answer> 3 </answer>\n", "tags"),
        ("<think></think><answer></answer>", "tags"),
        ('<think>\nx\n</think>\n<answer>\n{"rating": 3}\n</answer>', "tags lines json"),
        (
            '<think> \n\nx\n\n </think> \n\n<answer> \n{"rating": 3}\n \n</answer>',
            "tags lines json",
        ),
        ('<think>\nx\n</think>\n<answer>\n{"a": {"rating": 3}}\n</answer>', "tags json"),
        ('<think>\nx\n</think>\n<answer>\n {"rating": 3}\n</answer>', "tags json"),
        ('<think>\nx\n</think>\n <answer>\n{"rating": 3}\n</answer>', "tags json"),
        ('<think>\nx\n</think>\n<answer>\n{"rating": 3}</answer>', "tags json"),
        ('<think>\n</think>\n<answer>\n{"rating": 3}\n</answer>', "tags json"),
        ('<think>\nx\n</think>\n<answer>\n{"rating": 3}\n</answer>\n', "tags json"),
        ("<think>\nx\n</think>\n<answer>\n{rating: 3}\n</answer>", "tags lines"),
        ("<think>\nx\n</think>\n<answer>\n}{\n</answer>", "tags"),
        ("<think>\nx\n</think>\n<answer>\n3\n</answer>", "tags"),
        ("<think>x</think><answer>[3]</answer>", "tags"),
        ('<think>x</think><answer>```json\n{"a": 1}\n```</answer>', "tags json"),
        ("<answer>3</answer>", "answer_only"),
        ("\n<answer>\n</answer> ", "answer_only"),
        ("so <answer>3</answer>", ""),
        ("<answer>3</answer></answer>", ""),
        ("<answer>3</answer><think>x</think>", ""),
        ("<think>x</think>so<answer>3</answer>", ""),
        ("<think>x</think><answer>3</answer>.", ""),
        ("hm <think>x</think><answer>3</answer>", ""),
        ("<think>x<answer>3</answer></think>", ""),
        ("<think>x</think><answer>3</answer><answer>3</answer>", ""),
        ("<think>x<think>y</think><answer>3</answer>", ""),
        ("<think>x</think><answer>3", ""),
        ("", ""),
    ],
)
def test_layouts(text: str, layouts: str):
    found = parse_answer(text).layouts
    assert [name for name, has in zip(LAYOUTS, found, strict=True) if has] == layouts.split()


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ('{"distortion_class": "blur", "severity": "serious"}', ("blur", "serious")),
        ('{"severity": "null", "why": 1, "distortion_class": "null"}', ("null", "null")),
        ('```json\n{"distortion_class": "noise", "severity": "slight"}```', ("noise", "slight")),
        ('{"distortion_class": "blur"}', ("blur", None)),
        ('{"severity": "slight"}', (None, "slight")),
        ('{"distortion_class": null, "severity": null}', (None, None)),
        ('{"distortion_class": "Blur", "severity": ["slight"]}', (None, None)),
        ('{"distortion_class": {"blur": 1}, "severity": 3}', (None, None)),
        ('{"distortion_class": "blur", "severity": "slight"', (None, None)),
        ('["blur", "slight"]', (None, None)),
        ("blur", (None, None)),
    ],
)
def test_degradations(answer: str, named: tuple[str | None, str | None]):
    parsed = parse_answer(f"<think>x</think><answer>{answer}</answer>")
    assert parsed.class_id == (DISTORTION_CLASSES.index(named[0]) if named[0] else -1)
    assert parsed.severity_id == (SEVERITIES.index(named[1]) if named[1] else -1)
    assert parsed.score is None and parsed.choice_id == -1


def test_choices():
    for place, name in enumerate(CHOICES):
        assert parse_answer(f"<answer>\n{name} </answer>").choice_id == place
    for answer in ("image a", "Image C", "A", "Image A or Image B", '"Image A"', ""):
        assert parse_answer(f"<answer>{answer}</answer>").choice_id == -1
    assert parse_answer("Image A").choice_id == -1


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
    assert parse_answer(text).score is None


@pytest.mark.parametrize(
    "piece", ["<answer>", "</answer>", "<think>", "</think>", "{", '{"a":', "9", " "]
)
def test_hostile_repetition_takes_linear_time(piece: str):
    for text in (piece * 200_000, f"<answer>{piece * 200_000}</answer>"):
        assert parse_answer(text).score is None


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
    layouts = [[["tags"], ["answer_only"]], [[], ["answer_only"]]]
    expected = [[[name in has for name in LAYOUTS] for has in row] for row in layouts]
    np.testing.assert_array_equal(answers.layouts, expected)
    np.testing.assert_array_equal(answers.word_count, [[2, 1], [0, 1]])
    assert (answers.score.dtype, answers.word_count.dtype) == (np.float32, np.int32)


def test_parsed_groups_carry_names():
    degradation = '{"distortion_class": "darken", "severity": "obvious"}'
    answers = parse_answers([[f"<answer>{degradation}</answer>", "<answer>Similar</answer>"]])
    np.testing.assert_array_equal(answers.class_id, [[3, -1]])
    np.testing.assert_array_equal(answers.severity_id, [[2, -1]])
    np.testing.assert_array_equal(answers.choice_id, [[-1, 2]])
    assert answers.class_id.dtype == answers.severity_id.dtype == np.int32
    assert not answers.valid.any()


def test_a_batch_takes_milliseconds():
    text = f'<think>{"sharp " * 160}</think><answer>{{"rating": 3.25}}</answer>'
    start = time.perf_counter()
    parse_answers([[text] * 6] * 64)
    assert time.perf_counter() - start < 0.25  # alone on a core: 4 ms


def test_ragged_groups_are_refused():
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        parse_answers([["a", "b"], ["c"]])
    with pytest.raises(ValueError, match="at least one"):
        parse_answers([])
