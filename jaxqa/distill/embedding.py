"""Images through a function of the device, block by block, the host always a block ahead."""

import collections
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from jaxqa import sharding
from jaxqa.distill.pixels import Block, Source, blocks
from jaxqa.errors import UserError
from jaxqa.models.clip.config import ClipConfig
from jaxqa.models.clip.model import Clip, image_params, unit
from jaxqa.typing import Array, Float, Params


def run_blocks(
    function: Callable[[Array], Array],
    images: Iterable[Source],
    config: ClipConfig,
    *,
    size: int,
    workers: int,
    mesh: Mesh,
) -> Iterator[tuple[Block, np.ndarray]]:
    """Yield each block of images with what `function` makes of its pixels.

    The next block is under way while the host reads the last one. Several processes share the
    images of a block; each gets the results of all.
    """
    waiting: collections.deque[tuple[Block, Array]] = collections.deque()
    share = sharding.row_share(mesh)
    for block in blocks(images, config, size=size, workers=workers, share=share):
        waiting.append((block, function(sharding.shard_rows(block.pixels, mesh))))
        if len(waiting) > 1:
            first, result = waiting.popleft()
            yield first, sharding.fetch(result, mesh)
    for block, result in waiting:
        yield block, sharding.fetch(result, mesh)


def embed_images(
    model: Clip,
    params: Params,
    images: Sequence[Source],
    *,
    size: int,
    workers: int,
    mesh: Mesh,
    advance: Callable[[int], None] = lambda _: None,
) -> Float[np.ndarray, "N E"]:
    """Unit embeddings of all images, float32.

    Args:
        model: the image tower.
        params: its parameters, on the mesh.
        images: any number of them.
        size: images computed at once.
        workers: threads that decode and resize.
        mesh: devices that share the rows.
        advance: called with the number of images done; may raise to stop.

    Raises:
        UserError: an image cannot be read.
    """
    run = functools.partial(_embed, model, image_params(params))
    found = [np.zeros((0, model.config.projection_dim), np.float32)]
    done = 0
    stream = run_blocks(run, images, model.config, size=size, workers=workers, mesh=mesh)
    for block, embeddings in stream:
        for error in filter(None, block.errors):
            raise UserError(error)
        found.append(embeddings[: len(block.errors)])
        done += len(block.errors)
        advance(done)
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnames="model")
def _embed(model: Clip, params: Params, pixels: Array) -> Array:
    return unit(model.image_embeddings(params, pixels))
