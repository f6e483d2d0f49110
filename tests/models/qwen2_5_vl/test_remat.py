"""Every rematerialisation policy gives the same gradients, from ever less memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from qwen_fixtures import SMALL, make_row, perturb, relative_errors

from jaxqa.models.qwen2_5_vl.inputs import stack_rows
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL

DEEP = dataclasses.replace(
    SMALL,
    text=dataclasses.replace(SMALL.text, num_hidden_layers=6, intermediate_size=288),
    vision=dataclasses.replace(SMALL.vision, depth=2, fullatt_block_indexes=(1,)),
)


@pytest.mark.slow
def test_a_deep_model_under_every_policy():
    row = make_row("ragged", DEEP)
    prompts = stack_rows([row] * 2, prompt_length=64, num_windows=row.num_windows)
    prompts = jax.tree.map(jnp.asarray, prompts)
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 70, (2, 4, 33)), jnp.int32)
    params = perturb(Qwen2_5_VL(config=DEEP).abstract_params())
    temporary, truth = {}, None
    for remat in ("none", "dots", "attention", "offload", "full"):
        model = Qwen2_5_VL(config=DEEP, remat=remat)

        def loss(params, model=model):
            return jnp.square(model.group_hidden(params, prompts, ids)).mean()

        program = jax.jit(jax.value_and_grad(loss)).lower(params).compile()
        temporary[remat] = program.memory_analysis().temp_size_in_bytes
        value, gradients = program(params)
        truth = truth or (value, gradients)
        assert float(value) == pytest.approx(float(truth[0]), rel=1e-5)
        assert max(relative_errors(gradients, truth[1]).values()) < 1e-5
    none, dots, attention, offload, full = temporary.values()
    assert none > 1.5 * dots and dots > 1.2 * attention, temporary
    assert attention >= offload > full, temporary  # a CPU's host memory is the device's
