"""jaxqa's own parameter file: an Orbax checkpoint of the pure dict of arrays."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Sharding, SingleDeviceSharding

from jaxqa import tree
from jaxqa.errors import UserError
from jaxqa.models import weight_table
from jaxqa.typing import Params

PARAMS_DIRECTORY = "params"


def save(directory: Path, params: Params, *, dtype: np.dtype | None) -> None:
    """Write `params` below `directory`; `dtype` None keeps each parameter's type.

    Raises:
      UserError: the disk refuses.
    """
    arguments = jax.tree.map(lambda _: ocp.SaveArgs(dtype=dtype), params)
    path = directory.absolute() / PARAMS_DIRECTORY
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, params, save_args=arguments)
    except ValueError as error:  # what tensorstore makes of a failing disk
        first_line = str(error).partition("\n")[0]
        raise UserError(f"cannot write {path}: {first_line}") from error


def restore(
    directory: Path,
    abstract: Params,
    *,
    dtype: np.dtype | None,
    shardings: Params | Sharding | None,
) -> Params:
    """Parameters shaped like `abstract`; see `weight_table.read_params` for the other arguments.

    Raises:
      UserError: a damaged checkpoint, or parameters that do not fit; all of them are listed.
    """
    path = directory.absolute() / PARAMS_DIRECTORY
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            found = tree.flatten(checkpointer.metadata(path).item_metadata.tree)
            target = _target(abstract, found, path, dtype=dtype, shardings=shardings)
            return checkpointer.restore(path, target)
    except (ValueError, KeyError, OSError, AttributeError) as error:
        first_line = str(error).partition("\n")[0]
        raise UserError(f"{path} is damaged or incomplete ({first_line}); convert again") from error


def _target(
    abstract: Params,
    found: dict[str, Any],
    path: Path,
    *,
    dtype: np.dtype | None,
    shardings: Params | Sharding | None,
) -> Params:
    """What to restore, after checking every path and shape."""
    leaves = tree.flatten(abstract)
    shapes = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    found_shapes = {name: tuple(leaf.shape) for name, leaf in found.items()}
    weight_table.check_fit(found_shapes, shapes, source=str(path))
    places = weight_table.placements(abstract, shardings)
    default = SingleDeviceSharding(jax.local_devices()[0])
    target = {
        name: jax.ShapeDtypeStruct(
            shape, dtype or found[name].dtype, sharding=places[name] or default
        )
        for name, shape in shapes.items()
    }
    return tree.unflatten(target)
