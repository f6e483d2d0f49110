"""Parts of the parameters: those that can be trained alone, those that are cast before use."""

import re
from collections.abc import Callable
from typing import Any, Literal

from jaxqa import tree
from jaxqa.typing import Params

Part = Literal["all", "vision", "language"]
"""`vision` is the vision tower with its merger, `language` everything else."""


def holds(part: Part) -> Callable[[str], bool] | None:
    """Whether a parameter of this "/"-joined path belongs to `part`; None for all parameters."""
    if part == "all":
        return None
    return lambda path: path.startswith("visual/") == (part == "vision")


_CAST = re.compile(r".*/(kernel|embedding|lora_a|lora_b)|lm_head/weight")
_NOT_CAST = "visual/patch_embed/"  # its two frames are added up in float32 first


def compute_copy(params: Params, dtype: str, *, own: bool) -> Params:
    """The parameters as the model computes with them: matrices in `dtype`, the rest as it is.

    The model casts matrices wherever it uses them, so results are the same to the last bit.

    Args:
      params: of the model.
      dtype: the model's `compute_dtype`.
      own: whether leaves that need no cast are copied too, for `params` that will be donated.
    """

    def cast(path: str, leaf: Any) -> Any:
        if _CAST.fullmatch(path) and not path.startswith(_NOT_CAST) and leaf.dtype != dtype:
            return leaf.astype(dtype)
        return leaf.copy() if own else leaf

    return tree.unflatten({path: cast(path, leaf) for path, leaf in tree.flatten(params).items()})
