import jax
import jax.numpy as jnp
import numpy as np

from jaxqa.objectives.sft import sft_loss


def test_sum_over_supervised_tokens():
    log_probs = jnp.array([[[-1.0, -2.0, -4.0]], [[-8.0, -16.0, jnp.nan]]])
    mask = jnp.array([[[True, True, False]], [[True, False, False]]])
    total, count = sft_loss(log_probs, mask)
    assert (float(total), float(count)) == (11.0, 3.0)


def test_gradient_is_minus_one_where_supervised_and_zero_elsewhere():
    mask = jnp.array([[[True, False], [False, True]]])
    gradient = jax.grad(lambda x: sft_loss(x, mask)[0])(-jnp.ones(mask.shape))
    np.testing.assert_array_equal(gradient, -np.asarray(mask, np.float32))
