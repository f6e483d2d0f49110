"""The options of sampling."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How completions are sampled. Nothing is inherited from a checkpoint.

    Attributes:
      num_samples: completions per prompt, G.
      max_new_tokens: longest completion, T, the stop token included.
      temperature: divides the logits; 0 is greedy.
      top_k: keep the k best tokens; 0 keeps all.
      top_p: keep the best tokens up to this probability; 1 keeps all.
      min_p: keep tokens with at least this share of the best one's probability; 0 keeps all.
    """

    num_samples: int = 1
    max_new_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self):
        rules = {
            "num_samples": (self.num_samples >= 1, "at least 1"),
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (0 <= self.temperature < float("inf"), "0 (greedy) or more, finite"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "top_p": (0 < self.top_p <= 1, "in (0, 1]; 1 is off"),
            "min_p": (0 <= self.min_p <= 1, "in [0, 1]; 0 is off"),
        }
        for name, (valid, expected) in rules.items():
            if not valid:
                raise ValueError(f"{name} is {getattr(self, name)}; expected {expected}")
