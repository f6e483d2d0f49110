"""CLIP and SigLIP checkpoints: the name table, loading and saving Hugging Face directories.

A directory holds both towers (`CLIPModel`, `SiglipModel`) or an image tower on its own
(`CLIPVisionModelWithProjection`, `SiglipVisionModel`); `config.json` tells which.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from jaxqa import tree
from jaxqa.errors import UserError
from jaxqa.files import atomic_directory, check_free_space, read_json, write_json
from jaxqa.models import safetensors_io, weight_table
from jaxqa.models.clip import hf_config
from jaxqa.models.clip.config import ClipConfig
from jaxqa.models.clip.model import TEXT_KEYS, Clip
from jaxqa.models.safetensors_io import StoredTensor
from jaxqa.models.weight_table import Row
from jaxqa.models.weight_transforms import COPY, LINEAR, Index, Shape, Transform
from jaxqa.typing import Params

DTYPES = ("float32", "bfloat16", "float16")
MAX_SHARD_BYTES = 5 * 10**9

BUFFERS = ("position_ids",)
"""What older `transformers` stored beside the weights."""

SIDE_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "LICENSE",
)
"""What travels with the weights of both towers."""


@dataclass(frozen=True)
class PatchConvolution(Transform):
    """A patch convolution [D, channels, p, p] as [channels * p * p, D]."""

    channels: int = 3

    def stored_shape(self, shape: Shape) -> Shape:
        """[D, channels, p, p]."""
        values, width = shape
        side = round((values // self.channels) ** 0.5)
        return (width, self.channels, side, side)

    def read(self, stored: StoredTensor, index: Index) -> np.ndarray:
        """The first axis joins three stored ones, so it is cut after reading."""
        values, width = index
        block = stored.read((width, slice(None), slice(None), slice(None)))
        return block.reshape(block.shape[0], -1).T[values]

    def to_stored(self, array: np.ndarray) -> np.ndarray:
        """[D, channels, p, p]."""
        return array.T.reshape(self.stored_shape(array.shape))


def _layer_rows(tower: str) -> tuple[Row, ...]:
    """The rows of a tower's stack; stored and own names differ in their endings only."""
    rows = []
    for module in (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.out_proj",
        "mlp.fc1",
        "mlp.fc2",
        "layer_norm1",
        "layer_norm2",
    ):
        path = f"{tower}/encoder/layers/{module.replace('.', '/')}"
        stored = f"{tower}.encoder.layers.{{}}.{module}"
        is_norm = module.startswith("layer_norm")
        rows.append(
            Row(f"{stored}.weight", f"{path}/weight")
            if is_norm
            else Row(f"{stored}.weight", f"{path}/kernel", LINEAR)
        )
        rows.append(Row(f"{stored}.bias", f"{path}/bias"))
    return tuple(rows)


def _plain(path: str, transform: Transform = COPY, *, leaf: str = "") -> Row:
    """A row whose stored name is the path; torch calls the last part `leaf`, if given."""
    *parents, last = path.split("/")
    return Row(".".join([*parents, leaf or last]), path, transform)


ROWS = (
    _plain("vision_model/embeddings/class_embedding"),
    _plain("vision_model/embeddings/patch_embedding/kernel", PatchConvolution(), leaf="weight"),
    _plain("vision_model/embeddings/patch_embedding/bias"),
    _plain("vision_model/embeddings/position_embedding/embedding", leaf="weight"),
    _plain("vision_model/pre_layrnorm/weight"),
    _plain("vision_model/pre_layrnorm/bias"),
    *_layer_rows("vision_model"),
    _plain("vision_model/post_layernorm/weight"),
    _plain("vision_model/post_layernorm/bias"),
    _plain("vision_model/head/probe"),
    Row(
        "vision_model.head.attention.in_proj_weight",
        "vision_model/head/attention/in_proj/kernel",
        LINEAR,
    ),
    Row("vision_model.head.attention.in_proj_bias", "vision_model/head/attention/in_proj/bias"),
    _plain("vision_model/head/attention/out_proj/kernel", LINEAR, leaf="weight"),
    _plain("vision_model/head/attention/out_proj/bias"),
    _plain("vision_model/head/layernorm/weight"),
    _plain("vision_model/head/layernorm/bias"),
    _plain("vision_model/head/mlp/fc1/kernel", LINEAR, leaf="weight"),
    _plain("vision_model/head/mlp/fc1/bias"),
    _plain("vision_model/head/mlp/fc2/kernel", LINEAR, leaf="weight"),
    _plain("vision_model/head/mlp/fc2/bias"),
    _plain("visual_projection/kernel", LINEAR, leaf="weight"),
    _plain("text_model/embeddings/token_embedding/embedding", leaf="weight"),
    _plain("text_model/embeddings/position_embedding/embedding", leaf="weight"),
    *_layer_rows("text_model"),
    _plain("text_model/final_layer_norm/weight"),
    _plain("text_model/final_layer_norm/bias"),
    _plain("text_model/head/kernel", LINEAR, leaf="weight"),
    _plain("text_model/head/bias"),
    _plain("text_projection/kernel", LINEAR, leaf="weight"),
    _plain("logit_scale"),
    _plain("logit_bias"),
)


def load_model_directory(
    directory: str | Path,
    *,
    image_only: bool = False,
    dtype: str | None = None,
    shardings: Params | Sharding | None = None,
) -> tuple[ClipConfig, Params]:
    """Config and parameters of a Hugging Face directory of CLIP or SigLIP.

    Args:
      directory: holds `config.json` and safetensors.
      image_only: leave the text tower, if there is one, in its file.
      dtype: one of `DTYPES`; None keeps the stored type.
      shardings: one for all parameters, a tree of them, or None for the default device.

    Raises:
      UserError: not a model directory, another architecture, damaged or missing files, or tensors
        that do not fit; all of them are listed.
    """
    directory = Path(directory)
    config = hf_config.read_config(directory)
    stored = {
        _canonical_name(name): tensor
        for name, tensor in safetensors_io.open_directory(directory, ignored=BUFFERS).items()
    }
    if image_only and config.text is not None:
        config = config.image_only()
        others = (*(f"{key}." for key in TEXT_KEYS), "logit_")
        stored = {name: t for name, t in stored.items() if not name.startswith(others)}
    abstract = Clip(config=config).abstract_params()
    expected = weight_table.slots(ROWS, abstract)
    weight_table.check_fit(
        {name: tensor.spec.shape for name, tensor in stored.items()},
        {name: slot.shape for name, slot in expected.items()},
        source=str(directory),
    )
    return config, weight_table.read_params(
        ROWS, abstract, stored, dtype=_dtype(dtype), shardings=shardings
    )


def save_pretrained(
    directory: str | Path,
    config: ClipConfig,
    params: Params,
    *,
    dtype: str | None = None,
    source_dir: str | Path | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a directory that `transformers` loads, whole or not at all.

    Args:
      directory: free, or an empty directory.
      config: the architecture; without a text tower the directory is an image tower's.
      params: as `Clip.init` returns them; parameters of a text tower that `config` lacks are left
        out.
      dtype: one of `DTYPES`; None keeps each parameter's type.
      source_dir: where tokenizer files are copied from, and fields of `config.json` that jaxqa
        does not use.
      max_shard_bytes: size of a safetensors file.

    Raises:
      UserError: `directory` is taken or cannot be written, or the source's files are damaged.
    """
    target = _dtype(dtype)
    source = None if source_dir is None else Path(source_dir)
    wanted = Clip(config=config).abstract_params()
    params = {key: params[key] for key in wanted}
    with atomic_directory(directory) as temporary:
        first = tree.flatten(params)["vision_model/post_layernorm/weight"]
        stored_as = target or np.dtype(first.dtype)
        specs, fetch = weight_table.stored_tensors(ROWS, params, dtype=target)
        check_free_space(temporary, sum(spec.nbytes for spec in specs.values()))
        safetensors_io.write_directory(temporary, specs, fetch, max_shard_bytes=max_shard_bytes)
        base = _base_config(source)
        values = hf_config.model_config(config, dtype=str(stored_as), base=base)
        write_json(temporary / "config.json", values)
        write_json(temporary / "preprocessor_config.json", hf_config.preprocessor_config(config))
        for name in SIDE_FILES if config.text is not None else ():
            if source is not None and (source / name).is_file():
                shutil.copyfile(source / name, temporary / name)


def _canonical_name(name: str) -> str:
    """The full model's name of a stored tensor; a SigLIP image tower may leave out its prefix."""
    prefixes = ("vision_model.", "text_model.", "visual_projection", "text_projection", "logit_")
    return name if name.startswith(prefixes) else f"vision_model.{name}"


def _base_config(source: Path | None) -> Mapping[str, Any]:
    if source is None or not (source / "config.json").is_file():
        return {}
    return read_json(source / "config.json")


def _dtype(name: str | None) -> np.dtype | None:
    if name is None:
        return None
    if name not in DTYPES:
        raise UserError(f"dtype is {name!r}, expected one of {', '.join(DTYPES)}")
    return np.dtype(jnp.dtype(name))
