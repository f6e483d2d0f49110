"""Compile the programs of a run for a machine that need not be there."""

import dataclasses
import math
import re
import time
from dataclasses import dataclass

import jax
from jax.sharding import Mesh

from jaxqa import sharding
from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl import hf_config
from jaxqa.models.qwen2_5_vl.config import PRESETS, Qwen2_5_VLConfig
from jaxqa.objectives import log_probabilities
from jaxqa.stages import compiled
from jaxqa.stages.ahead_programs import Program
from jaxqa.stages.config import RunConfig
from jaxqa.stages.machines import Machine
from jaxqa.stages.sections import GrpoStage, StageConfig
from jaxqa.stages.sources import ModelSource

_FEW_ROWS = 128
"""So many rows over the vocabulary are not logits kept whole: norms of tables are taken in such."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What came of one program, per chip.

    Attributes:
      program: its name.
      memory: what the compiler planned; None where it refused.
      refusal: why it refused.
      beside: bytes that wait meanwhile.
      donated: bytes that were given for good.
      honoured: whether all of that is reused.
      gather: the largest array put together from several chips.
      reduction: the largest array summed over several chips. Gradients are; and for some
        slices libtpu gathers so, from parts padded with zeros.
      logits: the largest array of logits that was to be streamed and is not.
      seconds: to lower and to compile.
    """

    program: str
    memory: compiled.Memory | None
    refusal: str | None
    beside: int
    donated: int
    honoured: bool
    gather: compiled.Buffer | None
    reduction: compiled.Buffer | None
    logits: compiled.Buffer | None
    seconds: float

    @property
    def total(self) -> float:
        """Bytes in all; infinite where the compiler refused."""
        return math.inf if self.memory is None else float(self.memory.peak + self.beside)


def architecture(
    source: ModelSource, *, preset: str | None, layers: int | None
) -> Qwen2_5_VLConfig:
    """The model's shape; its weights need not be there.

    Args:
      source: the config's section; a `path` needs its `config.json` unless there is a preset.
      preset: a released size in its place, such as 7B.
      layers: text layers instead of all; of the vision tower, blocks up to the first that sees the
        whole image.

    Raises:
      UserError: no such preset, or no model at the path.
    """
    if preset is not None and preset.lower() not in PRESETS:
        raise UserError(f"--preset: got {preset!r}; expected one of {', '.join(PRESETS)}")
    if preset is not None:
        config = PRESETS[preset.lower()]
    elif source.path is not None:
        try:
            config = hf_config.read_config(source.path)
        except UserError as error:
            raise UserError(f"{error}; --preset=7B compiles without the model's files") from error
    else:
        assert source.vision is not None and source.text is not None  # ModelSource checked it
        config = _from_scratch(source)
    return config if layers is None else _shallow(config, layers)


def _from_scratch(source: ModelSource) -> Qwen2_5_VLConfig:
    """Random weights; which ids the special tokens get does not matter to a compiler."""
    assert source.vision is not None and source.text is not None
    names = [f.name for f in dataclasses.fields(Qwen2_5_VLConfig) if f.name.endswith("_token_id")]
    ids = {name: number for number, name in enumerate(sorted(names, reverse=True))}
    return Qwen2_5_VLConfig(vision=source.vision, text=source.text, **ids)


def _shallow(config: Qwen2_5_VLConfig, layers: int) -> Qwen2_5_VLConfig:
    if not 1 <= layers <= config.text.num_hidden_layers:
        raise UserError(
            f"--layers: got {layers}; the model has {config.text.num_hidden_layers} text layers"
        )
    text = dataclasses.replace(config.text, num_hidden_layers=layers)
    depth = config.vision.fullatt_block_indexes[0] + 1
    vision = dataclasses.replace(
        config.vision, depth=depth, fullatt_block_indexes=config.vision.fullatt_block_indexes[:1]
    )
    return dataclasses.replace(config, text=text, vision=vision)


def make_mesh(config: RunConfig, machine: Machine) -> Mesh:
    """The run's mesh on the machine, all of whose chips it must use.

    Raises:
      UserError: it has fewer or more.
    """
    mesh = sharding.make_mesh(config.mesh, machine.devices)
    if mesh.size != len(machine.devices):
        raise UserError(
            f"config.mesh takes {mesh.size} devices and {machine.name} has "
            f"{len(machine.devices)}; set config.mesh.data, fsdp and tensor so that their product "
            "is that"
        )
    return mesh


def compile_program(program: Program, model: Qwen2_5_VLConfig, mesh: Mesh, rows: int) -> Finding:
    """Compile one program and look at what came out.

    Args:
      program: what to compile.
      model: for the sizes of its vocabulary.
      mesh: what it is compiled for.
      rows: rows of logits that a chip may hold: one for each completion on it, and always 128.
    """
    begun, donated = time.monotonic(), compiled.bytes_on_chip(program.donated)
    found = {"program": program.name, "beside": program.beside, "donated": donated}
    try:
        result, memory = compiled.compile_measured(program.lower())
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Finding(
            memory=None,
            refusal=_refusal(str(error)),
            honoured=False,
            gather=None,
            reduction=None,
            logits=None,
            seconds=time.monotonic() - begun,
            **found,
        )
    text = result.as_text() or ""
    arrays = list(compiled.buffers(text))
    vocabulary, width = model.text.vocab_size, model.text.hidden_size
    return Finding(
        memory=memory,
        refusal=None,
        honoured=compiled.is_reused(program.donated, text, memory.aliased),
        gather=compiled.largest(arrays, "all-gather"),
        reduction=compiled.largest(arrays, "all-reduce"),
        logits=compiled.largest_vocabulary_block(
            arrays,
            {vocabulary, -(-vocabulary // mesh.shape["tensor"])},
            {width, -(-width // mesh.shape["fsdp"])},
            max(rows, _FEW_ROWS) + 1,
        ),
        seconds=time.monotonic() - begun,
        **found,
    )


def streams_logits(model: Qwen2_5_VLConfig, mesh: Mesh) -> bool:
    """Whether a chip's share of the vocabulary is more than the one chunk kept by design."""
    return model.text.vocab_size > log_probabilities.DEFAULT_CHUNK_SIZE * mesh.shape["tensor"]


def completions_on_chip(stage: StageConfig, mesh: Mesh) -> int:
    """How many completions of a batch one chip holds."""
    shards = sharding.row_shards(mesh)
    samples = stage.sampling.num_samples if isinstance(stage, GrpoStage) else 1
    return stage.batch_size // shards * samples


def _refusal(message: str) -> str:
    """What the compiler says that it lacks, in one line."""
    found = re.search(r"Ran out of memory[^\n]*", message)
    return " ".join((found[0] if found else message.splitlines()[0]).split())
