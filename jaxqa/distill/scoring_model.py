"""A distilled scorer behind the interface of all scorers: command line, Python, server."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from jaxqa import sharding
from jaxqa.distill.artifact import Artifact
from jaxqa.distill.scorer import RaliScorer
from jaxqa.errors import UserError
from jaxqa.models.clip.preprocess import prepare_image
from jaxqa.scoring.decoding import Decoding
from jaxqa.scoring.question import Question
from jaxqa.scoring.results import Score

TASK = "quality"
MODE = "fast"
"""It answers at once, without reasons."""


@dataclass(frozen=True, kw_only=True)
class PreparedImage:
    """One image as the tower sees it; all share one compiled shape.

    Attributes:
        pixels: uint8 [side side 3].
        bucket: always 0.
    """

    pixels: np.ndarray
    bucket: int = 0


class RaliAsker:
    """Scores prepared images in blocks; see `scoring.blocks.Asker`."""

    def __init__(self, scorer: RaliScorer, *, rows: int):
        """Take a scorer and the rows of a block."""
        self.rows = rows
        self._scorer = scorer
        mapping = scorer.model.mapping
        self._range = (mapping.low, mapping.high)

    def prepare(self, pictures: Sequence[np.ndarray], prompt: str | None) -> PreparedImage:
        """Resize one picture; there is nothing to say about a text.

        Raises:
            UserError: a picture of extreme shape, or a text.
        """
        if prompt is not None:
            raise UserError("this scorer sees images only; leave the prompt out")
        return PreparedImage(pixels=prepare_image(pictures[0], self._scorer.config))

    def dispatch(self, rows: Sequence[PreparedImage]) -> tuple[int, jax.Array]:
        """Start a block; missing rows are black."""
        pixels = np.zeros((self.rows, *rows[0].pixels.shape), np.uint8)
        for number, row in enumerate(rows):
            pixels[number] = row.pixels
        return len(rows), self._scorer.dispatch(pixels)

    def collect(self, running: tuple[int, jax.Array]) -> list[Score]:
        """Wait for a block's scores."""
        count, scores = running
        return [self._read(float(score)) for score in np.asarray(scores)[:count]]

    def failed(self, error: str, /) -> Score:
        """No score, because the image could not be used."""
        return Score(score=None, error=error, score_range=self._range)

    def _read(self, score: float) -> Score:
        low, high = self._range
        if not low <= score <= high:  # also true of nan
            return self.failed(f"the score {score:g} is outside of {low:g} to {high:g}")
        return Score(score=score, error=None, score_range=self._range)


class RaliScoringModel:
    """An artifact as a `scoring.api.ScoringModel`."""

    def __init__(self, artifact: Artifact, *, mesh: Mesh, rows: int):
        """Bring the parameters to the devices; computes in bfloat16 except on a CPU.

        Args:
            artifact: what `load_artifact` returns.
            mesh: devices that share the rows.
            rows: images of a block.

        Raises:
            UserError: the devices cannot share the rows.
        """
        sharding.check_rows(rows, mesh, name="block_rows")
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
        self.scorer = RaliScorer(artifact, block_size=rows, compute_dtype=dtype, mesh=mesh)
        self._rows = rows

    @property
    def tasks(self) -> tuple[str, ...]:
        """The one task."""
        return (TASK,)

    def default_mode(self, task: str) -> str:
        """The one mode.

        Raises:
            UserError: another task.
        """
        self.score_range(task)
        return MODE

    def score_range(self, task: str) -> tuple[float, float]:
        """Lowest and highest score.

        Raises:
            UserError: another task.
        """
        if task != TASK:
            raise UserError(f"task {task!r}: this scorer rates {TASK} only")
        return self.scorer.model.mapping.low, self.scorer.model.mapping.high

    def asker(self, question: Question) -> RaliAsker:
        """Who scores.

        Raises:
            UserError: another task, or a mode that needs a model that writes.
        """
        self.score_range(question.task)
        if question.mode != MODE or (question.samples or 1) > 1:
            raise UserError(
                f"mode {question.mode!r} with {question.samples or 1} samples: this scorer gives "
                f"one score and no reasons; use mode {MODE!r}"
            )
        return RaliAsker(self.scorer, rows=self._rows)

    def chooser(self, decoding: Decoding) -> None:
        """None: it cannot be shown two images."""
        del decoding
