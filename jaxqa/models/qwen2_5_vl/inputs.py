"""What the model reads: prompts with their images, padded to a bucket."""

import dataclasses
import functools
import typing
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxqa.errors import UserError
from jaxqa.typing import Array, Int, Shaped


# Transformations put shapes, shardings and strings into the fields, so they are not type-checked.
@jax.tree_util.register_dataclass
@typing.no_type_check
@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompts:
    """A batch of prompts; arrays of NumPy on the host, of JAX on the device.

    Patches stand in windows: P slots hold a window's merge units row by row, each unit's patches
    row by row. A still image's frame is stored once, although the tower's kernel spans two.

    Attributes:
        token_ids: int32 [B S], padded on the right.
        mask: bool [B S], True at real tokens.
        positions: int32 [B 3 S], time, row and column position; 0 at padding.
        next_position: int32 [B], position of the first completion token, on all three axes.
        patches: uint8 [B W P C], resized RGB pixels in (channel, row, column) order.
        patch_mask: bool [B W P], True at real patches.
        patch_positions: int32 [B W P 2], row and column of the patch in its image.
        window_image: int32 [B W], number of the window's image in its row; -1 at padding.
        vision_index: int32 [B S], at an image token the slot (window * units per window + unit)
            of its merged feature; -1 elsewhere.
    """

    token_ids: jax.Array
    mask: jax.Array
    positions: jax.Array
    next_position: jax.Array
    patches: jax.Array
    patch_mask: jax.Array
    patch_positions: jax.Array
    window_image: jax.Array
    vision_index: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptRow:
    """One prompt on the host, unpadded; the fields of `Prompts` without B.

    Attributes:
        token_ids: int32 [S].
        positions: int32 [3 S].
        next_position: the first completion token's position.
        patches: uint8 [W P C]; W is 0 for a prompt without images.
        patch_mask: bool [W P].
        patch_positions: int32 [W P 2].
        window_image: int32 [W].
        vision_index: int32 [S].
    """

    token_ids: np.ndarray
    positions: np.ndarray
    next_position: int
    patches: np.ndarray
    patch_mask: np.ndarray
    patch_positions: np.ndarray
    window_image: np.ndarray
    vision_index: np.ndarray

    @property
    def length(self) -> int:
        """Number of tokens."""
        return self.token_ids.shape[0]

    @property
    def num_windows(self) -> int:
        """Number of vision windows."""
        return self.patches.shape[0]


def stack_rows(
    rows: Sequence[PromptRow], *, prompt_length: int, num_windows: int, pad_token_id: int = 0
) -> Prompts:
    """Pad `rows` to one bucket and stack them, as NumPy arrays.

    Raises:
        UserError: a row does not fit into `prompt_length` tokens or `num_windows` windows.
        ValueError: no rows, or a bucket without room for a token or a window.
    """
    if not rows or prompt_length < 1 or num_windows < 1:
        raise ValueError(
            f"got {len(rows)} rows, prompt_length {prompt_length}, num_windows {num_windows}; "
            "each must be at least 1"
        )
    for number, row in enumerate(rows):
        if row.length > prompt_length or row.num_windows > num_windows:
            raise UserError(
                f"prompt {number} has {row.length} tokens and {row.num_windows} image windows; its "
                f"bucket holds {prompt_length} and {num_windows}: use larger buckets or smaller "
                "images (prompts are never truncated)"
            )
    pad_tokens = functools.partial(_pad_stack, rows, prompt_length)
    pad_windows = functools.partial(_pad_stack, rows, num_windows)
    lengths = np.array([row.length for row in rows])
    fields: dict[str, Any] = dict(
        token_ids=pad_tokens("token_ids", axis=0, fill=pad_token_id),
        mask=np.arange(prompt_length)[None, :] < lengths[:, None],
        positions=pad_tokens("positions", axis=1),
        next_position=np.array([row.next_position for row in rows], np.int32),
        patches=pad_windows("patches", axis=0),
        patch_mask=pad_windows("patch_mask", axis=0),
        patch_positions=pad_windows("patch_positions", axis=0),
        window_image=pad_windows("window_image", axis=0, fill=-1),
        vision_index=pad_tokens("vision_index", axis=0, fill=-1),
    )
    return Prompts(**fields)


def _pad_stack(
    rows: Sequence[PromptRow], size: int, name: str, *, axis: int, fill: int = 0
) -> np.ndarray:
    arrays = [getattr(row, name) for row in rows]
    shape = list(arrays[0].shape)
    shape[axis] = size
    stacked = np.full([len(rows), *shape], fill, arrays[0].dtype)
    for row, array in zip(stacked, arrays, strict=True):
        row[tuple(slice(0, length) for length in array.shape)] = array
    return stacked


@jax.tree_util.register_dataclass
@typing.no_type_check
@dataclasses.dataclass(frozen=True, kw_only=True)
class Prefix:
    """Encoded prompts, shared by all completions of a row.

    Attributes:
        key: [L B K S H], rotated.
        value: [L B K S H].
        mask: bool [B S], True at real tokens.
        last_hidden: [B D], after the final norm, at the last real token.
        next_position: int32 [B], position of the first completion token.
    """

    key: jax.Array
    value: jax.Array
    mask: jax.Array
    last_hidden: jax.Array
    next_position: jax.Array

    def take(self, rows: Int[Array, "D b"]) -> "Prefix":
        """Return the prefix with other rows: D blocks of the rows, each with `rows` of its own."""

        def of(leaf: jax.Array) -> jax.Array:
            blocks = leaf.reshape(rows.shape[0], -1, *leaf.shape[1:])
            taken = jax.vmap(lambda block, index: block[index])(blocks, rows)
            return taken.reshape(-1, *leaf.shape[1:])

        return Prefix(
            key=jax.vmap(of)(self.key),
            value=jax.vmap(of)(self.value),
            mask=of(self.mask),
            last_hidden=of(self.last_hidden),
            next_position=of(self.next_position),
        )


@jax.tree_util.register_dataclass
@typing.no_type_check
@dataclasses.dataclass(frozen=True, kw_only=True)
class Cache:
    """Keys and values of completion tokens, T slots, filled from the front.

    Attributes:
        key: rotated; one array [L B K G T H], or for each layer one of its own, [B K G T H].
        value: as `key`.
    """

    key: tuple[jax.Array, ...]
    value: tuple[jax.Array, ...]

    def grow(self, length: int) -> "Cache":
        """Return the cache with room for `length` tokens."""

        def longer(leaf: jax.Array) -> jax.Array:
            added = (0, length - leaf.shape[-2])
            return jnp.pad(leaf, [*[(0, 0)] * (leaf.ndim - 2), added, (0, 0)])

        return jax.tree.map(longer, self)

    def flat(self) -> "Cache":
        """Return the cache as a loop should carry it: of a layer's own array the first axes as one.

        XLA drops axes of length 1 where it reads an array, writes into the other shape anew, and
        so copies the whole cache at every token (jax 0.10.2, CPU).
        """

        def of(leaf: jax.Array) -> jax.Array:
            return leaf if leaf.ndim == 6 else leaf.reshape(-1, *leaf.shape[-2:])

        return jax.tree.map(of, self)

    def take(self, sources: Int[Array, "D b g"]) -> "Cache":
        """Return the cache of other completions: D blocks of the rows, each with `sources` of its
        own, counted through the block's rows and their completions."""

        def of_layer(leaf: jax.Array) -> jax.Array:
            blocks = leaf.reshape(sources.shape[0], -1, *leaf.shape[1:])  # [D b K G T H]
            taken = jax.vmap(jax.vmap(_pick, (1, None), 1))(blocks, sources)
            return taken.reshape(-1, *taken.shape[2:])

        def of(leaf: jax.Array) -> jax.Array:
            return jax.vmap(of_layer)(leaf) if leaf.ndim == 6 else of_layer(leaf)

        return jax.tree.map(of, self)


def _pick(block: Shaped[Array, "b G T H"], sources: Int[Array, "c g"]) -> Shaped[Array, "c g T H"]:
    return block.reshape(-1, *block.shape[2:])[sources]
