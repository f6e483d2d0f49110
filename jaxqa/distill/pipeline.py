"""From embeddings and labels to a score basis: compress, cluster, fit."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxqa.distill.basis import BasisConfig, ScoreBasis, fit_basis, start_params
from jaxqa.distill.kmeans import ClusterConfig, Clusters, cluster
from jaxqa.distill.pca import Pca, fit_pca
from jaxqa.distill.triplets import ScoreRange, Triplet
from jaxqa.errors import UserError
from jaxqa.metrics import correlations
from jaxqa.typing import Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """How embeddings become a scorer.

    Attributes:
        dimensions: principal components that are kept; None keeps the embeddings as they are.
        centre: subtract the mean embedding first.
        clusters: buckets and centroids; one bucket is plain k-means.
        basis: how the basis is fitted.
    """

    dimensions: int | None = 512
    centre: bool = False
    clusters: ClusterConfig = dataclasses.field(default_factory=ClusterConfig)
    basis: BasisConfig = dataclasses.field(default_factory=BasisConfig)

    def __post_init__(self):
        if self.dimensions is not None and self.dimensions < 1:
            raise ValueError(f"dimensions is {self.dimensions}; expected at least 1, or None")

    def check(self, images: int, width: int) -> None:
        """Find, before hours of training, what `distill` would refuse.

        Args:
            images: labelled images.
            width: values of an embedding.

        Raises:
            UserError: more dimensions than embeddings have, or fewer images than dimensions or
                centroids.
        """
        if self.dimensions is not None and self.dimensions > width:
            raise UserError(
                f"dimensions is {self.dimensions}, expected at most the embeddings' {width}; or "
                "None to keep them all"
            )
        for name, needed in (
            ("dimensions", self.dimensions or 1),
            ("clusters.centroids", self.clusters.centroids),
        ):
            if images < needed:
                raise UserError(
                    f"{images} labelled images, and {name} is {needed}; use more images or lower it"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distilled:
    """What `distill` made, step by step.

    Attributes:
        pca: the projection.
        clusters: the basis before fitting.
        basis: the basis.
        losses: of fitting, before each step.
    """

    pca: Pca
    clusters: Clusters
    basis: ScoreBasis
    losses: np.ndarray


def distill(
    embeddings: Float[np.ndarray, "N E"],
    labels: Float[np.ndarray, " N"],
    *,
    score_range: ScoreRange,
    config: DistillConfig,
    seed: int,
) -> Distilled:
    """Make a score basis of unit embeddings and their labels.

    Raises:
        UserError: see `DistillConfig.check`; or embeddings that are not finite or span too little.
    """
    config.check(*embeddings.shape)
    pca = fit_pca([embeddings], dimensions=config.dimensions, centre=config.centre)
    clusters = cluster(
        pca.project(embeddings), labels, score_range=score_range, config=config.clusters, seed=seed
    )
    basis, losses = fit_basis(
        start_params(pca, clusters),
        embeddings,
        labels,
        score_range=score_range,
        config=config.basis,
        seed=seed,
    )
    return Distilled(pca=pca, clusters=clusters, basis=basis, losses=losses)


def labels_of(triplets: Sequence[Triplet]) -> Float[np.ndarray, " N"]:
    """The scores of triplets as a vector."""
    return np.array([triplet.score for triplet in triplets], np.float64)


def agreement(
    answers: Float[np.ndarray, " N"], labels: Float[np.ndarray, " N"]
) -> dict[str, float]:
    """Correlations and mean absolute error of answers with labels."""
    return {
        "plcc": correlations.plcc(answers, labels),
        "srcc": correlations.srcc(answers, labels),
        "mae": correlations.mae(answers, labels),
    }
