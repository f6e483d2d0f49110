"""Rationales to embeddings of a frozen text tower, computed once."""

import re
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np

from jaxqa import processes
from jaxqa.models.clip.model import Clip, unit
from jaxqa.models.clip.tokenizer import ClipTokenizer
from jaxqa.typing import Float, Int, Params

TextPolicy = Literal["truncate", "sentences"]
"""What becomes of a text that is longer than the tower's row (77 tokens in CLIP).

truncate: its beginning.
sentences: it is cut after sentences into pieces as long as fit (a sentence that does not fit is cut
where the room ends), and its embedding is the direction of the mean of its pieces' unit embeddings.
"""

_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\n+")
_ROWS_AT_ONCE = 64


def pieces(text: str, tokenizer: ClipTokenizer, *, policy: TextPolicy) -> list[list[int]]:
    """Token ids of a text, without special tokens, in pieces that fit into rows; at least one."""
    ids = tokenizer.encode(text)
    room = tokenizer.room
    if len(ids) <= room:
        return [ids]
    if policy == "truncate":
        return [ids[:room]]
    packed: list[list[int]] = []
    for sentence in filter(None, _SENTENCE_END.split(text)):
        words = tokenizer.encode(sentence)
        if packed and len(packed[-1]) + len(words) <= room:
            packed[-1] = packed[-1] + words
            continue
        packed += [words[start : start + room] for start in range(0, len(words), room)]
    return packed


def embed_texts(
    model: Clip,
    params: Params,
    tokenizer: ClipTokenizer,
    texts: Sequence[str],
    *,
    policy: TextPolicy,
) -> Float[np.ndarray, "N E"]:
    """Unit embeddings of `texts`, float32; a text that comes twice is computed once.

    Args:
        model: both towers.
        params: its parameters; only the text tower's are used.
        tokenizer: the text tower's.
        texts: any number of them.
        policy: see `TextPolicy`.
    """
    place = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    cut = [pieces(text, tokenizer, policy=policy) for text in place]
    rows = np.array([tokenizer.row(ids) for piece in cut for ids in piece], np.int32)
    owner = np.repeat(np.arange(len(cut)), [len(piece) for piece in cut])
    embedded = _embed_rows(model, params, rows.reshape(-1, tokenizer.length))
    sums = np.zeros((len(cut), embedded.shape[1]), np.float64)
    np.add.at(sums, owner, embedded)
    sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return sums.astype(np.float32)[[place[text] for text in texts]]


def _embed_rows(
    model: Clip, params: Params, rows: Int[np.ndarray, "N T"]
) -> Float[np.ndarray, "N E"]:
    """Unit embeddings of token rows, in blocks of one compiled shape; each process does a part."""

    @jax.jit
    def run(params, ids):
        return unit(model.text_embeddings(params, ids))

    if not len(rows):
        return np.zeros((0, model.config.projection_dim), np.float32)
    size = -(-len(rows) // processes.count())
    mine = rows[jax.process_index() * size :][:size]
    found = np.zeros((size, model.config.projection_dim), np.float32)
    for start in range(0, len(mine), _ROWS_AT_ONCE):
        part = mine[start : start + _ROWS_AT_ONCE]
        block = np.zeros((_ROWS_AT_ONCE, rows.shape[1]), np.int32)
        block[: len(part)] = part
        found[start : start + len(part)] = np.asarray(run(params, block))[: len(part)]
    return processes.gather_parts(found)[: len(rows)]
