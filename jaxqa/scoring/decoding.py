"""How a score is read from a model: one answer, the mean of several, or an expectation."""

import dataclasses
from typing import Literal, get_args

from jaxqa.sampling.config import SamplingConfig

Mode = Literal["greedy", "mean", "expected"]

MEAN_SAMPLES = 5
"""Answers that the mean is taken over where nobody says how many."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
    """A decoding mode; figures from different modes are different measurements.

    Attributes:
      mode: "greedy" takes the number in the most probable answer, token by token; "mean" averages
        the numbers of sampled answers; "expected" is the exact expectation over all admissible
        two-decimal numbers after the rationale (see `expected`), greedy or sampled.
      samples: answers per image, K; 1 for greedy.
      temperature: of the sampled answers; 0 writes the one greedy answer.
      top_p: keep the best tokens up to this probability; 1 keeps all.
      seed: names the random draws.
    """

    mode: Mode = "greedy"
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if self.mode not in get_args(Mode):
            raise ValueError(f"decoding mode is {self.mode!r}; expected one of {get_args(Mode)}")
        if self.mode == "greedy" and (self.samples > 1 or self.temperature > 0):
            raise ValueError(
                f"greedy decoding writes one answer at temperature 0; found samples {self.samples} "
                f"and temperature {self.temperature}: choose the mode mean or expected"
            )
        if self.temperature == 0 and (self.samples > 1 or self.mode == "mean"):
            raise ValueError(
                f"{self.samples} samples at temperature 0 would all be the same; give a "
                "temperature above 0"
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; expected an integer in [0, 2**32)")
        self.sampling(1)  # its own rules

    @property
    def label(self) -> str:
        """How tables call it."""
        if self.mode == "greedy":
            return "greedy"
        drawn = f"{self.samples} at temperature {self.temperature:g}"
        if self.mode == "mean":
            return f"mean of {drawn}"
        return "expected score" + (f", {drawn}" if self.temperature else ", greedy rationale")

    def sampling(self, max_new_tokens: int) -> SamplingConfig:
        """The sampler's options."""
        return SamplingConfig(
            num_samples=self.samples,
            max_new_tokens=max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
        )
