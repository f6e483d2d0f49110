"""One suite for every attention: forward and backward, against a plain loop in float64.

A backend that this machine cannot run is skipped, with what is missing; what surrounds its kernel
runs all the same, on JAX's plain attention in the kernel's place.
"""

import dataclasses
import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxqa import sharding
from jaxqa.errors import UserError
from jaxqa.nn import attention, attention_backends, fused_attention, streamed_attention
from jaxqa.nn.attention import Segment, attend, grouped_attention


def missing(backend: str) -> str | None:
    """What a backend lacks on this machine."""
    try:
        attention_backends.choose(
            backend,
            device=jax.devices()[0],
            num_devices=1,
            compute_dtype="bfloat16",
            head_dims=(8,),
        )
    except UserError as error:
        return str(error)
    return None


REAL = ("xla", "chunked", "cudnn", "tokamax")
STAND_IN = "cudnn with JAX's own kernel"


@pytest.fixture(params=[*REAL, STAND_IN])
def backend(request, monkeypatch):
    """Backends that run here; `chunked` in blocks of 4 keys."""
    monkeypatch.setattr(attention, "BLOCK", 4)
    monkeypatch.setattr(attention, "streamed", functools.partial(attention.streamed, block=4))
    if request.param == STAND_IN:
        monkeypatch.setitem(fused_attention.KERNELS, "cudnn", stand_in)
        return "cudnn"
    if lack := missing(request.param):
        pytest.skip(lack)
    return request.param


def stand_in(query, key, value, mask, causal):
    """As `fused_attention.cudnn`, for a CPU: the same padding, shapes and masks."""
    return fused_attention._even(
        lambda q, k, v, m: plain_kernel(q, k, v, m, causal), query, key, value, mask
    )


def plain_kernel(query, key, value, mask, causal):
    assert query.shape[1] % 2 == key.shape[1] % 2 == 0  # as JAX wants it in training
    if mask is not None:
        assert mask.shape == (query.shape[0], 1, query.shape[1], key.shape[1])
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return jax.nn.dot_product_attention(
            query, key, value, mask=mask, is_causal=causal, implementation="xla"
        )


def truth_of(query, key, value, mask, weights):
    """Mixed values and, for the sum of them times `weights`, three gradients; [Q H] and [S H]."""
    logits = np.where(mask, query @ key.T / np.sqrt(query.shape[-1]), -np.inf)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    slope = weights @ value.T
    d_logits = p * (slope - (p * slope).sum(-1, keepdims=True)) / np.sqrt(query.shape[-1])
    return p @ value, d_logits @ key, d_logits.T @ query, p.T @ weights


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes: rows, key heads, completions, tokens, repeats, width, prompt (0: none)."""

    b: int
    k: int
    g: int
    t: int
    r: int
    h: int
    s: int

    def draw(self, seed: int):
        rng = np.random.default_rng(seed)
        query = rng.normal(size=(self.b, self.k, self.g, self.t, self.r, self.h))
        own = rng.normal(size=(2, self.b, self.k, self.g, self.t, self.h))
        shared = rng.normal(size=(2, self.b, self.k, self.s, self.h))
        mask = rng.uniform(size=(self.b, self.s)) < 0.7  # holes, and rows without any prompt
        return query, own, shared, mask, rng.normal(size=query.shape)


GROUPS = {
    "completions of a prompt": Case(2, 2, 3, 5, 2, 8, 7),
    "one token": Case(1, 1, 2, 1, 1, 16, 9),
    "even lengths": Case(2, 1, 1, 4, 3, 8, 8),
    "a prompt itself": Case(2, 2, 1, 9, 2, 8, 0),
}


def group_truth(case: Case, seed: int):
    """Outputs and gradients of query, own keys and values, shared keys and values."""
    query, own, shared, mask, weights = case.draw(seed)
    out = np.zeros_like(query)
    grads = [np.zeros_like(x) for x in (query, *own, *shared)]
    for i, j, n, head in np.ndindex(case.b, case.k, case.g, case.r):
        keys, values = (np.concatenate([shared[x][i, j], own[x][i, j, n]]) for x in range(2))
        seen = np.concatenate([np.tile(mask[i], (case.t, 1)), np.tri(case.t, dtype=bool)], axis=1)
        at = (i, j, n, slice(None), head)
        out[at], d_query, d_key, d_value = truth_of(query[at], keys, values, seen, weights[at])
        grads[0][at] += d_query
        for own_part, shared_part, d_part in ((1, 3, d_key), (2, 4, d_value)):
            grads[own_part][i, j, n] += d_part[case.s :]
            grads[shared_part][i, j] += d_part[: case.s]
    return out, grads


@pytest.mark.parametrize("name", GROUPS)
def test_groups(backend, name):
    compare_group(backend, GROUPS[name], seed=list(GROUPS).index(name))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 16))
def test_groups_of_any_size(backend, seed):
    rng = np.random.default_rng(seed)
    b, k, g, t, r, s = (int(rng.integers(low, high)) for low, high in SIZES)
    compare_group(backend, Case(b, k, g, t, r, int(rng.choice([8, 16, 24])), s), seed)


SIZES = ((1, 4), (1, 4), (1, 5), (1, 12), (1, 8), (0, 20))


def compare_group(backend, case, seed):
    dtype, tolerance = precision(backend)
    query, own, shared, mask, weights = case.draw(seed)
    arrays = [jnp.asarray(x, dtype) for x in (query, *own, *shared)]

    def run(query, key, value, shared_key, shared_value):
        prompt = Segment(shared_key, shared_value, jnp.asarray(mask)) if case.s else None
        return grouped_attention(query, (key, value), shared=prompt, backend=backend)

    found, slopes = outputs_and_gradients(run, arrays, jnp.asarray(weights, dtype))
    assert found.dtype == dtype
    expected, gradients = group_truth(case, seed)
    np.testing.assert_allclose(found, expected, atol=tolerance * 2, rtol=tolerance)
    for ours, truth in zip(slopes, gradients, strict=True):
        np.testing.assert_allclose(ours, truth, atol=tolerance * 5, rtol=tolerance)


@pytest.mark.parametrize(("blocks", "length"), [(3, 4), (1, 9)])
def test_blocks_of_an_image(backend, blocks, length):
    """Windows with a mask of their keys; a whole image with a mask of who sees whom."""
    rng = np.random.default_rng(length)
    dtype, tolerance = precision(backend)
    shape = (2, blocks, 3, length, 8)
    query, key, value, weights = rng.normal(size=(4, *shape))
    mask = rng.uniform(size=(2, blocks, 1, 1 if blocks > 1 else length, length)) < 0.6
    mask[..., 0] = True

    def run(query, key, value):
        return attend(query, Segment(key, value, jnp.asarray(mask)), backend=backend)

    arrays = [jnp.asarray(x, dtype) for x in (query, key, value)]
    found, gradients = outputs_and_gradients(run, arrays, jnp.asarray(weights, dtype))
    found, gradients = jax.device_get((found, gradients))
    for i, j, n in np.ndindex(*shape[:3]):
        seen = np.broadcast_to(mask[i, j, 0], (length, length))
        at = (i, j, n)
        expected, *truths = truth_of(query[at], key[at], value[at], seen, weights[at])
        np.testing.assert_allclose(found[at], expected, atol=tolerance * 2, rtol=tolerance)
        for ours, truth in zip(gradients, truths, strict=True):
            np.testing.assert_allclose(ours[at], truth, atol=tolerance * 5, rtol=tolerance)


def outputs_and_gradients(run, arrays, weights):
    def both(*arrays):
        found, pull_back = jax.vjp(run, *arrays)
        return found, pull_back(weights)

    return jax.jit(both)(*arrays)


def precision(backend: str):
    """Dtype and tolerance: cuDNN has no float32."""
    on_gpu = backend == "cudnn" and fused_attention.KERNELS["cudnn"] is fused_attention.cudnn
    return (jnp.bfloat16, 2e-2) if on_gpu else (jnp.float32, 1e-5)


def test_what_nobody_sees_is_finite(backend):
    """Padding: empty windows, and a prompt whose every token is masked."""
    x = jnp.ones((1, 2, 1, 6, 8), precision(backend)[0])
    nothing = jnp.zeros((1, 2, 1, 1, 6), bool)

    def run(x):
        return attend(x, Segment(x, x, nothing), backend=backend).astype(jnp.float32).sum()

    value, slope = jax.jit(jax.value_and_grad(run))(x)
    assert np.isfinite(value) and np.isfinite(np.asarray(slope, np.float32)).all()


def test_both_results_of_streaming_have_gradients():
    """Merging parts rests on the gradient of the log-sum-exp."""
    rng = np.random.default_rng(0)
    query, key, value = (jnp.asarray(rng.normal(size=(2, n, 4)), jnp.float32) for n in (3, 7, 7))
    weights = jnp.asarray(rng.normal(size=(2, 3)), jnp.float32)

    def plain(query, key, value):
        logits = query @ key.swapaxes(1, 2) / 2
        mixed = jax.nn.softmax(logits) @ value
        return (mixed.sum(-1) * weights + jax.nn.logsumexp(logits, -1) * weights[::-1]).sum()

    def ours(query, key, value):
        part = streamed_attention.streamed(query, key, value, block=3)
        return (part.mixed.sum(-1) * weights + part.log_sum * weights[::-1]).sum()

    found = jax.jit(jax.value_and_grad(ours, (0, 1, 2)))(query, key, value)
    expected = jax.jit(jax.value_and_grad(plain, (0, 1, 2)))(query, key, value)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_streaming_holds_no_array_of_all_scores():
    """Temporary bytes of forward and backward, as the prompt grows from 1,024 to 4,096 tokens."""

    def temporary(backend: str, length: int) -> int:
        def loss(query, key, value):
            return grouped_attention(query, (key, value), backend=backend).sum()

        shapes = ((1, 1, 1, length, 2, 8), *[(1, 1, 1, length, 8)] * 2)
        arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        program = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*arguments).compile()
        return program.memory_analysis().temp_size_in_bytes

    scores = 4 * 2 * 4096**2
    assert temporary("xla", 4096) > scores
    assert temporary("chunked", 4096) < 0.4 * scores
    assert temporary("chunked", 4096) < 5 * temporary("chunked", 1024)


class Device:
    """As JAX describes one."""

    def __init__(self, platform, compute_capability=""):
        self.platform, self.compute_capability = platform, compute_capability


H100, A100 = Device("gpu", "9.0"), Device("gpu", "8.0")
CPU, TPU, AMD = Device("cpu"), Device("tpu"), Device("gpu", "gfx90a")


def choose(choice, device, *, devices=1, dtype="bfloat16", heads=(128, 80)):
    return attention_backends.choose(
        choice, device=device, num_devices=devices, compute_dtype=dtype, head_dims=heads
    )


def test_auto_is_cudnn_on_hopper_alone():
    found = [choose("auto", device) for device in (H100, A100, CPU, TPU, AMD)]
    assert found == ["cudnn", "auto", "auto", "auto", "auto"]
    assert choose("auto", Device("gpu", "10.0")) == "cudnn"
    assert choose("auto", H100, dtype="float32") == "auto"
    assert choose("auto", H100, heads=(128, 20)) == "auto"


def like(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.fixture
def streamed_shapes(monkeypatch):
    """Of the queries that are attended to in blocks of keys."""
    seen = []

    def spy(query, *rest, **options):
        seen.append(query.shape)
        return streamed_attention.streamed(query, *rest, **options)

    monkeypatch.setattr(attention, "streamed", spy)
    return seen


def images(count, *, heads=16, patches=4480, width=80):
    """Attend as the whole-image layers of 7B do; shapes alone."""
    mask = like(count, 1, 1, patches, patches, dtype=jnp.bool_)
    parts = [like(count, 1, heads, patches, width)] * 3
    jax.eval_shape(lambda q, k, v, m: attend(q, Segment(k, v, m), backend="auto"), *parts, mask)


def test_auto_holds_the_scores_of_one_large_image_and_not_of_two(streamed_shapes):
    images(1)
    assert not streamed_shapes
    images(2)
    assert streamed_shapes == [(2, 1, 16, 4480, 80)]


@pytest.mark.parametrize(("mesh", "most"), [((2, 2, 1), 4), ((1, 2, 2), 6), ((1, 1, 8), 13)])
def test_auto_counts_the_scores_of_one_device(streamed_shapes, mesh, most):
    devices = sharding.make_mesh(sharding.MeshConfig(**dict(zip(AXES, mesh, strict=True))))
    step = mesh[0] * mesh[1]
    with sharding.on_mesh(devices):
        images(most)
        assert not streamed_shapes
        images(most + step)
        assert len(streamed_shapes) == 1


AXES = ("data", "fsdp", "tensor")


@pytest.mark.parametrize("prompt", [0, 7])
def test_auto_counts_the_keys_of_prompt_and_completion(streamed_shapes, monkeypatch, prompt):
    case = dataclasses.replace(GROUPS["completions of a prompt"], s=prompt)
    query, own, shared, mask, _ = case.draw(0)
    segment = Segment(*map(jnp.asarray, (*shared, mask))) if prompt else None

    def mix(most, backend):
        monkeypatch.setattr(attention, "MOST_SCORES", most)
        arrays = [jnp.asarray(x, jnp.float32) for x in (query, *own)]
        return grouped_attention(arrays[0], tuple(arrays[1:]), shared=segment, backend=backend)

    scores = query[..., 0].size * (case.t + prompt)
    plain = mix(scores, "auto")
    assert not streamed_shapes
    np.testing.assert_array_equal(plain, mix(scores, "xla"))
    np.testing.assert_allclose(mix(scores - 1, "auto"), plain, rtol=1e-5, atol=1e-6)
    assert streamed_shapes


def test_what_a_device_cannot_do_is_refused():
    assert choose("cudnn", A100) == "cudnn"
    assert choose("chunked", TPU) == "chunked"
    with pytest.raises(UserError, match="'cudnn', which needs an NVIDIA GPU; the device is a tpu"):
        choose("cudnn", TPU)
    with pytest.raises(UserError, match="bfloat16 or float16 only; model.compute_dtype is 'float3"):
        choose("cudnn", H100, dtype="float32")
    with pytest.raises(UserError, match="multiple of 8, at most 256 wide; this model's are 20 and"):
        choose("cudnn", H100, heads=(20, 80))
    with pytest.raises(UserError, match="at most 128 wide; this model's are 256"):
        choose("cudnn", A100, heads=(256,))


def test_tokamax_must_be_there_and_alone(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="'tokamax', which is not installed"):
        choose("tokamax", CPU)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert choose("tokamax", CPU) == "tokamax"
    with pytest.raises(UserError, match="runs on one device here.*there are 4"):
        choose("tokamax", TPU, devices=4)


def test_cudnn_lowers_for_a_gpu_that_is_not_there(monkeypatch):
    """The real shapes of 7B, forward and backward: one call each, that cuDNN's checks let pass."""
    module = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(module, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(module, "check_compute_capability", lambda capability: True)

    def calls(function, *arguments):
        gradient = jax.grad(
            lambda *parts: function(*parts).astype(jnp.float32).sum(), tuple(range(3))
        )
        lowered = jax.jit(gradient).trace(*arguments).lower(lowering_platforms=("cuda",))
        text = lowered.as_text()
        return [line.split("(")[0].split("$")[1] for line in text.splitlines() if "cudnn$" in line]

    def prompt(query, key, value):
        return grouped_attention(query, (key, value), backend="cudnn")

    def completions(query, key, value, shared_key, shared_value, mask):
        shared = Segment(shared_key, shared_value, mask)
        return grouped_attention(query, (key, value), shared=shared, backend="cudnn")

    def windows(query, key, value, mask):
        return attend(query, Segment(key, value, mask), backend="cudnn")

    own = [like(2, 4, 1, 1151, 128)] * 2
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        found = calls(prompt, like(2, 4, 1, 1151, 7, 128), *own)
        assert found == ["fmhaSoftmax", "fmhaSoftmaxBackward"]
        own, shared = [like(2, 4, 8, 159, 128)] * 2, [like(2, 4, 1152, 128)] * 2
        mask = like(2, 1152, dtype=jnp.bool_)
        biased = ["fmhaScaleBiasSoftmax", "fmhaScaleBiasSoftmaxBackward"]
        assert calls(completions, like(2, 4, 8, 159, 7, 128), *own, *shared, mask) == biased
        mask = like(2, 63, 1, 1, 64, dtype=jnp.bool_)
        assert calls(windows, *[like(2, 63, 16, 64, 80)] * 3, mask) == biased
