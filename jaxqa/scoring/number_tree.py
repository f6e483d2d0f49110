"""All ways in which a tokenizer can write a number of a range with two decimals.

The nodes of the tree are token sequences whose text begins an admissible number; one text can be
reached by several sequences, and each counts, because the model gives each its own probability. A
number is written once a token has begun the text that closes it.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from jaxqa.typing import Float, Int

DECIMALS = 2
MAX_NODES = 200_000


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Token texts by id; tokens without text (special ones) are never part of a number."""

    texts: tuple[str, ...]

    def made_of(self, alphabet: set[str]) -> list[tuple[int, str]]:
        """Ids and texts of the tokens that hold these characters only, at least one."""
        return [(i, text) for i, text in enumerate(self.texts) if text and alphabet >= set(text)]

    def closing(self, closing: str, alphabet: set[str]) -> list[tuple[int, str]]:
        """Ids of tokens that begin to write `closing`, and what of `alphabet` they write before."""
        return [
            (token, text[:split])
            for token, text in enumerate(self.texts)
            for split in range(len(text))
            if alphabet >= set(text[:split])
            and (closing.startswith(text[split:]) or text[split:].startswith(closing))
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Level:
    """Nodes of one depth.

    Attributes:
      parents: int32 [G], place of each node's parent in the level before.
      tokens: int32 [G], the token that leads to it.
    """

    parents: np.ndarray
    tokens: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class NumberTree:
    """Token sequences that begin an admissible number; node 0 is the empty one.

    Attributes:
      values: float64 [N], the admissible numbers, ascending.
      levels: nodes of depth 1, 2, ...; nodes are numbered level by level.
      texts: what each node has written, the root's "" first.
      complete: text of an admissible number, with what stands before it -> its place in `values`.
      vocabulary: tokens by id.
    """

    values: np.ndarray
    levels: tuple[Level, ...]
    texts: tuple[str, ...]
    complete: dict[str, int]
    vocabulary: Vocabulary

    def closers(self, closing: str) -> Int[np.ndarray, "E 3"]:
        """Rows (node, token, place in `values`): this token ends the number and begins `closing`.

        A token counts if its text is the rest of the number, if any is left, and then a beginning
        of `closing`, at least one character, or all of it and more.
        """
        tokens = self.vocabulary.closing(closing, set("".join(self.complete)))
        rows = [
            (node, token, self.complete[written + rest])
            for node, written in enumerate(self.texts)
            for token, rest in tokens
            if written + rest in self.complete
        ]
        return np.array(rows, np.int32).reshape(-1, 3)


def admissible(low: float, high: float) -> list[str]:
    """Numbers from `low` to `high` with two decimals, as text, ascending."""
    unit = 10**DECIMALS
    first, last = math.ceil(low * unit - 1e-9), math.floor(high * unit + 1e-9)
    if first > last:
        raise ValueError(f"no number with {DECIMALS} decimals lies in [{low}, {high}]")
    return [f"{step / unit:.{DECIMALS}f}" for step in range(first, last + 1)]


def build_tree(numbers: Sequence[str], vocabulary: Vocabulary, *, lead: str = "") -> NumberTree:
    """The tree of all token sequences that begin `lead` and one of `numbers`.

    Args:
      numbers: admissible numbers as text, ascending.
      vocabulary: the tokenizer's.
      lead: text that the last token before the number had already begun to write, usually none.

    Raises:
      ValueError: the tokens cannot write a number, or in far too many ways.
    """
    complete = {lead + number: place for place, number in enumerate(numbers)}
    beginnings = {text[:end] for text in complete for end in range(len(text) + 1)}
    tokens = vocabulary.made_of(set("".join(complete)))
    texts, levels, frontier = [""], [], [""]
    while frontier:
        children = [
            (place, token, written + text)
            for place, written in enumerate(frontier)
            for token, text in tokens
            if written + text in beginnings
        ]
        frontier = [text for _, _, text in children]
        texts += frontier
        if len(texts) > MAX_NODES:
            raise ValueError(
                f"the tokenizer writes numbers from {numbers[0]} to {numbers[-1]} in more than "
                f"{MAX_NODES} ways; narrow the prompt's range"
            )
        if children:
            parents, ids, _ = zip(*children, strict=True)
            levels.append(
                Level(parents=np.array(parents, np.int32), tokens=np.array(ids, np.int32))
            )
    if not set(texts) & complete.keys():
        raise ValueError(f"no token sequence writes {numbers[0]}; is this the model's tokenizer?")
    return NumberTree(
        values=np.array([float(number) for number in numbers]),
        levels=tuple(levels),
        texts=tuple(texts),
        complete=complete,
        vocabulary=vocabulary,
    )


def wanted_tokens(tree: NumberTree, closers: Iterable[np.ndarray]) -> Int[np.ndarray, " R"]:
    """Ids whose probability matters anywhere in the tree, ascending."""
    inside = [level.tokens for level in tree.levels]
    return np.unique(np.concatenate([*inside, *(rows[:, 1] for rows in closers)]))


def number_masses(
    tree: NumberTree,
    closers: Int[np.ndarray, "E 3"],
    wanted: Int[np.ndarray, " R"],
    log_probs: Float[np.ndarray, "M R"],
) -> Float[np.ndarray, " N"]:
    """Probability of writing each admissible number and then beginning the closing text.

    Args:
      tree: M nodes.
      closers: from `tree.closers`.
      wanted: ids of the columns of `log_probs`, ascending.
      log_probs: of each wanted token after each node.
    """
    log_probs = log_probs.astype(np.float64)
    paths = [np.zeros(1)]
    start = 0  # of the level before
    for level in tree.levels:
        steps = log_probs[start + level.parents, np.searchsorted(wanted, level.tokens)]
        start += len(paths[-1])
        paths.append(paths[-1][level.parents] + steps)
    node, token, value = closers.T
    ends = np.concatenate(paths)[node] + log_probs[node, np.searchsorted(wanted, token)]
    return np.bincount(value, weights=np.exp(ends), minlength=len(tree.values))
