"""jaxqa's own parameter file: an Orbax checkpoint of the pure dict of arrays."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Sharding, SingleDeviceSharding

from jaxqa import tree
from jaxqa.errors import UserError
from jaxqa.files import read_json, write_json
from jaxqa.models import weight_table
from jaxqa.typing import Params

PARAMS_DIRECTORY = "params"
FILE_LIST = "params_files.json"
"""Size of every file of the checkpoint: Orbax itself meets a cut file with pages of traceback."""


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
    write_json(directory / FILE_LIST, _file_sizes(path))


def _file_sizes(path: Path) -> dict[str, int]:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.stat().st_size for file in files}


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
    _check_files(directory)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            found = tree.flatten(checkpointer.metadata(path).item_metadata.tree)
            target = _target(abstract, found, path, dtype=dtype, shardings=shardings)
            return checkpointer.restore(path, target)
    except (ValueError, KeyError, OSError, AttributeError) as error:
        first_line = str(error).partition("\n")[0]
        raise UserError(f"{path} is damaged or incomplete ({first_line}); convert again") from error


def _check_files(directory: Path) -> None:
    """Raise UserError naming every file that is missing or has another size than when written."""
    expected = read_json(directory / FILE_LIST)
    found = _file_sizes(directory / PARAMS_DIRECTORY)
    damaged = [name for name, size in expected.items() if found.get(name) != size]
    if damaged:
        raise UserError(
            f"{directory / PARAMS_DIRECTORY} is damaged: missing or cut off are "
            f"{', '.join(damaged)}; convert or copy it again"
        )


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
