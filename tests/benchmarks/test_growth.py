"""What the growth benchmark counts, which is the same on every machine."""

import growth
import jax
import jax.numpy as jnp
import pytest
import useful_flops
from counting import abstract_prompts, dot_flops
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
