"""The sections of a run's config: one dataclass per kind of stage."""

import math
from dataclasses import dataclass, field
from typing import Literal

from jaxqa.models.qwen2_5_vl.parts import Part
from jaxqa.nn.lora import LoraConfig
from jaxqa.objectives.advantages import AdvantageConfig, FilterConfig
from jaxqa.objectives.entropy_gate import GateConfig
from jaxqa.objectives.grpo import GrpoConfig
from jaxqa.reasoning.aescot import AesCot
from jaxqa.reasoning.expert import ExpertConfig
from jaxqa.reasoning.fast_slow import FastSlow
from jaxqa.reasoning.own import OwnWords, ReasoningText
from jaxqa.reasoning.plan_then_reason import PlanThenReason
from jaxqa.rewards.registry import RewardTerm
from jaxqa.sampling.config import SamplingConfig
from jaxqa.train.optimizer import OptimizerConfig
from jaxqa.train.reference import Placement

PipelineConfig = OwnWords | AesCot | FastSlow | PlanThenReason | ReasoningText


@dataclass(frozen=True, kw_only=True)
class SectionConfig:
    """What every stage has.

    Attributes:
      batch_size: images per step or call, over all devices.
      sources: data sources that it uses; empty for all whose weight is not 0.
      label_fraction: share of the training references whose labels the stage may use, in (0, 1].
      start_from: the policy that the stage starts from: that of the stage before it ("previous"),
        the run's first model ("initial"), or that of an earlier stage, by its name.
    """

    batch_size: int
    sources: tuple[str, ...] = ()
    label_fraction: float = 1.0
    start_from: str = "previous"

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if len(set(self.sources)) != len(self.sources):
            raise ValueError(f"sources: name each once; got {self.sources}")
        if not 0 < self.label_fraction <= 1:
            raise ValueError(f"label_fraction must lie in (0, 1], got {self.label_fraction}")


@dataclass(frozen=True, kw_only=True)
class StageConfig(SectionConfig):
    """What every stage that trains has.

    Attributes:
      steps: training steps.
      save_every: steps between checkpoints.
      micro_batches: slices of a batch whose gradients are added up one after another.
      accumulator: dtype in which they are added up; bfloat16 halves the memory of the sum.
      evaluate: whether the test follows.
      source_weights: one for each of `sources`, in place of their own; empty for their own.
      optimizer: its own optimizer, made anew.
    """

    steps: int
    save_every: int = 50
    micro_batches: int = 1
    accumulator: Literal["float32", "bfloat16"] = "float32"
    evaluate: bool = True
    source_weights: tuple[float, ...] = ()
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self):
        super().__post_init__()
        for name in ("steps", "save_every", "micro_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.source_weights and len(self.source_weights) != len(self.sources):
            raise ValueError(
                f"source_weights has {len(self.source_weights)} numbers and sources "
                f"{len(self.sources)} names; give one for each, or none"
            )
        if not all(weight > 0 and math.isfinite(weight) for weight in self.source_weights):
            raise ValueError(f"source_weights must be above 0, got {self.source_weights}")
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide by "
                f"micro_batches {self.micro_batches}"
            )
        if self.accumulator != "float32" and self.micro_batches == 1:
            raise ValueError(
                f"accumulator is {self.accumulator!r} and micro_batches 1: there is nothing to add "
                "up; leave accumulator at 'float32' or use more micro-batches"
            )


@dataclass(frozen=True, kw_only=True)
class WarmupStage(StageConfig):
    """Teach a random vision tower local image statistics; stands in for pretraining."""

    kind: Literal["warmup"] = "warmup"
    evaluate: Literal[False] = False  # type: ignore[assignment]  # nothing answers questions yet


@dataclass(frozen=True, kw_only=True)
class SftStage(StageConfig):
    """Supervised fine-tuning on rationale and score.

    Attributes:
      rationales: where the rationales come from: earlier stages that write some, by name, and
        files such as they write; images without any are left out. Empty for the data set's own.
      teacher_fraction: share of the training references that keep the data set's own rationale
        all the same.
      trains: the part of the model that is trained; the rest stays as it is.
      lora: adapters that are trained in place of the model's own parameters.
    """

    kind: Literal["sft"] = "sft"
    rationales: tuple[str, ...] = ()
    teacher_fraction: float = 0.0
    trains: Part = "all"
    lora: LoraConfig = field(default_factory=LoraConfig)

    def __post_init__(self):
        super().__post_init__()
        _check_trained(self.trains, self.lora)
        if not 0 <= self.teacher_fraction <= 1:
            raise ValueError(f"teacher_fraction must lie in [0, 1], got {self.teacher_fraction}")
        if self.teacher_fraction and not self.rationales:
            raise ValueError("teacher_fraction counts only beside rationales; name some or set 0")


@dataclass(frozen=True, kw_only=True)
class GrpoStage(StageConfig):
    """Group-relative policy optimisation on rewards of sampled answers.

    Attributes:
      rewards: name -> term; the total is their weighted sum.
      objective: the policy loss.
      advantages: how rewards become advantages.
      filter: which groups are trained on, and whether others are sampled in their place.
      gate: which tokens have a policy gradient.
      reference: the policy from which the KL penalty counts: that which the stage starts from
        ("start"), the run's first model ("initial"), or that of an earlier stage, by its name.
      reference_placement: where it waits between its uses: on the devices, or in the host's memory,
        from which it comes for each rollout. It is kept in the model's `compute_dtype`.
      sampling: how answers are sampled; `num_samples` is the group size.
      trains: the part of the model that is trained; the rest stays as it is.
      lora: adapters that are trained in place of the model's own parameters.
      updates_per_rollout: optimizer updates on each rollout.
    """

    kind: Literal["grpo"] = "grpo"
    rewards: dict[str, RewardTerm] = field(default_factory=dict)
    objective: GrpoConfig = field(default_factory=GrpoConfig)
    advantages: AdvantageConfig = field(default_factory=AdvantageConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    reference: str = "start"
    reference_placement: Placement = "device"
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    trains: Part = "all"
    lora: LoraConfig = field(default_factory=LoraConfig)
    updates_per_rollout: int = 1

    def __post_init__(self):
        super().__post_init__()
        _check_trained(self.trains, self.lora)
        if not self.rewards or "std" in self.rewards:
            raise ValueError("rewards: at least one term, none of the name std (a metric's)")
        if self.sampling.num_samples < 2:
            raise ValueError("sampling.num_samples: a group needs at least 2 answers")
        if self.sampling.temperature <= 0:
            raise ValueError("sampling.temperature: greedy answers of a group are all the same")
        if self.gate.source == "policy" and self.micro_batches > 1:
            raise ValueError(
                f"gate.source is 'policy' and micro_batches is {self.micro_batches}: the policy's "
                "own entropies are known one micro-batch after the other, so their quantile needs "
                "micro_batches 1; or use gate.source 'sampler'"
            )
        if self.updates_per_rollout < 1:
            raise ValueError(
                f"updates_per_rollout must be at least 1, got {self.updates_per_rollout}"
            )


def _check_trained(trains: Part, lora: LoraConfig) -> None:
    if lora.rank and trains != "all":
        raise ValueError(
            f"trains is {trains!r} and lora.rank {lora.rank}: only adapters are trained; say with "
            'lora.targets where they are and leave trains at "all"'
        )


@dataclass(frozen=True, kw_only=True)
class RationalesStage(SectionConfig):
    """Write rationales about training images, for fine-tuning to read; nothing is trained.

    Attributes:
      pipeline: what is asked and what is kept; its `name` says which.
      expert: who writes: the policy that the stage starts from, or an endpoint.
      judge: who judges, where the pipeline asks a judge; None for the expert.
      sampling: of the expert's answers; `num_samples` per image.
      skip_fraction: share of the training references, out of `label_fraction`, to leave out.
      limit: write about the first so many images only; 0 for all.
      human_audit: images in the sample that people judge; the run waits for their verdicts.
    """

    kind: Literal["rationales"] = "rationales"
    evaluate: Literal[False] = False  # the policy stays as it is
    pipeline: PipelineConfig = field(default_factory=OwnWords)
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    judge: ExpertConfig | None = None
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    skip_fraction: float = 0.0
    limit: int = 0
    human_audit: int = 0

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.skip_fraction < self.label_fraction:
            raise ValueError(
                f"skip_fraction is {self.skip_fraction}; expected at least 0 and less than "
                f"label_fraction {self.label_fraction}"
            )
        if self.limit < 0 or self.human_audit < 0:
            raise ValueError(
                f"limit is {self.limit} and human_audit {self.human_audit}; expected 0 or more"
            )


STAGE_KINDS: dict[str, type[SectionConfig]] = {
    "warmup": WarmupStage,
    "sft": SftStage,
    "grpo": GrpoStage,
    "rationales": RationalesStage,
}
