"""An answer piece by piece, with how unsure the model was of each."""

import dataclasses
from collections.abc import Callable, Sequence

_LONGEST_CHARACTER = 4
"""Bytes of UTF-8, so tokens, that a character may be spread over."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """A token, or the several that write one character.

    Attributes:
      text: what it writes.
      entropy: in nats, of the distribution that it was chosen from; the largest of several.
    """

    text: str
    entropy: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerTokens:
    """The tokens of one answer; read as text when asked, since few who score images do ask.

    Attributes:
      ids: of the tokens, the one that stops the answer included.
      entropies: in nats, at the temperature of sampling (1 for the most probable answer).
      decode: text of ids, without special tokens.
    """

    ids: tuple[int, ...]
    entropies: tuple[float, ...]
    decode: Callable[[Sequence[int]], str] = dataclasses.field(repr=False, compare=False)

    def pieces(self) -> list[Piece]:
        """The answer in pieces whose texts, one after another, are its text.

        A token that holds part of a character is joined with those that hold the rest.
        """
        found: list[Piece] = []
        begin = 0
        for end in range(1, len(self.ids) + 1):
            text = self.decode(self.ids[begin:end])
            is_whole = not text.endswith("\ufffd") or end - begin == _LONGEST_CHARACTER
            if not is_whole and end < len(self.ids):
                continue
            if text:
                found.append(Piece(text=text, entropy=max(self.entropies[begin:end])))
            begin = end
        return found
