import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxqa.objectives.log_probabilities import token_log_probs


def _inputs(seed: int, *, lead: tuple[int, ...], width: int, vocab: int, scale: float = 1.0):
    rng = np.random.default_rng(seed)
    hidden = (scale * rng.normal(size=(*lead, width))).astype(np.float32)
    head = rng.normal(size=(vocab, width)).astype(np.float32)
    return hidden, head, rng.integers(0, vocab, lead).astype(np.int32)


def _cotangents(lead: tuple[int, ...]):
    rng = np.random.default_rng(99)
    return tuple(rng.normal(size=lead).astype(np.float32) for _ in range(2))


@functools.partial(jax.jit, static_argnames=("temperature", "chunk_size"))
def _ours(hidden, head, targets, cotangents, *, temperature: float = 1.0, chunk_size: int):
    """Both outputs, then both gradients."""
    outputs, pull_back = jax.vjp(
        lambda h, w: token_log_probs(h, w, targets, temperature=temperature, chunk_size=chunk_size),
        hidden,
        head,
    )
    return outputs + pull_back(cotangents)


def _torch(hidden, head, targets, cotangents, *, temperature: float = 1.0):
    """The same in torch, in float64, with all logits at once."""
    torch = pytest.importorskip("torch")
    hidden = torch.tensor(np.asarray(hidden, np.float64), requires_grad=True)
    head = torch.tensor(np.asarray(head, np.float64), requires_grad=True)
    log_p = torch.log_softmax(hidden @ head.T / temperature, dim=-1)
    index = torch.tensor(np.asarray(targets), dtype=torch.int64)[..., None]
    log_probs = log_p.gather(-1, index)[..., 0]
    entropies = -(log_p.exp() * log_p).sum(-1)
    d_log_probs, d_entropies = (torch.tensor(np.asarray(c, np.float64)) for c in cotangents)
    (log_probs * d_log_probs + entropies * d_entropies).sum().backward()
    return tuple(x.detach().numpy() for x in (log_probs, entropies, hidden.grad, head.grad))


def _assert_close(found, expected, *, tolerance: float):
    """Close relative to the largest value."""
    found = np.asarray(found, np.float64)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


@pytest.mark.torch
@pytest.mark.parametrize(
    ("lead", "vocab", "chunk_size", "temperature"),
    [
        ((2, 3, 4), 37, 5, 1.0),
        ((2, 3, 4), 37, 36, 0.6),
        ((2, 3, 4), 37, 37, 1.7),
        ((2, 3, 4), 37, 4096, 1.0),
        ((7,), 32, 8, 0.6),
        ((7,), 19, 1, 1.0),
        ((), 11, 4, 1.0),
        ((1, 1), 1, 4, 1.0),
    ],
)
def test_values_and_gradients_equal_torch(lead, vocab, chunk_size, temperature):
    inputs = (*_inputs(vocab, lead=lead, width=9, vocab=vocab), _cotangents(lead))
    found = _ours(*inputs, temperature=temperature, chunk_size=chunk_size)
    for ours, theirs in zip(found, _torch(*inputs, temperature=temperature), strict=True):
        assert ours.dtype == jnp.float32
        _assert_close(ours, theirs, tolerance=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("chunk_size", [16, 64])
@pytest.mark.parametrize("head_dtype", [jnp.bfloat16, jnp.float32])
def test_bfloat16_is_accumulated_in_float32(chunk_size: int, head_dtype):
    hidden, head, targets = _inputs(3, lead=(3, 5), width=24, vocab=45)
    hidden, head = jnp.asarray(hidden, jnp.bfloat16), jnp.asarray(head, jnp.bfloat16)
    inputs = (hidden, head.astype(head_dtype), targets, _cotangents((3, 5)))
    log_probs, entropies, d_hidden, d_head = _ours(*inputs, chunk_size=chunk_size)
    expected = _torch(*inputs)
    for ours, theirs in zip((log_probs, entropies), expected, strict=False):
        assert ours.dtype == jnp.float32
        _assert_close(ours, theirs, tolerance=1e-5)
    # The slope of the logits is rounded to bfloat16 before the last products.
    assert (d_hidden.dtype, d_head.dtype) == (jnp.bfloat16, head_dtype)
    _assert_close(d_hidden, expected[2], tolerance=2**-7)
    _assert_close(d_head, expected[3], tolerance=2**-7)


@pytest.mark.torch
@pytest.mark.parametrize("chunk_size", [8, 64])
def test_large_logits(chunk_size: int):
    lead = (4, 6)
    hidden, head, targets = _inputs(5, lead=lead, width=16, vocab=50, scale=20.0)
    # A constant added to every logit changes neither result.
    hidden = np.concatenate([hidden, np.full((*lead, 1), 50.0, np.float32)], axis=-1)
    head = np.concatenate([head, np.full((50, 1), 20.0, np.float32)], axis=-1)
    inputs = (hidden, head, targets, _cotangents(lead))
    log_probs, entropies, d_hidden, _ = _ours(*inputs, chunk_size=chunk_size)
    expected = _torch(*inputs)
    # Logits near 1,000 are themselves rounded to 6e-5.
    np.testing.assert_allclose(log_probs, expected[0], atol=1e-3)
    np.testing.assert_allclose(entropies, expected[1], atol=2e-3)
    assert np.all(np.asarray(entropies) >= 0)
    assert np.isfinite(d_hidden).all()


def test_gradient_equals_finite_differences():
    hidden, head, targets = _inputs(7, lead=(2,), width=3, vocab=7)
    with jax.enable_x64(True):
        hidden, head = (jnp.asarray(x, jnp.float64) for x in (hidden, head))
        targets = jnp.asarray(targets)

        def f(h, w):
            h, w = jnp.asarray(h), jnp.asarray(w)
            log_probs, entropies = token_log_probs(h, w, targets, chunk_size=3)
            return (log_probs * jnp.array([0.3, -2.0]) + jnp.square(entropies)).sum()

        test_util.check_grads(f, (hidden, head), order=1, modes=["rev"], rtol=1e-6)


def test_each_output_alone_can_be_differentiated():
    hidden, head, targets = _inputs(8, lead=(5,), width=6, vocab=23)
    one, zero = jnp.ones(5), jnp.zeros(5)
    both = _ours(hidden, head, targets, (one, one), chunk_size=10)[2:]
    alone = [_ours(hidden, head, targets, c, chunk_size=10)[2:] for c in ((one, zero), (zero, one))]
    for total, first, second in zip(both, *alone, strict=True):
        np.testing.assert_allclose(total, first + second, atol=1e-5)
        assert np.abs(first).max() > 1e-2 and np.abs(second).max() > 1e-2


def _temporary_bytes(vocab: int, chunk_size: int) -> int:
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((256, 16), (vocab, 16))]
    targets = jax.ShapeDtypeStruct((256,), jnp.int32)
    cotangent = jax.ShapeDtypeStruct((256,), jnp.float32)
    lowered = _ours.lower(*shapes, targets, (cotangent, cotangent), chunk_size=chunk_size)
    return lowered.compile().memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_the_vocabulary():
    small, large = (_temporary_bytes(vocab, 500) for vocab in (2_000, 32_001))
    head_growth = 4 * 16 * (32_001 - 2_000)  # the head's gradient may be built beside its result
    assert large <= 1.1 * small + head_growth
    assert large < 0.2 * 4 * 256 * 32_001  # a fifth of all logits
    assert _temporary_bytes(32_001, 40_000) > 4 * 256 * 32_001


def test_rows_spread_over_devices_give_the_same():
    hidden, head, targets = _inputs(9, lead=(8, 3), width=6, vocab=23)
    alone = _ours(hidden, head, targets, _cotangents((8, 3)), chunk_size=10)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    place = functools.partial(jax.device_put, device=NamedSharding(mesh, PartitionSpec("data")))
    head = jax.device_put(head, NamedSharding(mesh, PartitionSpec()))
    spread = _ours(place(hidden), head, place(targets), place(_cotangents((8, 3))), chunk_size=10)
    assert spread[0].sharding.spec == PartitionSpec("data")
    for ours, reference in zip(spread, alone, strict=True):
        np.testing.assert_allclose(ours, reference, atol=1e-5)


def test_wrong_options_are_refused():
    hidden, head, targets = map(jnp.asarray, _inputs(0, lead=(2,), width=3, vocab=5))
    with pytest.raises(ValueError, match="temperature is 0"):
        token_log_probs(hidden, head, targets, temperature=0.0)
    with pytest.raises(ValueError, match="chunk_size is 0"):
        token_log_probs(hidden, head, targets, chunk_size=0)
