"""No dead options in the stages `align` and `basis`; see test_no_dead_options.py for the idea.

What a model would compute is traced and not run: its program tells whether an option reached it.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_run
from rich.console import Console
from test_distillation_stages import configured

from jaxqa.errors import UserError
from jaxqa.stages import distillation, setup
from jaxqa.stages.config import RunConfig
from jaxqa.stages.setup import set_up
from jaxqa.stages.workdir import WorkDir
from jaxqa.train.json_lines import write_json_lines
from jaxqa.train.stop import StopRequest


class World:
    """Shared by the probes; filled by the fixture."""

    data: Path
    folder: Path
    setup: setup.Setup
    counter = itertools.count()
    done: dict[Any, Any] = {}


@pytest.fixture(scope="module", autouse=True)
def world(tmp_path_factory) -> Iterator[None]:
    World.folder = tmp_path_factory.mktemp("distill_options")
    World.data = tiny_run.write_dataset(World.folder / "data")
    World.done = {}
    World.setup = set_up(config_of({}), WorkDir(World.folder / "work"), Console(quiet=True))
    examples = next(iter(World.setup.train.values())).examples
    texts = ["much noise in it", "soft. and dull. and grey. and dark. and bare. and cold."]
    lines = [{"example_id": e.example_id, "rationales": texts} for e in examples]
    write_json_lines(World.folder / "texts.jsonl", lines)
    yield


def config_of(changes: dict[str, str]) -> RunConfig:
    return configured(World.data, **{k.replace(".", "__"): v for k, v in changes.items()})


def made_up(config: RunConfig) -> setup.Setup:
    work = WorkDir(World.folder / str(next(World.counter)))
    return dataclasses.replace(World.setup, config=config, work=work)


def draw(leaf: jax.ShapeDtypeStruct, name: str = "") -> np.ndarray:
    rng = np.random.default_rng([*leaf.shape, len(name)])
    return rng.standard_normal(leaf.shape).astype(leaf.dtype)


def digest(tree: Any) -> str:
    leaves, structure = jax.tree.flatten(tree)
    parts = [str(structure)]
    for leaf in leaves:
        array = np.asarray(leaf)
        parts.append(f"{array.shape}{array.dtype}{hashlib.sha1(array.tobytes()).hexdigest()}")
    return hashlib.sha1("".join(parts).encode()).hexdigest()


def program(function: Callable, *inputs: Any) -> str:
    """The traced computation, its constants included."""
    traced = jax.make_jaxpr(function)(*inputs)
    return str(traced) + digest(traced.consts)


class Fakes:
    """Stands in for what computes: notes what it was given, and gives something fixed."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.seen: list[Any] = []
        self.prepared: Any = None
        for name in ("embed_texts", "embed_images", "Checkpoints", "_encoder_params", "_test"):
            patch.setattr(distillation, name, getattr(self, name))
        patch.setattr(distillation.training, "train_stage", self._train_stage)

    def _train_stage(self, made, name, prepare, **options):  # noqa: ANN001
        self.prepared = prepare(None)
        self.seen.append({k: v for k, v in options.items() if k != "stop"})
        return None, 0.0

    def embed_texts(self, model, params, tokenizer, texts, *, policy):  # noqa: ANN001
        self.seen.append((policy, texts))
        return draw(jax.ShapeDtypeStruct((len(texts), model.config.projection_dim), np.float32))

    def embed_images(self, model, params, images, *, size, advance, **options):  # noqa: ANN001
        self.seen.append((size, digest(params), [str(image) for image in images]))
        found = draw(jax.ShapeDtypeStruct((len(images), model.config.projection_dim), np.float32))
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def Checkpoints(self, directory):  # noqa: ANN001, N802
        fakes = self

        class Kept:
            def __init__(self):
                self.directory = directory
                self.close = lambda: None
                self.latest_step = lambda: 6

            def restore_params(self, step, like):  # noqa: ANN001
                fakes.seen.append((Path(directory).name, step))
                return jax.tree.map(lambda leaf: draw(leaf, "trained"), like)

        return Kept()

    def _encoder_params(self, made, stage):  # noqa: ANN001
        return jax.tree.map(draw, stage.encoder.model().abstract_params())

    def _test(self, made, name, stage, artifact, stop):  # noqa: ANN001
        return {"evaluation": "tested"}


def training(config: RunConfig, name: str) -> Any:
    """Everything of an alignment up to its first step: texts, batches, the step's program."""
    with pytest.MonkeyPatch.context() as patch:
        fakes, made = Fakes(patch), made_up(config)
        entry = distillation.run_stage(made, name, StopRequest())
        source, state = fakes.prepared.source, fakes.prepared.state
        batches = [source.next(state.params, step)[0] for step in range(3)]
        source.close()
        step = program(fakes.prepared.update, state, batches[0])
    del entry["seconds"]
    return entry, fakes.seen, digest(batches), digest(state), step


def towers(config: RunConfig, name: str) -> Any:
    """What both towers compute, and how a text becomes a row."""
    encoder = config.sections["align"].encoder
    model, texts = encoder.model(), ["sharp " * 20, "blur and noise"]
    tokenizer = encoder.tokenizer(texts)
    rows = np.stack([tokenizer.row(tokenizer.encode(text)) for text in texts])
    side = model.config.vision.image_size
    pixels = jax.ShapeDtypeStruct((2, side, side, 3), np.uint8)
    params = model.abstract_params()
    image = jax.grad(lambda params, x: model.image_embeddings(params, x).sum())
    return (
        program(image, distillation.image_params(params), pixels),
        program(model.text_embeddings, params, rows),
        rows.tolist(),
    )


def start(config: RunConfig, name: str) -> Any:
    """The towers before training."""
    return digest(config.sections["align"].encoder.params(jax.random.key(0)))


def scorer(config: RunConfig, name: str) -> Any:
    """The basis that is made of fixed embeddings, as the artifact has it."""
    with pytest.MonkeyPatch.context() as patch:
        fakes, made = Fakes(patch), made_up(config)
        entry = distillation.run_stage(made, name, StopRequest())
    folder = made.work.artifact(name)
    entry = {key: value for key, value in entry.items() if "seconds" not in key}
    return entry, fakes.seen, {path.name: path.read_bytes() for path in folder.iterdir()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """Another valid value of a field and the probe where it shows; or the message that refuses it.

    Attributes:
      also: what must change with it.
      given: what must be so before and after.
    """

    value: str
    probe: Callable | None = None
    also: dict[str, str] = dataclasses.field(default_factory=dict)
    given: tuple[tuple[str, str], ...] = ()
    refused: str = ""


def trained(value: str, **more: Any) -> Change:
    return Change(value=value, probe=training, **more)


def built(value: str, **more: Any) -> Change:
    return Change(value=value, probe=towers, **more)


def scored(value: str, **more: Any) -> Change:
    return Change(value=value, probe=scorer, **more)


def refused(value: str, message: str, probe: Callable | None = None) -> Change:
    return Change(value=value, refused=message, probe=probe)


TEXTS = ("align.rationales", "('TEXTS',)")
"""A file with two texts about each image."""

_TOWER = {
    "hidden_size": built("32"),
    "intermediate_size": built("32"),
    "num_hidden_layers": built("2"),
    "num_attention_heads": built("4"),
    "hidden_act": built("gelu"),
    "layer_norm_eps": built("0.01"),
}
_VISION = {
    **_TOWER,
    "image_size": built("42"),
    "patch_size": built("7"),
    "image_mean": built("(0.4,0.4,0.4)"),
    "image_std": built("(0.4,0.4,0.4)"),
}
_TEXT = {
    **_TOWER,
    "vocab_size": built("561"),
    "max_position_embeddings": built("9"),
    "eos_token_id": refused("2", "eos_token_id 1", towers),
}
_OPTIMIZER = {
    "rule": trained("adafactor"),
    "moments": trained("bfloat16"),
    "learning_rate": trained("0.02"),
    "schedule": trained("constant"),
    "warmup_fraction": trained("0.5"),
    "end_fraction": trained("0.5"),
    "beta1": trained("0.5"),
    "beta2": trained("0.5"),
    "epsilon": trained("0.01"),
    "weight_decay": trained("0.1"),
    "clip_norm": trained("0.5"),
}
_ALIGN = {
    "batch_size": trained("3"),
    "sources": refused("('nobody',)", "'nobody' cannot be trained on"),
    "label_fraction": refused("0.000001", "no image with rationale", training),
    "start_from": refused("initial", "expected one of 'previous'"),
    "kind": refused("basis", "unknown key"),
    "evaluate": refused("True", "expected one of False"),
    "steps": trained("7"),
    "save_every": trained("3"),
    "rationales": trained("('TEXTS',)"),
    "encoder.path": refused("nowhere", "give either path or architecture"),
    "encoder.vision_filters": Change(value="random", probe=start),
    "encoder.compute_dtype": trained("bfloat16"),
    "encoder.remat": trained("full"),
    "encoder.architecture.family": Change(
        value="siglip",
        also={"align.encoder.architecture.projection_dim": "16"},
        refused='take "clip", or a path',
    ),
    "encoder.architecture.projection_dim": built("16"),
    **{f"encoder.architecture.vision.{name}": change for name, change in _VISION.items()},
    **{f"encoder.architecture.text.{name}": change for name, change in _TEXT.items()},
    "alignment.text_policy": trained("sentences"),
    "alignment.max_rationales": trained("1", given=(TEXTS,)),
    "alignment.temperature": trained("0.2"),
    "alignment.learn_temperature": trained("False"),
    **{f"optimizer.{name}": change for name, change in _OPTIMIZER.items()},
}
_BASIS = {
    "batch_size": scored("3"),
    "sources": refused("('nobody',)", "'nobody' cannot be trained on"),
    "label_fraction": refused("0.000001", "embeddings|images", scorer),
    "start_from": refused("initial", "expected one of 'previous'"),
    "kind": refused("align", "unknown key"),
    "evaluate": scored("False"),
    "align": refused("nobody", "nobody"),
    "aligned": scored("False"),
    "distill.dimensions": scored("3"),
    "distill.centre": scored("True"),
    "distill.clusters.buckets": scored("2"),
    "distill.clusters.centroids": scored("6"),
    "distill.basis.fit": scored("False"),
    "distill.basis.fit_projection": scored("True"),
    "distill.basis.temperature": scored("0.5"),
    "distill.basis.loss": scored("absolute"),
    "distill.basis.learning_rate": scored("0.1"),
    "distill.basis.steps": scored("21"),
    "distill.basis.batch_size": scored("4"),
    "distill.basis.calibrate": scored("True"),
    "distill.basis.clip": scored("False"),
}
TABLE = {f"align.{name}": change for name, change in _ALIGN.items()}
TABLE |= {f"basis.{name}": change for name, change in _BASIS.items()}


def fields(value: Any, path: str) -> Iterator[str]:
    for field in dataclasses.fields(value):
        item, at = getattr(value, field.name), f"{path}.{field.name}"
        if dataclasses.is_dataclass(item):
            yield from fields(item, at)
        else:
            yield at


def config_with(changes: dict[str, str]) -> RunConfig:
    path = World.folder / "texts.jsonl"
    return config_of({key: text.replace("TEXTS", str(path)) for key, text in changes.items()})


def outcome(probe: Callable, name: str, given: tuple[tuple[str, str], ...]) -> Any:
    key = (probe, name, given)
    if key not in World.done:
        World.done[key] = probe(config_with(dict(given)), name)
    return World.done[key]


@pytest.mark.slow
@pytest.mark.parametrize("path", list(TABLE))
def test_an_option_changes_the_run(path):
    change, name = TABLE[path], path.partition(".")[0]
    changes = {**dict(change.given), path: change.value, **change.also}
    if not change.refused:
        assert change.probe is not None
        before = outcome(change.probe, name, change.given)
        assert change.probe(config_with(changes), name) != before
        return
    with pytest.raises(UserError, match=change.refused):
        config = config_with(changes)
        if change.probe is not None:
            change.probe(config, name)


def test_every_field_has_a_row_and_every_row_a_field():
    sections = config_of({}).sections
    found = [*fields(sections["align"], "align"), *fields(sections["basis"], "basis")]
    assert sorted(found) == sorted(TABLE)


@pytest.mark.parametrize(("name", "probe"), [("align", training), ("basis", scorer)])
def test_the_same_config_has_the_same_outcome(name, probe):
    """Otherwise every option would seem to change something."""
    assert probe(config_of({}), name) == outcome(probe, name, ())
