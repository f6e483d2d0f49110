"""A distilled scorer on disk: one directory of JSON and safetensors, nothing else.

    rali.json           architecture, score range and output mapping, preprocessing, provenance
    rali.safetensors    the image tower ("encoder/...") and the score basis ("basis/...")

Tensors are stored as they lie in memory (layers stacked), so that loading is one read.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxqa import configuration, tree
from jaxqa.distill.basis import OutputMapping, ScoreBasis
from jaxqa.errors import UserError
from jaxqa.files import atomic_directory, check_free_space, read_json, write_json
from jaxqa.models import weight_table
from jaxqa.models.clip import hf_config, weights
from jaxqa.models.clip.config import ClipConfig
from jaxqa.models.clip.model import Clip, image_params
from jaxqa.typing import Params

JSON_FILE = "rali.json"
TENSOR_FILE = "rali.safetensors"
FORMAT_MARK = "jaxqa_rali"
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Artifact:
    """A distilled scorer in memory.

    Attributes:
        config: the image tower; no text tower.
        encoder: its parameters.
        basis: the score basis.
        provenance: where it came from: JSON values of the maker's choice.
    """

    config: ClipConfig
    encoder: Params
    basis: ScoreBasis
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.config.text is not None:
            raise ValueError("an artifact holds an image tower only; use config.image_only()")


def is_artifact(directory: str | Path) -> bool:
    """Whether a directory looks like a distilled scorer."""
    return (Path(directory) / JSON_FILE).is_file()


def save_artifact(directory: str | Path, artifact: Artifact) -> None:
    """Write an artifact, whole or not at all.

    Raises:
        UserError: `directory` is taken or cannot be written, or encoder and basis disagree.
    """
    basis = artifact.basis
    params = {"encoder": image_params(artifact.encoder), "basis": dict(basis.params)}
    tensors = {path: np.asarray(leaf) for path, leaf in tree.flatten(params).items()}
    shapes = {path: tensor.shape for path, tensor in tensors.items()}
    _check_shapes(shapes, artifact.config, source="the new artifact")
    values = {
        FORMAT_MARK: FORMAT_VERSION,
        "encoder": configuration.to_dict(artifact.config),
        "temperature": basis.temperature,
        "mapping": configuration.to_dict(basis.mapping),
        "preprocessing": hf_config.preprocessor_config(artifact.config),
        "provenance": dict(artifact.provenance),
    }
    with atomic_directory(directory) as temporary:
        check_free_space(temporary, sum(tensor.nbytes for tensor in tensors.values()))
        path = temporary / TENSOR_FILE
        try:
            save_file({k: np.asarray(t, order="C") for k, t in tensors.items()}, path)
        except SafetensorError as error:
            raise UserError(f"cannot write {path}: {error}") from error
        path.chmod(temporary.stat().st_mode & 0o666)  # save_file makes files private
        write_json(temporary / JSON_FILE, values)


def load_artifact(directory: str | Path) -> Artifact:
    """Read an artifact; nothing is unpickled or run.

    Raises:
        UserError: not an artifact, another version, damaged or missing files, or an encoder and a
            basis that do not belong together.
    """
    directory = Path(directory)
    where = directory / JSON_FILE
    if not is_artifact(directory):
        raise UserError(f"{directory} holds no {JSON_FILE}; expected a RALI artifact")
    values = read_json(where)
    if values.get(FORMAT_MARK) != FORMAT_VERSION:
        raise UserError(
            f"{where}: {FORMAT_MARK} is {values.get(FORMAT_MARK)!r}, expected {FORMAT_VERSION}; "
            "make the artifact again, or use the jaxqa that made it"
        )
    config = configuration.from_dict(
        ClipConfig, _object(values, "encoder", where), at=f"{where}, encoder"
    )
    mapping = configuration.from_dict(
        OutputMapping, _object(values, "mapping", where), at=f"{where}, mapping"
    )
    temperature = values.get("temperature")
    if not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
        raise UserError(f"{where}: temperature is {temperature!r}, expected a positive number")
    params = _read(directory / TENSOR_FILE, config)
    return Artifact(
        config=config,
        encoder=params["encoder"],
        basis=ScoreBasis(params=params["basis"], temperature=float(temperature), mapping=mapping),
        provenance=_object(values, "provenance", where),
    )


def export_encoder(directory: str | Path, artifact: Artifact, *, dtype: str | None = None) -> None:
    """Write the image tower as a Hugging Face directory, which `transformers` loads.

    Raises:
        UserError: `directory` is taken or cannot be written, or an unknown `dtype`.
    """
    weights.save_pretrained(directory, artifact.config, artifact.encoder, dtype=dtype)


def _object(values: Mapping[str, Any], key: str, where: Path) -> Mapping[str, Any]:
    value = values.get(key)
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: {key} is {value!r}, expected an object")
    return value


def _read(path: Path, config: ClipConfig) -> Params:
    """Checked tensors as a tree."""
    try:
        with safe_open(path, framework="numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _check_shapes(shapes, config, source=str(path))
            found = {name: file.get_tensor(name) for name in shapes}
    except (SafetensorError, OSError, TypeError) as error:
        raise UserError(
            f"{path} is missing or damaged ({error}); copy or make the artifact again"
        ) from error
    for name, tensor in found.items():
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            raise UserError(f"{path}: {name} has type {tensor.dtype}, expected floating point")
        if name.startswith("basis/") and not np.isfinite(tensor).all():
            raise UserError(f"{path}: {name} holds values that are not finite; make it again")
    return jax.device_put(tree.unflatten(found))


def _check_shapes(
    shapes: Mapping[str, tuple[int, ...]], config: ClipConfig, *, source: str
) -> None:
    """Raise UserError unless encoder and basis have the shapes that `config` implies."""
    components = shapes.get("basis/components", ())
    vectors = shapes.get("basis/vectors", ())
    if len(components) != 2 or len(vectors) != 2:
        raise UserError(f"{source}: no score basis; expected basis/components and basis/vectors")
    if components[0] != config.projection_dim:
        raise UserError(
            f"{source}: the basis takes embeddings of {components[0]} values and the encoder "
            f"makes {config.projection_dim}; they do not belong together"
        )
    expected = {
        f"encoder/{name}": tuple(leaf.shape)
        for name, leaf in tree.flatten(Clip(config=config).abstract_params()).items()
    }
    expected |= {
        "basis/mean": (config.projection_dim,),
        "basis/components": tuple(components),
        "basis/vectors": (vectors[0], components[1]),
        "basis/scores": (vectors[0],),
    }
    weight_table.check_fit(shapes, expected, source=source)
