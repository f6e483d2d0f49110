"""Products whose matrix is cast: their gradients, and that no cast copy of a stack is kept."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxqa.nn.linear import matmul

LAYERS, WIDTH = 11, 24


def test_gradients_of_a_cast_product():
    rng = np.random.default_rng(0)
    x, kernel, slope = (rng.standard_normal(s).astype(np.float32) for s in ((9, 5), (5, 4), (9, 4)))
    rounded = jnp.asarray(x, jnp.bfloat16)

    def loss(x, kernel):
        return (matmul(x, kernel).astype(jnp.float32) * slope).sum()

    d_x, d_kernel = jax.grad(loss, argnums=(0, 1))(rounded, jnp.asarray(kernel))
    assert (d_x.dtype, d_kernel.dtype) == ("bfloat16", "float32")
    truths = slope @ kernel.T, np.asarray(rounded, np.float32).T @ slope
    for found, truth in zip((d_x, d_kernel), truths, strict=True):
        error = np.abs(np.asarray(found, np.float32) - truth).max()
        assert error < 0.02 * np.abs(truth).max()
    same = jax.grad(lambda k: (matmul(jnp.asarray(x), k) * slope).sum())(jnp.asarray(kernel))
    np.testing.assert_allclose(same, x.T @ slope, rtol=1e-5, atol=1e-6)


def test_a_scan_over_layers_keeps_no_cast_kernels_for_its_backward_pass():
    def loss(kernels, x):
        y, _ = jax.lax.scan(lambda y, kernel: (jnp.tanh(matmul(y, kernel)), None), x, kernels)
        return y.astype(jnp.float32).sum()

    kernels, x = jnp.zeros((LAYERS, WIDTH, WIDTH)), jnp.zeros((4, WIDTH), jnp.bfloat16)
    program = jax.jit(jax.grad(loss)).lower(kernels, x).as_text()
    assert f"tensor<{LAYERS}x{WIDTH}x{WIDTH}xf32>" in program
    assert f"tensor<{LAYERS}x{WIDTH}x{WIDTH}xbf16>" not in program


def test_a_policy_that_keeps_products_finds_them():
    """With `dots` the backward pass computes no product of the forward pass again."""
    x, kernel = jnp.ones((4, 3), jnp.bfloat16), jnp.ones((3, 3), jnp.float32)

    def products(policy) -> int:
        twice = jax.checkpoint(
            lambda x, k: jnp.sin(matmul(jnp.sin(matmul(x, k)), k)).astype(jnp.float32).sum(),
            policy=policy,
        )
        return str(jax.make_jaxpr(jax.grad(twice, (0, 1)))(x, kernel)).count("dot_general")

    policies = jax.checkpoint_policies
    kept = products(policies.dots_with_no_batch_dims_saveable)
    assert kept == products(policies.everything_saveable)
    assert kept < products(policies.nothing_saveable)
