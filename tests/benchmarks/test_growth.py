"""What the growth benchmark counts, which is the same on every machine, and that the rest runs."""

import sys

import growth
import jax
import jax.numpy as jnp
import pytest
import useful_flops
from counting import abstract_prompts, dot_flops, elements_read
from useful_flops import Group

from jaxqa.models.qwen2_5_vl.config import PRESETS
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.objectives.log_probabilities import token_log_probs


def test_cost_grows_with_completions_and_not_with_prompts():
    lines = list(growth.counted())
    assert len(lines) == 6
    for line in lines:
        assert 0 < line.value <= line.bound, line
    assert lines[0].value > 1.5  # completions do cost something


@pytest.mark.slow
def test_compiled_programs_keep_their_bounds():
    lines = list(growth.compiled())
    assert len(lines) == 3
    for line in lines:
        assert 0 < line.value <= line.bound, line


@pytest.mark.slow
def test_decoding_is_timed():
    (line,) = growth.timed("tiny", rounds=1)
    assert line.bound == 0.2  # what a busy machine finds is not looked at


@pytest.mark.parametrize(("value", "status", "verdict"), [(1.0, 0, "yes"), (3.0, 1, "NO")])
def test_a_bound_that_does_not_hold_is_a_failure(value, status, verdict, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(growth, "counted", lambda: [growth.Growth("cost", value, 2.0)])
    monkeypatch.setattr(growth, "compiled", list)
    monkeypatch.setattr(growth, "timed", lambda size, rounds: asked.append((size, rounds)) or [])
    monkeypatch.setattr(sys, "argv", ["growth.py", "--size=tiny", "--rounds=1"])
    with pytest.raises(SystemExit) as stopped:
        growth.main()
    assert stopped.value.code == status and asked == [("tiny", 1)]
    assert capsys.readouterr().out.endswith(f"| cost | {value:.4g} | 2 | {verdict} |\n")


def test_products_are_counted_through_loops_and_branches():
    a, b = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((3, 5), (5, 5)))

    def branches(a, b):
        return jax.lax.cond(a.sum() > 0, lambda: a @ b @ b, lambda: a @ b)

    def loop(a, b):
        return jax.lax.scan(lambda x, _: (x @ b, None), a, length=7)[0]

    def until(a, b):
        return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: jax.jit(jnp.matmul)(x, b), a)

    one = 2 * 3 * 5 * 5
    assert dot_flops(branches, a, b) == 2 * one
    assert dot_flops(loop, a, b) == 7 * one
    assert dot_flops(until, a, b, decoding_steps=4) == 4 * one


def test_reading_a_prompt_for_every_completion_is_noticed():
    keys = jax.ShapeDtypeStruct((11, 5), jnp.float32)

    def shared(queries, keys):
        return queries @ keys.T

    def repeated(queries, keys):
        return jax.vmap(jnp.matmul, (0, 0))(queries, jnp.repeat(keys.T[None], 7, axis=0))

    def read(function, queries):
        shape = jax.ShapeDtypeStruct((7, *queries, 5), jnp.float32)
        return elements_read(function, shape, keys, keep=lambda shape: 11 in shape)

    assert read(shared, ()) == 11 * 5
    assert read(repeated, (1,)) == 7 * 11 * 5


def test_useful_operations_are_those_of_the_model():
    """Against the traced model, of an image that fills its windows."""
    config = PRESETS["7b"]
    group = Group(visual=1008, text=144, completions=4, tokens=160)  # 63 windows of 16 tokens
    model = Qwen2_5_VL(config=config, compute_dtype="bfloat16")
    params = model.abstract_params()
    prompts = abstract_prompts(config, 1, length=group.prompt, windows=63)
    tower = dot_flops(model.image_features, params, prompts)
    # The kernel's two equal frames are one product here.
    doubled = 2 * 4 * group.visual * config.vision.patch_values * config.vision.hidden_size
    assert useful_flops.vision(config, group.visual) == pytest.approx(tower + doubled, rel=1e-6)

    def log_probs(params, prompts, ids):
        hidden = model.group_hidden(params, prompts, ids)
        return token_log_probs(hidden, model.head(params), ids)

    ids = jax.ShapeDtypeStruct((1, group.completions, group.tokens), jnp.int32)
    whole = dot_flops(log_probs, params, prompts, ids)
    # Causal attention computes the masked half too, and the last token is not read.
    assert 0.98 < useful_flops.forward(config, group) / whole < 1.0
    more = group._replace(completions=8)
    assert useful_flops.repeated(config, more) / useful_flops.forward(config, more) > 4
