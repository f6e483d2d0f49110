"""Rows of token ids as CLIP and SigLIP read them."""

import dataclasses

import numpy as np
import pytest
import tokenizers
from clip_fixtures import SIGLIP
from tokenizers import models

from jaxqa.errors import UserError
from jaxqa.models.clip.config import PRESETS
from jaxqa.models.clip.tokenizer import build_demo_tokenizer, canonical, load_tokenizer

TINY = PRESETS["tiny"]
CORPUS = ["Heavy noise; the quality is poor.", "Slight blur, most details remain."] * 3


@pytest.fixture(scope="module")
def demo():
    return build_demo_tokenizer(CORPUS, TINY)


@pytest.mark.torch
@pytest.mark.parametrize("text", [*CORPUS[:2], "", "naïve 12 x'll  über\n\tdone", "☃ 写真"])
def test_rows_equal_hugging_faces(demo, tmp_path, text):
    transformers = pytest.importorskip("transformers")
    demo.save(tmp_path)
    backend = transformers.AutoTokenizer.from_pretrained(tmp_path)
    expected = backend(text, padding="max_length", truncation=True, max_length=77)["input_ids"]
    np.testing.assert_array_equal(demo.row(demo.encode(text)), expected)


def test_the_demo_vocabulary_is_learned_and_deterministic(demo):
    assert len(demo.encode("heavy noise")) == 2
    again = build_demo_tokenizer(CORPUS, TINY)
    assert again.encode("heavy snow noise") == demo.encode("heavy snow noise")


def test_rows_keep_their_length_and_their_end(demo):
    assert demo.room == 75
    row = demo.row(list(range(2, 200)))
    assert row.shape == (77,) and row[0] == 0 and row[-1] == 1 and row[75] == 76
    row = demo.row([])
    assert row[0] == 0 and (row[1:] == 1).all()


def siglip_directory(path, *, end="</s>"):
    """A tokenizer of single words in SigLIP's file format."""
    vocab = {end: 1, "<unk>": 0} | {w: i for i, w in enumerate(["noise", "is", "heavy"], 2)}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.save(str(path / "tokenizer.json"))
    return path


def test_siglip_rows_have_no_start_and_are_canonical(tmp_path):
    loaded = load_tokenizer(siglip_directory(tmp_path), SIGLIP)
    assert loaded.room == 8
    row = loaded.row(loaded.encode("Noise, IS   heavy!?"))
    np.testing.assert_array_equal(row, [2, 3, 4, 1, 1, 1, 1, 1, 1])


def test_canonical_text():
    assert canonical("A, b;  C!\n'd'") == "a b c d"


def test_bad_directories_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(tmp_path, TINY)
    with pytest.raises(UserError, match="no tokenizer.json"):
        load_tokenizer(tmp_path, SIGLIP)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="expected a key 'model'"):
        load_tokenizer(tmp_path, SIGLIP)
    siglip_directory(tmp_path, end="</t>")
    with pytest.raises(UserError, match="lacks </s>"):
        load_tokenizer(tmp_path, SIGLIP)


def test_a_tokenizer_that_does_not_fit_is_refused(demo, tmp_path):
    demo.save(tmp_path)
    with pytest.raises(UserError, match="image tower only"):
        load_tokenizer(tmp_path, TINY.image_only())
    small = dataclasses.replace(TINY, text=dataclasses.replace(TINY.text, vocab_size=1))
    with pytest.raises(UserError, match="expected fewer than"):
        load_tokenizer(tmp_path, small)
    with pytest.raises(ValueError, match="vocab_size of at least 514"):
        build_demo_tokenizer(CORPUS, small)
