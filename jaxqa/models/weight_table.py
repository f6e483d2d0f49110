"""Checkpoint tensors <-> stacked parameters, driven by a table of rows.

A family of models lists its rows once (`qwen2_5_vl/weights.py`); reading, checking and writing
are the same for all. Parameters are read by random access straight into their place: beside the
destination arrays there is at most one parameter's local slice and one tensor in host memory.
"""

import gc
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding

from jaxqa import sharding as sharding_lib
from jaxqa import tree
from jaxqa.errors import UserError
from jaxqa.models.safetensors_io import StoredTensor, TensorSpec
from jaxqa.models.weight_transforms import COPY, Index, Shape, Transform
from jaxqa.typing import Params


@dataclass(frozen=True)
class Row:
    """One line of a family's table.

    Attributes:
      stored: tensor name in the file; "{}" stands for the layer number.
      path: "/"-joined parameter path; with "{}" in `stored` the parameter is stacked [L, ...].
      transform: how the two correspond.
    """

    stored: str
    path: str
    transform: Transform = COPY

    @property
    def stacked(self) -> bool:
        """Whether the parameter holds all layers on a leading axis."""
        return "{}" in self.stored


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Where one stored tensor belongs: layer `layer` of a stacked parameter, or all of one."""

    row: Row
    layer: int | None
    shape: Shape


def slots(rows: Sequence[Row], params: Params) -> dict[str, Slot]:
    """The slot of every tensor that `params` (arrays or ShapeDtypeStructs) is stored in.

    Rows without a parameter are left out (a tied model has no output matrix).

    Raises:
      ValueError: a parameter has no row, so the table is incomplete.
    """
    leaves = tree.flatten(params)
    without_row = sorted(leaves.keys() - {row.path for row in rows})
    if without_row:
        raise ValueError(f"the weight table has no row for {', '.join(without_row)}")
    found = {}
    for row in rows:
        if row.path not in leaves:
            continue
        shape = tuple(leaves[row.path].shape)
        layers: list[int | None] = [*range(shape[0])] if row.stacked else [None]
        stored_shape = row.transform.stored_shape(shape[1:] if row.stacked else shape)
        for layer in layers:
            slot = Slot(row=row, layer=layer, shape=stored_shape)
            found[row.stored.format(layer)] = slot
    return dict(sorted(found.items(), key=lambda item: _natural_key(item[0])))


def _natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key under which layer 10 follows layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def check_fit(found: Mapping[str, Shape], expected: Mapping[str, Shape], *, source: str) -> None:
    """Compare shapes by name.

    Raises:
      UserError: with every missing, unexpected and mis-shaped tensor.
    """
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    misshaped = [
        f"{name} is {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "wrong shape": misshaped}
    if any(problems.values()):
        listed = "; ".join(
            f"{what}: {', '.join(names)}" for what, names in problems.items() if names
        )
        raise UserError(
            f"{source}: tensors do not fit config.json ({len(missing)} missing, "
            f"{len(unexpected)} unexpected, {len(misshaped)} of wrong shape): {listed}"
        )


def placements(abstract: Params, shardings: Params | Sharding | None) -> dict[str, Any]:
    """The sharding of every parameter by path, from one for all, a tree of them, or None."""
    leaves = tree.flatten(abstract)
    if shardings is None or isinstance(shardings, Sharding):
        return dict.fromkeys(leaves, shardings)
    return tree.flatten(shardings)


def read_params(
    rows: Sequence[Row],
    abstract: Params,
    stored: Mapping[str, StoredTensor],
    *,
    dtype: np.dtype | None,
    shardings: Params | Sharding | None,
) -> Params:
    """Parameters shaped like `abstract`, read from checked tensors.

    `dtype` None keeps the stored type. `shardings` is one for all, a tree of them, or None for
    the default device.

    Raises:
      UserError: a stacked parameter is stored in several types and `dtype` is None.
    """
    by_path = {row.path: row for row in rows}
    places = placements(abstract, shardings)
    params = {}
    for path, leaf in tree.flatten(abstract).items():
        params[path] = _read_parameter(
            by_path[path], leaf.shape, stored, dtype=dtype, sharding=places[path]
        )
    return tree.unflatten(params)


def _read_parameter(
    row: Row,
    shape: Shape,
    stored: Mapping[str, StoredTensor],
    *,
    dtype: np.dtype | None,
    sharding: Sharding | None,
) -> jax.Array:
    """One parameter, each device's part read on its own."""
    parts = [stored[row.stored.format(i)] for i in range(shape[0] if row.stacked else 1)]
    dtype = _common_dtype(row.path, parts) if dtype is None else dtype
    # Devices that hold copies ask for the same part; it is read and kept once.
    cache: dict[tuple[tuple[int, int], ...], np.ndarray] = {}

    def read_part(index: Index | None) -> np.ndarray:
        bounds = tuple(
            axis.indices(size)[:2] for axis, size in zip(index or (), shape, strict=True)
        )
        if bounds not in cache:
            cache[bounds] = _read_part(row, parts, bounds, dtype)
        return cache[bounds]

    if sharding is None:
        array = jax.device_put(read_part(tuple(slice(None) for _ in shape)))
    else:
        array = jax.make_array_from_callback(shape, sharding, read_part)
    array.block_until_ready()
    # JAX lets go of the host copy at its next garbage collection, not at the end of the transfer;
    # the youngest generation is enough to trigger that.
    cache.clear()
    gc.collect(0)
    return array


def _read_part(
    row: Row, parts: list[StoredTensor], bounds: tuple[tuple[int, int], ...], dtype: np.dtype
) -> np.ndarray:
    """The sub-array of a parameter within `bounds`, tensor by tensor."""
    part = np.empty([stop - start for start, stop in bounds], dtype)
    index = tuple(slice(start, stop) for start, stop in bounds)
    if row.stacked:
        for place, layer in enumerate(range(*bounds[0])):
            part[place] = row.transform.read(parts[layer], index[1:])
    else:
        part[...] = row.transform.read(parts[0], index)
    return part


def _common_dtype(path: str, parts: list[StoredTensor]) -> np.dtype:
    """The type all layers are stored in."""
    dtypes = {part.spec.dtype for part in parts}
    if len(dtypes) > 1:
        names = ", ".join(sorted(str(dtype) for dtype in dtypes))
        raise UserError(f"layers of {path} are stored as {names}; choose one type with dtype")
    return dtypes.pop()


def stored_tensors(
    rows: Sequence[Row], params: Params, *, dtype: np.dtype | None
) -> tuple[dict[str, TensorSpec], Callable[[str], np.ndarray]]:
    """What to write for `params`, and the function that fetches one tensor from its device.

    Where parameters are spread over processes, all of them have to fetch the same tensors in the
    same order; each gets them whole. `dtype` None keeps each parameter's type.
    """
    leaves = tree.flatten(params)
    places = slots(rows, params)
    specs = {
        name: TensorSpec(shape=slot.shape, dtype=dtype or np.dtype(leaves[slot.row.path].dtype))
        for name, slot in places.items()
    }

    def fetch(name: str) -> np.ndarray:
        slot, dtype = places[name], specs[name].dtype
        part = _cut(leaves[slot.row.path], slot.layer)
        if isinstance(part, jax.Array) and not part.is_fully_addressable:
            assert isinstance(part.sharding, NamedSharding)  # several processes share a mesh
            assert isinstance(part.sharding.mesh, Mesh)
            part = sharding_lib.whole_everywhere(part, part.sharding.mesh)
        tensor = np.array(slot.row.transform.to_stored(np.asarray(part)), dtype=dtype, order="C")
        if isinstance(part, jax.Array):
            part.delete()  # it would keep its host copy until a garbage collection
        return tensor

    return specs, fetch


def _cut(leaf: Any, layer: int | None) -> Any:
    """A copy of one layer (or all) of a parameter, made where the parameter is."""
    if not isinstance(leaf, jax.Array):
        return leaf if layer is None else leaf[layer]
    if layer is None:
        return jnp.copy(leaf)
    # A traced start: one compilation for all layers.
    return jax.lax.dynamic_index_in_dim(leaf, np.int32(layer), keepdims=False)
