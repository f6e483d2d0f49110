"""No dead options: changing any field of the demo's config changes what the run does.

Each row of `TABLE` sets one field to another valid value, on the command line as a user would, and
names a probe: a cheap part of the real run whose outcome must differ. A field without a row fails.
Fields with a single valid value must be refused with any other; `EXEMPT` says why a field may
change nothing.
"""

import dataclasses
import functools
import hashlib
import itertools
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from rich.console import Console

from jaxqa import configuration, sharding, tree
from jaxqa.data import encoding, scenes
from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl.inputs import stack_rows
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.sampling import methods
from jaxqa.sampling.keys import token_uniforms
from jaxqa.sampling.sampler import Rollout, Sampler
from jaxqa.scoring.scorer import ScoredAnswer, Scorer
from jaxqa.stages import adapters, grpo, kinds, programs, run, setup, training
from jaxqa.stages.config import RunConfig, parse_config
from jaxqa.stages.prepared import Prepared
from jaxqa.stages.sections import STAGE_KINDS
from jaxqa.stages.workdir import WorkDir
from jaxqa.train.json_lines import write_json_lines
from jaxqa.train.metric_log import RolloutLog
from jaxqa.train.state import split_trained

CONFIG = Path(__file__).parents[2] / "configs" / "demo.py"

SMALL = {
    "data.demo.crop_size": "28",
    "data.demo.photograph_crops": "6",
    "data.demo.auxiliary_crops": "0",
    "data.demo.procedural_crops": "0",
    "data.demo.validation_crops": "1",
    "data.demo.test_crops": "2",
    "data.demo.train_distortions": "4",
    "data.demo.tasks": "('alignment',)",
    "data.demo.alignment_pictures": "5",
    "evaluation.batch_size": "4",
    "evaluation.limit": "6",
    "model.vision.hidden_size": "16",
    "model.vision.intermediate_size": "16",
    "model.vision.num_heads": "2",
    "model.vision.out_hidden_size": "16",
    "model.text.hidden_size": "16",
    "model.text.intermediate_size": "16",
    "model.text.num_attention_heads": "2",
    "model.text.num_key_value_heads": "1",
    "model.text.mrope_section": "(1,1,2)",
    "warmup.steps": "6",
    "sft.steps": "6",
    "grpo.steps": "6",
    "warmup.batch_size": "4",
    "sft.batch_size": "4",
    "grpo.batch_size": "4",
    "grpo.sampling.num_samples": "4",
}
"""The demo, small enough for a few hundred probes."""


# The parts of a run that probes share.


@dataclasses.dataclass(frozen=True, kw_only=True)
class FakeModel(Qwen2_5_VL):
    """One table is all of its parameters: what is around the model traces in no time."""

    def image_features(self, params, prompts):
        rows, windows, patches = prompts.patch_mask.shape
        return jnp.broadcast_to(params["kernel"][:1], (rows, windows * patches // 4, 16))

    def group_hidden(self, params, prompts, completion_ids):
        return params["kernel"][completion_ids]

    def head(self, params):
        return params["kernel"]


ANSWERS = (
    "<think> sharp </think><answer> 3.00 </answer>",
    "<think> mild blur </think><answer> 4.50 </answer>",
    "I cannot say.",
    "<answer> 2.00 </answer>",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FakeSampler(Sampler):
    """Gives fixed answers; what it says of their probability is drawn by the real `choose`."""

    tokenizer = None  # set by the fixture: fields would change the constructor

    def __call__(self, params, prompts, keys):
        (rows, group), length = keys.shape, self.config.max_new_tokens
        rng = np.random.default_rng(0)
        logits = jnp.asarray(rng.standard_normal((rows, group, 50), np.float32))
        uniforms = token_uniforms(keys, 1)[:, :, 0]
        tokens, log_probs, entropies = methods.choose(logits, uniforms, self.config)
        drawn = (log_probs + 0.01 * tokens.astype(jnp.float32))[..., None]
        ids = np.full((rows, group, length), self.pad_token_id, np.int32)
        mask = np.zeros((rows, group, length), bool)
        for row, column in np.ndindex(rows, group):
            text = type(self).tokenizer.encode(ANSWERS[(row + column) % len(ANSWERS)])[:length]
            ids[row, column, : len(text)] = text
            mask[row, column, : len(text)] = True
        lengths = mask.sum(-1, dtype=np.int32)
        return Rollout(
            token_ids=jnp.asarray(ids),
            mask=jnp.asarray(mask),
            log_probs=jnp.where(mask, drawn, 0.0),
            entropies=jnp.where(mask, entropies[..., None], 0.0),
            length=jnp.asarray(lengths),
            num_steps=jnp.int32(lengths.max()),
        )


def make_config(changes: dict[str, str]) -> RunConfig:
    config = configuration.load_config_file(f"{CONFIG}:smoke")
    for key, text in (SMALL | World.data | changes).items():
        configuration.apply_override(config, key, text)
    return parse_config(config)


class World:
    """Shared by the probes; filled by the fixture."""

    folder: Path
    data: dict[str, str]
    setup: setup.Setup
    counter = itertools.count()


def new_folder() -> Path:
    return World.folder / str(next(World.counter))


def set_up(config: RunConfig) -> setup.Setup:
    return setup.set_up(config, WorkDir(new_folder()), Console(quiet=True))


def around_the_model(config: RunConfig) -> setup.Setup:
    """The usual set-up with this config and the fake model, for what follows the set-up."""
    model = FakeModel(config=World.setup.model.config)
    return dataclasses.replace(World.setup, config=config, model=model)


def photographs(folder: Path, count: int) -> list[scenes.Scene]:
    """Scenes of noise with edges."""
    found = []
    for number in range(count):
        rng = np.random.default_rng(number)
        coarse = rng.integers(0, 256, (12, 12, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(coarse).save(folder / f"scene{number}.png")
        found.append(
            scenes.Scene(
                name=f"scene{number}",
                path=folder / f"scene{number}.png",
                kind="auxiliary" if number == 0 else "photograph",
                source="noise",
                licence="none",
            )
        )
    return found


@pytest.fixture(scope="module", autouse=True)
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fake photographs, the demo data made from them, a set-up, a quicker tokenizer."""
    World.folder = tmp_path_factory.mktemp("options")
    found = photographs(tmp_path_factory.mktemp("scenes"), 10)
    known: dict[Any, Any] = {}

    def build_once(corpus, vocab_size, build=setup.build_demo_tokenizer):
        key = (tuple(corpus), vocab_size)
        if key not in known:
            known[key] = build(key[0], vocab_size)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "packaged_scenes", lambda: found[:-1])
        patch.setattr(scenes, "wallpaper_scenes", lambda: found[-1:])
        patch.setattr(setup, "build_demo_tokenizer", build_once)
        World.data = {"data.root": str(World.folder / "data")}
        World.setup = set_up(make_config({}))
        patch.setattr(FakeSampler, "tokenizer", World.setup.tokenizer)
        yield
    outcome_of.cache_clear()
    some_stage.cache_clear()


def digest(tree: Any) -> str:
    """Hash of a tree's structure and of its arrays' shapes, types and bytes."""
    leaves, structure = jax.tree.flatten(tree)
    parts = [str(structure)]
    for leaf in leaves:
        array = np.asarray(leaf)
        parts.append(f"{array.shape}{array.dtype}{hashlib.sha1(array.tobytes()).hexdigest()}")
    return hashlib.sha1("".join(parts).encode()).hexdigest()


# Probes: (config, name of the stage or None) -> outcome.


def demo_files(config: RunConfig, stage: str | None) -> Any:
    """The demo data, made anew."""
    folder = new_folder()
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(folder)))
    setup.prepare_data(config, WorkDir(new_folder()), Console(quiet=True))
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".png", ".csv")]
    return [(str(path.relative_to(folder)), path.read_bytes()) for path in files]


def data_folder(config: RunConfig, stage: str | None) -> Any:
    root = str(World.folder / str(config.data.root))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=root))
    return setup.prepare_data(config, WorkDir(new_folder()), Console(quiet=True))


def first_batches(config: RunConfig, stage: str | None, made: setup.Setup | None = None) -> Any:
    """What a stage's loader gives: content, shapes, rows."""
    made = made or around_the_model(config)
    loader = kinds.make_loader(made, stage, config.sections[stage])
    batches = [next(loader) for _ in range(2)]
    loader.close()
    return type(batches[0]), digest(batches)


def texts_learned(config: RunConfig, stage: str | None) -> Any:
    """Examples of fine-tuning; named files of rationales lie in a folder of the test's."""
    section = config.sections["sft"]
    paths = tuple(str(World.folder / name) for name in section.rationales)
    made = around_the_model(config)
    records = [
        {"example_id": example.example_id, "rationales": ["written"]}
        for source in made.train.values()
        for example in source.examples
    ]
    for path in paths:
        write_json_lines(Path(path), records)
    sources = kinds.stage_sources(made, dataclasses.replace(section, rationales=paths))
    return [(e.example_id, e.rationale) for source in sources for e in source.examples]


def first_batches_anew(config: RunConfig, stage: str | None) -> Any:
    return first_batches(config, "sft", set_up(config))


def loader_config(config: RunConfig, stage: str | None) -> Any:
    """How batches are made, which must not change them: as handed to the loader."""
    given, real = [], kinds.train_loader

    def train_loader(*examples, config, **rest):
        given.append(config)
        return real(*examples, config=config, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinds, "train_loader", train_loader)
        kinds.make_loader(around_the_model(config), "sft", config.sections["sft"])
    return given


def placement(config: RunConfig, stage: str | None) -> Any:
    """Where parameters and rows of a batch go."""
    made = set_up(config)
    abstract = made.model.abstract_params()
    places = sharding.tree_shardings(abstract, sharding.QWEN2_5_VL_RULES, made.mesh)
    return str(places), str(sharding.shard_rows(np.zeros((8, 1)), made.mesh).sharding)


def sampler_placement(config: RunConfig, stage: str | None) -> Any:
    """Where the copy of the policy lies that samples."""
    made = set_up(config)
    copy = made.sampling_copy(made.initial_params())
    return [str(leaf.sharding.spec) for leaf in jax.tree.leaves(copy)]


def starting_point(config: RunConfig, stage: str | None) -> Any:
    return digest(set_up(config).initial_params())


def abstract_model(config: RunConfig) -> tuple[Qwen2_5_VL, Any, Any]:
    made = set_up(config)
    source = made.train["demo"]
    row = encoding.build_prompt_row(source.examples[0], source.template, made.encoder)
    prompts = stack_rows([row], prompt_length=row.length, num_windows=row.num_windows)
    return made.model, made.model.abstract_params(), prompts


def parameters(config: RunConfig, stage: str | None) -> Any:
    """Shapes of the model's parameters and of its prompts."""
    _, params, prompts = abstract_model(config)
    return [
        (jax.tree_util.keystr(path), leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path((params, prompts))
    ]


def forward(config: RunConfig, stage: str | None) -> Any:
    """The model's computation on a prompt, constants included."""
    model, params, prompts = abstract_model(config)
    return jax.jit(model.prompt_hidden).lower(params, prompts).as_text()


def backward(config: RunConfig, stage: str | None) -> Any:
    model, params, prompts = abstract_model(config)
    gradient = jax.grad(lambda *inputs: model.prompt_hidden(*inputs).sum())
    return str(jax.make_jaxpr(gradient)(params, prompts))


def prepare(config: RunConfig, name: str) -> Prepared:
    """The real `kinds.prepare` around fakes of the model and of the sampler."""
    made = around_the_model(config)
    table = np.random.default_rng(0).standard_normal((640, 16), np.float32)
    params = {"kernel": table, "visual": {"kernel": table[:2]}}
    params = jax.device_put(params, sharding.replicated(made.mesh))
    section = config.sections[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "Sampler", FakeSampler)
        patch.setattr(
            grpo, "_reference", lambda *_: lambda policy, prompts, ids, used: jnp.zeros(ids.shape)
        )
        return kinds.prepare(
            made,
            name,
            section,
            params,
            loader=kinds.make_loader(made, name, section),
            rollouts=RolloutLog(new_folder()),
        )


def training_step(config: RunConfig, stage: str | None) -> Any:
    """The computation of one training step."""
    prepared = prepare(config, stage)
    batch, _ = prepared.source.next(prepared.state.params, 0)
    prepared.source.close()
    return str(jax.make_jaxpr(prepared.update)(prepared.state, batch))


def rollout(config: RunConfig, stage: str | None) -> Any:
    """Rewards, advantages and all else that becomes of fixed answers."""
    prepared = prepare(config, stage)
    batch, metrics = prepared.source.next(prepared.state.params, 0)
    prepared.source.close()
    return digest(batch), metrics


def updates(config: RunConfig, stage: str | None) -> Any:
    """What the stage's own optimizer makes of fixed gradients, large and small."""
    made = []
    with pytest.MonkeyPatch.context() as patch:
        real = programs.make_optimizer
        patch.setattr(programs, "make_optimizer", lambda *a: made.append(real(*a)) or made[0])
        prepare(config, stage).source.close()
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    state, seen = made[0].init(params), []
    with jax.numpy_dtype_promotion("standard"):
        for step in range(config.sections[stage].steps):
            size = 3.0 if step % 2 else 0.1
            gradients = jax.tree.map(lambda leaf, size=size: size * leaf, params)
            change, state = made[0].update(gradients, state, params)
            params = optax.apply_updates(params, change)
            seen.append(jax.device_get(params))
    return digest(seen)


def reference_memory(config: RunConfig, stage: str | None) -> Any:
    """Which memory holds the reference."""
    made = around_the_model(config)
    frozen = grpo.frozen_reference(made, stage, {"kernel": jnp.ones((2, 2))}, "start")
    return frozen.kept["kernel"].sharding.memory_kind


def lora_shapes(config: RunConfig, stage: str | None) -> Any:
    """What is trained, in which shapes, and the model that the stage trains."""
    made = dataclasses.replace(World.setup, config=config)
    model, trained = adapters.model_of(made, stage), programs.trained_part(config.sections[stage])
    params = tree.flatten(split_trained(model.abstract_params(), trained)[0])
    return model.lora, {path: leaf.shape for path, leaf in params.items()}


@functools.cache
def some_stage() -> Prepared:
    return prepare(World.setup.config, "sft")


class FakeCheckpoints:
    """Keeps nothing."""

    def __init__(self, directory, **more):
        self.latest_step = lambda: None
        self.close = lambda: None


def course(config: RunConfig, stage: str | None) -> Any:
    """What the run does in which order; training, testing and the end are only written down."""
    events: list[Any] = []
    made = some_stage()

    def train(config, *parts, **more):
        events.append(config)
        return parts[0], 1.0

    def prepare(made_up, name, stage, params, **more):
        events.append((params, callable(other := more["reference"]) and other()))
        return made

    def score(self, params, examples):
        events.append([example.example_id for example in examples])
        loader = self._loader(examples)
        events.extend([digest(next(loader)), self._sampler().config, self.num_workers])
        loader.close()
        yield ScoredAnswer(example=examples[0], text="", score=None, error="none")

    with pytest.MonkeyPatch.context() as patch:
        for module in (run, training):
            patch.setattr(module, "Checkpoints", FakeCheckpoints)
        patch.setattr(training.loop, "train", train)
        patch.setattr(run.kinds, "prepare", prepare)
        patch.setattr(run.kinds, "policy_params", lambda stage, params: {"of": "the stage before"})
        patch.setattr(setup.Setup, "initial_params", lambda self: {"of": "the run's first model"})
        patch.setattr(Scorer, "score", score)
        patch.setattr(run, "_export", lambda *_: None)
        patch.setattr(run.report, "write_report", lambda *_: None)
        run.run(config, new_folder(), Console(quiet=True))
    return events


# The table.


@dataclasses.dataclass(frozen=True)
class Change:
    """Another value of a field, and where it shows.

    Attributes:
      value: as on the command line.
      probe: its outcome must differ.
      also: fields that must change with this one to be valid.
      given: fields without which this one does nothing; what it is compared with has them too.
      refused: the only right outcome is a UserError like this.
    """

    value: str
    probe: Callable[[RunConfig, str | None], Any] | None = None
    also: dict[str, str] = dataclasses.field(default_factory=dict)
    given: tuple[tuple[str, str], ...] = ()
    refused: str = ""


STAGES = ("warmup", "sft", "grpo")
LORA = tuple((f"{stage}.lora.rank", "2") for stage in STAGES[1:])

TABLE: dict[str, Change] = {
    "seed": Change("5", course),
    "stages": Change("('sft','grpo')", course),
    "model.path": Change(
        "/nowhere",
        starting_point,
        {
            "model.vision": "None",
            "model.text": "None",
            "model.vision_filters": "random",
            "model.initializer_range": "0.02",
        },
        refused="model directory /nowhere does not exist",
    ),
    "model.vision_filters": Change("random", starting_point),
    "model.initializer_range": Change("0.1", starting_point),
    "model.compute_dtype": Change("bfloat16", forward),
    "model.remat": Change("full", backward),
    "model.attention": Change("chunked", forward),
    "model.vision.depth": Change("3", parameters),
    "model.vision.hidden_size": Change("24", parameters),
    "model.vision.intermediate_size": Change("24", parameters),
    "model.vision.num_heads": Change("1", forward),
    "model.vision.out_hidden_size": Change(
        "32", parameters, {"model.text.hidden_size": "32", "model.text.mrope_section": "(2,3,3)"}
    ),
    "model.vision.fullatt_block_indexes": Change("(0,)", forward),
    "model.vision.patch_size": Change("28", parameters),
    "model.vision.temporal_patch_size": Change("1", parameters),
    "model.vision.spatial_merge_size": Change("1", parameters),
    "model.vision.window_size": Change("56", parameters),
    "model.vision.in_channels": Change(
        "1",
        also={"model.vision.image_mean": "(0.5,)", "model.vision.image_std": "(0.5,)"},
        refused="vision.in_channels is 1; images have 3",
    ),
    "model.vision.image_mean": Change("(0.4,0.5,0.6)", forward),
    "model.vision.image_std": Change("(0.4,0.5,0.6)", forward),
    "model.text.vocab_size": Change("320", parameters),
    "model.text.hidden_size": Change(
        "32",
        parameters,
        {"model.vision.out_hidden_size": "32", "model.text.mrope_section": "(2,3,3)"},
    ),
    "model.text.intermediate_size": Change("24", parameters),
    "model.text.num_hidden_layers": Change("3", parameters),
    "model.text.num_attention_heads": Change("1", forward, {"model.text.mrope_section": "(2,3,3)"}),
    "model.text.num_key_value_heads": Change("2", parameters),
    "model.text.mrope_section": Change("(2,1,1)", forward),
    "model.text.tie_word_embeddings": Change("False", parameters),
    "model.text.rms_norm_eps": Change("1e-3", forward),
    "model.text.rope_theta": Change("100.0", forward),
    "model.text.max_position_embeddings": Change(
        "90", course, refused="more than the 90 positions of the model"
    ),
    "data.mixing": Change("batches", loader_config),
    "data.sources.source.dataset": Change("kadid10k", refused="demo makes the data set 'jaxqa_"),
    "data.sources.source.root": Change("/elsewhere", first_batches_anew, refused="/elsewhere"),
    "data.root": Change("elsewhere", data_folder),
    "data.sources.source.split": Change(
        "qalign", first_batches_anew, refused="unknown split 'qalign/train'"
    ),
    "data.sources.source.system": Change("Look!", first_batches_anew),
    "data.sources.source.question": Change("How good is it?", first_batches_anew),
    "data.sources.source.weight": Change("0.0", course, refused="every weight is 0"),
    "data.sources.source.scale": Change(
        "measured", first_batches_anew, refused="states no measured range of jaxqa_demo"
    ),
    "data.sources.source.evaluate": Change("False", course, refused="nothing to test"),
    "data.sources.source.template": Change(
        "q_insight",
        first_batches_anew,
        {"data.buckets.prompt_lengths": "(400,)", "data.buckets.completion_lengths": "(60,)"},
    ),
    "data.images.min_pixels": Change("784", first_batches_anew),
    "data.images.max_pixels": Change("784", first_batches_anew, {"data.images.min_pixels": "784"}),
    "data.buckets.prompt_lengths": Change("(80,)", first_batches_anew),
    "data.buckets.window_counts": Change("(2,)", first_batches_anew),
    "data.buckets.completion_lengths": Change("(36,40)", first_batches_anew),
    "data.workers": Change("2", loader_config),
    "data.cache_mb": Change("7", loader_config),
    "data.demo_seed": Change("3", demo_files),
    "data.demo.crop_size": Change("56", demo_files),
    "data.demo.fold": Change("1", demo_files),
    "data.demo.num_folds": Change("3", demo_files),
    "data.demo.num_validation": Change("2", demo_files),
    "data.demo.photograph_crops": Change("7", demo_files),
    "data.demo.auxiliary_crops": Change("1", demo_files),
    "data.demo.procedural_crops": Change("1", demo_files),
    "data.demo.validation_crops": Change("2", demo_files),
    "data.demo.test_crops": Change("5", demo_files),
    "data.demo.train_distortions": Change("5", demo_files),
    "data.demo.wallpapers": Change("False", demo_files),
    "data.demo.tasks": Change("('comparison',)", demo_files),
    "data.demo.alignment_pictures": Change("6", demo_files),
    "evaluation.part": Change("validation", course),
    "evaluation.batch_size": Change("3", course),
    "evaluation.max_new_tokens": Change("9", course),
    "evaluation.limit": Change("0", course),
    "mesh.data": Change("2", placement),
    "mesh.fsdp": Change("2", placement),
    "mesh.tensor": Change("2", placement),
    "mesh.gather_for_sampling": Change("True", sampler_placement, given=(("mesh.fsdp", "2"),)),
    "stage.steps": Change("7", course),
    "stage.batch_size": Change("6", first_batches),
    "stage.save_every": Change("3", course),
    "stage.micro_batches": Change("2", training_step),
    "stage.accumulator": Change(
        "bfloat16", training_step, given=tuple((f"{n}.micro_batches", "2") for n in STAGES)
    ),
    "stage.evaluate": Change("False", course),
    "stage.sources": Change("('elsewhere',)", refused="'elsewhere' cannot be trained on"),
    "stage.source_weights": Change("(1.0,2.0)", refused="2 numbers and sources 0 names"),
    "stage.label_fraction": Change("0.75", first_batches),
    "stage.rationales": Change("('texts.jsonl',)", texts_learned),
    "stage.teacher_fraction": Change("0.25", texts_learned, {"sft.rationales": "('texts.jsonl',)"}),
    "stage.start_from": Change("initial", course),
    "warmup.start_from": Change("sft", refused="expected previous, initial or a stage that runs"),
    "stage.optimizer.rule": Change(
        "adafactor", updates, given=tuple((f"{n}.optimizer.beta2", "0.999") for n in STAGES)
    ),
    "stage.optimizer.moments": Change("bfloat16", updates),
    "stage.optimizer.learning_rate": Change("3e-3", updates),
    "stage.optimizer.schedule": Change("linear", updates),
    "stage.optimizer.warmup_fraction": Change("0.5", updates),
    "stage.optimizer.end_fraction": Change("0.5", updates),
    "stage.optimizer.beta1": Change("0.5", updates),
    "stage.optimizer.beta2": Change("0.5", updates),
    "stage.optimizer.epsilon": Change("0.01", updates),
    "stage.optimizer.weight_decay": Change("0.5", updates),
    "stage.optimizer.clip_norm": Change("0.5", updates),
    "stage.rewards.term.weight": Change("3.0", rollout),
    "stage.rewards.term.name": Change("threshold", refused="takes the options"),
    "stage.rewards.term.tasks": Change("('aesthetics',)", rollout),
    "stage.objective.clip_low": Change("0.3", training_step),
    "stage.objective.clip_high": Change("0.3", training_step),
    "stage.objective.beta": Change("0.3", training_step),
    "stage.objective.aggregation": Change("token_mean", rollout),
    "stage.objective.ratio_level": Change("sequence", training_step),
    "stage.objective.sequence_clip_low": Change(
        "0.3", training_step, given=(("grpo.objective.ratio_level", "sequence"),)
    ),
    "stage.objective.sequence_clip_high": Change(
        "0.3", training_step, given=(("grpo.objective.ratio_level", "sequence"),)
    ),
    "stage.advantages.scale": Change("none", rollout),
    "stage.advantages.epsilon": Change("0.1", rollout),
    "stage.filter.tau": Change("0.6", rollout),
    "stage.filter.deviation": Change("population", rollout, given=(("grpo.filter.tau", "0.6"),)),
    "stage.filter.resample_rounds": Change("2", rollout, given=(("grpo.filter.tau", "0.6"),)),
    "stage.reference": Change("initial", course, given=(("grpo.objective.beta", "0.1"),)),
    "stage.reference_placement": Change("host", reference_memory),
    "stage.gate.source": Change("sampler", rollout),
    "stage.gate.rho": Change("0.5", rollout, given=(("grpo.gate.source", "sampler"),)),
    "stage.gate.among": Change(
        "kept", rollout, given=(("grpo.gate.source", "sampler"), ("grpo.filter.tau", "0.6"))
    ),
    "stage.sampling.num_samples": Change("3", rollout),
    "stage.sampling.max_new_tokens": Change("8", rollout),
    "stage.sampling.temperature": Change("0.5", rollout),
    "stage.sampling.top_k": Change("2", rollout),
    "stage.sampling.top_p": Change("0.5", rollout),
    "stage.sampling.min_p": Change("0.5", rollout),
    "stage.trains": Change("language", training_step),
    "stage.lora.rank": Change("4", lora_shapes),
    "stage.lora.alpha": Change("2.0", lora_shapes, given=LORA),
    "stage.lora.targets": Change("('visual/blocks/.*',)", lora_shapes, given=LORA),
    "stage.updates_per_rollout": Change("2", training_step),
    "warmup.evaluate": Change("True", refused="config.warmup.evaluate: got True; expected one of"),
    "warmup.kind": Change("sft", first_batches),
    "sft.kind": Change(
        "warmup",
        also={"sft.evaluate": "False"},
        refused="config.sft: unknown key 'lora', 'rationales'",
    ),
    "grpo.kind": Change("sft", refused="config.grpo: unknown key 'advantages'"),
}
"""By path; `stage`, `term` and `source` stand for any section's, reward's and source's name.

Full paths win.
"""

EXEMPT: dict[str, str] = {}
"""By path: why changing the field may change nothing. None may, so far."""


_NAMED = {"rewards": "term", "sources": "source"}
"""Fields that are dicts of dataclasses, and what stands for any name in the table."""


def places(value: Any, path: str = "", row: str = "") -> Iterator[tuple[str, str, type]]:
    """(path, row of the table, dataclass it belongs to) of every field under a dataclass."""
    for field in dataclasses.fields(value):
        item, at, row_at = getattr(value, field.name), path + field.name, row + field.name
        if field.name == "sections":
            for name in value.stages:
                yield from places(item[name], f"{name}.", "stage.")
        elif field.name in _NAMED and isinstance(item, dict):
            for name, part in item.items():
                yield from places(part, f"{at}.{name}.", f"{row_at}.{_NAMED[field.name]}.")
        elif dataclasses.is_dataclass(item):
            yield from places(item, f"{at}.", f"{row_at}.")
        elif field.name != "options":  # see tests/rewards/test_reward_registry.py
            yield at, row_at, type(value)


def demo_places() -> list[tuple[str, str, type]]:
    return list(places(parse_config(configuration.load_config_file(f"{CONFIG}:smoke"))))


def row_of(path: str, row: str) -> str | None:
    found = (name for name in (path, row) if name in TABLE or name in EXEMPT)
    return next(found, None)


@functools.cache
def outcome_of(probe: Callable, stage: str | None, given: tuple[tuple[str, str], ...] = ()) -> Any:
    """The demo's own, or with some fields `given`, to be compared with."""
    return probe(make_config(dict(given)), stage)


CASES = [(path, row_of(path, row)) for path, row, _ in demo_places()]


@pytest.mark.parametrize(("path", "row"), [case for case in CASES if case[1] in TABLE])
def test_an_option_changes_the_run(path, row):
    change = TABLE[row]
    stage = path.split(".")[0] if path.split(".")[0] in STAGE_KINDS else None
    changes = dict(change.given) | change.also | {path: change.value}
    if change.refused:
        with pytest.raises(UserError, match=change.refused):
            config = make_config(changes)
            if change.probe is not None:
                change.probe(config, stage)
    else:
        base = outcome_of(change.probe, stage, change.given)
        assert change.probe(make_config(changes), stage) != base


@pytest.mark.parametrize(
    ("path", "value", "probe", "stage"),
    [
        ("seed", "5", starting_point, None),
        ("seed", "5", first_batches, "sft"),
        ("seed", "5", rollout, "grpo"),
        ("model.attention", "chunked", backward, None),
        ("model.remat", "dots", backward, None),
        ("model.remat", "attention", backward, None),
        ("model.remat", "offload", backward, None),
        ("grpo.sampling.temperature", "0.5", training_step, "grpo"),
        ("grpo.gate.source", "policy", training_step, "grpo"),
        ("grpo.filter.tau", "0.6", training_step, "grpo"),
        ("grpo.updates_per_rollout", "2", updates, "grpo"),
        ("warmup.steps", "7", training_step, "warmup"),  # the schedule ends with the stage
        ("sft.steps", "7", training_step, "sft"),
        ("grpo.steps", "7", training_step, "grpo"),
        ("grpo.rewards.gaussian.options.sigma", "0.1", rollout, "grpo"),
    ],
)
def test_an_option_reaches_every_place_that_needs_it(path, value, probe, stage):
    assert probe(make_config({path: value}), stage) != outcome_of(probe, stage)


def test_every_field_has_a_row_and_every_row_a_field():
    assert [path for path, row in CASES if row is None] == []
    used = {name for path, row, _ in demo_places() for name in (path, row)}
    assert (TABLE.keys() | EXEMPT.keys()) - used == set()
    assert not TABLE.keys() & EXEMPT.keys()


def test_the_demo_has_every_section_there_is():
    found = {owner for *_, owner in demo_places()} | {RunConfig}
    elsewhere = "rationales"  # tests/reasoning/test_pipeline_options.py perturbs its sections
    others = (section for kind, section in STAGE_KINDS.items() if kind != elsewhere)
    assert found == set(dataclasses_in(RunConfig)) | set(
        itertools.chain.from_iterable(map(dataclasses_in, others))
    )


def dataclasses_in(kind: Any) -> Iterator[type]:
    """The dataclasses that a type hint speaks of, however deep."""
    if dataclasses.is_dataclass(kind):
        yield typing.cast(type, kind)
        for hint in typing.get_type_hints(kind).values():
            yield from dataclasses_in(hint)
    for argument in typing.get_args(kind):
        yield from dataclasses_in(argument)
