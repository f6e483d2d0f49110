"""Device mesh and parameter placement: ordered (path pattern -> PartitionSpec) rows.

Models know no mesh. A family's rows live here as data; the first row whose pattern matches the
whole "/"-joined path wins, and a leaf that no row matches is an error.
"""

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxqa.errors import UserError

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
    (r"(vision|text)_model/.*", P()),
    (r"logit_(scale|bias)", P()),
)


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Sizes of the mesh axes; `data=-1` takes every device the other two leave.

    Attributes:
      data: copies of the parameters, each with its own rows.
      fsdp: devices over which each parameter is split, gathered layer by layer.
      tensor: devices over which heads, feed-forward width and vocabulary are split.
    """

    data: int = 1
    fsdp: int = 1
    tensor: int = 1

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


def shard_rows(batch: Any, mesh: Mesh) -> Any:
    """Put this process's rows of a batch on the mesh, the leading axis split over the batch axes.

    Raises:
      ValueError: the leading axis does not divide by the number of row shards.
    """
    shards = row_shards(mesh)

    def put(leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        if array.ndim == 0:
            return jax.device_put(array, replicated(mesh))
        if array.shape[0] * jax.process_count() % shards:
            raise ValueError(f"{array.shape[0]} rows do not divide over {shards} row shards")
        return jax.make_array_from_process_local_data(NamedSharding(mesh, P(BATCH_AXES)), array)

    return jax.tree.map(put, batch)
