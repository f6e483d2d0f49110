"""Contrastive alignment: the image tower learns to meet a frozen text tower at the rationales.

source = AlignmentSource(triplets, text_embeddings, config, ...)
update = make_update(AlignmentObjective(model=model, config=config), optimizer, ...)
state = create_state(aligned_params(params, config), optimizer)
"""

import hashlib
import math
import typing
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxqa import sharding
from jaxqa.data.schedule import TrainingSchedule
from jaxqa.distill.pixels import ImagePool
from jaxqa.distill.texts import TextPolicy
from jaxqa.distill.triplets import Triplet
from jaxqa.errors import UserError
from jaxqa.models.clip.model import Clip, image_params, unit
from jaxqa.objectives import contrastive
from jaxqa.typing import Float, Params


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """How images are aligned with rationales.

    Attributes:
        text_policy: what becomes of rationales longer than the text tower's row.
        max_rationales: rationales per image that are used, the first ones; 0 for all. 1 leaves
            out the augmentation by several seeds.
        temperature: of the logits at the start; None for that of the checkpoint.
        learn_temperature: whether it is trained (and SigLIP's bias with it).
    """

    text_policy: TextPolicy = "truncate"
    max_rationales: int = 0
    temperature: float | None = None
    learn_temperature: bool = True

    def __post_init__(self):
        if self.max_rationales < 0:
            raise ValueError(f"max_rationales is {self.max_rationales}; expected 0 or more")
        if self.temperature is not None and not (0.01 <= self.temperature < math.inf):
            raise ValueError(f"temperature is {self.temperature}; expected at least 0.01")

    def rationales(self, triplet: Triplet) -> tuple[str, ...]:
        """The rationales of an image that are used."""
        return triplet.rationales[: self.max_rationales or None]


# Not type-checked: transformations put other things than arrays into the fields.
@jax.tree_util.register_dataclass
@typing.no_type_check
@dataclass(frozen=True, kw_only=True)
class AlignmentBatch:
    """Images with the embedding of one rationale each.

    Attributes:
        pixels: uint8 [B side side 3].
        texts: float32 [B E], unit embeddings.
    """

    pixels: jax.Array
    texts: jax.Array


def aligned_params(params: Params, config: AlignmentConfig) -> Params:
    """What alignment trains: the image tower, the log scale [1], and SigLIP's bias [1]."""
    scale = jnp.asarray(params["logit_scale"]).astype(jnp.float32).reshape(1)
    if config.temperature is not None:
        scale = jnp.full((1,), -math.log(config.temperature), jnp.float32)
    trained = image_params(params) | {"logit_scale": scale}
    if "logit_bias" in params:
        trained["logit_bias"] = jnp.asarray(params["logit_bias"]).astype(jnp.float32).reshape(1)
    return trained


@dataclass(frozen=True, kw_only=True)
class AlignmentObjective:
    """CLIP's loss, or SigLIP's for a SigLIP model, over the whole batch on all devices."""

    model: Clip
    config: AlignmentConfig

    def __call__(self, params: Params, batch: AlignmentBatch):
        """Loss and metrics."""
        images = unit(self.model.image_embeddings(params, batch.pixels))
        numbers = {"log_scale": params["logit_scale"]}
        loss_fn = contrastive.symmetric_loss
        if self.model.config.is_siglip:
            numbers["bias"], loss_fn = params["logit_bias"], contrastive.sigmoid_loss
        if not self.config.learn_temperature:
            numbers = jax.lax.stop_gradient(numbers)
        loss, metrics = loss_fn(images, batch.texts, **numbers)
        temperature = jnp.exp(-jnp.minimum(params["logit_scale"], contrastive.MAX_LOG_SCALE))[0]
        return loss, ({**metrics, "temperature": jax.lax.stop_gradient(temperature)}, None)


class AlignmentSource:
    """Endless batches for `train.loop.train`: images shuffled, a rationale drawn, every epoch.

    Batch number n is a pure function of the triplets, the seed and n.
    """

    def __init__(
        self,
        triplets: Sequence[Triplet],
        texts: Sequence[Float[np.ndarray, "R E"]],
        *,
        pool: ImagePool,
        mesh: Mesh,
        batch_size: int,
        seed: int,
        cache_mb: int = 0,
    ):
        """Draw from `triplets`.

        Args:
            triplets: the images.
            texts: for each of them, unit embeddings of its rationales, at least one.
            pool: prepares the images; closed with the source.
            mesh: devices that share the rows.
            batch_size: images of a batch.
            seed: of the order and the draws.
            cache_mb: megabytes of prepared images kept in memory.

        Raises:
            UserError: fewer images than a batch has rows, or rows that the devices cannot share.
        """
        sharding.check_rows(batch_size, mesh, name="batch_size")
        self._triplets, self._texts = triplets, texts
        self._pool, self._mesh, self._seed = pool, mesh, seed
        zeros = np.zeros(len(triplets), np.int64)
        self._schedule = TrainingSchedule(zeros, batch_size=batch_size, seed=seed)
        self._cache: dict[int, np.ndarray] = {}
        self._room = cache_mb * 2**20
        self._ahead: dict[int, list[Future[np.ndarray]]] = {}
        self._next = 0

    def plan(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """This process's rows of batch `number`, and which rationale each of them takes."""
        rows = self._local_rows(number)
        epoch = number // self._schedule.batches_per_epoch
        chosen = [self._draw(int(row), epoch) for row in rows]
        return rows, np.array(chosen, np.int64)

    def next(self, params: Params, step: int) -> tuple[AlignmentBatch, dict[str, float]]:
        """The batch after the last one; `params` and `step` do not matter."""
        del params, step
        rows, chosen = self.plan(self._next)
        futures = self._ahead.pop(self._next, None) or self._begin(rows)
        self._ahead[self._next + 1] = self._begin(self._local_rows(self._next + 1))
        pixels = np.stack([future.result() for future in futures])
        self._keep(rows, pixels)
        texts = np.stack([self._texts[row][k] for row, k in zip(rows, chosen, strict=True)])
        self._next += 1
        arrays = sharding.shard_rows({"pixels": pixels, "texts": texts}, self._mesh)
        return AlignmentBatch(**arrays), {}

    def get_state(self) -> dict[str, Any]:
        """JSON record of the position after the last batch."""
        return {"next_batch": self._next, "fingerprint": self._fingerprint()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on after a position recorded by `get_state`.

        Raises:
            UserError: it was recorded with other images, rationales or seed.
        """
        if state["fingerprint"] != self._fingerprint():
            raise UserError(
                "the checkpoint's data position belongs to other images, rationales or another "
                "seed; restore them or use another work directory"
            )
        self._next = int(state["next_batch"])
        self._ahead.clear()

    def close(self) -> None:
        """Stop preparing images."""
        self._pool.close()

    def _local_rows(self, number: int) -> np.ndarray:
        rows = self._schedule[number].rows
        return rows[sharding.row_share(self._mesh).rows(len(rows))]

    def _draw(self, row: int, epoch: int) -> int:
        number = self._triplets[row].example_id
        rng = np.random.default_rng([self._seed, epoch, number])
        return int(rng.integers(len(self._texts[row])))

    def _begin(self, rows: np.ndarray) -> list[Future[np.ndarray]]:
        return [self._image(int(row)) for row in rows]

    def _image(self, row: int) -> Future[np.ndarray]:
        if row in self._cache:
            done: Future[np.ndarray] = Future()
            done.set_result(self._cache[row])
            return done
        triplet = self._triplets[row]
        return self._pool.submit(triplet.image, name=triplet.name)

    def _keep(self, rows: np.ndarray, pixels: np.ndarray) -> None:
        for row, image in zip(rows, pixels, strict=True):
            if int(row) not in self._cache and image.nbytes <= self._room:
                self._cache[int(row)] = image.copy()
                self._room -= image.nbytes

    def _fingerprint(self) -> str:
        digest = hashlib.blake2b(repr(self._seed).encode(), digest_size=8)
        for triplet, texts in zip(self._triplets, self._texts, strict=True):
            used = (triplet.example_id, triplet.rationales[: len(texts)])
            digest.update(repr(used).encode())
        return digest.hexdigest()
