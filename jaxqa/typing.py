"""Array types and the dimension alphabet used in every signature and einsum.

B  prompt rows (images)          G  completions per prompt      T  completion tokens
S  prompt tokens, key slots      D  model width                 V  vocabulary
N  query heads                   K  key-value heads             R  query heads per key-value head
H  head width                    F  feed-forward width          L  layers
W  vision windows per row        P  patches per window          M  merged vision tokens
C  values per patch
"""

from typing import Any

from jaxtyping import Array, Bool, Float, Int, Key, Shaped, UInt, UInt8

Params = dict[str, Any]
"""Nested dict of arrays: the parameters of a model, without any module object."""

__all__ = ["Array", "Bool", "Float", "Int", "Key", "Params", "Shaped", "UInt", "UInt8"]
