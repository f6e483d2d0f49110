"""Decoding modes, what several answers come to, and the ladder of shapes."""

import dataclasses

import numpy as np
import pytest
import tiny_model

from jaxqa.data.encoding import PromptEncoder
from jaxqa.data.prompts import get_template
from jaxqa.data.records import Example
from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl.preprocess import ImageConfig
from jaxqa.scoring.decoding import Decoding
from jaxqa.scoring.expected import ScoreDistribution
from jaxqa.scoring.loading import standard_buckets
from jaxqa.scoring.scorer import judge

EXAMPLE = Example(example_id=1, image=b"", score=2.0, dataset="jaxqa_demo", task="quality")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "greedy", "samples": 2}, "greedy decoding writes one answer"),
        ({"mode": "greedy", "temperature": 1.0}, "greedy decoding writes one answer"),
        ({"mode": "mean"}, "would all be the same"),
        ({"mode": "expected", "samples": 4}, "would all be the same"),
        ({"mode": "mean", "temperature": 1.0, "samples": 0}, "num_samples is 0"),
        ({"mode": "mean", "temperature": 1.0, "top_p": 0.0}, "top_p is 0.0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_modes_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Decoding(**options)


def test_labels_tell_modes_apart():
    modes = [
        Decoding(),
        Decoding(mode="mean", samples=4, temperature=0.7),
        Decoding(mode="expected"),
        Decoding(mode="expected", samples=4, temperature=0.7),
    ]
    assert len({mode.label for mode in modes}) == 4
    assert modes[1].label == "mean of 4 at temperature 0.7"
    assert modes[1].sampling(9).num_samples == 4 and modes[1].sampling(9).max_new_tokens == 9


def distribution(probabilities, mass=0.5):
    return ScoreDistribution(
        values=np.array([1.0, 2.0, 5.0]), probabilities=np.array(probabilities), mass=mass
    )


def test_answers_without_a_number_are_left_out_of_the_mean():
    answer = judge(EXAMPLE, ["<answer>2</answer>", "no", "<answer>3</answer>"])
    assert answer.score == 2.5 and answer.error is None
    assert answer.samples == (2.0, None, 3.0) and answer.spread == 0.5
    none = judge(EXAMPLE, ["no", "nor here"])
    assert none.score is None and "no <answer>" in str(none.error) and none.spread is None
    one = judge(EXAMPLE, ["<answer>2</answer>"])
    assert one.samples == () and one.spread is None


def test_expected_scores_average_the_distributions():
    first, second = distribution([0.5, 0.5, 0.0], 0.9), distribution([0.0, 0.0, 1.0], 0.7)
    assert first.mean == 1.5 and first.spread == 0.5
    texts = ["<answer>2</answer>", "<answer>5</answer>", "cut off"]
    answer = judge(EXAMPLE, texts, [first, second, None])
    assert answer.score == 3.25 and answer.samples == (1.5, 5.0, None)
    np.testing.assert_allclose(answer.distribution.probabilities, [0.25, 0.25, 0.5])
    assert answer.distribution.mass == pytest.approx(0.8)
    assert answer.spread == pytest.approx(np.sqrt(0.25 * 2.25**2 + 0.25 * 1.25**2 + 0.5 * 1.75**2))
    lost = judge(EXAMPLE, ["<answer>2</answer>"], [None])
    assert lost.score is None and "no admissible number" in str(lost.error)


@pytest.fixture(scope="module")
def encoder():
    tokenizer = tiny_model.make_tokenizer()
    config = tiny_model.make_config(tokenizer)
    return PromptEncoder(
        tokenizer, config=config, image_config=ImageConfig(max_pixels=28 * 28 * 400)
    )


@pytest.mark.parametrize("name", ["concise", "q_insight"])
def test_every_picture_finds_a_bucket(encoder, name):
    template = get_template(name)
    buckets = standard_buckets(encoder, template, max_new_tokens=100)
    lengths = np.array(buckets.prompt_lengths)
    assert (np.diff(lengths) > 0).all() and (lengths[1:] / lengths[:-1] <= 1.26).all()
    for height, width in ((28, 28), (560, 560), (512, 384), (100, 5000), (3000, 200), (4000, 3000)):
        measured = encoder.measure(template.messages(EXAMPLE), [(height, width)])
        chosen = buckets.index(*measured)
        assert lengths[chosen] >= measured[0]
        if max(height, width) < 3 * min(height, width) and measured[0] > 200:
            assert lengths[chosen] <= 1.3 * measured[0]


def test_a_prompt_without_room_is_refused(encoder):
    positions = encoder.config.text.max_position_embeddings
    with pytest.raises(UserError, match="lower max_new_tokens"):
        standard_buckets(encoder, get_template("concise"), max_new_tokens=positions)
    longest = standard_buckets(
        encoder, get_template("concise"), max_new_tokens=positions - 100
    ).prompt_lengths[-1]
    assert longest <= 100


def test_alignment_prompts_have_room_for_their_texts(encoder):
    template = get_template("concise_alignment")
    example = dataclasses.replace(EXAMPLE, prompt="a very long description " * 12)
    buckets = standard_buckets(encoder, template, max_new_tokens=100)
    buckets.index(*encoder.measure(template.messages(example), [(560, 560)]))
