"""What is copied of a policy, in which type, where it lies and how long."""

import dataclasses
import gc
import inspect
import re
import types
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_rollout import FakeLoader, make_source
from test_sharded_training import CONFIG, host_completions, host_prompts

from jaxqa import sharding, tree
from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl import parts
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.sampling.config import SamplingConfig
from jaxqa.sampling.keys import sample_keys
from jaxqa.sampling.sampler import Sampler, _sample
from jaxqa.stages import compiled
from jaxqa.train.losses import completion_log_probs
from jaxqa.train.reference import Frozen, check_placement

LAYERS = 11
DEEP = Qwen2_5_VL(
    config=dataclasses.replace(
        CONFIG, text=dataclasses.replace(CONFIG.text, num_hidden_layers=LAYERS)
    ),
    compute_dtype="bfloat16",
)
ROWS = slice(0, 2)


@pytest.fixture(scope="module")
def params():
    mesh = sharding.make_mesh(sharding.MeshConfig())
    return jax.device_put(jax.jit(DEEP.init)(jax.random.key(0)), sharding.replicated(mesh))


@pytest.fixture(scope="module")
def rows():
    prompts = jax.tree.map(lambda leaf: jnp.asarray(leaf[ROWS]), host_prompts())
    return prompts, jnp.asarray(host_completions()[0][ROWS])


def kernels_of_all_layers(text, dtype, params):
    """Shapes in a program's text that hold a matrix of each layer at once."""
    shapes = {leaf.shape[1:] for leaf in jax.tree.leaves(params) if leaf.ndim == 3}
    found = re.findall(rf"tensor<{LAYERS}x(\d+)x(\d+)x{dtype}>", text)
    return {tuple(map(int, pair)) for pair in found} & (shapes | {pair[::-1] for pair in shapes})


def test_training_holds_no_second_copy_of_the_layers(params):
    """Neither made beforehand nor kept for the backward pass, where nothing is recomputed."""
    ids = jnp.asarray(host_completions()[0][:5])  # 5: no activations in the shape of a matrix
    prompts = jax.tree.map(lambda leaf: jnp.asarray(leaf[:5]), host_prompts())
    gradient = jax.jit(jax.grad(lambda p: completion_log_probs(DEEP, p, prompts, ids)[0].sum()))
    text = gradient.lower(params).as_text()
    assert len(kernels_of_all_layers(text, "f32", params)) > 3
    assert not kernels_of_all_layers(text, "bf16", params)


def test_the_sampler_reads_only_the_copy(params):
    sampler = Sampler(
        model=DEEP,
        config=SamplingConfig(num_samples=2, max_new_tokens=3),
        stop_token_ids=(45,),
        pad_token_id=44,
    )
    prompts = jax.tree.map(lambda leaf: leaf[ROWS], host_prompts())
    keys = sample_keys(0, "grpo", 3, np.arange(2), 2)
    copy = parts.compute_copy(params, "bfloat16", own=False)
    texts = [_sample.lower(sampler, p, prompts, keys).as_text() for p in (params, copy)]
    found = [bool(kernels_of_all_layers(text, "f32", params)) for text in texts]
    assert found == [True, False]


def placed(model, **axes):
    """Random parameters on a mesh of eight devices."""
    mesh = sharding.make_mesh(sharding.MeshConfig(**axes))
    places = sharding.tree_shardings(model.abstract_params(), sharding.QWEN2_5_VL_RULES, mesh)
    return mesh, jax.jit(model.init, out_shardings=places)(jax.random.key(0))


def test_a_gathered_policy_is_whole_along_fsdp_alone():
    _, policy = placed(Qwen2_5_VL(config=CONFIG), fsdp=4, tensor=2)
    gathered = sharding.gather(policy, "fsdp")
    for one, other in zip(jax.tree.leaves(policy), jax.tree.leaves(gathered), strict=True):
        np.testing.assert_array_equal(one, other)
        before, after = (str(leaf.sharding.spec) for leaf in (one, other))
        assert "fsdp" not in after and ("tensor" in before) == ("tensor" in after)


def test_a_gathered_policy_is_not_gathered_at_every_token():
    model, sampling = Qwen2_5_VL(config=CONFIG), SamplingConfig(num_samples=2, max_new_tokens=3)
    mesh, policy = placed(model, fsdp=8)
    sampler = Sampler(
        model=model, config=sampling, stop_token_ids=(45,), pad_token_id=44, mesh=mesh
    )
    prompts = sharding.shard_rows(host_prompts(), mesh)
    keys = sharding.by_rows(sample_keys(0, "grpo", 3, np.arange(8), 2), mesh)
    largest = []
    for params in (policy, sharding.gather(policy, "fsdp")):
        text = sampler.lower(params, prompts, keys).compile().as_text()
        found = compiled.largest(compiled.buffers(text), "all-gather")
        largest.append(found and found.size)
    assert largest[0] >= CONFIG.text.hidden_size * CONFIG.text.intermediate_size
    assert largest[1] is None


def test_a_copy_computes_the_same_to_the_bit(params, rows):
    copy = parts.compute_copy(params, "bfloat16", own=True)
    assert tree.count_bytes(copy) < 0.65 * tree.count_bytes(params)
    compute = jax.jit(lambda p: completion_log_probs(DEEP, p, *rows))
    for one, other in zip(compute(params), compute(copy), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_own_copy_outlives_its_original(params):
    original = jax.tree.map(jnp.copy, params)
    for dtype in ("bfloat16", "float32"):
        copy = parts.compute_copy(original, dtype, own=True)
        pointers = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(original)}
        assert not pointers & {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(copy)}
    shared = parts.compute_copy(original, "float32", own=False)
    for one, other in zip(jax.tree.leaves(shared), jax.tree.leaves(original), strict=True):
        assert one is other


def test_a_reference_on_the_host_gives_the_same(params, rows):
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=2, tensor=2))
    places = sharding.tree_shardings(params, sharding.QWEN2_5_VL_RULES, mesh)
    rows = sharding.shard_rows(jax.device_get(rows), mesh)
    compute = jax.jit(lambda p: completion_log_probs(DEEP, p, *rows)[0])
    found = []
    for placement in ("device", "host"):
        copy = parts.compute_copy(jax.device_put(params, places), "bfloat16", own=True)
        frozen = Frozen(copy, placement)
        kinds = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(frozen.kept)}
        assert kinds == {"pinned_host" if placement == "host" else "device"}
        used = frozen.on_devices()
        assert all(leaf.sharding.memory_kind == "device" for leaf in jax.tree.leaves(used))
        assert jax.tree.map(lambda leaf: leaf.sharding, used) == places
        found.append(np.asarray(compute(used)))
    np.testing.assert_array_equal(*found)


def test_a_device_without_such_memory_is_named():
    device = types.SimpleNamespace(
        addressable_memories=lambda: [types.SimpleNamespace(kind="device")], device_kind="abacus"
    )
    mesh = types.SimpleNamespace(devices=np.array([device]))
    check = inspect.unwrap(check_placement)  # the mesh is none
    check("device", mesh, name="x")
    with pytest.raises(UserError, match="x is 'host', .* pinned_host; abacus has device; set it"):
        check("host", mesh, name="x")


def test_the_copy_for_a_rollout_is_made_once_and_gone_with_it():
    made = []

    def copy(params):
        copied = {"kernel": params["kernel"].astype(jnp.bfloat16)}
        made.append(weakref.ref(copied["kernel"]))
        return copied

    source, seen = make_source(FakeLoader()), []
    source._copy, sample = copy, source._sampler

    def sampler(params, prompts, keys):
        seen.append(params["kernel"].dtype)
        return sample(params, prompts, keys)

    sampler.config = sample.config
    source._sampler = sampler
    source.next({"kernel": jnp.ones((2, 2))}, 0)
    gc.collect()
    assert len(made) == 1 and set(seen) == {jnp.dtype("bfloat16")}
    assert made[0]() is None
