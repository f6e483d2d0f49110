"""RACT: models trained on one data set each write reasons; all reasons teach one model.

    python launchers/train.py --config=configs/ract.py --workdir=runs/ract
    python launchers/train.py --config=configs/ract.py:demo --workdir=runs/ract_demo

Q-Insight's recipe on each of four data sets, from the same first model; each of the four writes
quality reasoning texts about its own images; the one trained on KonIQ-10k is fine-tuned on all
texts (as descriptions, without scores) and on KonIQ-10k's scores (RALI and RACT paper, section 3.4
and figure A.1; numbers from section 5.1). Table 5's row with texts alone has the figures of table
3, so the paper may mean that one: docs/systems.md. It does not give the number of texts per image,
nor rate, length and batch of the fine-tuning: guesses, marked below.

Needs checkpoints/Qwen2.5-VL-7B-Instruct and datasets/{koniq10k,spaq,kadid10k,pipal}, for tests
alone datasets/{livec,agiqa3k,csiq,tid2013} (--config.data.sources.NAME.evaluate=False leaves one
out). Published: 8 x H20, about a day for one model of the four, from which about six days in all
follow (docs/systems.md). To expect (table 3, average PLCC / SRCC): in domain .853 / .842, out of
domain .858 / .816. Not run at this size by jaxqa yet.

`ract.py:lora` trains adapters of rank 64 on one GPU of 80 GB; not the paper's.

Ablations:
    table 5    texts alone:
    --config.cross_domain.sources="('koniq_text','spaq_text','kadid_text','pipal_text')"
               --config.cross_domain.trains=vision (tower alone) or language (model alone);
               ract.py:all_scores (scores of all four data sets)
    table 3    ract.py:mixed_ranking (VisualQuality-R1 on all data sets together), ract.py:mixed
               (Q-Insight likewise)
    table A.2  ract.py:mixed; on two data sets instead of four:
               --config.mixed.sources="('koniq', 'spaq')" --config.mixed.steps=9966; RACT on two:
               --config.stages="('koniq', 'koniq_reasons', 'spaq', 'spaq_reasons', 'cross_domain')"
               --config.cross_domain.sources="('koniq', 'koniq_text', 'spaq_text')"
               --config.cross_domain.rationales="('koniq_reasons', 'spaq_reasons')"
               --config.cross_domain.steps=179
    table A.3  --config.cross_domain.start_from=spaq and, with the same texts, its scores:
    --config.cross_domain.sources="('spaq','koniq_text','spaq_text','kadid_text','pipal_text')"
    table A.1  ract.py:score_only (fine-tuning on scores alone), ract.py:no_reasoning (GRPO without)
"""

import dataclasses

import ml_collections

from jaxqa.evaluation.suites import get_suite
from jaxqa.objectives.grpo import GrpoConfig
from jaxqa.reasoning.own import ReasoningText
from jaxqa.rewards.registry import RewardTerm
from jaxqa.sampling.config import SamplingConfig
from jaxqa.sharding import MeshConfig
from jaxqa.stages import recipes
from jaxqa.stages.config import make_config
from jaxqa.stages.sections import GrpoStage, RationalesStage, SftStage, StageConfig
from jaxqa.stages.sources import DataSource, EvaluationConfig
from jaxqa.train.optimizer import OptimizerConfig

EPOCHS = 10
IMAGES_PER_STEP = 16  # 128 completions of groups of 8
# Name -> data set, split, training images. KADID-10k is without the 8 validation references.
DATASETS = {
    "koniq": ("koniq10k", "deqa", 7046),
    "spaq": ("spaq", "deqa", 8901),
    "kadid": ("kadid10k", "tatar", 7125),
    "pipal": ("pipal", "deqa", 18560),
}
TEXTS_PER_IMAGE = 4  # a guess
MODES = ("mixed", "mixed_ranking", "all_scores", "score_only", "no_reasoning", "lora", "demo")


def get_config(mode: str | None = None) -> ml_collections.ConfigDict:
    """Full size: `full` (the default) or an ablation of the docstring; or `demo`."""
    mode = recipes.choose(mode, *MODES)
    if mode == "demo":
        return _demo()
    stages = _stages(mode)
    return make_config(
        stages=recipes.with_adapters(stages) if mode == "lora" else stages,
        model=recipes.qwen("7B"),
        data=recipes.full_data(_sources(mode), completion_lengths=(160, 384)),
        evaluation=EvaluationConfig(batch_size=32, max_new_tokens=512),
        mesh=MeshConfig() if mode == "lora" else recipes.EIGHT_GPUS,
    )


def _sources(mode: str) -> dict[str, DataSource]:
    """Each data set asked for a score, and again for a description."""
    template = "q_insight_answer_only" if mode in ("score_only", "no_reasoning") else "q_insight"
    if mode == "mixed_ranking":
        template = "visualquality_r1"
    scored = {
        name: DataSource(
            dataset=dataset, split=split, template=template, scale="measured", weight=float(images)
        )
        for name, (dataset, split, images) in DATASETS.items()
    }
    described = {
        f"{name}_text": dataclasses.replace(source, template="ract_description", evaluate=False)
        for name, source in scored.items()
    }
    others = get_suite("ract").groups["out-of-domain"]
    return scored | described | recipes.test_sources(others, template, scale="measured")


def _stages(mode: str) -> dict[str, StageConfig | RationalesStage]:
    everything = sum(images for *_, images in DATASETS.values())
    if mode == "mixed":
        return {"mixed": _rl(tuple(DATASETS), everything)}
    if mode == "mixed_ranking":
        return {"mixed": _ranking(tuple(DATASETS), everything)}
    if mode == "no_reasoning":
        return {"koniq": _rl(("koniq",), DATASETS["koniq"][2], layout="answer_only")}
    if mode == "score_only":
        return {"score_only": _sft(("koniq",), ())}
    scores = tuple(DATASETS) if mode == "all_scores" else ("koniq",)
    stages: dict[str, StageConfig | RationalesStage] = {}
    for name, (*_, images) in DATASETS.items():
        stages[name] = _rl((name,), images)
        stages[f"{name}_reasons"] = _reasons(name)
    texts = tuple(f"{name}_text" for name in DATASETS)
    reasons = tuple(f"{name}_reasons" for name in DATASETS)
    stages["cross_domain"] = _sft((*scores, *texts), reasons, start_from="koniq")
    return stages


def _ranking(sources: tuple[str, ...], images: int) -> GrpoStage:
    """VisualQuality-R1 with its own numbers, see configs/visualquality_r1.py."""
    return dataclasses.replace(
        _rl(sources, images),
        steps=EPOCHS * images // 64,
        batch_size=64,
        rewards={
            "fidelity": RewardTerm(name="thurstone_fidelity"),
            "format": RewardTerm(name="format"),
        },
        objective=GrpoConfig(beta=0.04),
        sampling=recipes.rl_sampling(num_samples=6, max_new_tokens=256),
        optimizer=recipes.rl_optimizer(),
    )


def _rl(sources: tuple[str, ...], images: int, *, layout: str = "json") -> GrpoStage:
    return GrpoStage(
        steps=EPOCHS * images // IMAGES_PER_STEP,
        batch_size=IMAGES_PER_STEP,
        micro_batches=2,
        sources=sources,
        start_from="initial",
        rewards={
            # Tolerance, and 256 tokens: Q-Insight's, see configs/q_insight.py.
            "score": RewardTerm(name="threshold", options={"tolerance": 0.35}),
            "format": RewardTerm(name="format", options={"layout": layout}),
        },
        objective=GrpoConfig(beta=1e-3),
        sampling=recipes.rl_sampling(num_samples=8, max_new_tokens=256),
        optimizer=recipes.rl_optimizer(end_fraction=1e-3),  # 1e-6 to 1e-9
    )


def _reasons(name: str) -> RationalesStage:
    return RationalesStage(
        batch_size=64,
        sources=(name,),
        start_from=name,
        pipeline=ReasoningText(),
        sampling=SamplingConfig(num_samples=TEXTS_PER_IMAGE, max_new_tokens=256),
    )


def _sft(
    sources: tuple[str, ...], reasons: tuple[str, ...], *, start_from: str = "initial"
) -> SftStage:
    images = sum(DATASETS[name.removesuffix("_text")][2] for name in sources)
    return SftStage(
        steps=images // 128,  # each image once for each question, one of its texts: a guess
        batch_size=128,
        micro_batches=2,
        sources=sources,
        rationales=reasons,
        start_from=start_from,
        optimizer=OptimizerConfig(learning_rate=1e-5, schedule="cosine"),  # a guess
    )


def _demo() -> ml_collections.ConfigDict:
    """Two domains: quality and aesthetics of the demo's photographs; scores of quality alone."""
    sources = {
        "quality": recipes.demo_source("quality", "concise"),
        "aesthetics": recipes.demo_source("aesthetics", "concise_aesthetics"),
        "quality_text": recipes.demo_source("quality", "concise_description"),
        "aesthetics_text": recipes.demo_source("aesthetics", "concise_aesthetics_description"),
    }
    sources = {
        name: dataclasses.replace(source, evaluate="text" not in name)
        for name, source in sources.items()
    }
    stages: dict[str, StageConfig | RationalesStage] = {
        "warmup": recipes.demo_warmup(),
        "instruct": recipes.demo_sft(320, sources=("quality", "aesthetics"), evaluate=False),
    }
    for name in ("quality", "aesthetics"):
        stages[f"{name}_rl"] = recipes.shrink(
            _rl((name,), 48, layout="tags"),  # 30 steps
            start_from="instruct",
            save_every=15,
            micro_batches=1,
            sampling=SamplingConfig(num_samples=8, max_new_tokens=64),
            optimizer=recipes.demo_optimizer(1e-4),
        )
        stages[f"{name}_reasons"] = recipes.shrink(
            _reasons(name),
            batch_size=32,
            start_from=f"{name}_rl",
            limit=400,
            sampling=SamplingConfig(num_samples=2, max_new_tokens=64),
        )
    stages["cross_domain"] = recipes.demo_sft(
        100,
        sources=("quality", "quality_text", "aesthetics_text"),
        rationales=("quality_reasons", "aesthetics_reasons"),
        start_from="quality_rl",
        optimizer=recipes.demo_optimizer(2e-4),
    )
    return make_config(
        stages=stages,
        model=recipes.demo_model(),
        data=recipes.demo_data(sources),
        evaluation=recipes.DEMO_TESTS,
    )
