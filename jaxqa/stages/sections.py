"""The sections of a run's config: one dataclass per kind of stage."""

from dataclasses import dataclass, field
from typing import Literal

from jaxqa.models.qwen2_5_vl.parts import Part
from jaxqa.objectives.advantages import AdvantageConfig
from jaxqa.objectives.grpo import GrpoConfig
from jaxqa.rewards.registry import RewardTerm
from jaxqa.sampling.config import SamplingConfig
from jaxqa.train.optimizer import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """What every stage has.

    Attributes:
      steps: training steps.
      batch_size: images per step, over all devices.
      save_every: steps between checkpoints.
      micro_batches: slices of a batch whose gradients are added up one after another.
      evaluate: whether the test follows.
      sources: data sources that it trains on; empty for all whose weight is not 0.
      label_fraction: share of the training references whose labels the stage may use, in (0, 1].
      start_from: the policy that the stage starts from: that of the stage before it ("previous"),
        the run's first model ("initial"), or that of an earlier stage, by its name.
      optimizer: its own optimizer, made anew.
    """

    steps: int
    batch_size: int
    save_every: int = 50
    micro_batches: int = 1
    evaluate: bool = True
    sources: tuple[str, ...] = ()
    label_fraction: float = 1.0
    start_from: str = "previous"
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
        if len(set(self.sources)) != len(self.sources):
            raise ValueError(f"sources: name each once; got {self.sources}")
        if not 0 < self.label_fraction <= 1:
            raise ValueError(f"label_fraction must lie in (0, 1], got {self.label_fraction}")


@dataclass(frozen=True, kw_only=True)
class WarmupStage(StageConfig):
    """Teach a random vision tower local image statistics; stands in for pretraining."""

    kind: Literal["warmup"] = "warmup"
    evaluate: Literal[False] = False  # type: ignore[assignment]  # nothing answers questions yet


@dataclass(frozen=True, kw_only=True)
class SftStage(StageConfig):
    """Supervised fine-tuning on rationale and score.

    Attributes:
      trains: the part of the model that is trained; the rest stays as it is.
    """

    kind: Literal["sft"] = "sft"
    trains: Part = "all"


@dataclass(frozen=True, kw_only=True)
class GrpoStage(StageConfig):
    """Group-relative policy optimisation on rewards of sampled answers.

    Attributes:
      rewards: name -> term; the total is their weighted sum.
      objective: the policy loss.
      advantages: how rewards become advantages.
      sampling: how answers are sampled; `num_samples` is the group size.
      trains: the part of the model that is trained; the rest stays as it is.
      updates_per_rollout: optimizer updates on each rollout.
    """

    kind: Literal["grpo"] = "grpo"
    rewards: dict[str, RewardTerm] = field(default_factory=dict)
    objective: GrpoConfig = field(default_factory=GrpoConfig)
    advantages: AdvantageConfig = field(default_factory=AdvantageConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    trains: Part = "all"
    updates_per_rollout: int = 1

    def __post_init__(self):
        super().__post_init__()
        if not self.rewards:
            raise ValueError("rewards: at least one term")
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
