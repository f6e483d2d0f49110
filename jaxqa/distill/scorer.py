"""Scores from a distilled scorer: in fixed blocks for files, differentiable for pixels.

scorer = RaliScorer(load_artifact(path))
for found in scorer.score(paths): print(found.score, found.error)
grads = jax.grad(lambda pixels: scorer.score_pixels(pixels).sum())(pixels)
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxqa import sharding
from jaxqa.distill.artifact import Artifact
from jaxqa.distill.basis import OutputMapping, weighted_sums
from jaxqa.distill.embedding import run_blocks
from jaxqa.distill.pixels import Block, Source
from jaxqa.distill.resize import resize_pixels
from jaxqa.models.clip.model import Clip, unit
from jaxqa.typing import Array, Float, Params, Shaped, UInt8

_EMBEDDINGS_AT_ONCE = 256
"""As many as stay in a core's cache from one product to the next."""


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """What the scorer says about one image.

    Attributes:
        score: the answer, in the artifact's range if its mapping clips, or None.
        error: why there is no score, or None.
    """

    score: float | None
    error: str | None


@dataclass(frozen=True, kw_only=True)
class RaliModel:
    """Image tower and score basis as one function: hashable, without state.

    Attributes:
        clip: the image tower.
        temperature: of the basis.
        mapping: from weighted sums to answers.
    """

    clip: Clip
    temperature: float
    mapping: OutputMapping

    def embeddings(self, params: Params, pixels: Shaped[Array, "B h w 3"]) -> Float[Array, "B E"]:
        """Unit embeddings of pixels in 0..255 of the tower's size."""
        return unit(self.clip.image_embeddings(params["encoder"], pixels))

    def scores(self, params: Params, pixels: Shaped[Array, "B h w 3"]) -> Float[Array, " B"]:
        """Answers for pixels in 0..255 of the tower's size."""
        return self.embedding_scores(params, self.embeddings(params, pixels))

    def embedding_scores(
        self, params: Params, embeddings: Float[Array, "B E"]
    ) -> Float[Array, " B"]:
        """Answers for unit embeddings."""
        sums = weighted_sums(params["basis"], embeddings, temperature=self.temperature)
        return self.mapping(sums)


@functools.partial(jax.jit, static_argnames="model")
def _scores(model: RaliModel, params: Params, pixels: Array) -> Array:
    return model.scores(params, pixels)


@functools.partial(jax.jit, static_argnames="model")
def _embeddings(model: RaliModel, params: Params, pixels: Array) -> Array:
    return model.embeddings(params, pixels)


@functools.partial(jax.jit, static_argnames="model")
def _embedding_scores(model: RaliModel, params: Params, embeddings: Array) -> Array:
    return model.embedding_scores(params, embeddings)


class RaliScorer:
    """Scores images, their embeddings, or pixels on the device.

    Every image is computed in a block of one compiled shape, so its score is the same to the last
    bit alone or among others, in any order (per device type, block size and compiler version).
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        block_size: int = 16,
        workers: int = 4,
        compute_dtype: str = "float32",
        mesh: Mesh | None = None,
    ):
        """Bring the parameters to the device.

        Args:
            artifact: what `load_artifact` returns.
            block_size: images computed at once.
            workers: threads that decode and resize ahead of the device.
            compute_dtype: dtype of the image tower's activations and parameters.
            mesh: devices that share the rows of a block; None for the default one.

        Raises:
            UserError: the mesh cannot share `block_size` rows.
        """
        if block_size < 1 or workers < 1:
            raise ValueError(
                f"block_size={block_size}, workers={workers}: expected at least 1 each"
            )
        self.mesh = sharding.make_mesh(sharding.MeshConfig()) if mesh is None else mesh
        sharding.check_rows(block_size, self.mesh, name="block_size")
        self.config = artifact.config
        self.model = RaliModel(
            clip=Clip(config=artifact.config, compute_dtype=compute_dtype),
            temperature=artifact.basis.temperature,
            mapping=artifact.basis.mapping,
        )
        dtype = jnp.dtype(compute_dtype)
        encoder = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), artifact.encoder)
        params = {"encoder": encoder, "basis": dict(artifact.basis.params)}
        self.params = sharding.replicate(params, self.mesh)
        self._block_size, self._workers = block_size, workers

    def score(self, images: Iterable[Source]) -> Iterator[ImageScore]:
        """Yield one score per image, in order.

        Args:
            images: files, encoded bytes, records of a prepared data set, or RGB pixels.
        """
        for block, scores in self._run(_scores, images):
            for score, error in zip(scores, block.errors, strict=False):
                if error is None and not np.isfinite(score):
                    error = "the score is not a number; the artifact's weights are damaged"
                yield ImageScore(score=float(score) if error is None else None, error=error)

    def embed(
        self, images: Iterable[Source]
    ) -> Iterator[tuple[Float[np.ndarray, "_ E"], tuple[str | None, ...]]]:
        """Yield unit embeddings of a block's images with their errors, block by block.

        An image with an error has a row that means nothing.
        """
        for block, embeddings in self._run(_embeddings, images):
            yield embeddings[: len(block.errors)], block.errors

    def score_embeddings(self, embeddings: Float[np.ndarray, "N E"]) -> Float[np.ndarray, " N"]:
        """Answers for unit embeddings that were computed before."""
        found = []
        for start in range(0, len(embeddings), _EMBEDDINGS_AT_ONCE):
            block = np.asarray(embeddings[start : start + _EMBEDDINGS_AT_ONCE], np.float32)
            if short := _EMBEDDINGS_AT_ONCE - len(block):
                block = np.pad(block, ((0, short), (0, 0)))
            found.append(_embedding_scores(self.model, self.params, block))
        scores = np.concatenate([np.asarray(part) for part in found] or [np.zeros(0, np.float32)])
        return scores[: len(embeddings)]

    def dispatch(self, pixels: UInt8[np.ndarray, "B side side 3"]) -> Float[Array, " B"]:
        """Begin to score one block of prepared images; the result is read when it is ready."""
        return _scores(self.model, self.params, sharding.shard_rows(pixels, self.mesh))

    def score_pixels(self, pixels: Float[Array, "B h w 3"]) -> Float[Array, " B"]:
        """Answers for RGB pixels in 0..255 of any size, for use under `jax.jit` and `jax.grad`.

        Resized on the device. Where the mapping clips, the gradient outside the range is zero.
        """
        return self.model.scores(self.params, resize_pixels(pixels, self.config))

    def _run(
        self, function: Callable[..., Array], images: Iterable[Source]
    ) -> Iterator[tuple[Block, np.ndarray]]:
        return run_blocks(
            functools.partial(function, self.model, self.params),
            images,
            self.config,
            size=self._block_size,
            workers=self._workers,
            mesh=self.mesh,
        )
