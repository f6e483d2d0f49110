"""A tiny model behind the scorer: one image, one score, to the last bit."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tiny_model

import jaxqa
from jaxqa.data.prompts import TEMPLATES, get_template
from jaxqa.errors import UserError
from jaxqa.files import write_json
from jaxqa.scoring.compare import Choice, combine, read_choice
from jaxqa.scoring.manifest import Manifest, manifest_values, read_manifest
from jaxqa.scoring.reasoner import answer_only
from jaxqa.scoring.scorer import Reply
from jaxqa.sharding import MeshConfig

PROMPTS = {
    "quality": "concise",
    "alignment": "concise_alignment",
    "comparison": "concise_comparison",
}
OPTIONS = {"mesh": MeshConfig(data=1), "block_rows": 3, "max_pixels": 20 * 28 * 28, "workers": 2}
SMALL, LARGE = (56, 56), (112, 140)  # 4 and 20 tokens: two buckets


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tiny_model.make_model(tmp_path_factory.mktemp("models") / "tiny")
    templates = {task: get_template(name) for task, name in PROMPTS.items()}
    asked = Manifest(templates=templates, max_new_tokens=12)
    write_json(directory / "jaxqa.json", manifest_values(asked))
    return directory


@pytest.fixture(scope="module")
def scorer(model):
    return jaxqa.load(model, **OPTIONS)


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    sizes = [SMALL, SMALL, LARGE, SMALL, LARGE, SMALL, SMALL]
    return [random.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def facts(score):
    """Everything in a result but its name."""
    distribution = score.distribution
    arrays = () if distribution is None else tuple(distribution.probabilities.tolist())
    mass = None if distribution is None else distribution.mass
    return score.score, score.text, score.samples, score.error, arrays, mass


def test_the_answers_are_those_that_the_model_was_made_for(scorer, images):
    found = scorer.score(images)
    assert scorer.tasks == ("quality", "alignment") and scorer.score_range() == (1.0, 5.0)
    for score in found:
        assert score.score == float(score.text.split()[1]) and score.error is None
        assert score.normalised == (score.score - 1) / 4
    assert len({score.score for score in found}) > 2


def test_entropies_are_those_of_a_forward_pass(scorer, images):
    """The sampler's, beside one pass over prompt and answer, whose logits SciPy reads."""
    found, asker = scorer.score([images[0]])[0], scorer.asker(scorer.question())
    pieces = found.tokens.pieces()
    assert "".join(piece.text for piece in pieces) == found.text
    _, prompts, _ = asker.dispatch([asker.prepare([images[0]], None)])
    ids = np.tile(np.array(found.tokens.ids, np.int32), (3, 1, 1))
    model, params = asker.scorer.model, asker.params
    hidden = np.asarray(jax.jit(model.group_hidden)(params, prompts, ids))[0, 0]
    logits = hidden.astype(np.float64) @ np.asarray(model.head(params), np.float64).T
    wanted = scipy.stats.entropy(scipy.special.softmax(logits, axis=-1), axis=-1)
    np.testing.assert_allclose(found.tokens.entropies, wanted, atol=2e-3)
    assert max(wanted) > 0.1


@pytest.mark.parametrize("mode", ["think", "mean", "expected"])
def test_an_image_has_one_score_alone_or_in_any_order(scorer, images, tmp_path, mode):
    question = scorer.question(mode=mode, samples=2 if mode == "mean" else None)
    if mode == "expected":  # of one bucket: it takes longest to compile
        images = [image for image in images if image.shape[:2] == SMALL]

    def score(pictures, batch_size=2):
        found = dict(scorer.stream(pictures, question, batch_size=batch_size))
        return [facts(found[number]) for number in range(len(pictures))]

    whole = score(images)
    assert [score([image])[0] for image in images[:3]] == whole[:3]
    repeated = score(
        [images[0], images[0], images[0], images[1], images[0]]
    )  # every row of a block
    assert repeated == [whole[0], whole[0], whole[0], whole[1], whole[0]]
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(len(images))
        found = score([images[place] for place in order], batch_size=1 + 2 * seed)
        assert found == [whole[place] for place in order]
    paths = []
    for number, image in enumerate(images):
        path = tiny_model.write_image(tmp_path / "ab"[number % 2] / f"{number}.png", SMALL, 0)
        tiny_model.Image.fromarray(image).save(path)
        paths.append(path)
    assert score(paths) == whole
    if mode == "mean":
        assert any(len(set(samples)) > 1 for _, _, samples, *_ in whole)
    if mode == "expected":
        assert all(sum(arrays) == pytest.approx(1) for *_, arrays, _ in whole)


def test_draws_have_a_seed(scorer, images):
    first, again, other = (
        [s.samples for s in scorer.score(images[:2], mode="mean", samples=2, seed=seed)]
        for seed in (0, 0, 1)
    )
    assert first == again and first != other


def test_a_number_outside_the_range_is_no_score(model, scorer, images):
    narrow = dataclasses.replace(get_template("concise"), low=2.75, high=2.8)
    found = jaxqa.load(model, prompts={"quality": narrow}, **OPTIONS).score(images)
    for score, answer in zip(found, scorer.score(images), strict=True):
        assert answer.score is not None
        if 2.75 <= answer.score <= 2.8:
            assert score.score == answer.score
        else:
            assert score.score is None and "lies outside [2.75, 2.8]" in str(score.error)
    assert len({score.error is None for score in found}) == 2


def test_an_answer_that_is_cut_off_is_no_score(model, images):
    (found,) = jaxqa.load(model, max_new_tokens=4, **OPTIONS).score(images[:1])
    assert found.score is None and found.error == "no <answer>...</answer>"
    assert found.text


def test_a_text_changes_the_question(scorer, images):
    texts = ["a cat", "a dog", "a cat"]
    found = scorer.score([images[0]] * 3, "alignment", texts)
    assert facts(found[0]) == facts(found[2]) and found[0].error is None


def test_three_images_are_compared_in_one_prompt(scorer, images):
    found = scorer.compare(images[0], images[1], reference=images[3])
    assert found.method == "prompt" and found.choice is None  # it answers with numbers
    assert found.error == "the answer is none of Image A, Image B, Similar"
    assert scorer.compare(images[0], images[1]).method == "scores"
    broken = scorer.compare(images[0], b"none", reference=images[3])
    assert "image B" in str(broken.error)


def reply(*answers):
    texts = [f"<think> why </think><answer> {answer} </answer>" for answer in answers]
    return read_choice(Reply(texts=texts, log_prob=0.0, distributions=None))


@pytest.mark.parametrize(
    ("forward", "backward", "choice", "preference", "consistent"),
    [
        (["Image A"], ["Image B"], "Image A", 1.0, True),
        (["Image B"], ["Image A"], "Image B", 0.0, True),
        (["Image A"], ["Image A"], "Similar", 0.5, False),  # always the first
        (["Image B"], ["Image B"], "Similar", 0.5, False),
        (["Similar"], ["Similar"], "Similar", 0.5, True),
        (["Image A"], ["Similar"], "Image A", 0.75, False),
        (["Image A", "Image A", "Image B"], ["Image B", "x", "Image B"], "Image A", 5 / 6, True),
    ],
)
def test_both_orders_cancel_the_position(forward, backward, choice, preference, consistent):
    found = combine(reply(*forward), reply(*backward))
    assert (found.choice, found.consistent) == (choice, consistent)
    assert found.preference == pytest.approx(preference) and found.rationales == ("why", "why")
    turned = combine(reply(*backward), reply(*forward))
    assert turned.preference == pytest.approx(1 - preference)


def test_no_choice_is_an_error():
    found = combine(Choice(answers=["Image A"]), reply("neither"))
    assert found.choice is None and "none of" in str(found.error)


def test_prompts_are_remembered_whole(tmp_path, model):
    assert read_manifest(model).templates["quality"] == get_template("concise")
    changed = dataclasses.replace(get_template("aes_r1"), question="How fine?", system="Be brief.")
    asked = Manifest(templates={"aesthetics": changed}, max_new_tokens=7)
    write_json(tmp_path / "jaxqa.json", manifest_values(asked))
    assert read_manifest(tmp_path) == asked


def test_a_model_that_remembers_nothing_has_the_default_prompts(tmp_path):
    found = read_manifest(tmp_path)
    assert found.templates["quality"].name == "q_insight" and found.max_new_tokens == 512


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format is 2, expected 1"),
        ({"prompts": []}, "expected prompts by task"),
        ({"prompts": {}}, "at least one prompt"),
        ({"prompts": {"quality": 3}}, "expected an object"),
        ({"prompts": {"taste": {"name": "x", "question": "?", "answer": "choice"}}}, "not one of"),
        ({"prompts": {"quality": {"name": "x", "question": "?"}}}, "answer is None"),
        ({"prompts": {"quality": {"name": "x", "think": "yes"}}}, "think is 'yes'"),
        ({"prompts": {"quality": {"name": "x", "answer": "number"}}}, "question"),
        ({"max_new_tokens": 0}, "max_new_tokens 0"),
        ({"max_new_tokens": "9"}, "whole number max_new_tokens"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_a_damaged_manifest_is_refused(tmp_path, change, message):
    values = manifest_values(Manifest(templates={"quality": get_template("concise")}))
    write_json(tmp_path / "jaxqa.json", {**values, **change})
    with pytest.raises(UserError, match="jaxqa.json.*") as caught:
        read_manifest(tmp_path)
    assert message in str(caught.value)


def test_answer_only_forms():
    assert answer_only(get_template("concise")) == get_template("concise_answer_only")
    assert answer_only(get_template("q_insight")).think is False
    with pytest.raises(UserError, match="has no answer-only form"):
        answer_only(get_template("aes_r1"))
    for name, template in TEMPLATES.items():
        if f"{name}_answer_only" in TEMPLATES:
            other = TEMPLATES[f"{name}_answer_only"]
            assert (other.task, other.low, other.high) == (
                template.task,
                template.low,
                template.high,
            )


def test_modes_that_a_prompt_does_not_have(model):
    fast = jaxqa.load(model, prompts={"quality": "concise_answer_only"}, **OPTIONS)
    assert fast.question().mode == "fast"
    with pytest.raises(UserError, match="mode 'think'"):
        fast.asker(fast.question(mode="think"))
    with pytest.raises(UserError, match="has no answer-only form"):
        fast.asker(fast.question("alignment", "fast"))
    with pytest.raises(UserError, match="scores quality, alignment"):
        fast.score([b""], "aesthetics")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": {"aesthetics": "concise"}}, "asks about quality, not about aesthetics"),
        ({"prompts": {"quality": "nobody"}}, "unknown prompt 'nobody'"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_pixels": 0}, "max_pixels"),
        ({"mesh": MeshConfig(data=2), "block_rows": 3}, "block_rows is 3; expected a multiple of"),
        ({"block_rows": 0}, "block_rows is 0"),
        ({"workers": 0}, "workers is 0"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_options_that_cannot_be_meant(model, options, message):
    with pytest.raises(UserError, match=message):
        jaxqa.load(model, **{**OPTIONS, **options})


def test_no_model_is_there(tmp_path):
    with pytest.raises(UserError, match="is not a directory"):
        jaxqa.load(tmp_path / "none")
    with pytest.raises(UserError, match="no model found; expected"):
        jaxqa.load(tmp_path)
