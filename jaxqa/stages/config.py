"""The configuration of a run: shared sections, then one named section per stage."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import ml_collections

from jaxqa import configuration
from jaxqa.data.batching import Buckets
from jaxqa.data.demo import DemoDataConfig
from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl.config import TextConfig, VisionConfig
from jaxqa.models.qwen2_5_vl.preprocess import ImageConfig
from jaxqa.objectives.advantages import AdvantageConfig
from jaxqa.objectives.grpo import GrpoConfig
from jaxqa.rewards.registry import RewardTerm
from jaxqa.sampling.config import SamplingConfig
from jaxqa.sharding import MeshConfig
from jaxqa.train.optimizer import OptimizerConfig

DEMO_DATASET = "jaxqa_demo"


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where the first stage's model comes from: a directory, or random weights.

    Attributes:
      path: Hugging Face or jaxqa directory, with its tokenizer; excludes the next four.
      vision: vision tower of a model from random weights.
      text: text tower of a model from random weights; its tokenizer is trained on the data set's
        rationales with at most `vocab_size` entries.
      vision_filters: starting filters of the patch embedding: `dct` gives cosine patterns, as a
        pretrained tower would have, `random` gives noise.
      initializer_range: standard deviation of random weights.
      compute_dtype: dtype of matrix products; parameters, norms and softmax stay float32.
      remat: `full` recomputes each layer in the backward pass instead of keeping it.
    """

    path: str | None = None
    vision: VisionConfig | None = None
    text: TextConfig | None = None
    vision_filters: Literal["dct", "random"] = "random"
    initializer_range: float = 0.02
    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    remat: Literal["none", "full"] = "none"

    def __post_init__(self):
        scratch = self.vision is not None and self.text is not None
        if (self.path is not None) == scratch or (self.vision is None) != (self.text is None):
            raise ValueError("give either path, or both vision and text")
        if self.path is not None and (self.vision_filters, self.initializer_range) != (
            ModelSource.vision_filters,
            ModelSource.initializer_range,
        ):
            raise ValueError(
                "vision_filters and initializer_range are for random weights, not for a path; "
                f"leave them at {ModelSource.vision_filters!r} and {ModelSource.initializer_range}"
            )
        if self.initializer_range <= 0:
            raise ValueError(f"initializer_range must be positive, got {self.initializer_range}")
        if self.vision is not None and self.vision.in_channels != 3:
            raise ValueError(f"vision.in_channels is {self.vision.in_channels}; images have 3")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The labelled images.

    Attributes:
      dataset: name in the registry.
      root: its folder; None for `<workdir>/data` (the demo data set is made there).
      split: named split of the registry; empty for the data set's own split file.
      template: prompt template, by name.
      images: pixel limits of resizing.
      buckets: shapes to which prompts and completions are padded.
      workers: decoding processes; 0 decodes in the training process.
      cache_mb: memory for decoded training images, in MB; 0 decodes them anew in every epoch.
      demo: how the demo data set is made; None when `dataset` is another.
      demo_seed: of the demo data set, apart from the run's seed so that runs can share it.
    """

    dataset: str
    root: str | None = None
    split: str = ""
    template: str = "q_insight"
    images: ImageConfig = field(default_factory=ImageConfig)
    buckets: Buckets
    workers: int = 0
    cache_mb: int = 0
    demo: DemoDataConfig | None = None
    demo_seed: int = 0

    def __post_init__(self):
        if self.workers < 0 or self.cache_mb < 0:
            raise ValueError(
                f"workers and cache_mb must not be negative, got {self.workers} and {self.cache_mb}"
            )
        if self.demo is not None and self.dataset != DEMO_DATASET:
            raise ValueError(
                f"demo makes the data set {DEMO_DATASET!r}, but dataset is {self.dataset!r}; "
                "set demo to None or dataset to the demo's"
            )
        if self.demo_seed < 0:
            raise ValueError(f"demo_seed must not be negative, got {self.demo_seed}")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The test after a stage; answers are greedy.

    Attributes:
      part: which part of the split: `test`, or `validation` while choosing settings.
      batch_size: images per call.
      max_new_tokens: longest answer; one cut off counts as unparsed.
      limit: evaluate only the first images; 0 for all.
    """

    part: Literal["test", "validation"] = "test"
    batch_size: int = 8
    max_new_tokens: int = 512
    limit: int = 0

    def __post_init__(self):
        if self.batch_size < 1 or self.max_new_tokens < 1 or self.limit < 0:
            raise ValueError("batch_size and max_new_tokens must be positive, limit at least 0")


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """What every stage has.

    Attributes:
      steps: training steps.
      batch_size: images per step, over all devices.
      save_every: steps between checkpoints.
      micro_batches: slices of a batch whose gradients are added up one after another.
      evaluate: whether the test follows.
      label_fraction: share of the training references whose labels the stage may use, in (0, 1].
      optimizer: its own optimizer, made anew.
    """

    steps: int
    batch_size: int
    save_every: int = 50
    micro_batches: int = 1
    evaluate: bool = True
    label_fraction: float = 1.0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self):
        for name in ("steps", "batch_size", "save_every", "micro_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide by "
                f"micro_batches {self.micro_batches}"
            )
        if not 0 < self.label_fraction <= 1:
            raise ValueError(f"label_fraction must lie in (0, 1], got {self.label_fraction}")


@dataclass(frozen=True, kw_only=True)
class WarmupStage(StageConfig):
    """Teach a random vision tower local image statistics; stands in for pretraining."""

    kind: Literal["warmup"] = "warmup"
    evaluate: Literal[False] = False  # type: ignore[assignment]  # nothing answers questions yet


@dataclass(frozen=True, kw_only=True)
class SftStage(StageConfig):
    """Supervised fine-tuning on rationale and score."""

    kind: Literal["sft"] = "sft"


@dataclass(frozen=True, kw_only=True)
class GrpoStage(StageConfig):
    """Group-relative policy optimisation on rewards of sampled answers.

    Attributes:
      rewards: name -> term; the total is their weighted sum.
      objective: the policy loss.
      advantages: how rewards become advantages.
      sampling: how answers are sampled; `num_samples` is the group size.
      updates_per_rollout: optimizer updates on each rollout.
    """

    kind: Literal["grpo"] = "grpo"
    rewards: dict[str, RewardTerm] = field(default_factory=dict)
    objective: GrpoConfig = field(default_factory=GrpoConfig)
    advantages: AdvantageConfig = field(default_factory=AdvantageConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    updates_per_rollout: int = 1

    def __post_init__(self):
        super().__post_init__()
        if not self.rewards or any(name != term.name for name, term in self.rewards.items()):
            raise ValueError("rewards: at least one term, each under its own name")
        if self.sampling.num_samples < 2:
            raise ValueError("sampling.num_samples: a group needs at least 2 answers")
        if self.sampling.temperature <= 0:
            raise ValueError("sampling.temperature: greedy answers of a group are all the same")
        if self.updates_per_rollout < 1:
            raise ValueError(
                f"updates_per_rollout must be at least 1, got {self.updates_per_rollout}"
            )


STAGE_KINDS: dict[str, type[StageConfig]] = {
    "warmup": WarmupStage,
    "sft": SftStage,
    "grpo": GrpoStage,
}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A run: what to train on, and the stages in order.

    Attributes:
      seed: of initial weights, data order and sampling.
      stages: names of the sections that run, in this order.
      sections: name -> stage; in a config file they stand beside the other keys.
    """

    seed: int
    stages: tuple[str, ...]
    model: ModelSource
    data: DataConfig
    evaluation: EvaluationConfig
    mesh: MeshConfig
    sections: dict[str, Any]


_SHARED = tuple(f.name for f in dataclasses.fields(RunConfig) if f.name != "sections")


def make_config(
    *,
    stages: Mapping[str, StageConfig],
    model: ModelSource,
    data: DataConfig,
    evaluation: EvaluationConfig,
    spare: Mapping[str, StageConfig] | None = None,
    seed: int = 0,
    mesh: MeshConfig | None = None,
) -> ml_collections.ConfigDict:
    """ConfigDict for a config file's `get_config`.

    Args:
      stages: run in the order given.
      spare: sections that run only where `--config.stages=(...)` names them.
    """
    shared = {
        "seed": seed,
        "stages": tuple(stages),
        "model": model,
        "data": data,
        "evaluation": evaluation,
        "mesh": mesh or MeshConfig(),
    }
    return configuration.to_config_dict(shared | dict(stages) | dict(spare or {}))


def parse_config(config: ml_collections.ConfigDict) -> RunConfig:
    """Dataclasses of a (possibly overridden) ConfigDict.

    Raises:
      UserError: unknown key, wrong type or impossible value, naming the key.
    """
    values = config.to_dict()
    shared = {name: values.pop(name) for name in _SHARED if name in values}
    if unknown := [name for name, value in values.items() if not isinstance(value, Mapping)]:
        raise UserError(
            f"config: unknown key {', '.join(map(repr, unknown))}; "
            f"valid keys: {', '.join(_SHARED)}, and a section for each stage"
        )
    sections = {name: _parse_stage(name, section) for name, section in values.items()}
    run = configuration.from_dict(RunConfig, shared | {"sections": {}}, at="config")
    run = dataclasses.replace(run, sections=sections)
    if unknown := [name for name in run.stages if name not in sections]:
        raise UserError(
            f"config.stages: no section {', '.join(map(repr, unknown))}; "
            f"valid names: {', '.join(sections)}"
        )
    if not run.stages or len(set(run.stages)) != len(run.stages):
        raise UserError(f"config.stages: name each stage once, at least one; got {run.stages}")
    if not 0 <= run.seed < 2**31:
        raise UserError(f"config.seed: got {run.seed}; expected 0 to {2**31 - 1}")
    return run


def _parse_stage(name: str, section: Mapping[str, Any]) -> StageConfig:
    if not (name.isascii() and name.isidentifier()):
        raise UserError(
            f"config: stage name {name!r} cannot name files and options; "
            "use letters, digits and _, a letter first"
        )
    kind = section.get("kind")
    if kind not in STAGE_KINDS:
        raise UserError(
            f"config.{name}: kind is {kind!r}; expected one of {', '.join(STAGE_KINDS)}"
        )
    return configuration.from_dict(STAGE_KINDS[kind], section, at=f"config.{name}")
