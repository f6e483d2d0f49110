"""Qwen2.5-VL checkpoints: the name table, loading and saving.

A directory is either a Hugging Face one (safetensors) or jaxqa's own (an Orbax checkpoint of the
stacked parameters, for quick sharded restores). Both hold `config.json`, the tokenizer and the
processor files; jaxqa's config.json is Hugging Face's with the mark `jaxqa_format`.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from jaxqa import processes, tree
from jaxqa.errors import UserError
from jaxqa.files import atomic_directory, check_free_space, read_json, write_json
from jaxqa.models import native_checkpoint, safetensors_io, weight_table
from jaxqa.models.qwen2_5_vl import hf_export
from jaxqa.models.qwen2_5_vl.config import Qwen2_5_VLConfig
from jaxqa.models.qwen2_5_vl.hf_config import read_config
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.models.qwen2_5_vl.preprocess import ImageConfig
from jaxqa.models.safetensors_io import StoredTensor
from jaxqa.models.weight_table import Row
from jaxqa.models.weight_transforms import LINEAR, PatchKernel
from jaxqa.typing import Params

FORMAT_MARK = "jaxqa_format"
FORMAT_VERSION = 1

DTYPES = ("float32", "bfloat16", "float16")
MAX_SHARD_BYTES = 5 * 10**9

# Names as on the Hub, which `transformers` also writes; `{}` is the layer.
ROWS = (
    Row("visual.patch_embed.proj.weight", "visual/patch_embed/proj/kernel", PatchKernel()),
    Row("visual.blocks.{}.norm1.weight", "visual/blocks/norm1/weight"),
    Row("visual.blocks.{}.norm2.weight", "visual/blocks/norm2/weight"),
    Row("visual.blocks.{}.attn.qkv.weight", "visual/blocks/attn/qkv/kernel", LINEAR),
    Row("visual.blocks.{}.attn.qkv.bias", "visual/blocks/attn/qkv/bias"),
    Row("visual.blocks.{}.attn.proj.weight", "visual/blocks/attn/proj/kernel", LINEAR),
    Row("visual.blocks.{}.attn.proj.bias", "visual/blocks/attn/proj/bias"),
    Row("visual.blocks.{}.mlp.gate_proj.weight", "visual/blocks/mlp/gate_proj/kernel", LINEAR),
    Row("visual.blocks.{}.mlp.gate_proj.bias", "visual/blocks/mlp/gate_proj/bias"),
    Row("visual.blocks.{}.mlp.up_proj.weight", "visual/blocks/mlp/up_proj/kernel", LINEAR),
    Row("visual.blocks.{}.mlp.up_proj.bias", "visual/blocks/mlp/up_proj/bias"),
    Row("visual.blocks.{}.mlp.down_proj.weight", "visual/blocks/mlp/down_proj/kernel", LINEAR),
    Row("visual.blocks.{}.mlp.down_proj.bias", "visual/blocks/mlp/down_proj/bias"),
    Row("visual.merger.ln_q.weight", "visual/merger/ln_q/weight"),
    Row("visual.merger.mlp.0.weight", "visual/merger/fc1/kernel", LINEAR),
    Row("visual.merger.mlp.0.bias", "visual/merger/fc1/bias"),
    Row("visual.merger.mlp.2.weight", "visual/merger/fc2/kernel", LINEAR),
    Row("visual.merger.mlp.2.bias", "visual/merger/fc2/bias"),
    Row("model.embed_tokens.weight", "model/embed_tokens/embedding"),
    Row("model.layers.{}.input_layernorm.weight", "model/layers/input_layernorm/weight"),
    Row("model.layers.{}.self_attn.q_proj.weight", "model/layers/self_attn/q_proj/kernel", LINEAR),
    Row("model.layers.{}.self_attn.q_proj.bias", "model/layers/self_attn/q_proj/bias"),
    Row("model.layers.{}.self_attn.k_proj.weight", "model/layers/self_attn/k_proj/kernel", LINEAR),
    Row("model.layers.{}.self_attn.k_proj.bias", "model/layers/self_attn/k_proj/bias"),
    Row("model.layers.{}.self_attn.v_proj.weight", "model/layers/self_attn/v_proj/kernel", LINEAR),
    Row("model.layers.{}.self_attn.v_proj.bias", "model/layers/self_attn/v_proj/bias"),
    Row("model.layers.{}.self_attn.o_proj.weight", "model/layers/self_attn/o_proj/kernel", LINEAR),
    Row(
        "model.layers.{}.post_attention_layernorm.weight",
        "model/layers/post_attention_layernorm/weight",
    ),
    Row("model.layers.{}.mlp.gate_proj.weight", "model/layers/mlp/gate_proj/kernel", LINEAR),
    Row("model.layers.{}.mlp.up_proj.weight", "model/layers/mlp/up_proj/kernel", LINEAR),
    Row("model.layers.{}.mlp.down_proj.weight", "model/layers/mlp/down_proj/kernel", LINEAR),
    Row("model.norm.weight", "model/norm/weight"),
    Row("lm_head.weight", "lm_head/weight"),
)

# Names of `transformers`' modules, as in a state_dict or files of some releases -> the Hub's.
NESTED_PREFIXES = (("model.visual.", "visual."), ("model.language_model.", "model."))

EMBEDDING = "model.embed_tokens.weight"
OUTPUT = "lm_head.weight"
ROWS_AT_ONCE = 4096
"""How much of the two is in memory while they are compared."""

SIDE_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.json",
    "chat_template.jinja",
    "generation_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "jaxqa.json",
    "provenance.json",
    "LICENSE",
)
"""What travels with the weights: tokenizer, chat template, processors, prompts, origin, licence."""

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def load_model_directory(
    directory: str | Path,
    *,
    dtype: str | None = None,
    shardings: Params | Sharding | None = None,
) -> tuple[Qwen2_5_VLConfig, Params]:
    """Config and parameters of a Hugging Face or jaxqa directory, whichever it is.

    Args:
      directory: holds `config.json`, whose mark tells the format.
      dtype: one of `DTYPES`; None keeps the stored type.
      shardings: one for all parameters, a tree of them (`read_config` and
        `abstract_params` tell the shapes beforehand), or None for the default device.

    Raises:
      UserError: not a model directory, another architecture, damaged or missing files, or tensors
        that do not fit; all of them are listed.
    """
    directory = Path(directory)
    config = read_config(directory)
    abstract = Qwen2_5_VL(config=config).abstract_params()
    if FORMAT_MARK in read_json(directory / "config.json"):
        target = _dtype(dtype)
        return config, native_checkpoint.restore(
            directory, abstract, dtype=target, shardings=shardings
        )
    stored = _checked_tensors(directory, config, abstract)
    return config, weight_table.read_params(
        ROWS, abstract, stored, dtype=_dtype(dtype), shardings=shardings
    )


def save_pretrained(
    directory: str | Path,
    config: Qwen2_5_VLConfig,
    params: Params,
    *,
    format: Literal["hf", "jaxqa"] = "hf",
    dtype: str | None = None,
    source_dir: str | Path | None = None,
    image_config: ImageConfig | None = None,
    json_files: Mapping[str, Any] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a model directory that `transformers` ("hf") or only jaxqa loads, whole or not at all.

    Args:
      directory: free, or an empty directory.
      config: the architecture.
      params: as `Qwen2_5_VL.init` returns them.
      format: safetensors under the Hub's names, or an Orbax checkpoint.
      dtype: one of `DTYPES`; None keeps each parameter's type.
      source_dir: where tokenizer, chat template and processor files are copied from, and
        `config.json`, if it is there, lends its layout and the fields that jaxqa does not use.
      image_config: pixel bounds for the image processor; None keeps the source's, else the
        released models'.
      json_files: further files by name; they win over the source's.
      max_shard_bytes: size of a safetensors file; export holds one file's and one more tensor.

    Raises:
      UserError: `directory` is taken or cannot be written, or the source's files are damaged.
      ValueError: the format is "jaxqa" and the parameters are spread over processes; such are
        gathered tensor by tensor, all processes have to call this, and the first one writes.
    """
    target = _dtype(dtype)
    if format == "jaxqa" and processes.count() > 1:
        raise ValueError('format is "jaxqa"; expected "hf" in a run of several processes')
    if not processes.is_first():
        specs, fetch = weight_table.stored_tensors(ROWS, params, dtype=target)
        for name in specs:
            fetch(name)
        return
    source = None if source_dir is None else Path(source_dir)
    with atomic_directory(directory) as temporary:
        leaves = tree.flatten(params)
        stored_as = target or np.dtype(leaves["model/embed_tokens/embedding"].dtype)
        specs, fetch = weight_table.stored_tensors(ROWS, params, dtype=target)
        check_free_space(temporary, sum(spec.nbytes for spec in specs.values()))
        values = hf_export.model_config(config, dtype=str(stored_as), base=_base_config(source))
        if format == "jaxqa":
            values[FORMAT_MARK] = FORMAT_VERSION
            native_checkpoint.save(temporary, params, dtype=target)
        else:
            safetensors_io.write_directory(temporary, specs, fetch, max_shard_bytes=max_shard_bytes)
        write_json(temporary / "config.json", values)
        _write_side_files(temporary, config, source, image_config)
        for name, value in (json_files or {}).items():
            write_json(temporary / name, value)


def canonical_name(name: str) -> str:
    """The Hub's name of a stored tensor, from that or from the nested one."""
    for nested, flat in NESTED_PREFIXES:
        if name.startswith(nested):
            return flat + name.removeprefix(nested)
    return name


def _checked_tensors(
    directory: Path, config: Qwen2_5_VLConfig, abstract: Params
) -> dict[str, StoredTensor]:
    """The directory's tensors by Hub name, after checking every name and shape."""
    stored: dict[str, StoredTensor] = {}
    for name, tensor in safetensors_io.open_directory(directory).items():
        if stored.setdefault(canonical_name(name), tensor) is not tensor:
            raise UserError(f"{directory}: {canonical_name(name)} is stored under two names")
    tied = config.text.tie_word_embeddings
    output = stored.pop(OUTPUT, None) if tied else None
    expected = weight_table.slots(ROWS, abstract)
    weight_table.check_fit(
        {name: tensor.spec.shape for name, tensor in stored.items()},
        {name: slot.shape for name, slot in expected.items()},
        source=str(directory),
    )
    if output is not None:
        _check_tied(output, stored[EMBEDDING], directory)
    return stored


def _check_tied(output: StoredTensor, embedding: StoredTensor, directory: Path) -> None:
    """A tied model's file may repeat the table as output head, but must not differ from it."""
    size = output.spec.shape[0]
    same = output.spec == embedding.spec and all(
        np.array_equal(output.read(part).view(np.uint8), embedding.read(part).view(np.uint8))
        for start in range(0, size, ROWS_AT_ONCE)
        for part in [(slice(start, min(start + ROWS_AT_ONCE, size)), slice(None))]
    )
    if not same:
        raise UserError(
            f"{directory}: config.json ties the embeddings, but {OUTPUT} differs from {EMBEDDING}; "
            "set tie_word_embeddings to false or remove the tensor"
        )


def _dtype(name: str | None) -> np.dtype | None:
    if name is None:
        return None
    if name not in DTYPES:
        raise UserError(f"dtype is {name!r}, expected one of {', '.join(DTYPES)}")
    return np.dtype(jnp.dtype(name))


def _base_config(source: Path | None) -> Mapping[str, Any] | None:
    if source is None or not (source / "config.json").is_file():
        return None
    values = read_json(source / "config.json")
    values.pop(FORMAT_MARK, None)
    return values


def _write_side_files(
    directory: Path,
    config: Qwen2_5_VLConfig,
    source: Path | None,
    image_config: ImageConfig | None,
) -> None:
    """Copy what the source has; write the processor and generation files it lacks."""
    replaced = PROCESSOR_FILES if image_config is not None else ()
    for name in SIDE_FILES:
        if source is not None and name not in replaced and (source / name).is_file():
            shutil.copyfile(source / name, directory / name)
    if not any((directory / name).is_file() for name in PROCESSOR_FILES):
        processor = hf_export.preprocessor_config(config, image_config or ImageConfig())
        write_json(directory / "preprocessor_config.json", processor)
    if not (directory / "generation_config.json").is_file():
        write_json(directory / "generation_config.json", hf_export.generation_config(config))
