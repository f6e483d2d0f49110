"""Reasoning image-quality and aesthetics scorers in JAX.

scorer = jaxqa.load("runs/demo/export")
scorer.score(["a.jpg", "b.png"])
metric = jaxqa.create_metric("runs/demo/export")
metric(["a.jpg", "b.png"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # JAX is loaded when a model is, so that `import jaxqa` takes no time
    from jaxqa.scoring.api import ImageScorer
    from jaxqa.scoring.metric import Metric

__all__ = ["create_metric", "load"]


def load(path: Any, *, workers: int | None = None, **options: Any) -> ImageScorer:
    """A scorer for a run's export, a Hugging Face directory or a jaxqa checkpoint.

    Args:
      path: the directory.
      workers: threads that read and prepare images; None takes as many as there are cores, up to 8.
      **options: see `jaxqa.serving.loading.LoadOptions`: `prompts`, `max_new_tokens`,
        `max_pixels`, `mesh`, `block_rows`.

    Raises:
      UserError: no model is there, or a damaged one.
    """
    from jaxqa.serving import loading

    return loading.load(path, options=loading.LoadOptions(**options), workers=workers)


def create_metric(
    path: Any,
    *,
    task: str | None = None,
    mode: str | None = None,
    samples: int | None = None,
    temperature: float | None = None,
    seed: int = 0,
    on_error: Any = "raise",
    **options: Any,
) -> Metric:
    """A model in the call shape of pyiqa's metrics; see `jaxqa.scoring.metric.Metric`.

    Args:
      path: see `load`.
      task: "quality", "aesthetics" or "alignment"; the model's first by default.
      mode: "think", "fast", "expected" or "mean"; the model's own by default.
      samples: answers per image, in the modes "mean" and "expected".
      temperature: of sampled answers.
      seed: names the random draws.
      on_error: what an image without a score is: "raise" a UserError, or "nan".
      **options: see `load`.

    Raises:
      UserError: see `load`; or a question that the model cannot be asked.
    """
    from jaxqa.scoring.metric import Metric

    scorer = load(path, **options)
    question = scorer.question(task, mode, samples=samples, temperature=temperature, seed=seed)
    return Metric(scorer, question, on_error=on_error)
