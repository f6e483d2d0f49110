"""The GRPO stage whose memory `benchmarks/memory.py` measures; nobody trains it.

64 groups of 8 completions of up to 384 tokens, prompts of 1,152 tokens: an image of 1,024 x 768
pixels (999 tokens in 70 windows) and a question. With a KL penalty, so with a reference policy.
"""

import ml_collections

from jaxqa.data.batching import Buckets
from jaxqa.objectives.grpo import GrpoConfig
from jaxqa.rewards.registry import RewardTerm
from jaxqa.stages import recipes
from jaxqa.stages.config import make_config
from jaxqa.stages.sections import GrpoStage
from jaxqa.stages.sources import DataConfig, DataSource, EvaluationConfig

GROUPS, COMPLETIONS, PROMPT_TOKENS, COMPLETION_TOKENS, WINDOWS = 64, 8, 1152, 384, 70


def get_config(mode: str | None = None) -> ml_collections.ConfigDict:
    """The config; sizes and mesh are given on the command line. It has no modes."""
    assert mode is None
    stage = GrpoStage(
        steps=1000,
        batch_size=GROUPS,
        rewards={"threshold": RewardTerm(name="threshold", options={"tolerance": 0.35})},
        objective=GrpoConfig(beta=1e-3),
        sampling=recipes.rl_sampling(num_samples=COMPLETIONS, max_new_tokens=COMPLETION_TOKENS),
        optimizer=recipes.rl_optimizer(),
    )
    buckets = Buckets(
        prompt_lengths=(PROMPT_TOKENS,),
        window_counts=(WINDOWS,),
        completion_lengths=(COMPLETION_TOKENS,),
    )
    sources = {"score": DataSource(dataset="koniq10k", template="q_insight")}
    return make_config(
        stages={"grpo": stage},
        model=recipes.qwen("7B"),
        data=DataConfig(root="datasets", sources=sources, buckets=buckets),
        evaluation=EvaluationConfig(batch_size=64, max_new_tokens=256),
    )
