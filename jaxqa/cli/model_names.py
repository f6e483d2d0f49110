"""What a model is called where nobody has named it."""

import re
from pathlib import Path

_NAMELESS = ("export", "model", "checkpoint", "final", "hf")


def name_of_directory(path: str | Path) -> str:
    """The last part of a path that says something: `runs/x/export` is `x`."""
    parts = [part for part in Path(path).absolute().parts if part not in _NAMELESS]
    return re.sub(r"[^\w.+-]+", "-", parts[-1]).strip("-") or "model"
