"""Shared prompts are exact: the same loss, gradients and tokens as repeating the prompt."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from qwen_fixtures import SMALL, jit, make_row, perturb, relative_error, relative_errors

from jaxqa.models.qwen2_5_vl.inputs import PromptRow, Prompts, stack_rows
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL

# A shallower vision tower than in the parity tests compiles faster; three text layers are looped.
CONFIG = dataclasses.replace(
    SMALL,
    vision=dataclasses.replace(SMALL.vision, depth=2, fullatt_block_indexes=(1,)),
)
MODEL = Qwen2_5_VL(config=CONFIG)
NAMES = ("two images", "smaller than a window", "text only")
GROUPS, TOKENS = 8, 6


@pytest.fixture(scope="module")
def params():
    return perturb(MODEL.abstract_params())


@pytest.fixture(scope="module")
def rows():
    return [make_row(name, CONFIG) for name in NAMES]


@pytest.fixture(scope="module")
def prompts(rows):
    return stack(rows)


@pytest.fixture(scope="module")
def completion_ids():
    rng = np.random.default_rng(5)
    return rng.integers(0, 70, (len(NAMES), GROUPS, TOKENS)).astype(np.int32)


def stack(rows) -> Prompts:
    """Stack rows into the smallest bucket, on the device."""
    batch = stack_rows(
        rows,
        prompt_length=max(row.length for row in rows),
        num_windows=max(row.num_windows for row in rows),
    )
    return jax.tree.map(jnp.asarray, batch)


def extend(row: PromptRow, completion: np.ndarray) -> PromptRow:
    """Write one completion behind its prompt, as an ordinary longer prompt."""
    positions = row.next_position + np.arange(len(completion), dtype=np.int32)
    return dataclasses.replace(
        row,
        token_ids=np.concatenate([row.token_ids, completion]),
        positions=np.concatenate([row.positions, np.tile(positions, (3, 1))], axis=1),
        next_position=row.next_position + len(completion),
        vision_index=np.concatenate([row.vision_index, np.full(len(completion), -1, np.int32)]),
    )


def completion_loss(model, params, hidden, completion_ids, weights):
    """Weighted mean of the cross-entropy of completion tokens."""
    logits = jnp.einsum("bgtd,vd->bgtv", hidden, model.head(params))
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), completion_ids[..., None], axis=-1)
    return -jnp.sum(picked[..., 0] * weights) / jnp.sum(weights)


@pytest.fixture(scope="module")
def naive(params, rows, completion_ids):
    """Loss and gradients with every prompt repeated for each of its completions."""
    repeated = [
        extend(row, completion)
        for row, completions in zip(rows, completion_ids, strict=True)
        for completion in completions
    ]
    batch = stack(repeated)
    starts = np.array([row.length - 1 for row in repeated]) - TOKENS
    positions = jnp.asarray(starts[:, None] + np.arange(TOKENS), jnp.int32)

    @jit
    @jax.value_and_grad
    def loss(params, weights):
        hidden = MODEL.prompt_hidden(params, batch)
        hidden = jnp.take_along_axis(hidden, positions[..., None], axis=1)
        hidden = hidden.reshape(*completion_ids.shape, -1)
        return completion_loss(MODEL, params, hidden, completion_ids, weights)

    return functools.partial(loss, params)


def draw_weights(groups, tokens):
    """Weights that leave the naive layout's other completions and tokens out of the loss."""
    weights = np.zeros((len(NAMES), GROUPS, TOKENS), np.float32)
    shape = (len(NAMES), groups, tokens)
    weights[:, :groups, :tokens] = np.random.default_rng(6).uniform(0.1, 1, shape)
    return weights


@pytest.mark.parametrize(
    ("groups", "tokens", "remat"),
    [(1, 6, "none"), (8, 6, "none"), (3, 1, "none"), (3, 6, "full")],
)
def test_loss_and_gradients_equal_the_repeated_prompt(
    params, prompts, completion_ids, naive, groups, tokens, remat
):
    model = dataclasses.replace(MODEL, remat=remat)
    weights = draw_weights(groups, tokens)
    ids = jnp.asarray(completion_ids[:, :groups, :tokens])

    @jit
    @jax.value_and_grad
    def loss(params, weights):
        hidden = model.group_hidden(params, prompts, ids)
        return completion_loss(model, params, hidden, ids, weights)

    expected, expected_grads = naive(weights)
    found, grads = loss(params, weights[:, :groups, :tokens])
    assert relative_error(found, expected) < 1e-5
    errors = relative_errors(grads, expected_grads)
    assert max(errors.values()) < 1e-5, errors
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(grads)) > 0


@pytest.fixture(scope="module")
def group_hidden():
    return jit(MODEL.group_hidden)


def test_decoding_step_by_step_equals_the_group(params, prompts, completion_ids, group_hidden):
    expected = np.asarray(group_hidden(params, prompts, completion_ids))
    prefix = jit(MODEL.prefill)(params, prompts)
    first = np.broadcast_to(np.asarray(prefix.last_hidden)[:, None], expected[:, :, 0].shape)
    assert relative_error(first, expected[:, :, 0]) < 1e-5
    cache = MODEL.init_cache(prefix, GROUPS, TOKENS)
    decode = jit(lambda params, prefix, *rest: MODEL.decoder(params, prefix)(*rest))
    for step in range(TOKENS - 1):
        ids = completion_ids[:, :, step]
        hidden, cache = decode(params, prefix, cache, ids, jnp.int32(step))
        assert relative_error(hidden, expected[:, :, step + 1]) < 1e-5


def test_a_longer_bucket_changes_nothing(params, rows, prompts, completion_ids, group_hidden):
    expected = group_hidden(params, prompts, completion_ids)
    larger = stack_rows(rows, prompt_length=50, num_windows=7, pad_token_id=70)
    found = group_hidden(params, larger, completion_ids)
    assert relative_error(found, expected) < 5e-6  # sums over longer axes round differently


def test_contents_of_padding_change_nothing(params, rows, completion_ids, group_hidden):
    """Bit for bit: whatever stands in padded slots, real tokens never see it."""
    clean = stack_rows(rows, prompt_length=50, num_windows=7, pad_token_id=70)
    rng = np.random.default_rng(7)

    def soil(values, keep, high):
        keep = keep.reshape(keep.shape + (1,) * (values.ndim - keep.ndim))
        return np.where(keep, values, rng.integers(0, high, values.shape)).astype(values.dtype)

    mask = np.asarray(clean.mask)
    dirty = Prompts(
        token_ids=soil(clean.token_ids, mask, 70),
        mask=mask,
        positions=soil(clean.positions.swapaxes(1, 2), mask, 90).swapaxes(1, 2),
        next_position=clean.next_position,
        patches=soil(clean.patches, clean.patch_mask, 256),
        patch_mask=clean.patch_mask,
        patch_positions=soil(clean.patch_positions, clean.patch_mask, 30),
        window_image=clean.window_image,
        vision_index=clean.vision_index,
    )
    expected = group_hidden(params, clean, completion_ids)
    np.testing.assert_array_equal(group_hidden(params, dirty, completion_ids), expected)


def test_completions_see_only_their_past(params, prompts, completion_ids, group_hidden):
    expected = np.asarray(group_hidden(params, prompts, completion_ids))
    changed = completion_ids.copy()
    changed[:, 2, 3:] = (changed[:, 2, 3:] + 1) % 70
    found = np.asarray(group_hidden(params, prompts, changed))
    others = np.arange(GROUPS) != 2
    np.testing.assert_array_equal(found[:, others], expected[:, others])
    np.testing.assert_array_equal(found[:, 2, :4], expected[:, 2, :4])
    assert (np.abs(found[:, 2, 4:] - expected[:, 2, 4:]).max(-1) > 1e-3).all()


def test_bfloat16_is_close_and_keeps_its_dtype(params, prompts, completion_ids, group_hidden):
    model = dataclasses.replace(MODEL, compute_dtype="bfloat16")
    expected = np.asarray(group_hidden(params, prompts, completion_ids))
    found = jit(model.group_hidden)(params, prompts, completion_ids)
    assert found.dtype == jnp.bfloat16
    deviation = np.asarray(found, np.float32) - expected
    assert np.sqrt(np.mean(deviation**2) / np.mean(expected**2)) < 0.05
    prefix = jax.eval_shape(model.prefill, params, prompts)
    cache = jax.eval_shape(lambda p: model.init_cache(p, GROUPS, TOKENS), prefix)
    assert prefix.key.dtype == cache.key[0].dtype == jnp.bfloat16
