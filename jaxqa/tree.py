"""Parameter trees as flat dicts of "/"-joined paths, and back."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves of any pytree by "/"-joined path, in JAX's (sorted) order.

    Raises:
      ValueError: a dict key contains "/", so that the path could not be undone.
    """
    flat = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        names = [jax.tree_util.keystr((key,), simple=True) for key in path]
        if any("/" in name for name in names):
            raise ValueError(f"tree keys must not contain '/', got {names}")
        flat["/".join(names)] = leaf
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts of a flat one; the inverse of `flatten` for trees of nested dicts.

    Raises:
      ValueError: one path is the beginning of another, so it would be a leaf and a dict at once.
    """
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"path {path!r} runs through a leaf at {parent!r}")
        if name in node:
            raise ValueError(f"path {path!r} is both a leaf and a dict, or appears twice")
        node[name] = leaf
    return tree


def split(tree: Any, chosen: Callable[[str], bool]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The leaves whose "/"-joined path is `chosen`, and the others, as trees of nested dicts."""
    flat = flatten(tree)
    return (
        unflatten({path: leaf for path, leaf in flat.items() if chosen(path)}),
        unflatten({path: leaf for path, leaf in flat.items() if not chosen(path)}),
    )


def join(one: Any, other: Any) -> dict[str, Any]:
    """Undo `split`.

    Raises:
      ValueError: both trees have a leaf of the same path.
    """
    first, second = flatten(one), flatten(other)
    if both := first.keys() & second.keys():
        raise ValueError(f"both trees have {', '.join(sorted(both))}")
    return unflatten(first | second)


def count_parameters(tree: Any) -> int:
    """Number of array elements in all leaves (arrays or ShapeDtypeStructs)."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def count_bytes(tree: Any) -> int:
    """Bytes of all leaves (arrays or ShapeDtypeStructs), as if each existed once."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
