"""What every stage of a run shares: data set, tokenizer, model, mesh, first parameters."""

import contextlib
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from jaxqa import sharding, tree
from jaxqa.data import demo, registry
from jaxqa.data.encoding import PromptEncoder
from jaxqa.data.prompts import PromptTemplate, get_template
from jaxqa.data.records import Example
from jaxqa.data.tokenizer import Tokenizer, build_demo_tokenizer, load_tokenizer
from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl import hf_config, weights
from jaxqa.models.qwen2_5_vl.config import Qwen2_5_VLConfig, VisionConfig
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.models.qwen2_5_vl.patch_filters import constant_channels, patch_filters
from jaxqa.stages.config import RunConfig
from jaxqa.stages.sources import DataConfig, ModelSource
from jaxqa.stages.workdir import WorkDir
from jaxqa.typing import Params


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The shared parts of a run.

    Attributes:
      config: the run's config.
      work: its directory.
      mesh: devices; one device is a mesh of one.
      train, test: labelled examples.
      tokenizer, template, encoder: from example to prompt row.
      model: the policy's architecture.
      console: where the run shows what it does.
    """

    config: RunConfig
    work: WorkDir
    mesh: Mesh
    train: list[Example]
    test: list[Example]
    tokenizer: Tokenizer
    template: PromptTemplate
    encoder: PromptEncoder
    model: Qwen2_5_VL
    console: Console

    def abstract_policy(self) -> Params:
        """Shapes of the policy's parameters, with their places on the mesh."""
        abstract = self.model.abstract_params()
        places = sharding.tree_shardings(abstract, sharding.QWEN2_5_VL_RULES, self.mesh)
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            abstract,
            places,
        )

    def initial_params(self) -> Params:
        """Parameters before the first stage, on the mesh."""
        places = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_policy())
        if self.config.model.path is not None:
            path = self.config.model.path
            return weights.load_model_directory(path, dtype="float32", shardings=places)[1]
        params = jax.jit(self.model.init, out_shardings=places)(stage_key(self.config.seed, "init"))
        if self.config.model.vision_filters == "dct":
            with _explain("config.model.vision"):
                params = _with_filters(params, self.model.config.vision)
        return params

    def check_room(self, completion_length: int, *, name: str) -> None:
        """Raise UserError unless the model has positions for a prompt and its completion."""
        prompt_length = self.config.data.buckets.prompt_lengths[-1]
        room = self.model.config.text.max_position_embeddings
        if prompt_length + completion_length > room:
            raise UserError(
                f"config.{name}: prompts of {prompt_length} tokens and completions of "
                f"{completion_length} need more than the {room} positions of the model "
                "(max_position_embeddings); shorten one of them"
            )

    def side_files(self) -> Path:
        """Directory with the tokenizer and processor files that belong to the model."""
        if self.config.model.path is not None:
            return Path(self.config.model.path)
        directory = self.work.root / "tokenizer"
        self.tokenizer.save(directory)
        return directory


def set_up(config: RunConfig, work: WorkDir, console: Console) -> Setup:
    """Make or find the data, then everything that depends on it.

    Raises:
      UserError: missing or empty data, an unreadable model directory, too few devices.
    """
    mesh = sharding.make_mesh(config.mesh)
    root = prepare_data(config, work, console)
    parts = {
        part: registry.read_dataset(config.data.dataset, root, split_name(config.data, part))
        for part in ("train", config.evaluation.part)
    }
    template = get_template(config.data.template)
    tokenizer, architecture = _tokenizer_and_architecture(config.model, template, parts["train"])
    return Setup(
        config=config,
        work=work,
        mesh=mesh,
        train=parts["train"],
        test=_first(parts[config.evaluation.part], config.evaluation.limit),
        tokenizer=tokenizer,
        template=template,
        encoder=PromptEncoder(tokenizer, config=architecture, image_config=config.data.images),
        model=Qwen2_5_VL(
            config=architecture,
            compute_dtype=config.model.compute_dtype,
            remat=config.model.remat,
        ),
        console=console,
    )


def prepare_data(config: RunConfig, work: WorkDir, console: Console) -> Path:
    """Folder of the data set; the demo's is made first if it is not there."""
    root = Path(config.data.root) if config.data.root else work.root / "data"
    if config.data.demo is not None:
        with console.status("making the demo data set"):
            demo.make_demo_dataset(root, config.data.demo, seed=config.data.demo_seed)
    return root


def split_name(data: DataConfig, part: str) -> str:
    """How the registry calls `part` of the configured split."""
    return f"{data.split}/{part}" if data.split else part


def labelled_share(examples: list[Example], fraction: float) -> list[Example]:
    """Examples of a fixed `fraction` of the references: a smaller share is part of a larger one."""

    def rank(example: Example) -> float:
        reference = str(example.metadata.get("reference", example.example_id))
        return zlib.crc32(reference.encode()) / 2**32

    return [example for example in examples if rank(example) < fraction]


def stage_key(seed: int, name: str) -> jax.Array:
    """Random key of something named, from the run's seed."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def _tokenizer_and_architecture(
    source: ModelSource, template: PromptTemplate, examples: Iterable[Example]
) -> tuple[Tokenizer, Qwen2_5_VLConfig]:
    if source.path is not None:
        architecture = hf_config.read_config(source.path)  # first: it refuses other architectures
        return load_tokenizer(source.path), architecture
    assert source.vision is not None and source.text is not None  # ModelSource checked it
    with _explain("config.model"):
        corpus = _corpus(template, examples)
        tokenizer = build_demo_tokenizer(corpus, vocab_size=source.text.vocab_size)
        architecture = Qwen2_5_VLConfig(
            vision=source.vision,
            text=source.text,
            image_token_id=tokenizer.image_token_id,
            video_token_id=tokenizer.video_token_id,
            vision_start_token_id=tokenizer.vision_start_token_id,
            vision_end_token_id=tokenizer.vision_end_token_id,
            bos_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=source.initializer_range,
        )
    return tokenizer, architecture


@contextlib.contextmanager
def _explain(place: str) -> Iterator[None]:
    """Turn the ValueError of parts that do not fit together into a UserError that names them."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{place}: {error}") from error


def _corpus(template: PromptTemplate, examples: Iterable[Example]) -> Iterable[str]:
    """Texts like those the model will read and write, in the numbers in which it will meet them."""
    for example in examples:
        yield f"system\n{template.system or ''}\nuser\n{template.question}\nassistant\n"
        if example.rationale is not None and example.score is not None:
            yield template.target(example.rationale, example.score)


def _with_filters(params: Params, config: VisionConfig) -> Params:
    """Params whose patch embedding starts from cosine filters, half of each in either frame."""
    leaves = tree.flatten(params)
    kernel, bias = "visual/patch_embed/proj/kernel", "visual/blocks/attn/proj/bias"
    halves = np.broadcast_to(patch_filters(config) / 2, leaves[kernel].shape)
    constants = np.zeros(leaves[bias].shape, np.float32)
    constants[0] = constant_channels(config)
    started = {
        name: jax.device_put(value, leaves[name].sharding)
        for name, value in ((kernel, halves), (bias, constants))
    }
    return tree.unflatten(leaves | started)


def _first(examples: list[Example], limit: int) -> list[Example]:
    return examples[:limit] if limit else examples
