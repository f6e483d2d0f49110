"""The tree of numbers against brute force over all token sequences of small vocabularies."""

import itertools

import numpy as np
import pytest

from jaxqa.scoring.number_tree import (
    Vocabulary,
    admissible,
    build_tree,
    number_masses,
    wanted_tokens,
)

DIGITS = tuple("0123456789") + (".", " ", "<", "</", " </", "</answer>", "x", "")
MERGED = ("1", "2", "3", "0", ".", "1.", ".0", "00", "2.0", "0<", "1<", "<", "</", "x", "0x", "")
MERGED += ("5", "25", ".2", "50", "5<")
LONG = tuple("0123456789") + (".", "10", "100", "00", "1", "<", ".5", "0.0")


def conditional(sequence, size, seed):
    """A made-up language model: log-probabilities of the next token after a sequence."""
    key = [seed, len(sequence), *(token + 1 for token in sequence)]
    logits = np.random.default_rng(key).normal(size=size)
    return logits - np.log(np.exp(logits).sum())


def tree_log_probs(tree, wanted, seed):
    size = len(tree.vocabulary.texts)
    sequences, before = [()], [()]
    for level in tree.levels:
        pairs = zip(level.parents, level.tokens, strict=True)
        before = [(*before[parent], int(token)) for parent, token in pairs]
        sequences += before
    return np.array([conditional(s, size, seed)[wanted] for s in sequences], np.float32)


def brute_force(numbers, vocabulary, *, lead, closing, seed, longest):
    """Sum over every token sequence whose last token ends the number and begins the closing."""
    masses = dict.fromkeys(numbers, 0.0)
    texts = vocabulary.texts
    for length in range(1, longest + 1):
        for sequence in itertools.product(range(len(texts)), repeat=length):
            if any(not texts[token] for token in sequence):
                continue
            before, text = (
                "".join(texts[t] for t in sequence[:-1]),
                "".join(texts[t] for t in sequence),
            )
            if not text.startswith(lead):
                continue
            for number in numbers:
                written = lead + number
                rest = text[len(written) :]
                ends_here = len(before) <= len(written) < len(text)
                if text.startswith(written) and ends_here and rest:
                    if closing.startswith(rest) or rest.startswith(closing):
                        total = sum(
                            conditional(sequence[:i], len(texts), seed)[token]
                            for i, token in enumerate(sequence)
                        )
                        masses[number] += np.exp(total)
    return np.array(list(masses.values()))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("texts", "bounds", "lead", "closing", "longest"),
    [
        (MERGED[:9] + ("0<", "<", "</"), (1.0, 1.02), "", "</answer>", 5),
        (MERGED[:6] + ("0<", "<", "1<", "00"), (0.99, 1.01), "", "<", 5),
        (("0", "1", ".", " 1", " ", "<", " 1.0", "1."), (1.0, 1.01), " ", "</a>", 6),
        (("0", ".", "-", "1", "<", "-0", "0."), (-0.01, 0.0), "", "<", 6),
    ],
)
def test_every_way_of_writing_a_number_counts(texts, bounds, lead, closing, longest, seed):
    vocabulary, numbers = Vocabulary(tuple(texts)), admissible(*bounds)
    tree = build_tree(numbers, vocabulary, lead=lead)
    closers = tree.closers(closing)
    wanted = wanted_tokens(tree, [closers])
    found = number_masses(tree, closers, wanted, tree_log_probs(tree, wanted, seed))
    expected = brute_force(
        numbers, vocabulary, lead=lead, closing=closing, seed=seed, longest=longest
    )
    assert found.sum() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_single_digits_give_one_path_per_number():
    tree = build_tree(admissible(1.0, 5.0), Vocabulary(DIGITS))
    assert len(tree.values) == 401 and tree.values[0] == 1.0 and tree.values[-1] == 5.0
    np.testing.assert_allclose(np.diff(tree.values), 0.01)
    assert [len(level.tokens) for level in tree.levels] == [5, 5, 41, 401]
    closers = tree.closers(" </answer>")
    assert {DIGITS[token] for token in closers[:, 1]} == {" ", " </"}
    assert len(closers) == 2 * 401
    assert {DIGITS[t] for t in tree.closers("</answer>")[:, 1]} == {"<", "</", "</answer>"}


def test_a_hundred_is_no_beginning_of_ten():
    tree = build_tree(admissible(0.0, 100.0), Vocabulary(DIGITS))
    assert len(tree.values) == 10001
    texts = set(tree.texts)
    assert "100.00" in texts and "100.01" not in texts and "101" not in texts and "00" not in texts


def test_whole_probability_is_never_exceeded():
    for texts in (DIGITS, MERGED, LONG):
        vocabulary = Vocabulary(texts)
        tree = build_tree(admissible(0.9, 1.1), vocabulary)
        closers = tree.closers("</answer>")
        wanted = wanted_tokens(tree, [closers])
        masses = number_masses(tree, closers, wanted, tree_log_probs(tree, wanted, 3))
        assert 0 < masses.sum() < 1 and (masses >= 0).all()


def test_decimal_bounds_include_their_ends():
    assert admissible(0.1, 0.3)[0] == "0.10" and admissible(0.1, 0.3)[-1] == "0.30"
    assert admissible(1.005, 1.02) == ["1.01", "1.02"]
    assert admissible(-0.01, 0.01) == ["-0.01", "0.00", "0.01"]
    with pytest.raises(ValueError, match="no number with 2 decimals"):
        admissible(1.001, 1.009)


def test_tokens_that_cannot_write_numbers_are_refused():
    with pytest.raises(ValueError, match="no token sequence writes"):
        build_tree(admissible(1.0, 2.0), Vocabulary(("a", "b", "1")))
