"""Principal components of embeddings, exact, in one pass over any number of them."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from jaxqa.errors import UserError
from jaxqa.typing import Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pca:
    """A linear map to fewer dimensions: `(embedding - mean) @ components`.

    Attributes:
        mean: float32 [D], zeros unless centred.
        components: float32 [D M], orthonormal columns, the largest variance first. Each points
            so that its largest entry is positive.
        variances: float64 [M], mean square of the data along each component.
    """

    mean: np.ndarray
    components: np.ndarray
    variances: np.ndarray

    def project(self, embeddings: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N M"]:
        """Map embeddings, in float32."""
        return (embeddings.astype(np.float32) - self.mean[None]) @ self.components


def fit_pca(
    chunks: Iterable[Float[np.ndarray, "_ D"]], *, dimensions: int | None, centre: bool = False
) -> Pca:
    """Find the components of all rows of all chunks.

    Only [D D] sums of products are kept, in float64, so the set may be larger than memory; the
    decomposition of the sums is exact, nothing is drawn or iterated.

    Args:
        chunks: embeddings, any number of rows at a time.
        dimensions: components to keep; None keeps the embeddings as they are.
        centre: subtract the mean first. Without it (as the RALI paper writes the projection) the
            first component is about the mean's direction.

    Raises:
        UserError: fewer rows than `dimensions`, more dimensions than the embeddings have, values
            that are not finite, or rows that span too few dimensions.
    """
    count, total, products = _accumulate(chunks)
    width = len(total)
    mean = total / count if centre else np.zeros(width)
    if dimensions is None:
        variances = np.diagonal(products) / count - mean**2
        components = np.eye(width)
    else:
        _check_sizes(count, width, dimensions)
        # Unit embeddings in float64: what cancels here is far below float32's rounding.
        moments = products / count - np.outer(mean, mean)
        variances, components = _largest(moments, dimensions)
    return Pca(
        mean=mean.astype(np.float32),
        components=components.astype(np.float32),
        variances=variances,
    )


def _accumulate(
    chunks: Iterable[np.ndarray],
) -> tuple[int, np.ndarray, np.ndarray]:
    """Number of rows, their sum [D] and the sum of their outer products [D D]."""
    count, total, products = 0, np.zeros(0), np.zeros((0, 0))
    for chunk in chunks:
        rows = np.asarray(chunk, np.float64)
        if not np.isfinite(rows).all():
            raise UserError(
                "some embeddings are not finite; the image tower's weights are damaged, or its "
                "training diverged"
            )
        if not count:
            total, products = np.zeros(rows.shape[1]), np.zeros((rows.shape[1],) * 2)
        count += len(rows)
        total += rows.sum(axis=0)
        products += rows.T @ rows
    if not count:
        raise UserError("no embeddings to find components of; expected at least one image")
    return count, total, products


def _check_sizes(count: int, width: int, dimensions: int) -> None:
    if not 1 <= dimensions <= width:
        raise UserError(
            f"dimensions is {dimensions}, expected from 1 to the embeddings' {width}; or None to "
            "keep them all"
        )
    if count < dimensions:
        raise UserError(
            f"{count} images give at most {count} components, and dimensions is {dimensions}; use "
            "more images or fewer dimensions"
        )


def _largest(moments: np.ndarray, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues and their eigenvectors, signs fixed."""
    values, vectors = np.linalg.eigh(moments)
    values, vectors = values[::-1][:dimensions], vectors[:, ::-1][:, :dimensions]
    rank = int((values > values[0] * 1e-12).sum()) if values[0] > 0 else 0
    if rank < dimensions:
        raise UserError(
            f"the images' embeddings differ in {rank} dimensions only, and dimensions is "
            f"{dimensions}; use more different images or fewer dimensions"
        )
    largest = np.abs(vectors).argmax(axis=0)
    return values, vectors * np.sign(vectors[largest, np.arange(dimensions)])
