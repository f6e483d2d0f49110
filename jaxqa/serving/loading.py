"""A directory as a scorer, whatever kind of model is in it. New kinds are added to `KINDS`."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from jax.sharding import Mesh

from jaxqa import sharding
from jaxqa.data.images import DEFAULT_LIMITS, DecodeLimits
from jaxqa.data.prompts import PromptTemplate, get_template
from jaxqa.distill.artifact import is_artifact, load_artifact
from jaxqa.distill.scoring_model import RaliScoringModel
from jaxqa.errors import UserError
from jaxqa.scoring import loading, manifest
from jaxqa.scoring.api import ImageScorer, ScoringModel
from jaxqa.scoring.reasoner import ReasoningModel, with_prompts
from jaxqa.sharding import MeshConfig

_ROWS_PER_DEVICE = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a model is loaded.

    Attributes:
      prompts: task -> prompt, or its name; the model's own where not given.
      max_new_tokens: longest answer; None takes the model's own.
      max_pixels: larger images are reduced; None takes the model's own.
      mesh: devices; by default each holds all parameters.
      block_rows: images of a block; None is 8 for each device. Scores are the same to the last bit
        only for the same number.
    """

    prompts: Mapping[str, str | PromptTemplate] = dataclasses.field(default_factory=dict)
    max_new_tokens: int | None = None
    max_pixels: int | None = None
    mesh: MeshConfig = MeshConfig(data=-1)
    block_rows: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelKind:
    """A kind of model directory.

    Attributes:
      name: what messages call it.
      matches: whether a directory is of this kind, from the names of its files.
      open: load it.
    """

    name: str
    matches: Callable[[Path], bool]
    open: Callable[[Path, LoadOptions], ScoringModel]


def load(
    path: str | os.PathLike[str],
    *,
    options: LoadOptions | None = None,
    workers: int | None = None,
    limits: DecodeLimits = DEFAULT_LIMITS,
) -> ImageScorer:
    """A scorer for a run's export, a Hugging Face directory or a jaxqa checkpoint.

    Args:
      path: the directory.
      options: see `LoadOptions`.
      workers: threads that read and prepare images; None takes as many as there are cores, up to 8.
      limits: on the images that are accepted.

    Raises:
      UserError: no model is there, or a damaged one, or it cannot be asked as `options` says.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise UserError(f"model {directory} is not a directory; give the folder of a model")
    for kind in KINDS:
        if kind.matches(directory):
            model = kind.open(directory, options or LoadOptions())
            more = {} if workers is None else {"workers": workers}
            return ImageScorer(model, name=str(directory), limits=limits, **more)
    raise UserError(
        f"{directory}: no model found; expected {' or '.join(kind.name for kind in KINDS)}"
    )


def _open_reasoner(directory: Path, options: LoadOptions) -> ReasoningModel:
    asked = with_prompts(
        manifest.read_manifest(directory),
        {task: _template(task, prompt) for task, prompt in options.prompts.items()},
    )
    if options.max_new_tokens is not None:
        if options.max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {options.max_new_tokens}; expected at least 1")
        asked = dataclasses.replace(asked, max_new_tokens=options.max_new_tokens)
    mesh = sharding.make_mesh(options.mesh)
    rows = _block_rows(options, mesh)
    model, encoder, params = loading.load_model(directory, mesh=mesh, max_pixels=options.max_pixels)
    return ReasoningModel(model, encoder, params, mesh=mesh, manifest=asked, rows=rows)


def _block_rows(options: LoadOptions, mesh: Mesh) -> int:
    rows = options.block_rows
    if rows is None:
        rows = _ROWS_PER_DEVICE * mesh.shape["data"] * mesh.shape["fsdp"]
    if rows < 1:
        raise UserError(f"block_rows is {rows}; expected at least 1")
    sharding.check_rows(rows, mesh, name="block_rows")
    return rows


def _template(task: str, prompt: str | PromptTemplate) -> PromptTemplate:
    template = get_template(prompt) if isinstance(prompt, str) else prompt
    if template.task != task:
        raise UserError(f"prompt {template.name!r} asks about {template.task}, not about {task}")
    return template


def _open_rali(directory: Path, options: LoadOptions) -> RaliScoringModel:
    for name in ("prompts", "max_new_tokens", "max_pixels"):
        if getattr(options, name):
            raise UserError(
                f"{name}: {directory} is a distilled scorer, which is asked nothing and sees one "
                "size; leave the option out"
            )
    mesh = sharding.make_mesh(options.mesh)
    return RaliScoringModel(load_artifact(directory), mesh=mesh, rows=_block_rows(options, mesh))


KINDS = (
    ModelKind(
        name="a RALI artifact with rali.json",
        matches=is_artifact,
        open=_open_rali,
    ),
    ModelKind(
        name="a Qwen2.5-VL directory with config.json",
        matches=lambda directory: (directory / "config.json").is_file(),
        open=_open_reasoner,
    ),
)
"""In the order in which they are tried."""
