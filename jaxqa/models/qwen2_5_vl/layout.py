"""Where every patch and token goes: windows, merged features and M-RoPE positions.

All of it is host-side NumPy, computed from image sizes; the model sees only arrays and masks.
"""

import functools
from collections.abc import Sequence

import numpy as np

from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl.config import Qwen2_5_VLConfig, VisionConfig
from jaxqa.models.qwen2_5_vl.inputs import PromptRow
from jaxqa.typing import Int, UInt8


def window_layout(grid_h: int, grid_w: int, config: VisionConfig) -> Int[np.ndarray, "W U"]:
    """Return the merged unit (row-major in the image) in each slot of each window, -1 if none.

    `grid_h` and `grid_w` count patches. Windows and their units are in the order of HF
    `get_vision_window_index`, without its empty windows.
    """
    side = config.window_units
    rows, columns = grid_h // config.spatial_merge_size, grid_w // config.spatial_merge_size
    windows_h, windows_w = -(-rows // side), -(-columns // side)
    padded = np.full((windows_h * side, windows_w * side), -1, np.int32)
    padded[:rows, :columns] = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    blocks = padded.reshape(windows_h, side, windows_w, side).transpose(0, 2, 1, 3)
    return blocks.reshape(windows_h * windows_w, side * side)


def count_tokens(image_h: int, image_w: int, config: VisionConfig) -> int:
    """Return how many merged tokens an image of `image_h` x `image_w` pixels becomes."""
    return (image_h // config.merged_size) * (image_w // config.merged_size)


def mrope_positions(
    token_ids: Int[np.ndarray, " S"],
    grids: Sequence[tuple[int, int]],
    config: Qwen2_5_VLConfig,
) -> tuple[Int[np.ndarray, "3 S"], int]:
    """Return time, row and column positions and the first completion token's position.

    Follows HF `Qwen2_5_VLModel.get_rope_index` for still images; `grids` holds each image's
    (height, width) in patches, in prompt order.
    """
    merge = config.vision.spatial_merge_size
    is_image = token_ids == config.image_token_id
    pieces: list[np.ndarray] = []
    remaining = iter(grids)
    index = position = 0
    while index < len(token_ids):
        if is_image[index]:
            grid_h, grid_w = next(remaining)
            rows, columns = np.divmod(np.arange(grid_h * grid_w // merge**2), grid_w // merge)
            pieces.append(np.stack([np.zeros_like(rows), rows, columns]) + position)
            index += len(rows)
            position += max(grid_h, grid_w) // merge
        else:
            images_ahead = np.flatnonzero(is_image[index:])
            length = int(images_ahead[0]) if images_ahead.size else len(token_ids) - index
            pieces.append(np.broadcast_to(np.arange(length) + position, (3, length)))
            index += length
            position += length
    positions = np.concatenate(pieces, axis=1).astype(np.int32)
    return positions, int(positions.max()) + 1


def build_row(
    token_ids: Int[np.ndarray, " S"],
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    config: Qwen2_5_VLConfig,
) -> PromptRow:
    """Lay out one prompt: `token_ids` already hold one placeholder per merged image token.

    Image sides are multiples of `config.vision.merged_size` (`preprocess.resize_image`).

    Raises:
        UserError: placeholders and images do not match, a video placeholder, an id outside the
            vocabulary, or a prompt that is empty or longer than the model's positions.
        ValueError: an image side is no multiple of the merged size.
    """
    token_ids = np.asarray(token_ids, np.int32)
    _check_tokens(token_ids, images, config)
    vision = config.vision
    grids = [(i.shape[0] // vision.patch_size, i.shape[1] // vision.patch_size) for i in images]
    positions, next_position = mrope_positions(token_ids, grids, config)
    layouts = [window_layout(grid_h, grid_w, vision) for grid_h, grid_w in grids]
    blocks = [_window_patches(i, layout, vision) for i, layout in zip(images, layouts, strict=True)]
    vision_index = np.full(token_ids.shape, -1, np.int32)
    vision_index[token_ids == config.image_token_id] = _feature_slots(layouts)
    num_windows, patches = sum(map(len, layouts)), vision.patches_per_window
    empty = (
        np.zeros((0, patches, vision.patch_values), np.uint8),
        np.zeros((0, patches), bool),
        np.zeros((0, patches, 2), np.int32),
    )
    pixels, mask, patch_positions = (
        parts[1] if len(parts) == 2 else np.concatenate(parts)  # one image's are not copied
        for parts in zip(empty, *blocks, strict=True)
    )
    image_numbers = [np.full(len(layout), k, np.int32) for k, layout in enumerate(layouts)]
    return PromptRow(
        token_ids=token_ids,
        positions=positions,
        next_position=next_position,
        patches=pixels,
        patch_mask=mask,
        patch_positions=patch_positions,
        window_image=np.concatenate([np.zeros(0, np.int32), *image_numbers]).reshape(num_windows),
        vision_index=vision_index,
    )


def _check_tokens(
    token_ids: np.ndarray, images: Sequence[np.ndarray], config: Qwen2_5_VLConfig
) -> None:
    text, vision = config.text, config.vision
    if not 0 < len(token_ids) <= text.max_position_embeddings:
        raise UserError(
            f"the prompt has {len(token_ids)} tokens; it must have from 1 to "
            f"{text.max_position_embeddings}: shorten the text or use smaller images"
        )
    if token_ids.min() < 0 or token_ids.max() >= text.vocab_size:
        raise UserError(
            f"the prompt has token ids from {token_ids.min()} to {token_ids.max()}; the model's "
            f"vocabulary has {text.vocab_size}: use the tokenizer the model was made with"
        )
    if (token_ids == config.video_token_id).any():
        raise UserError("the prompt holds a video placeholder; only images can be read")
    for image in images:
        height, width = image.shape[:2]
        if height % vision.merged_size or width % vision.merged_size or not height * width:
            raise ValueError(
                f"an image is {height} x {width} pixels; both sides must be positive multiples of "
                f"{vision.merged_size}: resize it first"
            )
    expected = [count_tokens(image.shape[0], image.shape[1], vision) for image in images]
    found = _placeholder_runs(token_ids == config.image_token_id)
    if found != expected:
        raise UserError(
            f"the prompt's runs of image placeholders have lengths {found}; its images need "
            f"{expected}: put one placeholder per merged token, images apart from each other"
        )


def _placeholder_runs(is_image: np.ndarray) -> list[int]:
    edges = np.flatnonzero(np.diff(is_image.astype(np.int8), prepend=0, append=0))
    return (edges[1::2] - edges[::2]).tolist()


def _window_patches(
    image: np.ndarray, layout: np.ndarray, config: VisionConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut one image into window blocks: pixels [W P C], mask [W P], row and column [W P 2]."""
    size, merge, side = config.patch_size, config.spatial_merge_size, config.window_units
    # Whole windows, black beyond the image: then one copy cuts them all. Channel after channel, so
    # that a row of a patch is `size` bytes together, one item to the copy: three times as fast.
    height, width, channels = image.shape
    down, across = (-(-length // config.window_size) for length in (height, width))
    whole = np.zeros((channels, down * config.window_size, across * config.window_size), np.uint8)
    whole[:, :height, :width] = image.transpose(2, 0, 1)
    cut = whole.view(f"V{size}").reshape(channels, down, side, merge, size, across, side, merge)
    items = cut.transpose(1, 5, 2, 6, 3, 7, 0, 4)  # [window (2) unit (2) patch (2) C h]
    pixels = np.ascontiguousarray(items).view(np.uint8)
    present = layout >= 0
    mask = np.repeat(present, config.merge_unit, axis=1)
    shape = (len(layout), config.patches_per_window)
    positions = _patch_positions(down, across, config).reshape(*shape, 2)
    return pixels.reshape(*shape, -1), mask, np.where(mask[..., None], positions, 0)


@functools.lru_cache(maxsize=1024)
def _patch_positions(down: int, across: int, config: VisionConfig) -> np.ndarray:
    """Row and column of every patch of `down` x `across` whole windows, in window order."""
    side, merge = config.window_units, config.spatial_merge_size
    patches = side * merge
    places = np.indices((down * patches, across * patches), dtype=np.int32)
    cut = places.reshape(2, down, side, merge, across, side, merge)
    return cut.transpose(1, 4, 2, 5, 3, 6, 0)


def _feature_slots(layouts: Sequence[np.ndarray]) -> np.ndarray:
    """For each image token in prompt order, the slot of its feature among all windows' units."""
    slots, offset = [np.zeros(0, np.int32)], 0
    for layout in layouts:
        flat = layout.reshape(-1)
        occupied = np.flatnonzero(flat >= 0)
        by_unit = np.empty(len(occupied), np.int32)
        by_unit[flat[occupied]] = occupied + offset
        slots.append(by_unit)
        offset += flat.size
    return np.concatenate(slots)
