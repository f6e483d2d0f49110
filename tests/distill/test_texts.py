"""Rationales to embeddings: policies for long ones, caching, blocks."""

import numpy as np
import pytest
from distill_fixtures import CLIP, draw_params, jit

from jaxqa.distill.texts import embed_texts, pieces
from jaxqa.models.clip.model import Clip, unit
from jaxqa.models.clip.tokenizer import build_demo_tokenizer

WORDS = ["noise", "blur", "quality", "poor", "good", "detail"]
SHORT = "noise blur. good detail."
LONG = "noise noise blur blur. quality poor poor. good detail good detail good detail; blur."


@pytest.fixture(scope="module")
def tokenizer():
    return build_demo_tokenizer([" ".join(WORDS), *WORDS] * 2, CLIP)


@pytest.fixture(scope="module")
def model():
    model = Clip(config=CLIP)
    return model, draw_params(CLIP)


def test_short_texts_are_one_piece(tokenizer):
    for policy in ("truncate", "sentences"):
        assert pieces(SHORT, tokenizer, policy=policy) == [tokenizer.encode(SHORT)]
        assert pieces("", tokenizer, policy=policy) == [[]]


def test_long_texts_are_cut_or_packed_by_sentences(tokenizer):
    ids = tokenizer.encode(LONG)
    assert len(ids) > tokenizer.room == 10
    assert pieces(LONG, tokenizer, policy="truncate") == [ids[:10]]
    packed = pieces(LONG, tokenizer, policy="sentences")
    assert sum(packed, []) == ids
    first = tokenizer.encode("noise noise blur blur. quality poor poor.")
    second = tokenizer.encode("good detail good detail good detail; blur.")
    assert packed == [first, second]


def test_a_sentence_longer_than_the_room_is_cut(tokenizer):
    text = "noise " * 24 + ". blur"
    packed = pieces(text, tokenizer, policy="sentences")
    assert [len(piece) for piece in packed] == [10, 10, 6]
    assert sum(packed, []) == tokenizer.encode(text)


def test_embeddings_are_unit_means_of_pieces(tokenizer, model):
    clip, params = model
    texts = [SHORT, LONG, SHORT, "poor"]
    found = embed_texts(clip, params, tokenizer, texts, policy="sentences")
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(found[0], found[2])
    embed = jit(lambda ids: unit(clip.text_embeddings(params, ids)))
    rows = np.stack([tokenizer.row(piece) for piece in pieces(LONG, tokenizer, policy="sentences")])
    mean = np.asarray(embed(rows)).mean(axis=0)
    np.testing.assert_allclose(found[1], mean / np.linalg.norm(mean), atol=1e-6)
    cut = embed_texts(clip, params, tokenizer, texts, policy="truncate")
    np.testing.assert_allclose(cut[[0, 3]], found[[0, 3]], atol=1e-6)
    assert np.abs(cut[1] - found[1]).max() > 0.01


def test_a_text_has_one_embedding_whatever_its_neighbours(tokenizer, model):
    clip, params = model
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 4)) for _ in range(70)]  # more than one block
    together = embed_texts(clip, params, tokenizer, texts, policy="truncate")
    alone = embed_texts(clip, params, tokenizer, texts[66:67], policy="truncate")
    np.testing.assert_array_equal(alone[0], together[66])
    assert embed_texts(clip, params, tokenizer, [], policy="truncate").shape == (0, 20)
