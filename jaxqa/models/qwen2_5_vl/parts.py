"""The parts of the model that can be trained alone."""

from collections.abc import Callable
from typing import Literal

Part = Literal["all", "vision", "language"]
"""`vision` is the vision tower with its merger, `language` everything else."""


def holds(part: Part) -> Callable[[str], bool] | None:
    """Whether a parameter of this "/"-joined path belongs to `part`; None for all parameters."""
    if part == "all":
        return None
    return lambda path: path.startswith("visual/") == (part == "vision")
