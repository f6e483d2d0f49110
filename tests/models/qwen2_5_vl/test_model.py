"""Configs, parameters and the facade's small promises."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from qwen_fixtures import SMALL, TIED, jit, make_row, perturb, relative_error

from jaxqa.models.qwen2_5_vl.config import PRESETS
from jaxqa.models.qwen2_5_vl.inputs import stack_rows
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL

SHALLOW = dataclasses.replace(
    SMALL,
    vision=dataclasses.replace(SMALL.vision, depth=1, fullatt_block_indexes=()),
    text=dataclasses.replace(SMALL.text, num_hidden_layers=1),
)


def count(params):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


# Sums of the tensors in the released safetensors indexes.
@pytest.mark.parametrize(
    ("name", "parameters"), [("3b", 3_754_622_976), ("7b", 8_292_166_656), ("72b", 73_410_777_344)]
)
def test_presets_have_the_released_number_of_parameters(name, parameters):
    assert count(Qwen2_5_VL(config=PRESETS[name]).abstract_params()) == parameters


def test_only_untied_models_have_a_head_of_their_own():
    tied, untied = (Qwen2_5_VL(config=config).abstract_params() for config in (TIED, SMALL))
    assert "lm_head" not in tied
    assert untied.pop("lm_head")["weight"].shape == (80, 96)
    assert untied == tied


def test_init_draws_what_abstract_params_promises():
    model = Qwen2_5_VL(config=SMALL)
    params = jit(model.init)(jax.random.key(0))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    assert shapes == model.abstract_params()
    for path, leaf in jax.tree.leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        if "norm" in name or "ln_q" in name:
            assert (leaf == 1).all(), name
        elif "bias" in name:
            assert (leaf == 0).all(), name
        else:
            assert abs(float(leaf.std()) / SMALL.initializer_range - 1) < 0.1, name
    kernel = params["model"]["layers"]["mlp"]["up_proj"]["kernel"]
    assert abs(float(jnp.corrcoef(kernel[0].ravel(), kernel[1].ravel())[0, 1])) < 0.1


def test_parameters_can_be_kept_in_bfloat16():
    model = Qwen2_5_VL(config=SHALLOW)
    abstract = model.abstract_params(param_dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(abstract)} == {jnp.dtype("bfloat16")}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), perturb(abstract))
    prompts = stack_rows([make_row("square", SMALL)], prompt_length=32, num_windows=1)
    hidden = jit(model.prompt_hidden)
    in_float32 = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    assert relative_error(hidden(params, prompts), hidden(in_float32, prompts)) < 1e-5


def test_equal_models_hash_alike_and_share_compilations():
    models = [Qwen2_5_VL(config=dataclasses.replace(SMALL)) for _ in range(2)]
    assert models[0] == models[1]
    assert hash(models[0]) == hash(models[1])
    assert models[0] != dataclasses.replace(models[0], remat="full")


@pytest.mark.parametrize(
    "option", [{"compute_dtype": "int8"}, {"remat": "some"}, {"attention": "fast"}]
)
def test_unknown_options_are_refused(option):
    # Made past the type hook, as a config read from a file would be.
    model = object.__new__(Qwen2_5_VL)
    for name, value in (
        {"config": SMALL, "compute_dtype": "float32", "remat": "none"} | option
    ).items():
        object.__setattr__(model, name, value)
    with pytest.raises(ValueError, match=next(iter(option))):
        model.__post_init__()


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("vision", {"depth": 0}, "depth is 0"),
        ("vision", {"num_heads": 3}, "hidden_size is 32"),
        ("vision", {"num_heads": 16}, "head width is 2"),
        ("vision", {"window_size": 100}, "window_size is 100"),
        ("vision", {"fullatt_block_indexes": (1, 4)}, "from 0 to 3"),
        ("vision", {"fullatt_block_indexes": (3, 1)}, "increasing"),
        ("vision", {"image_mean": (0.5,)}, "image_mean has 1"),
        ("vision", {"out_hidden_size": 64}, "text.hidden_size"),
        ("text", {"num_key_value_heads": 4}, "num_attention_heads is 6"),
        ("text", {"num_attention_heads": 5}, "hidden_size is 96"),
        ("text", {"mrope_section": (2, 3, 4)}, "mrope_section"),
        ("text", {"rms_norm_eps": 0.0}, "rms_norm_eps is 0.0"),
        ("text", {"vocab_size": 75}, "image_token_id is 75"),
    ],
)
def test_impossible_architectures_are_refused(part, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **{part: dataclasses.replace(getattr(SMALL, part), **change)})


def test_a_row_of_padding_is_finite():
    """Batches are filled up with empty rows; they must not poison a sum with NaN."""
    model = Qwen2_5_VL(config=SHALLOW)
    params = perturb(model.abstract_params())
    rows = [make_row("square", SMALL), make_row("text only", SMALL)]
    prompts = jax.tree.map(jnp.asarray, stack_rows(rows, prompt_length=32, num_windows=1))
    prompts = dataclasses.replace(prompts, mask=prompts.mask.at[1].set(False))
    ids = jnp.zeros((2, 2, 3), jnp.int32)

    @jit
    @jax.value_and_grad
    def total(params):
        return jnp.sum(jnp.square(model.group_hidden(params, prompts, ids)))

    value, grads = total(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
