"""Multiplications in a traced program, loops over layers included.

XLA's own `cost_analysis` counts the body of a loop once, however often it runs.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from jaxqa.models.qwen2_5_vl.config import Qwen2_5_VLConfig
from jaxqa.models.qwen2_5_vl.inputs import Prompts


def dot_flops(
    function: Callable[..., Any],
    *arguments: Any,
    keep: Callable[[Any], bool] = lambda dot: True,
    decoding_steps: int = 0,
) -> float:
    """Floating-point operations (2 per multiplication) of all matrix products.

    Args:
      function, arguments: traced; the arguments may be `jax.ShapeDtypeStruct`s.
      keep: which products count, by their equation.
      decoding_steps: how often the body of a loop without a known length runs.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    return sum(times * _flops(dot) for dot, times in _dots(jaxpr, decoding_steps) if keep(dot))


def elements_read(
    function: Callable[..., Any],
    *arguments: Any,
    keep: Callable[[tuple[int, ...]], bool],
    decoding_steps: int = 0,
) -> float:
    """Numbers in those operands of all matrix products whose shape is to be kept.

    Args:
      function, arguments, decoding_steps: as of `dot_flops`.
      keep: which operands count, by their shape.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    return sum(
        times * math.prod(operand.aval.shape)
        for dot, times in _dots(jaxpr, decoding_steps)
        for operand in dot.invars
        if keep(operand.aval.shape)
    )


def kept_bytes(function: Callable[[Any], jax.Array], params: Any) -> int:
    """What a backward pass finds of the forward pass, the parameters themselves left out.

    Nothing is computed; `params` may be `jax.ShapeDtypeStruct`s. Parameters that the forward pass
    has put into another shape count, though a compiler may not copy them.
    """
    kept = jax.tree.leaves(jax.eval_shape(lambda params: jax.vjp(function, params)[1], params))
    own = {(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(params)}
    return sum(
        leaf.size * leaf.dtype.itemsize for leaf in kept if (leaf.shape, leaf.dtype) not in own
    )


def shapes(dot: Any) -> set[tuple[int, ...]]:
    """Shapes of what a product reads and makes."""
    return {tuple(v.aval.shape) for v in (*dot.invars, *dot.outvars)}


def abstract_prompts(config: Qwen2_5_VLConfig, rows: int, *, length: int, windows: int) -> Prompts:
    """Shapes of a batch of prompts."""
    patches = config.vision.patches_per_window

    def of(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *shape), dtype)

    return Prompts(
        token_ids=of(length),
        mask=of(length, dtype=bool),
        positions=of(3, length),
        next_position=of(),
        patches=of(windows, patches, config.vision.patch_values, dtype=jnp.uint8),
        patch_mask=of(windows, patches, dtype=bool),
        patch_positions=of(windows, patches, 2),
        window_image=of(windows),
        vision_index=of(length),
    )


def _flops(dot: Any) -> float:
    (contracted, _), _ = dot.params["dimension_numbers"]
    shape = dot.invars[0].aval.shape
    depth = math.prod(shape[axis] for axis in contracted)
    return 2.0 * np.prod(dot.outvars[0].aval.shape, dtype=float) * depth


def _dots(jaxpr: Jaxpr, steps: int, times: float = 1) -> Iterator[tuple[Any, float]]:
    """Every matrix product and how often it runs."""
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            if _is_of_matrices(equation):
                yield equation, times
        elif name == "cond":  # the costliest branch
            branches = [list(_dots(branch.jaxpr, steps, times)) for branch in params["branches"]]
            yield from max(branches, key=lambda dots: sum(n * _flops(d) for d, n in dots))
        else:
            inner = times * {"scan": params.get("length", 1), "while": steps}.get(name, 1)
            for value in params.values():
                for item in value if isinstance(value, tuple) else (value,):
                    if isinstance(item, ClosedJaxpr):
                        yield from _dots(item.jaxpr, steps, inner)
                    elif isinstance(item, Jaxpr):
                        yield from _dots(item, steps, inner)


def _is_of_matrices(dot: Any) -> bool:
    """Not of vectors, row by row, which is how an entropy's sum is written."""
    _, (batch, _) = dot.params["dimension_numbers"]
    return dot.outvars[0].aval.ndim > len(batch)
