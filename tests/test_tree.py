import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxqa import tree


def test_flatten_names_leaves_by_path_and_unflatten_undoes_it():
    nested = {"b": {"kernel": np.ones((2, 3)), "bias": np.zeros(3)}, "a": {"x": {"y": np.ones(1)}}}
    flat = tree.flatten(nested)
    assert list(flat) == ["a/x/y", "b/bias", "b/kernel"]
    back = tree.unflatten(flat)
    assert jax.tree.structure(back) == jax.tree.structure(nested)
    assert back["b"]["kernel"] is nested["b"]["kernel"]


def test_flatten_names_tuples_and_attributes():
    flat = tree.flatten({"opt": ({"mu": 1}, [2, 3])})
    assert flat == {"opt/0/mu": 1, "opt/1/0": 2, "opt/1/1": 3}


@pytest.mark.parametrize(
    "flat", [{"a": 1, "a/b": 2}, {"a/b": 2, "a": 1}, {"a/b/c": 2, "a/b": 1, "a/d": 1}]
)
def test_unflatten_rejects_a_path_that_is_leaf_and_dict(flat):
    with pytest.raises(ValueError, match="leaf"):
        tree.unflatten(flat)


def test_flatten_rejects_keys_with_a_slash():
    with pytest.raises(ValueError, match="must not contain"):
        tree.flatten({"a/b": 1})


def test_counts_elements_and_bytes():
    params = {"w": jnp.zeros((3, 5), jnp.bfloat16), "s": jax.ShapeDtypeStruct((7,), jnp.float32)}
    assert tree.count_parameters(params) == 22
    assert tree.count_bytes(params) == 58


def test_split_parts_leaves_by_path_and_join_undoes_it():
    nested = {"a": {"x": 1, "y": 2}, "b": {"x": 3}}
    chosen, rest = tree.split(nested, lambda path: path.endswith("x"))
    assert chosen == {"a": {"x": 1}, "b": {"x": 3}} and rest == {"a": {"y": 2}}
    assert tree.join(chosen, rest) == tree.join(rest, chosen) == nested
    assert tree.split(nested, lambda path: True) == (nested, {})
    with pytest.raises(ValueError, match="both trees have a/x"):
        tree.join(nested, chosen)
