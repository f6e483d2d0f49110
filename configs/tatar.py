"""TATAR: fast thinking about quality, slow thinking about aesthetics, a reward for each.

    python launchers/train.py --config=configs/tatar.py --workdir=runs/tatar
    python launchers/train.py --config=configs/tatar.py:demo --workdir=runs/tatar_demo

Teachers write short reasons for quality labels and narratives for aesthetic ones, a judge keeps
the good ones; fine-tuning on both; GRPO with an adaptive Gaussian for quality and a ranking of
completions for aesthetics (the abstract). `tatar.py:released` has the rewards that the released
code names instead: aesthetics get a Gaussian, too, and narratives a least length, for which longer
ones are taught.

Probes of its claims (their metrics of stability: `group_variance_quality`, `_aesthetics`):

    tatar.py:slow_quality      narratives for both tasks
    tatar.py:fast_aesthetics   two sentences for both
    tatar.py:swapped           narratives for quality, two sentences for aesthetics
    tatar.py:symmetric         one Gaussian for both tasks, no ranking, no limit of words
    tatar.py:agnostic          so, and narratives for both: one way for all tasks

Needs checkpoints/Qwen2.5-VL-7B-Instruct, datasets/{koniq10k,artimuse10k} (with the experts'
remarks, `jaxqa data list artimuse10k`), the data sets it is tested on (spaq, kadid10k, pipal; ava,
tad66k, flickr_aes; one that is not there is left out with
--config.data.sources.NAME.evaluate=False), and three OpenAI-compatible endpoints, by default:

    localhost:8000 Qwen3-VL-32B        localhost:8001 DeepSeek-R1-Distill-Qwen-32B
    localhost:8002 Qwen3-VL-235B (judge)

DeepSeek-R1-Distill thinks before it answers: start its server with --reasoning-parser deepseek_r1
(vLLM, SGLang), or its own thoughts count as a second block and all it writes is dropped; they are
also part of the tokens that --config.slow.sampling.max_new_tokens allows.

Published: 8 GPUs; how long is not. GRPO: about a day on 8 H20, an estimate of docs/systems.md. No
table to compare with is public (the abstract has no figures); jaxqa has not run this size yet.
Quirks of the released code that no option here reproduces are in
jaxqa/rewards/compatibility/tatar.py.
"""

import ml_collections

from jaxqa.objectives.grpo import GrpoConfig
from jaxqa.reasoning import wording
from jaxqa.reasoning.expert import ExpertConfig
from jaxqa.reasoning.fast_slow import FastSlow
from jaxqa.rewards.registry import RewardTerm
from jaxqa.sampling.config import SamplingConfig
from jaxqa.stages import recipes
from jaxqa.stages.config import make_config
from jaxqa.stages.sections import GrpoStage, RationalesStage, SftStage
from jaxqa.stages.sources import DataSource, EvaluationConfig
from jaxqa.train.optimizer import OptimizerConfig

KONIQ_IMAGES = 7046  # train_koniq_7k.json, DeQA-Score's list
ARTIMUSE_IMAGES = 8998  # train_iaa.json
EPOCHS = 3  # released GRPO script
IMAGES_PER_STEP = 16  # 8 GPUs, one image each, accumulated twice
LEAST_WORDS = 125  # of a rewarded narrative, released constants
MAX_PIXELS = 1_572_864  # SFT, GRPO and evaluation scripts
PROBES = ("slow_quality", "fast_aesthetics", "swapped", "symmetric", "agnostic")
NARRATED = ("slow_quality", "swapped", "agnostic")  # probes with narratives for quality
MODES = ("released", *PROBES, "demo")


def get_config(mode: str | None = None) -> ml_collections.ConfigDict:
    """Full size: `full` (the default), `released` or a probe of the docstring; or `demo`."""
    mode = recipes.choose(mode, *MODES)
    return _demo() if mode == "demo" else _full(mode)


def _full(mode: str) -> ml_collections.ConfigDict:
    sources = {
        # In proportion, as the GRPO stage takes them; fine-tuning interleaves half and half.
        "quality": DataSource(
            dataset="koniq10k", split="tatar", template="tatar_quality", weight=float(KONIQ_IMAGES)
        ),
        "aesthetics": DataSource(
            dataset="artimuse10k", template="tatar_aesthetics", weight=float(ARTIMUSE_IMAGES)
        ),
    }
    # Its eight benchmarks, less the two that it trains on; labels as its lists have them.
    sources |= recipes.test_sources(
        ("spaq:tatar", "kadid10k:tatar", "pipal:tatar"), "tatar_quality"
    )
    beauty = ("ava:tatar", "tad66k:test", "flickr_aes:tatar")
    sources |= recipes.test_sources(beauty, "tatar_aesthetics")
    return make_config(
        stages={
            "fast": _slow_quality() if mode in NARRATED else _fast(),
            "slow": _fast_aesthetics() if mode in ("fast_aesthetics", "swapped") else _slow(mode),
            "sft": _sft(),
            "grpo": _grpo(EPOCHS * (KONIQ_IMAGES + ARTIMUSE_IMAGES) // IMAGES_PER_STEP, mode),
        },
        model=recipes.qwen("7B"),
        data=recipes.full_data(sources, max_pixels=MAX_PIXELS, completion_lengths=(160, 384)),
        # The released evaluation stops at 256 tokens, which cuts off narratives of 125 words.
        evaluation=EvaluationConfig(batch_size=32, max_new_tokens=512),
        mesh=recipes.EIGHT_GPUS,
    )


_JUDGE = ExpertConfig(endpoint="http://localhost:8002/v1", model="Qwen/Qwen3-VL-235B-A22B-Instruct")


def _fast() -> RationalesStage:
    """Sampling of iqa_reversal_captions.py; two sentences of 30 to 50 words."""
    return RationalesStage(
        batch_size=64,
        sources=("quality",),
        pipeline=FastSlow(),
        expert=ExpertConfig(
            endpoint="http://localhost:8000/v1", model="Qwen/Qwen3-VL-32B-Instruct"
        ),
        judge=_JUDGE,
        sampling=SamplingConfig(num_samples=1, temperature=0.3, top_p=0.8, max_new_tokens=140),
    )


def _slow(mode: str) -> RationalesStage:
    """Sampling of cot_generator_captions.py; about 100 words from eight attributes.

    More where a reward asks for more: the released code rewards 125 words and teaches 100.
    """
    longer = FastSlow(slow_words=(LEAST_WORDS, 260), slow_aim=150)
    return RationalesStage(
        batch_size=64,
        sources=("aesthetics",),
        pipeline=longer if mode == "released" else FastSlow(),
        expert=ExpertConfig(
            endpoint="http://localhost:8001/v1",
            model="deepseek-ai/DeepSeek-R1-Distill-Qwen-32B",
        ),
        judge=_JUDGE,
        sampling=SamplingConfig(num_samples=1, temperature=0.2, top_p=0.9, max_new_tokens=500),
    )


def _slow_quality() -> RationalesStage:
    """A probe: narratives from the picture, as KonIQ-10k has no remarks; checks of aesthetics off.

    It keeps the stage's name, so that everything after it is the same.
    """
    pipeline = FastSlow(fast_tasks=(), slow_prompt=wording.SLOW_QUALITY, min_aspects=0)
    return recipes.shrink(_fast(), pipeline=pipeline, sampling=_slow("full").sampling)


def _fast_aesthetics() -> RationalesStage:
    """A probe: two sentences from the picture, which only the expert for quality sees."""
    pipeline = FastSlow(fast_tasks=("quality", "aesthetics"), fast_prompt=wording.FAST_AESTHETICS)
    return recipes.shrink(_fast(), sources=("aesthetics",), pipeline=pipeline)


def _sft() -> SftStage:
    return SftStage(
        steps=120,  # GRPO starts from checkpoint-120
        batch_size=128,  # 8 GPUs x 8 x 2
        micro_batches=2,
        sources=("quality", "aesthetics"),
        source_weights=(1.0, 1.0),  # interleave_datasets, half and half
        rationales=("fast", "slow"),
        start_from="initial",
        optimizer=OptimizerConfig(learning_rate=2e-5, schedule="linear"),  # TRL's default rate
    )


def _grpo(steps: int, mode: str) -> GrpoStage:
    one_reward = mode in ("symmetric", "agnostic")
    quality = RewardTerm(
        name="adaptive_gaussian",
        tasks=() if one_reward else ("quality",),
        options={  # run script and constants
            "tolerance": 8.75,
            "growth": 0.8,
            "max_words": 0 if one_reward or mode in NARRATED else 65,
        },
    )
    aesthetics = RewardTerm(
        name="adaptive_gaussian",
        tasks=("aesthetics",),
        options={"tolerance": 8.75, "growth": 2.0, "scale": 1.5, "min_words": LEAST_WORDS},
    )
    ranking = RewardTerm(name="completion_ranking", tasks=("aesthetics",))
    return GrpoStage(
        steps=steps,
        batch_size=IMAGES_PER_STEP,
        micro_batches=2,
        rewards={
            "quality": quality,
            **({"aesthetics": aesthetics} if mode == "released" else {}),
            **({} if one_reward else {"ranking": ranking}),
            "format": RewardTerm(name="format", options={"layout": "any"}),
        },
        objective=GrpoConfig(beta=1e-3),  # run script, as are 8 answers
        # The released 256 tokens hardly hold the 125 words that it asks of narratives.
        sampling=recipes.rl_sampling(num_samples=8, max_new_tokens=512),
        optimizer=recipes.rl_optimizer(),
    )


def _demo() -> ml_collections.ConfigDict:
    sources = {
        "quality": recipes.demo_source("quality", "concise_percent"),
        "aesthetics": recipes.demo_source("aesthetics", "concise_aesthetics_percent"),
    }
    short = FastSlow(
        fast_judge_prompt="",
        slow_judge_prompt="",
        fast_sentences=1,  # the demo's reasons are one
        fast_words=(3, 20),
        slow_words=(5, 30),
        min_aspects=1,
    )
    small = {"batch_size": 32, "pipeline": short, "expert": recipes.STAND_IN, "judge": None}
    return make_config(
        stages={
            "warmup": recipes.demo_warmup(),
            "fast": recipes.shrink(_fast(), **small),
            "slow": recipes.shrink(_slow("demo"), **small),
            "sft": recipes.demo_sft(400, rationales=("fast", "slow"), start_from="warmup"),
            "grpo": recipes.shrink(
                _grpo(60, "demo"),
                batch_size=16,
                save_every=30,
                micro_batches=1,
                sampling=SamplingConfig(num_samples=8, max_new_tokens=64),
                optimizer=recipes.demo_optimizer(1e-4),
            ),
        },
        model=recipes.demo_model(),
        data=recipes.demo_data(sources),
        evaluation=recipes.DEMO_TESTS,
    )
