"""The whole journey on a laptop CPU, without any download: warm-up, SFT, GRPO, test, report.

    python launchers/train.py --config=configs/demo.py --workdir=runs/demo

A two-layer model in the shape of Qwen2.5-VL learns to write `<think> ... </think><answer> 3.42
</answer>` about distorted crops of real photographs. Labels are a synthetic pseudo-MOS, computed
from a full-reference metric: the demo shows that the machinery learns, not what people see.

On two CPU cores it takes about 5 minutes and reaches an SRCC of about 0.75; docs/demo.md says
how far to trust that, what GRPO adds, and how it was chosen. No number here comes from a paper:
sizes, steps and rates are what was tried on this data, within the time.

`demo.py:smoke` is the same journey in about a minute, for tests.
"""

from dataclasses import replace

import ml_collections

from jaxqa.data.batching import Buckets
from jaxqa.data.demo import DemoDataConfig
from jaxqa.models.qwen2_5_vl.preprocess import ImageConfig
from jaxqa.objectives.grpo import GrpoConfig
from jaxqa.rewards.registry import RewardTerm
from jaxqa.sampling.config import SamplingConfig
from jaxqa.stages import recipes
from jaxqa.stages.config import make_config
from jaxqa.stages.sections import (
    GrpoStage,
    RationalesStage,
    SectionConfig,
    SftStage,
    WarmupStage,
)
from jaxqa.stages.sources import DataConfig, DataSource, EvaluationConfig

MODES = ("full", "smoke")

TAUGHT = 0.5
"""Share of the training references that SFT sees; GRPO sees the scores of all, no rationales."""

MAX_TOKENS = 28


def get_config(mode: str | None = None) -> ml_collections.ConfigDict:
    """The demo (`full`, the default) or its minute-long version (`smoke`)."""
    mode = mode or "full"
    if mode not in MODES:
        raise ValueError(f"no mode {mode!r}; expected one of {', '.join(MODES)}")
    smoke = mode == "smoke"
    return make_config(
        stages={
            "warmup": _warmup(steps=4 if smoke else 200),
            "sft": _sft(steps=8 if smoke else 600, label_fraction=TAUGHT),
            "grpo": _grpo(steps=3 if smoke else 200),
        },
        spare=_controls(smoke),
        model=recipes.demo_model(),
        data=_data(smoke),
        evaluation=EvaluationConfig(
            batch_size=40, max_new_tokens=MAX_TOKENS, limit=40 if smoke else 0
        ),
    )


def _data(smoke: bool) -> DataConfig:
    demo = DemoDataConfig(validation_crops=10, test_crops=20)
    if smoke:
        demo = DemoDataConfig(
            photograph_crops=12,
            auxiliary_crops=0,
            procedural_crops=4,
            validation_crops=1,
            test_crops=1,
            train_distortions=8,
        )
    return DataConfig(
        sources={"demo": DataSource(dataset="jaxqa_demo", template="concise")},
        images=ImageConfig(max_pixels=112 * 112),
        buckets=Buckets(
            prompt_lengths=(72,), window_counts=(1,), completion_lengths=(MAX_TOKENS, 40)
        ),
        cache_mb=512,
        demo=demo,
    )


def _warmup(*, steps: int) -> WarmupStage:
    return WarmupStage(
        steps=steps,
        batch_size=32,
        save_every=200,
        optimizer=recipes.demo_optimizer(1e-3),
    )


def _sft(*, steps: int, label_fraction: float = 1.0) -> SftStage:
    return SftStage(
        steps=steps,
        batch_size=32,
        save_every=200,
        label_fraction=label_fraction,
        optimizer=recipes.demo_optimizer(1e-3),
    )


def _grpo(*, steps: int) -> GrpoStage:
    return GrpoStage(
        steps=steps,
        batch_size=32,
        save_every=50,
        rewards={
            "gaussian": RewardTerm(name="gaussian", options={"sigma": 0.5}),
            "format": RewardTerm(name="format", weight=0.5),
        },
        objective=GrpoConfig(),
        sampling=SamplingConfig(num_samples=8, max_new_tokens=MAX_TOKENS, temperature=0.6),
        optimizer=recipes.demo_optimizer(1e-4),
    )


def _controls(smoke: bool) -> dict[str, SectionConfig]:
    """What GRPO is measured against; see docs/demo.md.

    `own` and `control` take GRPO's time from the same start and with the same labels: the policy
    writes its own rationale for each image without one, then SFT learns the true scores behind
    them. `ceiling` is SFT on every rationale and score, for the time of SFT and GRPO together.
    """
    own = RationalesStage(
        batch_size=32,
        start_from="sft",
        skip_fraction=TAUGHT,
        sampling=SamplingConfig(temperature=0.0, max_new_tokens=MAX_TOKENS),
    )
    control = replace(
        _sft(steps=8 if smoke else 560),
        start_from="sft",
        rationales=("own",),
        teacher_fraction=TAUGHT,
    )
    ceiling = replace(_sft(steps=8 if smoke else 1250), start_from="warmup")
    return {"own": own, "control": control, "ceiling": ceiling}
