"""The sections of the stages that distil a reasoning model's texts into an encoder."""

from dataclasses import dataclass, field
from typing import Literal

from jaxqa.distill.alignment import AlignmentConfig
from jaxqa.distill.pipeline import DistillConfig
from jaxqa.stages.encoders import EncoderSource
from jaxqa.stages.sections import SectionConfig
from jaxqa.train.optimizer import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class AlignStage(SectionConfig):
    """Contrastive training of an image tower on rationales; the policy stays as it is.

    Attributes:
      steps: training steps.
      save_every: steps between checkpoints.
      encoder: both towers before training.
      alignment: texts, temperature.
      rationales: where the texts come from: earlier stages that write some, by name, and files
        such as they write; images without any are left out. Empty for the data set's own.
      optimizer: of the image tower.
    """

    kind: Literal["align"] = "align"
    evaluate: Literal[False] = False  # nothing scores yet
    start_from: Literal["previous"] = "previous"  # type: ignore[assignment]  # no policy is used
    steps: int
    save_every: int = 500
    encoder: EncoderSource
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    rationales: tuple[str, ...] = ()
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self):
        super().__post_init__()
        for name in ("steps", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class BasisStage(SectionConfig):
    """A score basis on an image tower's embeddings: compress, cluster, fit, write the artifact.

    Attributes:
      evaluate: whether the test follows.
      align: stage of kind align whose image tower is used.
      aligned: whether as that stage left it; otherwise as it was before.
      distill: compression, clustering and fit.
    """

    kind: Literal["basis"] = "basis"
    evaluate: bool = True
    start_from: Literal["previous"] = "previous"  # type: ignore[assignment]  # no policy is used
    align: str = "align"
    aligned: bool = True
    distill: DistillConfig = field(default_factory=DistillConfig)


DISTILL_KINDS: dict[str, type[SectionConfig]] = {"align": AlignStage, "basis": BasisStage}
