"""Device mesh and parameter placement: ordered (path pattern -> PartitionSpec) rows.

Models know no mesh. A family's rows live here as data; the first row whose pattern matches the
whole "/"-joined path wins, and a leaf that no row matches is an error.
"""

import contextlib
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxqa.errors import UserError
from jaxqa.typing import Int

Rules = Sequence[tuple[str, P]]

BATCH_AXES = ("data", "fsdp")
"""Rows of a batch are split over both axes: fsdp devices hold different rows too."""

# Column-parallel, then row-parallel inside each block, as in Megatron-LM; the other matrix axis is
# split over fsdp. Layers are stacked, so the leading axis of a block's leaf is L and stays whole.
QWEN2_5_VL_RULES: Rules = (
    (r"visual/patch_embed/proj/kernel", P(None, None, "fsdp")),
    (r"visual/blocks/(attn/qkv|mlp/gate_proj|mlp/up_proj)/kernel", P(None, "fsdp", "tensor")),
    (r"visual/blocks/(attn/proj|mlp/down_proj)/kernel", P(None, "tensor", "fsdp")),
    (r"visual/blocks/(attn/qkv|mlp/gate_proj|mlp/up_proj)/bias", P(None, "tensor")),
    (r"visual/blocks/(attn/qkv|mlp/gate_proj|mlp/up_proj)/lora_a", P(None, "fsdp", None)),
    (r"visual/blocks/(attn/qkv|mlp/gate_proj|mlp/up_proj)/lora_b", P(None, None, "tensor")),
    (r"visual/blocks/(attn/proj|mlp/down_proj)/lora_a", P(None, "tensor", None)),
    (r"visual/blocks/(attn/proj|mlp/down_proj)/lora_b", P(None, None, "fsdp")),
    (r"visual/merger/fc1/lora_a", P("fsdp", None)),
    (r"visual/merger/fc1/lora_b", P(None, "tensor")),
    (r"visual/merger/fc2/lora_a", P("tensor", None)),
    (r"visual/merger/fc2/lora_b", P(None, "fsdp")),
    (r"visual/blocks/.*/(bias|weight)", P()),
    (r"visual/blocks/norm[12]/weight", P()),
    (r"visual/merger/fc1/kernel", P("fsdp", "tensor")),
    (r"visual/merger/fc1/bias", P("tensor")),
    (r"visual/merger/fc2/kernel", P("tensor", "fsdp")),
    (r"visual/merger/(fc2/bias|ln_q/weight)", P()),
    (r"model/embed_tokens/embedding", P("tensor", "fsdp")),
    (r"lm_head/weight", P("tensor", "fsdp")),
    (r"model/layers/(self_attn/[qkv]_proj|mlp/(gate|up)_proj)/kernel", P(None, "fsdp", "tensor")),
    (r"model/layers/(self_attn/o_proj|mlp/down_proj)/kernel", P(None, "tensor", "fsdp")),
    (r"model/layers/(self_attn/[qkv]_proj|mlp/(gate|up)_proj)/lora_a", P(None, "fsdp", None)),
    (r"model/layers/(self_attn/[qkv]_proj|mlp/(gate|up)_proj)/lora_b", P(None, None, "tensor")),
    (r"model/layers/(self_attn/o_proj|mlp/down_proj)/lora_a", P(None, "tensor", None)),
    (r"model/layers/(self_attn/o_proj|mlp/down_proj)/lora_b", P(None, None, "fsdp")),
    (r"model/layers/self_attn/[qkv]_proj/bias", P(None, "tensor")),
    (r"model/layers/(input_layernorm|post_attention_layernorm)/weight", P()),
    (r"model/norm/weight", P()),
)

CLIP_RULES: Rules = (
    (
        r"(vision|text)_model/encoder/layers/(self_attn/[qkv]_proj|mlp/fc1)/kernel",
        P(None, "fsdp", "tensor"),
    ),
    (
        r"(vision|text)_model/encoder/layers/(self_attn/out_proj|mlp/fc2)/kernel",
        P(None, "tensor", "fsdp"),
    ),
    (r"(vision|text)_model/encoder/layers/(self_attn/[qkv]_proj|mlp/fc1)/bias", P(None, "tensor")),
    (r"vision_model/embeddings/patch_embedding/kernel", P(None, "fsdp")),
    (r"vision_model/head/(attention/in_proj|mlp/fc1)/kernel", P("fsdp", "tensor")),
    (r"vision_model/head/(attention/out_proj|mlp/fc2)/kernel", P("tensor", "fsdp")),
    (r"text_model/embeddings/token_embedding/embedding", P("tensor", "fsdp")),
    (r"text_model/head/kernel", P("fsdp", None)),
    (r"(visual|text)_projection/kernel", P("fsdp", None)),
    (r"(vision|text)_model/.*(norm\d?/weight|/bias)", P()),
    (r"(vision|text)_model/embeddings/(class_embedding|position_embedding/embedding)", P()),
    (r"vision_model/head/probe", P()),
    (r"logit_(scale|bias)", P()),
)


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Sizes of the mesh axes; `data=-1` takes every device the other two leave.

    Attributes:
      data: copies of the parameters, each with its own rows.
      fsdp: devices over which each parameter is split, gathered layer by layer.
      tensor: devices over which heads, feed-forward width and vocabulary are split.
      gather_for_sampling: before a policy samples, its copy in the compute dtype is put together
        along `fsdp` once; else every layer is gathered anew for every token. Costs that copy's
        room, a `tensor`-th of the model on each device. docs/scaling.md has figures.
    """

    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    gather_for_sampling: bool = False

    def __post_init__(self):
        if self.fsdp < 1 or self.tensor < 1 or self.data == 0 or self.data < -1:
            raise ValueError(f"mesh axes must be positive (data may be -1), got {self}")


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Mesh over the first data*fsdp*tensor devices, axes ("data", "fsdp", "tensor").

    Args:
      config: how many along each axis.
      devices: those to take; None for the process's.
    """
    devices = jax.devices() if devices is None else devices
    available = len(devices)
    inner = config.fsdp * config.tensor
    data = available // inner if config.data == -1 else config.data
    needed = data * inner
    if needed == 0 or needed > available:
        raise UserError(
            f"mesh: {config.data} x {config.fsdp} x {config.tensor} devices wanted, "
            f"{available} found; make the mesh smaller"
        )
    processes = jax.process_count()
    if processes > 1 and needed < available:
        raise UserError(
            f"mesh: {needed} of {available} devices; expected all of them, because each of the "
            f"{processes} processes works with its own: set config.mesh.data to -1"
        )
    taken = np.asarray(devices[:needed]).reshape(data, config.fsdp, config.tensor)
    return Mesh(taken, ("data", "fsdp", "tensor"))


def partition_spec(path: str, shape: tuple[int, ...], rules: Rules, mesh: Mesh) -> P:
    """The spec of one leaf; an axis that the mesh does not divide stays whole.

    Raises:
      UserError: no row matches `path`.
    """
    for pattern, spec in rules:
        if re.fullmatch(pattern, path):
            return _divisible(spec, shape, mesh)
    raise UserError(f"sharding: no rule matches parameter {path!r}; add one to the family's rows")


def _divisible(spec: P, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> P:
    """Drop the axes that do not divide, e.g. 3420 vision columns over 8 devices."""
    sizes: Mapping[str, int] = mesh.shape

    def parts(axis: str | tuple[str, ...]) -> int:
        return math.prod(sizes[name] for name in ([axis] if isinstance(axis, str) else axis))

    kept = (
        axis if axis is None or size % parts(axis) == 0 else None
        for axis, size in zip(spec, shape, strict=False)
    )
    return P(*kept)


def tree_shardings(tree: Any, rules: Rules, mesh: Mesh) -> Any:
    """NamedSharding of every leaf of a parameter tree (arrays or ShapeDtypeStructs)."""

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = "/".join(str(getattr(key, "key", key)) for key in path)
        return NamedSharding(mesh, partition_spec(name, leaf.shape, rules, mesh))

    return jax.tree_util.tree_map_with_path(place, tree)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def row_shards(mesh: Mesh) -> int:
    """Number of devices that share the rows of a batch."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def on_mesh(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """While a program is traced: the mesh of `constrain_rows` and `constrain`; None for none."""
    if mesh is None or mesh.size == 1:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def constrain(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
    """Ask that `x` lies on the mesh as `axes` say; further axes stay the compiler's choice.

    Does nothing outside `on_mesh`. An axis that the mesh does not divide stays whole.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    spec = _divisible(P(*axes), x.shape, mesh)
    return jax.lax.with_sharding_constraint(x, P(*spec, *[P.UNCONSTRAINED] * (x.ndim - len(spec))))


def local_size(shape: tuple[int, ...], *axes: str | tuple[str, ...] | None) -> int:
    """Elements on one device of an array that lies on the mesh of `on_mesh` as `axes` say.

    An axis that the mesh does not divide counts whole; outside `on_mesh` all do.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return math.prod(shape)
    return math.prod(NamedSharding(mesh, _divisible(P(*axes), shape, mesh)).shard_shape(shape))


def is_split(*axes: str) -> bool:
    """Whether the mesh of `on_mesh` has several devices along each of `axes`."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and all(mesh.shape[axis] > 1 for axis in axes)


def constrain_rows(x: jax.Array) -> jax.Array:
    """Ask that the leading axis, rows of a batch, stays split over the batch axes.

    So the compiler gathers the weights of a layer and leaves its activations where they are.
    """
    return constrain(x, BATCH_AXES)


def check_rows(rows: int, mesh: Mesh, *, name: str) -> None:
    """Raise UserError, calling the number `name`, unless `shard_rows` can split `rows` rows."""
    shards = row_shards(mesh)
    if rows % shards:
        raise UserError(
            f"{name} is {rows}; expected a multiple of the {shards} devices that share the rows "
            "(config.mesh.data times config.mesh.fsdp)"
        )


@dataclass(frozen=True, kw_only=True)
class RowShare:
    """Which rows of every global batch one process holds.

    Attributes:
      parts: numbers of its parts, rising.
      count: equal parts, of consecutive rows, that a batch is cut into.
    """

    parts: tuple[int, ...] = (0,)
    count: int = 1

    def __post_init__(self):
        if not self.parts or not all(0 <= part < self.count for part in self.parts):
            raise ValueError(f"parts {self.parts} of {self.count}; expected some below the count")

    def rows(self, batch_size: int) -> Int[np.ndarray, "b"]:
        """Numbers of the rows that this process holds of a batch.

        Raises:
          ValueError: `count` does not divide `batch_size`.
        """
        if batch_size % self.count:
            raise ValueError(
                f"batch_size {batch_size} in {self.count} parts; expected one that the number of "
                "parts divides"
            )
        return np.arange(batch_size).reshape(self.count, -1)[list(self.parts)].ravel()


WHOLE = RowShare()
"""The share of the only process."""


@functools.lru_cache
def row_share(mesh: Mesh) -> RowShare:
    """The rows of this process: those of its devices, which need not be neighbours.

    Processes whose devices differ only in their place along `tensor` hold the same rows.
    """
    shards = row_shards(mesh)
    rows = mesh.devices.reshape(shards, -1)
    mine = [any(d.process_index == jax.process_index() for d in row) for row in rows]
    return RowShare(parts=tuple(np.flatnonzero(mine).tolist()), count=shards)


def shard_rows(batch: Any, mesh: Mesh) -> Any:
    """Put this process's rows of a batch on the mesh, the leading axis split over the batch axes.

    Scalars are put on every device; they must be the same in every process.

    Raises:
      ValueError: the leading axis does not divide by the number of row shards.
    """
    share, placement = row_share(mesh), NamedSharding(mesh, P(BATCH_AXES))

    def put(leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        if array.ndim == 0:
            return replicate(array, mesh)
        if array.shape[0] % len(share.parts):
            raise ValueError(
                f"{array.shape[0]} rows do not divide over {len(share.parts)} row shards"
            )
        size = array.shape[0] // len(share.parts)

        def part(index: tuple[slice, ...]) -> np.ndarray:
            place = share.parts.index((index[0].start or 0) // size) * size
            return array[place : place + size]

        shape = (size * share.count, *array.shape[1:])
        return _from_callback(shape, placement, part)

    return jax.tree.map(put, batch)


def replicate(values: Any, mesh: Mesh) -> Any:
    """Host arrays, the same in every process, whole on every device."""
    return place(values, replicated(mesh))


def place(values: Any, shardings: Any) -> Any:
    """Host arrays, the same in every process, as global arrays placed by `shardings`.

    Unlike `jax.device_put`, it asks no other process whether the values are the same.

    Args:
      values: tree of arrays; those of JAX are brought to the host first.
      shardings: a tree like it, or one sharding for all.
    """
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, values)

    def put(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
        array = np.asarray(leaf)
        return _from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, jax.device_get(values), shardings)


def _from_callback(
    shape: tuple[int, ...], placement: jax.sharding.Sharding, part: Callable[[Any], np.ndarray]
) -> jax.Array:
    # Meant: a transfer guard is there to find the transfers that nobody asked for.
    with jax.transfer_guard_host_to_device("allow"):
        return jax.make_array_from_callback(shape, placement, part)


def by_rows(tree: Any, mesh: Mesh) -> Any:
    """Global arrays, their leading axis split over the batch axes, wherever they lie now."""
    return _moved(tree, NamedSharding(mesh, P(BATCH_AXES)))


def local_rows(tree: Any, mesh: Mesh) -> Any:
    """This process's rows of global arrays, in order, as NumPy arrays."""
    return jax.tree.map(_rows_here, by_rows(tree, mesh))


def _rows_here(array: jax.Array) -> np.ndarray:
    if array.is_fully_addressable:
        return jax.device_get(array)
    # Devices along `tensor` hold copies of the same rows.
    parts = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate(jax.device_get([parts[start] for start in sorted(parts)]))


def fetch(tree: Any, mesh: Mesh) -> Any:
    """Global arrays as NumPy arrays, whole, in every process; all of them have to call it."""
    return jax.device_get(whole_everywhere(tree, mesh) if jax.process_count() > 1 else tree)


def whole_everywhere(tree: Any, mesh: Mesh) -> Any:
    """Global arrays, whole on every device, wherever they lie now."""
    return _moved(tree, replicated(mesh))


def gather(tree: Any, axis: str) -> Any:
    """Placed arrays, whole on every device along mesh axis `axis` and split as before otherwise."""
    return jax.tree.map(lambda leaf: _moved(leaf, whole_along(leaf.sharding, axis)), tree)


def whole_along(placement: NamedSharding, axis: str) -> NamedSharding:
    """`placement` without a split over mesh axis `axis`."""

    def without(names: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
        names = (names,) if isinstance(names, str) else names or ()
        return tuple(name for name in names if name != axis) or None

    return NamedSharding(placement.mesh, P(*map(without, placement.spec)))


def _moved(tree: Any, placement: NamedSharding) -> Any:
    """Arrays with another placement, by one compiled program per set of shapes."""
    leaves = jax.tree.leaves(tree)
    if all(leaf.sharding.is_equivalent_to(placement, leaf.ndim) for leaf in leaves):
        return tree
    return _mover(placement)(tree)


@functools.lru_cache
def _mover(placement: NamedSharding) -> Any:
    return jax.jit(lambda tree: tree, out_shardings=placement)
