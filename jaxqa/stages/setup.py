"""What every stage of a run shares: data set, tokenizer, model, mesh, first parameters."""

import contextlib
import dataclasses
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from jaxqa import processes, sharding, tree
from jaxqa.data import demo, registry
from jaxqa.data.encoding import PromptEncoder
from jaxqa.data.prompts import PromptTemplate, get_template
from jaxqa.data.records import Example
from jaxqa.data.scales import score_scale
from jaxqa.data.source import Source
from jaxqa.data.tokenizer import Tokenizer, build_demo_tokenizer, load_tokenizer
from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl import hf_config, parts, weights
from jaxqa.models.qwen2_5_vl.config import Qwen2_5_VLConfig, VisionConfig
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.models.qwen2_5_vl.patch_filters import constant_channels, patch_filters
from jaxqa.stages import abstract
from jaxqa.stages.config import RunConfig
from jaxqa.stages.sources import DataSource, ModelSource
from jaxqa.stages.workdir import WorkDir
from jaxqa.typing import Params


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The shared parts of a run.

    Attributes:
      config: the run's config.
      work: its directory.
      mesh: devices; one device is a mesh of one.
      train, test: labelled examples by the name of their source; those of weight 0 are not in
        `train`, those that are not evaluated not in `test`.
      tokenizer, encoder: from example to prompt row.
      model: the policy's architecture.
      console: where the run shows what it does.
      environment: variables of the process, for the keys that a config names.
      profile: first and last step of each stage that are traced, or None.
    """

    config: RunConfig
    work: WorkDir
    mesh: Mesh
    train: dict[str, Source]
    test: dict[str, Source]
    tokenizer: Tokenizer
    encoder: PromptEncoder
    model: Qwen2_5_VL
    console: Console
    environment: Mapping[str, str] = field(default_factory=dict)
    profile: tuple[int, int] | None = None

    def abstract_policy(self, model: Qwen2_5_VL | None = None) -> Params:
        """Shapes of the policy's parameters (those of `model`), with their places on the mesh."""
        return abstract.policy(model or self.model, self.mesh)

    def initial_params(self) -> Params:
        """Parameters before the first stage, on the mesh."""
        places = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_policy())
        if self.config.model.path is not None:
            path = self.config.model.path
            with processes.together():
                params = weights.load_model_directory(path, dtype="float32", shardings=places)[1]
            return params
        params = jax.jit(self.model.init, out_shardings=places)(stage_key(self.config.seed, "init"))
        if self.config.model.vision_filters == "dct":
            with _explain("config.model.vision"):
                params = _with_filters(params, self.model.config.vision)
        return params

    def sampling_copy(self, params: Params) -> Params:
        """The policy as what samples reads it: in the compute dtype, placed as the mesh says."""
        copy = parts.compute_copy(params, self.model.compute_dtype, own=False)
        return sharding.gather(copy, "fsdp") if self.config.mesh.gather_for_sampling else copy

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
        processes.first_does(lambda: self.tokenizer.save(directory))
        return directory


def set_up(
    config: RunConfig,
    work: WorkDir,
    console: Console,
    environment: Mapping[str, str] | None = None,
    *,
    profile: tuple[int, int] | None = None,
) -> Setup:
    """Make or find the data, then everything that depends on it.

    Raises:
      UserError: missing or empty data, an unreadable model directory, too few devices, an attention
        that they cannot compute.
    """
    with processes.together():
        mesh = sharding.make_mesh(config.mesh)
        if processes.is_first():
            prepare_data(config, work, console)
    with processes.together():
        train, test = read_sources(config, data_root(config, work))
        tokenizer, architecture = _tokenizer_and_architecture(config.model, train.values())
    return Setup(
        config=config,
        work=work,
        mesh=mesh,
        train=train,
        test=test,
        tokenizer=tokenizer,
        encoder=PromptEncoder(tokenizer, config=architecture, image_config=config.data.images),
        model=config.model.policy(architecture, mesh),
        console=console,
        environment=environment or {},
        profile=profile,
    )


def data_root(config: RunConfig, work: WorkDir) -> Path:
    """Folder of the data sets that have none of their own."""
    return Path(config.data.root) if config.data.root else work.root / "data"


def prepare_data(config: RunConfig, work: WorkDir, console: Console) -> Path:
    """Folder of the data set; the demo's is made first if it is not there."""
    root = data_root(config, work)
    if config.data.demo is not None:
        with console.status("making the demo data set"):
            demo.make_demo_dataset(root, config.data.demo, seed=config.data.demo_seed)
    return root


def read_sources(config: RunConfig, root: Path) -> tuple[dict[str, Source], dict[str, Source]]:
    """Sources to train on and sources to test, by name; `root` is for those without their own.

    Tests leave out what has no label.

    Raises:
      UserError: unknown data sets, prompts or splits, missing files, or labels that the prompt does
        not ask for; the message names the source.
    """
    train, test = {}, {}
    for name, source in config.data.sources.items():
        try:
            if source.weight:
                train[name] = _read_source(name, source, root, "train")
            if source.evaluate:
                read = _read_source(name, source, root, config.evaluation.part)
                labelled = [e for e in read.examples if _is_labelled(read.template, e)]
                limit = config.evaluation.limit or None
                test[name] = dataclasses.replace(read, examples=labelled[:limit])
        except UserError as error:
            raise UserError(f"config.data.sources.{name}: {error}") from error
    return train, test


def _read_source(name: str, source: DataSource, root: Path, part: str) -> Source:
    template = get_template(source.template)
    if source.system is not None:
        template = dataclasses.replace(template, system=source.system or None)
    if source.question is not None:
        template = dataclasses.replace(template, question=source.question)
    info = registry.dataset_info(source.dataset)
    folder = Path(source.root) if source.root else root
    examples = registry.read_dataset(source.dataset, folder, source.part(part))
    if source.evaluate and template.answer == "text":
        raise UserError(
            f"answers to prompt {template.name!r} cannot be tested; set evaluate to False"
        )
    if not any(_is_labelled(template, example) for example in examples):
        raise UserError(
            f"no image of {source.dataset} has {_WANTED.get(template.answer, 'a score')}, which "
            f"prompt {template.name!r} asks for"
        )
    return Source(
        name=name,
        examples=examples,
        template=template,
        scale=score_scale(info, template, source.scale),
        weight=source.weight,
    )


_WANTED = {
    "degradation": "a distortion class and severity",
    "choice": "a choice",
}


def _is_labelled(template: PromptTemplate, example: Example) -> bool:
    if template.answer == "degradation":
        return {"distortion_class", "severity"} <= example.answer_labels.keys()
    if template.answer == "choice":
        return "choice" in example.answer_labels
    return template.answer == "text" or example.score is not None


def labelled_share(examples: Sequence[Example], fraction: float) -> list[Example]:
    """Examples of a fixed `fraction` of the references: a smaller share is part of a larger one."""

    def rank(example: Example) -> float:
        reference = str(example.metadata.get("reference", example.example_id))
        return zlib.crc32(reference.encode()) / 2**32

    return [example for example in examples if rank(example) < fraction]


def stage_key(seed: int, name: str) -> jax.Array:
    """Random key of something named, from the run's seed."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def _tokenizer_and_architecture(
    source: ModelSource, sources: Iterable[Source]
) -> tuple[Tokenizer, Qwen2_5_VLConfig]:
    if source.path is not None:
        architecture = hf_config.read_config(source.path)  # first: it refuses other architectures
        return load_tokenizer(source.path), architecture
    assert source.vision is not None and source.text is not None  # ModelSource checked it
    with _explain("config.model"):
        tokenizer = build_demo_tokenizer(_corpus(sources), vocab_size=source.text.vocab_size)
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


def _corpus(sources: Iterable[Source]) -> Iterator[str]:
    """Texts like those the model will read and write, in the numbers in which it will meet them."""
    for source in sources:
        template = source.template
        for example in source.examples:
            question = template.text(example)
            yield f"system\n{template.system or ''}\nuser\n{question}\nassistant\n"
            if _has_target(source, example):
                yield template.target(example, source.score(example))


def _has_target(source: Source, example: Example) -> bool:
    template = source.template
    needs_rationale = template.think or template.answer == "text"
    return _is_labelled(template, example) and (
        example.rationale is not None or not needs_rationale
    )


def _with_filters(params: Params, config: VisionConfig) -> Params:
    """Params whose patch embedding starts from cosine filters, half of each in either frame."""
    leaves = tree.flatten(params)
    kernel, bias = "visual/patch_embed/proj/kernel", "visual/blocks/attn/proj/bias"
    halves = np.broadcast_to(patch_filters(config) / 2, leaves[kernel].shape)
    constants = np.zeros(leaves[bias].shape, np.float32)
    constants[0] = constant_channels(config)
    started = {
        name: sharding.place(value, leaves[name].sharding)
        for name, value in ((kernel, halves), (bias, constants))
    }
    return tree.unflatten(leaves | started)
