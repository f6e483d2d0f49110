"""The expected score: exact over every two-decimal number that the prompt admits.

After a rationale, the tree of admissible numbers is expanded level by level on the prompt's keys
and values, which all branches share; each number gets the probability of all token sequences that
write it and then begin the text that closes the answer. No branch is cut and no marginals are
multiplied. The distribution is divided by the mass of all admissible numbers, which is reported.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxqa import processes, sharding
from jaxqa.data.tokenizer import Tokenizer
from jaxqa.models.qwen2_5_vl.inputs import Prompts
from jaxqa.rewards.parsing import parse_answer
from jaxqa.sampling.sampler import Decoder
from jaxqa.scoring import number_tree
from jaxqa.scoring.number_tree import NumberTree, Vocabulary
from jaxqa.typing import Array, Float, Int, Params

_OPEN, _CLOSE = "<answer>", "</answer>"
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_RATING = re.compile(r'"rating"\s*:\s*')
_CHUNK_LOGITS = 2**27  # values of a block of logits, to bound memory
_WANTED_AT_ONCE = 32  # a fixed number, so that what others have answered changes no shape
_BEFORE_NUMBERS = ">:`n"  # of `<answer>`, `"rating":` and "```json"; else it is white space


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreDistribution:
    """Probabilities of scores.

    Attributes:
      values: float64 [N], ascending, on the prompt's scale.
      probabilities: float64 [N], sum 1.
      mass: their sum before it was divided out.
    """

    values: np.ndarray
    probabilities: np.ndarray
    mass: float

    @property
    def mean(self) -> float:
        """The expected score."""
        return float(self.values @ self.probabilities)

    @property
    def spread(self) -> float:
        """Standard deviation."""
        return float(np.sqrt(np.square(self.values - self.mean) @ self.probabilities))

    def __repr__(self) -> str:
        """One line: hundreds of numbers help nobody at a prompt."""
        return (
            f"ScoreDistribution(mean={self.mean:.4g}, spread={self.spread:.4g}, "
            f"{len(self.values)} values, mass={self.mass:.4g})"
        )

    def to_json(self) -> dict[str, Any]:
        """What another process makes the same distribution of."""
        arrays = {"values": self.values.tolist(), "probabilities": self.probabilities.tolist()}
        return {**arrays, "mass": self.mass}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ScoreDistribution":
        """The distribution that `to_json` described."""
        return cls(
            values=np.array(values["values"], np.float64),
            probabilities=np.array(values["probabilities"], np.float64),
            mass=values["mass"],
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut:
    """A completion cut just before its number.

    Attributes:
      token_ids: what comes before.
      lead: text before the number that the tokens do not hold, because one token writes both.
      closing: text after the number, up to the end of the answer.
    """

    token_ids: Sequence[int]
    lead: str
    closing: str


def cut_before_number(token_ids: Sequence[int], tokenizer: Tokenizer) -> Cut | None:
    """Cut a completion before the number of its last `<answer>`; None if it has none."""
    text = tokenizer.decode(token_ids)
    if parse_answer(text).score is None:
        return None
    begin = text.rfind(_OPEN, 0, text.rfind(_CLOSE)) + len(_OPEN)
    end = text.find(_CLOSE, begin)
    rating = _RATING.search(text, begin, end)
    number = _NUMBER.search(text, rating.end() if rating else begin, end)
    if number is None:
        return None
    for length in range(len(token_ids), -1, -1):
        before = tokenizer.decode(token_ids[:length])
        if len(before) <= number.start() and text.startswith(before):
            return Cut(
                token_ids=tuple(token_ids[:length]),
                lead=text[len(before) : number.start()],
                closing=text[number.end() : end + len(_CLOSE)],
            )
    raise AssertionError("the empty completion is a beginning of any text")


def continue_prompts(prompts: Prompts, written: Sequence[Sequence[int]], *, length: int) -> Prompts:
    """Prompts with `length` more slots, that go on with what was `written` after each (NumPy)."""
    fields: dict[str, Any] = {
        f.name: np.asarray(getattr(prompts, f.name)) for f in dataclasses.fields(prompts)
    }
    for name, fill in (("token_ids", 0), ("mask", False), ("positions", 0), ("vision_index", -1)):
        array = fields[name]
        widths = [(0, 0)] * (array.ndim - 1) + [(0, length)]
        fields[name] = np.pad(array, widths, constant_values=fill)
    fields["next_position"] = fields["next_position"].copy()
    for row, ids in enumerate(written):
        start = int(fields["mask"][row].sum())
        place, count = slice(start, start + len(ids)), len(ids)
        fields["token_ids"][row, place] = ids
        fields["mask"][row, place] = True
        fields["vision_index"][row, place] = -1
        fields["positions"][row, :, place] = fields["next_position"][row] + np.arange(count)
        fields["next_position"][row] += count
    return Prompts(**fields)


@dataclasses.dataclass(kw_only=True)
class NumberExpander:
    """Distributions over the numbers of a range, for completions that stop before one.

    For each shape of the prompts one program is compiled, and a further one for each text that the
    vocabulary joins to a first digit (" 3" is one token; Qwen's has no such tokens).

    Attributes:
      model: whose probabilities they are.
      tokenizer: of the model.
      score_range: lowest and highest number that the prompt admits.
      mesh: devices that hold the parameters.
      nodes_at_once: branches of the deepest level, by far the widest, that are computed together.
    """

    model: Decoder
    tokenizer: Tokenizer
    score_range: tuple[float, float]
    mesh: Mesh
    nodes_at_once: int = 512

    def __post_init__(self):
        self._numbers = number_tree.admissible(*self.score_range)
        self._trees: dict[str, NumberTree] = {}
        self._closers: dict[tuple[str, str], np.ndarray] = {}

    @functools.cached_property
    def _vocabulary(self) -> Vocabulary:
        size = self.tokenizer.vocab_size
        return Vocabulary(tuple(self.tokenizer.decode([token]) for token in range(size)))

    def distributions(
        self, params: Params, prompts: Prompts, cuts: Sequence[Cut | None], *, length: int
    ) -> list[ScoreDistribution | None]:
        """One distribution per row; None where there is no cut, or no number has any probability.

        Args:
          params: of the model.
          prompts: B rows, in NumPy.
          cuts: B completions.
          length: slots for what they have written; fixed, so that shapes do not depend on them.
        """
        cuts = [cut and self._without_odd_lead(cut, length) for cut in cuts]
        written = [cut.token_ids if cut else () for cut in cuts]
        rows = sharding.shard_rows(continue_prompts(prompts, written, length=length), self.mesh)
        found: list[ScoreDistribution | None] = [None] * len(cuts)
        # Of all processes' rows: all of them have to expand the same trees.
        parts = processes.exchange(sorted({(cut.lead, cut.closing) for cut in cuts if cut}))
        pairs = sorted({(lead, closing) for part in parts for lead, closing in part})
        for lead in sorted({lead for lead, _ in pairs}):
            tree = self._tree(lead)
            closers = {closing: self._ends(lead, closing) for at, closing in pairs if at == lead}
            wanted = number_tree.wanted_tokens(tree, closers.values())
            log_probs = self._log_probs(params, rows, tree, wanted)
            for row, cut in enumerate(cuts):
                if cut and cut.lead == lead:
                    ends = closers[cut.closing]
                    masses = number_tree.number_masses(tree, ends, wanted, log_probs[row])
                    found[row] = _normalised(tree.values, masses)
        return found

    def rehearse(self, params: Params, prompts: Prompts, *, length: int) -> None:
        """Run every program that `distributions` may run on prompts of this shape."""
        written = [()] * len(prompts.token_ids)
        rows = sharding.shard_rows(continue_prompts(prompts, written, length=length), self.mesh)
        for lead in sorted(self._leads):
            self._log_probs(params, rows, self._tree(lead), np.zeros(1, np.int32))

    @functools.cached_property
    def _leads(self) -> frozenset[str]:
        """What may stand before a number and be written by one token with its first digit."""
        firsts = {number[0] for number in self._numbers}
        joined = (
            text[:end]
            for text in self._vocabulary.texts
            for end in range(1, len(text))
            if text[end] in firsts
        )
        ends = {lead for lead in joined if lead[-1].isspace() or lead[-1] in _BEFORE_NUMBERS}
        return frozenset({"", *ends})

    def _without_odd_lead(self, cut: Cut, length: int) -> Cut | None:
        """A cut whose `lead` is one of `_leads`.

        Another one was joined to what no admissible number begins with, such as the sign in " -1".
        It is written as the tokenizer writes it; None if there is no room for that.
        """
        if cut.lead in self._leads:
            return cut
        token_ids = (*cut.token_ids, *self.tokenizer.encode(cut.lead))
        if len(token_ids) > length:
            return None
        return Cut(token_ids=token_ids, lead="", closing=cut.closing)

    def _log_probs(
        self, params: Params, rows: Any, tree: NumberTree, wanted: np.ndarray
    ) -> np.ndarray:
        """Float32 [B M R], of each wanted token after each node."""
        padded = np.pad(wanted, (0, -len(wanted) % _WANTED_AT_ONCE), mode="edge")
        levels = tuple((level.parents, level.tokens) for level in tree.levels)
        found = []
        for some in padded.reshape(-1, _WANTED_AT_ONCE):
            arrays = sharding.replicate((levels, some), self.mesh)
            columns = _expand(self.model, self.nodes_at_once, params, rows, *arrays)
            found.append(sharding.local_rows(columns, self.mesh))
        return np.concatenate(found, axis=-1)[:, :, : len(wanted)]

    def _tree(self, lead: str) -> NumberTree:
        if lead not in self._trees:
            tree = number_tree.build_tree(self._numbers, self._vocabulary, lead=lead)
            self._trees[lead] = tree
        return self._trees[lead]

    def _ends(self, lead: str, closing: str) -> np.ndarray:
        if (lead, closing) not in self._closers:
            self._closers[lead, closing] = self._tree(lead).closers(closing)
        return self._closers[lead, closing]


def _normalised(values: np.ndarray, masses: np.ndarray) -> ScoreDistribution | None:
    mass = float(masses.sum())
    if not 0 < mass < np.inf:  # also true of nan
        return None
    return ScoreDistribution(values=values, probabilities=masses / mass, mass=mass)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _expand(
    model: Decoder,
    nodes_at_once: int,
    params: Params,
    prompts: Any,
    levels: tuple[tuple[Int[Array, "_"], Int[Array, "_"]], ...],
    wanted: Int[Array, "R"],
) -> Float[Array, "B M R"]:
    """Log-probabilities of `wanted` tokens after the prompt and after every node of the tree."""
    prefix = model.prefill(params, prompts)
    decode = model.decoder(params, prefix)
    head = model.head(params).astype(prefix.last_hidden.dtype)
    batch, depth = prefix.last_hidden.shape[0], len(levels)

    def descend(cache: Any, branches: tuple[Array, Array], step: int) -> tuple[Array, Any]:
        """Log-probabilities after some nodes of a level, and their cache."""
        parents, tokens = branches
        if cache is None:
            cache = model.init_cache(prefix, num_samples=len(tokens), length=depth)
        else:  # [... G T H]: each branch goes on from its parent
            cache = jax.tree.map(lambda leaf: jnp.take(leaf, parents, axis=-3), cache)
        ids = jnp.broadcast_to(tokens[None], (batch, len(tokens)))
        hidden, cache = decode(cache, ids, jnp.int32(step))
        return _wanted_log_probs(hidden, head, wanted), cache

    found, cache = [_wanted_log_probs(prefix.last_hidden[:, None], head, wanted)], None
    for step, branches in enumerate(levels[:-1]):
        log_probs, cache = descend(cache, branches, step)
        found.append(log_probs)
    width = len(levels[-1][0])
    size = min(nodes_at_once, width)
    blocks = [jnp.pad(x, (0, -width % size)).reshape(-1, size) for x in levels[-1]]
    last = jax.lax.map(lambda block: descend(cache, block, depth - 1)[0], tuple(blocks))
    last = jnp.moveaxis(last, 0, 1).reshape(batch, -1, wanted.shape[0])  # [B G R]
    return jnp.concatenate([*found, last[:, :width]], axis=1)


def _wanted_log_probs(
    hidden: Float[Array, "B G D"], head: Float[Array, "V D"], wanted: Int[Array, "R"]
) -> Float[Array, "B G R"]:
    """Log-softmax at the wanted tokens, block of nodes by block, so that logits stay small."""
    batch, nodes, width = hidden.shape
    size = max(1, min(nodes, _CHUNK_LOGITS // (batch * head.shape[0])))
    padded = jnp.pad(hidden, ((0, 0), (0, -nodes % size), (0, 0)))
    blocks = jnp.moveaxis(padded.reshape(batch, -1, size, width), 1, 0)

    def block(rows: Array) -> Array:
        logits = jnp.einsum("bgd,vd->bgv", rows, head, preferred_element_type=jnp.float32)
        shifted = logits - logits.max(-1, keepdims=True)
        total = jnp.log(jnp.exp(shifted).sum(-1, keepdims=True))
        return jnp.take(shifted, wanted, axis=-1) - total

    found = jnp.moveaxis(jax.lax.map(block, blocks), 0, 1)
    return found.reshape(batch, -1, wanted.shape[0])[:, :nodes]
