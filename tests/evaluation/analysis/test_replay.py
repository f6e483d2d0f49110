"""What a model saw and attended to, against Hugging Face's own eager attention."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_model

from jaxqa import sharding
from jaxqa.data.prompts import get_template
from jaxqa.errors import UserError
from jaxqa.evaluation.analysis import replay as replay_lib
from jaxqa.evaluation.analysis.replay import Replay
from jaxqa.evaluation.evaluator import Prediction
from jaxqa.scoring import loading
from jaxqa.scoring.expected import continue_prompts, cut_before_number

TEXT = "<think> sharp </think><answer> 3.42 </answer>"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("replay")
    tiny_model.make_model(place / "model", seed=3)
    tiny_model.write_image(place / "picture.png", (56, 84), 0)
    return place


@pytest.fixture(scope="module")
def replay(place):
    mesh = sharding.make_mesh(sharding.MeshConfig())
    model, encoder, params = loading.load_model(place / "model", mesh=mesh, max_pixels=56 * 84)
    # Random attention everywhere, so that nothing is even by accident.
    params = jax.jit(model.init)(jax.random.key(7))
    return Replay(model=model, encoder=encoder, params=params, template=get_template("concise"))


@pytest.fixture(scope="module")
def prediction(place):
    return Prediction(
        example_id=1,
        image=str(place / "picture.png"),
        dataset="jaxqa_demo",
        label=3.0,
        score=3.42,
        text=TEXT,
    )


def naive_logits(replay, prediction, ids):
    """Prompt and answer as one sequence."""
    longer = continue_prompts(replay.prompts(prediction), [ids], length=len(ids))
    start = int(np.asarray(longer.mask).sum()) - len(ids)
    hidden = np.asarray(jax.jit(replay.model.prompt_hidden)(replay.params, longer), np.float64)[0]
    return (
        hidden[start - 1 : start - 1 + len(ids)]
        @ np.asarray(replay.model.head(replay.params), np.float64).T
    )


def test_token_facts_equal_the_whole_sequence(replay, prediction):
    facts = replay.token_facts(prediction)
    assert "".join(facts.texts) == TEXT
    ids = replay.encoder.tokenizer.encode(TEXT)
    logits = naive_logits(replay, prediction, ids)
    log_probs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    np.testing.assert_allclose(
        facts.log_probs, log_probs[np.arange(len(ids)), ids], atol=2e-4, rtol=1e-4
    )
    np.testing.assert_allclose(
        facts.entropies, -(np.exp(log_probs) * log_probs).sum(-1), atol=2e-4, rtol=1e-4
    )


@pytest.mark.torch
def test_attention_is_hugging_faces(replay, prediction, place, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    from jaxqa.models.qwen2_5_vl import weights

    weights.save_pretrained(
        tmp_path / "export",
        replay.encoder.config,
        replay.params,
        source_dir=place / "model",
        image_config=replay.encoder.image_config,
    )
    model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
        tmp_path / "export", attn_implementation="eager"
    ).eval()
    from PIL import Image

    pixels = Qwen2VLImageProcessorPil.from_pretrained(tmp_path / "export")(
        images=[Image.open(prediction.image)], return_tensors="pt"
    )
    cut = cut_before_number(replay.encoder.tokenizer.encode(TEXT), replay.encoder.tokenizer)
    prompts = replay.prompts(prediction)
    real = np.asarray(prompts.mask)[0]
    ids = [*np.asarray(prompts.token_ids)[0, real].tolist(), *cut.token_ids]
    tensor = torch.tensor([ids])
    with torch.no_grad():
        output = model(
            input_ids=tensor,
            attention_mask=torch.ones_like(tensor),
            mm_token_type_ids=(tensor == replay.encoder.tokenizer.image_token_id).long(),
            **pixels,
            output_attentions=True,
        )
    expected = np.stack([layer[0].mean(0)[-1].numpy() for layer in output.attentions])
    longer = continue_prompts(prompts, [cut.token_ids], length=64)
    found = np.asarray(replay_lib._last_attention(replay.model, replay.params, longer))[
        :, 0, : len(ids)
    ]
    assert expected.shape == found.shape
    np.testing.assert_allclose(found, expected, atol=2e-5)
    shares = replay.attention_shares(prediction)
    is_image = np.array(ids) == replay.encoder.tokenizer.image_token_id
    np.testing.assert_allclose(shares.sum(-1), 1.0, atol=1e-5)
    np.testing.assert_allclose(shares[:, 0], expected[:, 0], atol=2e-5)
    np.testing.assert_allclose(shares[:, 2], expected[:, is_image].sum(-1), atol=1e-4)
    tokenizer, start = replay.encoder.tokenizer, int(real.sum())
    reasoning = TEXT.index("<answer>")
    ends = [len(tokenizer.decode(ids[start : start + n + 1])) for n in range(len(ids) - start)]
    said = start + 1 + next(n for n, end in enumerate(ends) if end >= reasoning)
    assert start < said < len(ids)
    np.testing.assert_allclose(shares[:, 3], expected[:, start:said].sum(-1), atol=1e-4)
    np.testing.assert_allclose(shares[:, 4], expected[:, said:].sum(-1), atol=1e-4)


@pytest.mark.parametrize("empty", ["", "<think> </think>"])
def test_an_answer_without_a_rationale_has_no_reasoning(replay, prediction, empty):
    text = f"{empty}<answer> 3.42 </answer>"
    shares = replay.attention_shares(dataclasses.replace(prediction, text=text))
    assert (shares[:, 3] == 0).all() and (shares[:, 4] > 0).all()


def test_features_are_means_over_real_tokens(replay, prediction):
    visual, textual = replay.features(prediction)
    width = replay.model.config.text.hidden_size
    assert visual.shape == textual.shape == (width,)
    ids = replay.encoder.tokenizer.encode(TEXT)
    longer = continue_prompts(replay.prompts(prediction), [ids], length=len(ids))
    real = int(np.asarray(longer.mask).sum())
    hidden = np.asarray(jax.jit(replay.model.prompt_hidden)(replay.params, longer))[0]
    np.testing.assert_allclose(textual, hidden[real - len(ids) : real].mean(0), atol=1e-4)
    other = dataclasses.replace(prediction, text="<answer> 1.00 </answer>")
    np.testing.assert_allclose(replay.features(other)[0], visual, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "gone.png"}, "gone.png: no such file"),
        ({"text": ""}, "its answer is empty"),
        ({"text": "no number"}, "has no number"),
    ],
)
def test_what_cannot_be_replayed_is_said(replay, prediction, change, message):
    with pytest.raises(UserError, match=message):
        replay.attention_shares(dataclasses.replace(prediction, **change))


def test_an_answer_about_alignment_is_read_with_the_images_text(replay, prediction):
    aligned = dataclasses.replace(replay, template=get_template("concise_alignment"))
    with pytest.raises(UserError, match="asks about the text"):
        aligned.prompts(prediction)

    def tokens(text: str) -> list[int]:
        prompts = aligned.prompts(dataclasses.replace(prediction, prompt=text))
        return np.asarray(prompts.token_ids)[0][np.asarray(prompts.mask)[0]].tolist()

    assert replay.encoder.tokenizer.decode(tokens("a red cat")).count("a red cat") == 1
    assert tokens("a red cat") != tokens("a blue cat")
