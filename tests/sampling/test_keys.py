import jax
import numpy as np
import pytest

from jaxqa.sampling import keys as keys_lib

IDS = np.array([7, 2**40 + 7, -3, 0, 2**62, 7 + 2**32])


def data(keys: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(keys))


def test_keys_do_not_depend_on_the_place_in_the_batch():
    whole = data(keys_lib.sample_keys(3, "grpo", 11, IDS, 4))
    order = np.random.default_rng(0).permutation(len(IDS))
    np.testing.assert_array_equal(
        data(keys_lib.sample_keys(3, "grpo", 11, IDS[order], 4)), whole[order]
    )
    np.testing.assert_array_equal(
        data(keys_lib.sample_keys(3, "grpo", 11, IDS[2:4], 4)), whole[2:4]
    )
    np.testing.assert_array_equal(data(keys_lib.sample_keys(3, "grpo", 11, IDS, 2)), whole[:, :2])


def test_every_part_of_the_name_changes_every_key():
    names = [(3, "grpo", 11), (4, "grpo", 11), (3, "sft", 11), (3, "grpo", 12), (11, "grpo", 3)]
    keys = np.concatenate([data(keys_lib.sample_keys(*name, IDS, 4)) for name in names])
    flat = keys.reshape(-1, keys.shape[-1])
    assert len(np.unique(flat, axis=0)) == len(names) * len(IDS) * 4


def test_a_token_draws_with_the_fold_in_of_its_index():
    keys = keys_lib.sample_keys(0, "sft", 0, IDS[:2], 3)
    uniforms = keys_lib.token_uniforms(keys, 6)
    for row, sample, token in [(0, 0, 0), (1, 2, 5), (0, 1, 3)]:
        key = jax.random.fold_in(keys[row, sample], token)
        np.testing.assert_array_equal(uniforms[row, sample, token], jax.random.uniform(key, (2,)))
    np.testing.assert_array_equal(keys_lib.token_uniforms(keys, 2), uniforms[:, :, :2])
    assert len(np.unique(uniforms)) == uniforms.size


def test_keys_ignore_the_default_generator():
    expected = data(keys_lib.sample_keys(1, "sft", 2, IDS, 2))
    with jax.default_prng_impl("rbg"), jax.transfer_guard("disallow"):
        actual = keys_lib.sample_keys(1, "sft", 2, IDS, 2)
    np.testing.assert_array_equal(data(actual), expected)


@pytest.mark.parametrize(("seed", "step"), [(-1, 0), (2**32, 0), (0, -1)])
def test_seed_and_step_out_of_range(seed: int, step: int):
    with pytest.raises(ValueError, match="expected an integer in"):
        keys_lib.sample_keys(seed, "sft", step, IDS, 1)
