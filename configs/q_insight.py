"""Q-Insight: one model that rates, names the degradation and compares, by GRPO on three rewards.

    python launchers/train.py --config=configs/q_insight.py --workdir=runs/q_insight
    python launchers/train.py --config=configs/q_insight.py:demo --workdir=runs/q_insight_demo

Li et al., Q-Insight: Understanding Image Quality via Visual Reinforcement Learning, 2025. Scores
(KonIQ-10k) and degradations (KADIS) are learned together from Qwen2.5-VL-7B-Instruct; the
comparison model (5,000 pairs) goes on from there:

    --config.stages="('grpo', 'comparison')"

`q_insight.py:3b` learns scores alone, at 3B (RALI paper, table A.6; to expect .776 / .753 on
average).
`q_insight.py:lora` trains adapters of rank 64 on one GPU of 80 GB; not the paper's.

Needs checkpoints/Qwen2.5-VL-7B-Instruct and datasets/{koniq10k,qinsight_degradation} (and
qinsight_comparison), for tests alone datasets/{spaq,kadid10k,pipal,livec,agiqa3k,csiq}
(--config.data.sources.NAME.evaluate=False leaves one out). Published: 8 x H20, about a day for ten
epochs of KonIQ-10k, so two with a degradation for each score. To expect (RALI paper, table 2; PLCC
/ SRCC): KonIQ-10k .933 / .916, average of all seven .806 / .783.
Not run at this size by jaxqa yet.

`:demo` has the same rewards and tasks on the demo's photographs; a warm-up and a fine-tuning on
template sentences stand in for the pretrained model.
"""

import ml_collections

from jaxqa.evaluation.suites import get_suite
from jaxqa.objectives.grpo import GrpoConfig
from jaxqa.rewards.registry import RewardTerm
from jaxqa.sampling.config import SamplingConfig
from jaxqa.sharding import MeshConfig
from jaxqa.stages import recipes
from jaxqa.stages.config import make_config
from jaxqa.stages.sections import GrpoStage, SectionConfig
from jaxqa.stages.sources import DataSource, EvaluationConfig

EPOCHS = 10  # RALI paper, section 5.1; the released script agrees
TOLERANCE = 0.35  # released code, in the score reward
MAX_TOKENS = 256  # of an answer: the released script leaves the default of its trainer
IMAGES_PER_STEP = 16  # 128 completions (paper) of groups of 8; comparisons: a guess, as for scores
KONIQ_IMAGES = 7046  # train_koniq_7k.json
COMPARISONS = 5000  # train_comparison.json


def get_config(mode: str | None = None) -> ml_collections.ConfigDict:
    """Full size (`full`, the default, `3b` or `lora`), or on the demo's photographs (`demo`)."""
    mode = recipes.choose(mode, "3b", "lora", "demo")
    return _demo() if mode == "demo" else _full(mode)


def _full(mode: str) -> ml_collections.ConfigDict:
    sources = {
        # gt_score_norm of the released labels: the lowest and highest of all MOS become 1 and 5.
        "score": DataSource(
            dataset="koniq10k", split="deqa", template="q_insight", scale="measured"
        ),
        # The published size of this set is not known; equal shares are a guess.
        "degradation": DataSource(
            dataset="qinsight_degradation",
            split="all",
            template="q_insight_degradation",
            evaluate=False,
        ),
        "comparison": DataSource(
            dataset="qinsight_comparison",
            split="all",
            template="q_insight_comparison",
            evaluate=False,
        ),
    }
    others = get_suite("rali").datasets[1:]  # RALI paper, table 2, without KonIQ-10k itself
    sources |= recipes.test_sources(others, "q_insight", scale="measured")
    tasks = ("score",) if mode == "3b" else ("score", "degradation")
    steps = EPOCHS * KONIQ_IMAGES * len(tasks) // IMAGES_PER_STEP
    stages: dict[str, SectionConfig] = {"grpo": _grpo(steps, tasks)}
    spare: dict[str, SectionConfig] = {
        "comparison": _comparison(EPOCHS * COMPARISONS // IMAGES_PER_STEP)
    }
    if mode == "lora":
        stages, spare = recipes.with_adapters(stages), recipes.with_adapters(spare)
    return make_config(
        stages=stages,
        spare=spare,
        model=recipes.qwen("3B" if mode == "3b" else "7B"),
        data=recipes.full_data(sources),
        evaluation=EvaluationConfig(batch_size=64, max_new_tokens=MAX_TOKENS),
        mesh=MeshConfig() if mode == "lora" else recipes.EIGHT_GPUS,
    )


def _grpo(steps: int, sources: tuple[str, ...] = ("score", "degradation")) -> GrpoStage:
    return GrpoStage(
        steps=steps,
        batch_size=IMAGES_PER_STEP,
        micro_batches=2,  # 8 GPUs, one image each, accumulated twice (released script)
        sources=sources,
        rewards={
            "score": RewardTerm(
                name="threshold", tasks=("quality",), options={"tolerance": TOLERANCE}
            ),
            "degradation": RewardTerm(  # alpha_1 and alpha_2 of the paper
                name="degradation",
                tasks=("degradation",),
                options={"class_weight": 0.25, "severity_weight": 0.75},
            ),
            "format": RewardTerm(name="format", options={"layout": "json"}),
        },
        objective=GrpoConfig(beta=1e-3),  # paper and script; the clip range is the usual 0.2
        sampling=recipes.rl_sampling(num_samples=8, max_new_tokens=MAX_TOKENS),
        optimizer=recipes.rl_optimizer(end_fraction=1e-3),  # RALI paper, 5.1: 1e-6 to 1e-9
    )


def _comparison(steps: int) -> GrpoStage:
    return GrpoStage(
        steps=steps,
        batch_size=IMAGES_PER_STEP,
        micro_batches=2,
        evaluate=False,
        sources=("comparison",),
        rewards={
            "choice": RewardTerm(name="comparison"),
            "format": RewardTerm(name="format", options={"layout": "tags"}),
        },
        objective=GrpoConfig(beta=1e-3),
        sampling=recipes.rl_sampling(num_samples=8, max_new_tokens=MAX_TOKENS),
        optimizer=recipes.rl_optimizer(end_fraction=1e-3),
    )


def _demo() -> ml_collections.ConfigDict:
    sources = {
        "score": recipes.demo_source("quality", "concise"),
        "degradation": recipes.demo_source("degradation", "concise_degradation"),
        "comparison": recipes.demo_source("comparison", "concise_comparison"),
    }
    small = {
        "batch_size": 16,
        "save_every": 40,
        "micro_batches": 1,
        "sampling": SamplingConfig(num_samples=8, max_new_tokens=64),
        "optimizer": recipes.demo_optimizer(1e-4),
    }
    return make_config(
        stages={
            "warmup": recipes.shrink(recipes.demo_warmup(), sources=("score",)),
            "sft": recipes.demo_sft(320),
            "grpo": recipes.shrink(_grpo(40), **small),
            "comparison": recipes.shrink(_comparison(20), evaluate=True, **small),
        },
        model=recipes.demo_model(),
        # A batch of one task each, so that single pictures are not padded to the three of a pair.
        data=recipes.demo_data(
            sources,
            prompt_lengths=(96, 112),
            window_counts=(1, 3),
            completion_lengths=(64,),
            mixing="batches",
        ),
        evaluation=recipes.DEMO_TESTS,
    )
