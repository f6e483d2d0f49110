"""Aes-R1: critiques first (AesCoT), then RAPO: rank and absolute error rewarded together.

    python launchers/train.py --config=configs/aes_r1.py --workdir=runs/aes_r1
    python launchers/train.py --config=configs/aes_r1.py:demo --workdir=runs/aes_r1_demo

An expert writes critiques from a hidden score, filters keep 1,000 of each level (AesCoT-3K);
fine-tuning of the language model for one epoch; GRPO with clip-higher on AVA, TAD66K and FLICKR-AES
in 2:2:1. Every number: paper, appendix C, unless a comment says otherwise. The paper has people
check a sample of the critiques (section 3.2): --config.aescot.human_audit=100 draws one, and the
run waits for their verdicts (docs/reasoning.md).

Needs checkpoints/Qwen2.5-VL-7B-Instruct, datasets/{ava,tad66k,flickr_aes}, for tests alone
datasets/{para,aadb} (--config.data.sources.para.evaluate=False leaves one out), and OPENAI_API_KEY
for the expert (GPT-4.1). Published: A100s, how many and for how long is not said. RAPO: one to four
days on 8 H20, an estimate of docs/systems.md. To expect (paper, table 1; PLCC / SRCC): AVA
.670 / .662, TAD66K .451 / .425, FLICKR-AES .724 / .697, PARA .784 / .767, AADB .539 / .542.
Not run at this size by jaxqa yet.

Ablations:
    table 2                   --config.stages="('rapo',)" (the paper leaves out SFT here), and
      rank only               --config.rapo.rewards.error.weight=0
      error only              --config.rapo.rewards.rank.weight=0
      binary                  --config=configs/aes_r1.py:binary
      binary and rank         --config=configs/aes_r1.py:binary_rank
    table 3, 2 or 10 epochs   --config.sft.steps=92 (or 460); rows without RL: the tests after sft
    table 3, 0 epochs         --config.stages="('rapo',)"; without RL: `jaxqa evaluate` of Qwen's
      own checkpoint with --prompt=aes_r1 (docs/evaluation.md)
    table 4, AVA alone        --config.{aescot,sft,rapo}.sources="('ava',)" (three flags, in bash)
Figure 6 (entropy over SFT epochs and RL steps) is the metric `entropy` of every step; table 3's
entropy of the policy that RL starts from is `rollout_entropy` of RAPO's first step.

The authors' 15K images are not published as a list: rows are drawn from the whole training splits
in the same proportion.
"""

import ml_collections

from jaxqa.objectives.grpo import GrpoConfig
from jaxqa.reasoning.aescot import AESCOT_3K, AESCOT_10K, AesCot
from jaxqa.reasoning.expert import ExpertConfig
from jaxqa.rewards.registry import RewardTerm
from jaxqa.sampling.config import SamplingConfig
from jaxqa.stages import recipes
from jaxqa.stages.config import make_config
from jaxqa.stages.sections import GrpoStage, RationalesStage, SftStage
from jaxqa.stages.sources import DataSource, EvaluationConfig
from jaxqa.train.optimizer import OptimizerConfig

EPOCHS = 10
IMAGES = 15_000
IMAGES_PER_STEP = 128  # released script: 8 GPUs x 8 images x 2
SFT_BATCH = 64


def get_config(mode: str | None = None) -> ml_collections.ConfigDict:
    """Full size (`full`, the default; `10k` critiques; `binary` rewards), or `demo`."""
    mode = recipes.choose(mode, "10k", "binary", "binary_rank", "demo")
    if mode == "demo":
        return _demo()
    return _full(AESCOT_10K if mode == "10k" else AESCOT_3K, mode)


def _full(counts: dict[str, int], mode: str) -> ml_collections.ConfigDict:
    sources = {
        "ava": DataSource(dataset="ava", split="official", template="aes_r1", weight=2.0),
        "tad66k": DataSource(dataset="tad66k", template="aes_r1", weight=2.0),
        "flickr_aes": DataSource(
            dataset="flickr_aes", split="aes_r1", template="aes_r1", weight=1.0
        ),
    }
    sources |= recipes.test_sources(
        ("para:test", "aadb:aes_r1"), "aes_r1"
    )  # table 1, out of domain
    return make_config(
        stages={
            "aescot": _aescot(counts),
            "sft": _sft(sum(counts.values()) // SFT_BATCH),  # one epoch
            "rapo": _rapo(EPOCHS * IMAGES // IMAGES_PER_STEP, mode),
        },
        model=recipes.qwen("7B"),
        data=recipes.full_data(sources, completion_lengths=(384, 768)),
        evaluation=EvaluationConfig(batch_size=32, max_new_tokens=1024),
        mesh=recipes.EIGHT_GPUS,
    )


def _aescot(counts: dict[str, int]) -> RationalesStage:
    return RationalesStage(
        batch_size=64,
        pipeline=AesCot(counts=counts),
        expert=ExpertConfig(
            endpoint="https://api.openai.com/v1", model="gpt-4.1", api_key_env="OPENAI_API_KEY"
        ),
        sampling=SamplingConfig(num_samples=1, temperature=1.0, max_new_tokens=768),  # a guess
    )


def _sft(steps: int) -> SftStage:
    return SftStage(
        steps=steps,
        batch_size=SFT_BATCH,
        rationales=("aescot",),
        start_from="initial",
        trains="language",  # released yaml: vision tower and projector frozen
        optimizer=OptimizerConfig(learning_rate=1e-5, schedule="cosine"),  # cosine: released yaml
    )


def _rapo(steps: int, mode: str) -> GrpoStage:
    rank = RewardTerm(name="frank")  # equations 3 to 5
    error = RewardTerm(name="absolute_error", options={"sigma": 0.1})  # equation 6
    # Equation 13; its threshold is not given, the released code has 0.07 and 0.1.
    binary = RewardTerm(name="two_step")
    rewards = {"rank": rank, "error": error}
    if mode in ("binary", "binary_rank"):
        rewards = {"binary": binary, **({"rank": rank} if mode == "binary_rank" else {})}
    return GrpoStage(
        steps=steps,
        batch_size=IMAGES_PER_STEP,
        micro_batches=2,
        rewards=rewards,  # the released code adds a format reward, the paper has none
        # With one update per rollout, as in the released script, no ratio is ever clipped.
        objective=GrpoConfig(beta=0.01, clip_high=0.28),
        sampling=recipes.rl_sampling(num_samples=4, max_new_tokens=1024),
        optimizer=recipes.rl_optimizer(),
    )


def _demo() -> ml_collections.ConfigDict:
    sources = {"aesthetics": recipes.demo_source("aesthetics", "concise_aesthetics_unit")}
    pipeline = AesCot(
        counts={"bad": 100, "fair": 300, "good": 300}, judge_prompt="", min_dimensions=2
    )
    return make_config(
        stages={
            "warmup": recipes.demo_warmup(),
            "aescot": recipes.shrink(
                _aescot({}), batch_size=32, pipeline=pipeline, expert=recipes.STAND_IN
            ),
            # All of the model: no pretrained tower stands behind the language model here.
            "sft": recipes.demo_sft(360, rationales=("aescot",), start_from="warmup"),
            "rapo": recipes.shrink(
                _rapo(60, "demo"),
                batch_size=32,
                save_every=30,
                micro_batches=1,
                sampling=SamplingConfig(num_samples=4, max_new_tokens=64),
                optimizer=recipes.demo_optimizer(1e-4),
            ),
        },
        model=recipes.demo_model(),
        data=recipes.demo_data(sources),
        evaluation=recipes.DEMO_TESTS,
    )
