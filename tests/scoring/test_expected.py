"""Expected scores of a real (tiny, random) model against brute force with the whole-sequence model.

Brute force runs the prompt, the rationale and each way of writing a number as one sequence through
`prompt_hidden`, one sequence at a time, and multiplies probabilities in float64.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxqa import sharding
from jaxqa.data.encoding import PromptEncoder
from jaxqa.data.tokenizer import Tokenizer, build_demo_tokenizer
from jaxqa.models.qwen2_5_vl.config import PRESETS
from jaxqa.models.qwen2_5_vl.inputs import stack_rows
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.models.qwen2_5_vl.preprocess import ImageConfig
from jaxqa.scoring import expected
from jaxqa.scoring.expected import (
    Cut,
    NumberExpander,
    continue_prompts,
    cut_before_number,
)
from jaxqa.scoring.number_tree import Vocabulary, admissible, build_tree
from jaxqa.serving.compilations import Compilations
from jaxqa.sharding import MeshConfig

CORPUS = [
    "<think> sharp </think><answer> 3.42 </answer>",
    "<answer> -1.05 </answer>",
    "what is the quality of this picture",
] * 3
RANGE = (1.0, 1.12)


@pytest.fixture(scope="module")
def tokenizer():
    return build_demo_tokenizer(CORPUS, 300)


@pytest.fixture(scope="module")
def model(tokenizer):
    names = ("image", "video", "vision_start", "vision_end", "eos", "pad")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    tiny = PRESETS["tiny"]
    text = dataclasses.replace(tiny.text, vocab_size=tokenizer.vocab_size)
    config = dataclasses.replace(
        tiny, text=text, bos_token_id=tokenizer.pad_token_id, initializer_range=0.2, **ids
    )
    return Qwen2_5_VL(config=config)


@pytest.fixture(scope="module")
def params(model):
    return jax.jit(model.init)(jax.random.key(3))


@pytest.fixture(scope="module")
def prompts(model, tokenizer):
    encoder = PromptEncoder(tokenizer, config=model.config, image_config=ImageConfig())
    random = np.random.default_rng(0)
    rows = []
    for size, question in (((56, 84, 3), "what quality"), ((84, 56, 3), "the picture is sharp")):
        message = [{"type": "image"}, {"type": "text", "text": question}]
        pixels = random.integers(0, 256, size, np.uint8)
        rows.append(encoder.row([{"role": "user", "content": message}], [pixels]))
    return stack_rows(rows, prompt_length=70, num_windows=2)


@pytest.fixture(scope="module")
def expander(model, tokenizer):
    mesh = sharding.make_mesh(MeshConfig(data=2))
    return NumberExpander(model=model, tokenizer=tokenizer, score_range=RANGE, mesh=mesh)


def brute_force(model, params, tokenizer, prompts, row, cut):
    """Probability of each number after one prompt and rationale: one forward per sequence."""
    hidden = jax.jit(model.prompt_hidden)
    head = np.asarray(model.head(params), np.float64)
    texts = [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]
    masses = []
    for number in admissible(*RANGE):
        ids = [token for char in number for token in [texts.index(char)]]
        written = [list(cut.token_ids) if i == row else [] for i in range(2)]
        written[row] += ids
        longer = continue_prompts(prompts, written, length=24)
        states = np.asarray(hidden(params, longer), np.float64)[row]
        start = int(np.asarray(prompts.mask)[row].sum()) + len(cut.token_ids)
        total = 0.0
        for place in range(len(ids) + 1):
            logits = head @ states[start + place - 1]
            log_probs = logits - np.logaddexp.reduce(logits)
            if place < len(ids):
                total += log_probs[ids[place]]
            else:
                closers = [i for i, t in enumerate(texts) if t and cut.closing.startswith(t)]
                total += np.logaddexp.reduce(log_probs[closers])
        masses.append(np.exp(total))
    return np.array(masses)


def test_distributions_equal_brute_force(model, params, tokenizer, prompts, expander):
    cuts = [
        cut_before_number(tokenizer.encode(text), tokenizer)
        for text in (
            "<think> sharp </think><answer> 1.05 </answer>",
            "<answer>1.11</answer> and more",
        )
    ]
    assert [cut.closing for cut in cuts] == [" </answer>", "</answer>"]
    found = expander.distributions(params, prompts, cuts, length=24)
    for row, (cut, distribution) in enumerate(zip(cuts, found, strict=True)):
        wanted = brute_force(model, params, tokenizer, prompts, row, cut)
        assert distribution.mass == pytest.approx(wanted.sum(), rel=1e-4)
        np.testing.assert_allclose(
            distribution.probabilities, wanted / wanted.sum(), rtol=2e-4, atol=1e-9
        )
        values = np.array([float(text) for text in admissible(*RANGE)])
        assert distribution.mean == pytest.approx(values @ wanted / wanted.sum(), abs=1e-6)
        assert RANGE[0] < distribution.mean < RANGE[1]
        deviation = np.sqrt(wanted @ (values - distribution.mean) ** 2 / wanted.sum())
        assert distribution.spread == pytest.approx(deviation, rel=1e-3)


def test_a_row_depends_on_itself_alone(params, tokenizer, prompts, expander):
    cut = cut_before_number(tokenizer.encode("<answer> 1.05 </answer>"), tokenizer)
    other = cut_before_number(tokenizer.encode("<think> w </think><answer>1.1</answer>"), tokenizer)
    alone = expander.distributions(params, prompts, [cut, None], length=24)
    both = expander.distributions(params, prompts, [cut, other], length=24)
    assert alone[1] is None and both[1] is not None
    np.testing.assert_allclose(alone[0].probabilities, both[0].probabilities, rtol=1e-5)


def test_blocks_of_the_deepest_level_change_nothing(params, tokenizer, prompts, expander):
    cut = cut_before_number(tokenizer.encode("<answer> 1.05 </answer>"), tokenizer)
    whole = expander.distributions(params, prompts, [cut, cut], length=24)
    blocks = dataclasses.replace(expander, nodes_at_once=5)  # of 13, so the last one is padded
    for one, other in zip(
        whole, blocks.distributions(params, prompts, [cut, cut], length=24), strict=True
    ):
        assert other.mass == pytest.approx(one.mass, rel=1e-5)
        np.testing.assert_allclose(other.probabilities, one.probabilities, rtol=1e-5)


def cut_of(text, tokenizer):
    return cut_before_number(tokenizer.encode(text), tokenizer)


@pytest.mark.parametrize(
    ("text", "before", "closing"),
    [
        ("<think> a </think><answer> 3.42 </answer>", "<think> a </think><answer> ", " </answer>"),
        ('<answer>{"rating": 3.4}</answer>', '<answer>{"rating": ', "}</answer>"),
        ('<answer>```json\n{"rating": 3}\n```</answer>x', '<answer>```json\n{"rating": ', None),
        ("<answer>1</answer><answer>2.5</answer>", "<answer>1</answer><answer>", "</answer>"),
        ("wörd 7 <answer> 4.00\n</answer>", "wörd 7 <answer> ", "\n</answer>"),
    ],
)
def test_completions_are_cut_before_their_number(tokenizer, text, before, closing):
    cut = cut_of(text, tokenizer)
    assert tokenizer.decode(cut.token_ids) + cut.lead == before
    assert cut.closing == (closing or "}\n```</answer>")


@pytest.mark.parametrize("text", ["", "3.42", "<answer>good</answer>", "<answer> 3.42"])
def test_completions_without_a_number_have_no_cut(tokenizer, text):
    assert cut_of(text, tokenizer) is None


def test_after_a_rehearsal_no_answer_compiles_anything(params, tokenizer, prompts, expander):
    fresh = dataclasses.replace(expander, score_range=(1.0, 1.06))  # no other test's programs
    before = Compilations()
    fresh.rehearse(params, prompts, length=24)
    assert before.count
    since = Compilations()
    plain = cut_of("<answer> 1.05 </answer>", tokenizer)
    for text in (
        '<answer>{"rating": 3.4, "why": "x"}</answer>',
        "<answer>\n.5\n</answer>",
        "<answer> -1.05 </answer>",
        "<answer>+3</answer>",
    ):
        cuts = [plain, cut_of(text, tokenizer)]
        assert None not in fresh.distributions(params, prompts, cuts, length=24), text
    assert fresh.distributions(params, prompts, [None, plain], length=24)[1] is not None
    assert not since.count


def test_a_sign_that_shares_a_token_with_white_space(params, tokenizer, prompts, expander):
    """No admissible number begins so; the white space is written alone, as the tokenizer does."""
    signed, plain = (cut_of(f"<answer> {n} </answer>", tokenizer) for n in ("-1.05", "1.05"))
    assert (signed.lead, plain.lead) == (" ", "")
    found, wanted = (
        expander.distributions(params, prompts, [cut, None], length=24)[0]
        for cut in (signed, plain)
    )
    np.testing.assert_array_equal(found.probabilities, wanted.probabilities)
    short = len(signed.token_ids)  # no room for the white space
    assert expander.distributions(params, prompts, [signed, None], length=short) == [None, None]


def test_tokens_of_many_answers_are_read_in_parts_of_one_width(expander, monkeypatch):
    widths = []

    def expand(model, nodes_at_once, params, rows, levels, wanted):
        widths.append(wanted.shape[0])
        return jnp.broadcast_to(wanted.astype(jnp.float32), (2, 5, wanted.shape[0]))

    monkeypatch.setattr(expected, "_expand", expand)
    tree = build_tree(admissible(*RANGE), Vocabulary(tuple("012.")))
    for count in (1, 32, 33, 70):
        wanted = np.arange(7, 7 + count, dtype=np.int32)
        found = expander._log_probs({}, None, tree, wanted)
        np.testing.assert_array_equal(found, np.broadcast_to(wanted, (2, 5, count)))
    assert widths == [32] * 7


@pytest.mark.parametrize(
    ("tokens", "leads"),
    [
        (("1", " ", ".", " -", ">.", "a"), {""}),
        (("1", " 1", "\n1.", ">10", "x1", '"1', "11"), {"", " ", "\n", ">"}),
    ],
)
def test_leads_are_what_the_vocabulary_joins_to_a_digit(expander, monkeypatch, tokens, leads):
    fresh = dataclasses.replace(expander)
    monkeypatch.setitem(fresh.__dict__, "_vocabulary", Vocabulary(tokens))
    assert fresh._leads == leads


class OneToken(Tokenizer):
    """A tokenizer with a token that holds both a blank and a digit."""

    texts = ("<answer>", " 4", ".", "2", "5", "</answer>")

    def __init__(self):
        pass

    def decode(self, ids, skip_special_tokens=True):
        return "".join(self.texts[i] for i in ids)


def test_a_token_that_straddles_the_cut_is_given_back():
    cut = cut_before_number([0, 1, 2, 3, 4, 5], OneToken())
    assert cut == Cut(token_ids=(0,), lead=" ", closing="</answer>")
