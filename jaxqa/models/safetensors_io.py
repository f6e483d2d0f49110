"""Safetensors directories: random access to stored tensors, and sharded writing.

Layout: one `model.safetensors`, or shards named by `model.safetensors.index.json`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxqa.errors import UserError
from jaxqa.files import read_json, write_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

DTYPES: dict[str, np.dtype] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
}
"""Stored types that hold plain weights; JAX would narrow float64, and the rest is quantised."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Shape and type of one tensor."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Size in a file."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor of an open file; nothing is read before `read`."""

    name: str
    file: Path
    spec: TensorSpec
    handle: Any = field(repr=False)

    def read(self, index: tuple[slice, ...] | None = None) -> np.ndarray:
        """The sub-array `index` (whole when None); only these bytes take memory.

        Raises:
          UserError: the file was cut off or changed since it was opened.
        """
        index = tuple(slice(None) for _ in self.spec.shape) if index is None else index
        try:
            return self.handle[index]
        except SafetensorError as error:
            raise UserError(f"cannot read {self.name} from {self.file}: {error}") from error


def open_directory(
    directory: str | Path, *, ignored: tuple[str, ...] = ()
) -> dict[str, StoredTensor]:
    """Every tensor of a checkpoint directory by stored name; headers are read, data is not.

    Tensors whose names end with one of `ignored` are passed over, whatever their type.

    Raises:
      UserError: no safetensors, a missing or damaged shard, a tensor stored twice, or a type
        that is not a plain float.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in _shard_paths(Path(directory)):
        for tensor in _open_file(path, ignored):
            if tensor.name in tensors:
                other = tensors[tensor.name].file.name
                raise UserError(f"{directory}: tensor {tensor.name} is in {other} and {path.name}")
            tensors[tensor.name] = tensor
    return tensors


def _shard_paths(directory: Path) -> list[Path]:
    """The single file, or the shards of the index, all of them present."""
    if (directory / SINGLE_FILE).is_file():
        return [directory / SINGLE_FILE]
    if not (directory / INDEX_FILE).is_file():
        raise UserError(
            f"{directory} has neither {SINGLE_FILE} nor {INDEX_FILE}; "
            "expected a Hugging Face checkpoint in safetensors format"
        )
    index = directory / INDEX_FILE
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: expected a non-empty 'weight_map' object")
    names = sorted({str(name) for name in weight_map.values()})
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise UserError(f"{index}: shard names must be plain file names, found {outside}")
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise UserError(f"{directory}: missing {', '.join(missing)} (named by {INDEX_FILE})")
    return [directory / name for name in names]


def _open_file(path: Path, ignored: tuple[str, ...]) -> list[StoredTensor]:
    """Tensors of one file. The reader checks the header against the length of the file."""
    try:
        opened = safe_open(path, framework="numpy")
        handles = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is damaged or cut off ({error}, {path.stat().st_size} bytes); "
            "download or copy it again"
        ) from error
    tensors = []
    for name, handle in handles.items():
        if name.endswith(ignored):
            continue
        dtype = DTYPES.get(handle.get_dtype())
        if dtype is None:
            raise UserError(
                f"{path}: tensor {name} has type {handle.get_dtype()}, expected one of "
                f"{', '.join(DTYPES)}; store the weights in one of these"
            )
        spec = TensorSpec(shape=tuple(handle.get_shape()), dtype=dtype)
        tensors.append(StoredTensor(name=name, file=path, spec=spec, handle=handle))
    return tensors


def write_directory(
    directory: Path,
    specs: Mapping[str, TensorSpec],
    fetch: Callable[[str], np.ndarray],
    *,
    max_shard_bytes: int,
) -> None:
    """Write tensors in the order of `specs`, at most one shard in memory at a time.

    Raises:
      UserError: the disk refuses.
    """
    shards = plan_shards(specs, max_shard_bytes=max_shard_bytes)
    weight_map = {}
    for number, names in enumerate(shards, 1):
        single = len(shards) == 1
        file = SINGLE_FILE if single else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map.update(dict.fromkeys(names, file))
        try:
            # transformers refuses files without this mark.
            tensors = {name: np.asarray(fetch(name), order="C") for name in names}
            save_file(tensors, directory / file, metadata={"format": "pt"})
            # save_file makes files private; they get the directory's permissions.
            (directory / file).chmod(directory.stat().st_mode & 0o666)
        except SafetensorError as error:
            raise UserError(f"cannot write {directory / file}: {error}") from error
        del tensors
    if len(shards) > 1:
        total = sum(spec.nbytes for spec in specs.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(directory / INDEX_FILE, index)


def plan_shards(specs: Mapping[str, TensorSpec], *, max_shard_bytes: int) -> list[list[str]]:
    """Names per shard, in order, each shard full before the next begins.

    A tensor larger than `max_shard_bytes` has a shard of its own.
    """
    if max_shard_bytes <= 0:
        raise ValueError(f"max_shard_bytes must be positive, got {max_shard_bytes}")
    shards: list[list[str]] = []
    room = -1
    for name, spec in specs.items():
        if spec.nbytes > room:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(name)
        room -= spec.nbytes
    return shards
