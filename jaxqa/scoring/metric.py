"""A scorer in the call shape of pyiqa's metrics: images in, an array of scores out.

metric = jaxqa.create_metric("runs/demo/export")
metric("a.png"); metric(["a.png", "b.png"]); metric(batch)  # [N C H W], 0 to 1
metric.lower_better, metric.score_range
"""

import os
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from jaxqa.errors import UserError
from jaxqa.scoring.api import ImageScorer
from jaxqa.scoring.question import Question
from jaxqa.typing import Float

OnError = Literal["raise", "nan"]


class Metric:
    """Scores of one task, read in one mode.

    Attributes:
      scorer: who scores.
      question: what is asked.
      lower_better: False; high scores are good.
      score_range: lowest and highest score.
    """

    lower_better = False

    def __init__(self, scorer: ImageScorer, question: Question, *, on_error: OnError = "raise"):
        """Take a scorer and what it is asked.

        Args:
          scorer: who scores.
          question: what is asked.
          on_error: what an image without a score is: a UserError, or nan in its place.
        """
        if on_error not in ("raise", "nan"):
            raise UserError(f"on_error is {on_error!r}; expected 'raise' or 'nan'")
        self.scorer, self.question, self._on_error = scorer, question, on_error
        self.score_range = scorer.score_range(question.task)
        scorer.asker(question)  # refuses now what it would refuse later

    def __call__(
        self, images: Any, ref: Any = None, *, prompts: str | Iterable[str] | None = None
    ) -> Float[np.ndarray, " N"]:
        """Scores of a path, paths or PIL images, or an array [N C H W] or [C H W] from 0 to 1.

        Args:
          images: see above.
          ref: only None: no reference is needed.
          prompts: texts that the images were made from, for alignment.

        Raises:
          UserError: a reference, an array of another shape, or an image without a score.
        """
        if ref is not None:
            raise UserError("this metric judges an image without a reference; leave ref out")
        found = []
        for score in self._scores(images, prompts):
            if score.score is None and self._on_error == "raise":
                raise UserError(f"{score.name} has no score: {score.error}")
            found.append(np.nan if score.score is None else score.score)
        return np.array(found, np.float64)

    def _scores(self, images: Any, prompts: str | Iterable[str] | None) -> list[Any]:
        found = dict(self.scorer.stream(_channels_last(images), self.question, prompts=prompts))
        return [found[number] for number in range(len(found))]


def _channels_last(images: Any) -> Any:
    """[N H W C] of [N C H W], [1 H W C] of [C H W]; anything else as it is."""
    if isinstance(images, str | os.PathLike) or not hasattr(images, "__array__"):
        return images
    if not hasattr(images, "ndim"):
        return images  # a PIL image
    array = np.asarray(images)
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[1] not in (1, 3):
        raise UserError(
            f"images is an array of shape {np.shape(images)}; expected N, channels (1 or 3), "
            "height, width"
        )
    return np.moveaxis(array, 1, -1)
