"""Answers in pieces that people can read."""

import tiny_model

from jaxqa.scoring.tokens import AnswerTokens, Piece


def test_pieces_are_whole_characters():
    tokenizer = tiny_model.make_tokenizer()
    ids = tokenizer.encode("é – 🙂 sharp")
    tokens = AnswerTokens(
        ids=(*ids, tokenizer.eos_token_id),
        entropies=tuple(float(place) for place in range(len(ids) + 1)),
        decode=tokenizer.decode,
    )
    pieces = tokens.pieces()
    assert [piece.text for piece in pieces] == ["é", " ", "–", " ", "🙂", " sharp"]
    assert [piece.entropy for piece in pieces] == [1, 2, 5, 6, 10, 11]  # the largest of each


def test_what_is_no_text_is_shown_as_such():
    broken = "\ufffd"
    tokens = AnswerTokens(ids=(7,) * 5, entropies=(0.5,) * 5, decode=lambda ids: broken * len(ids))
    assert tokens.pieces() == [
        Piece(text=broken * 4, entropy=0.5),
        Piece(text=broken, entropy=0.5),
    ]


def test_nothing_written_has_no_pieces():
    assert AnswerTokens(ids=(), entropies=(), decode=str).pieces() == []
