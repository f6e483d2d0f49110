"""What is asked about an image, and how."""

import dataclasses
from typing import Literal, get_args

from jaxqa.errors import UserError
from jaxqa.scoring import decoding

Task = Literal["quality", "aesthetics", "alignment"]
Mode = Literal["think", "fast", "expected", "mean"]

_DECODING: dict[str, decoding.Mode] = {
    "think": "greedy",
    "fast": "greedy",
    "expected": "expected",
    "mean": "mean",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """A task and how its score is read from a model; equal questions share compiled programs.

    Scores of different modes are different measurements.

    Attributes:
      task: quality, aesthetics, or how well an image shows a text.
      mode: "think" reads the number in the most probable answer with reasons, "fast" in that
        without reasons; "expected" takes the expectation over all numbers that the answer may
        have; "mean" averages sampled answers.
      samples: answers per image; None is 5 for "mean" and 1 otherwise.
      temperature: of sampled answers; None is 1 where several are asked for and greedy otherwise.
      seed: names the random draws; an image's draws depend on it and on the image alone.
    """

    task: str = "quality"
    mode: str = "think"
    samples: int | None = None
    temperature: float | None = None
    seed: int = 0

    def __post_init__(self):
        for name, kinds in (("task", Task), ("mode", Mode)):
            if getattr(self, name) not in get_args(kinds):
                raise UserError(
                    f"{name} is {getattr(self, name)!r}; expected one of "
                    f"{', '.join(get_args(kinds))}"
                )
        _ = self.decoding  # its own rules

    @property
    def decoding(self) -> decoding.Decoding:
        """The decoding mode behind it.

        Raises:
          UserError: samples, temperature or seed that make no sense together.
        """
        drawn = self.mode == "mean" or (self.samples or 1) > 1
        samples = self.samples if self.samples is not None else decoding.MEAN_SAMPLES
        try:
            return decoding.Decoding(
                mode=_DECODING[self.mode],
                samples=samples if self.mode == "mean" else self.samples or 1,
                temperature=float(drawn) if self.temperature is None else self.temperature,
                seed=self.seed,
            )
        except ValueError as error:
            raise UserError(str(error)) from error
