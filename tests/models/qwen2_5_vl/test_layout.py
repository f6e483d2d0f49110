"""Windows, positions and patches against transformers' own index computations."""

import dataclasses

import numpy as np
import pytest
from qwen_fixtures import PROMPTS, SMALL, make_prompt, make_row

from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl import layout
from jaxqa.models.qwen2_5_vl.inputs import stack_rows

VISION = SMALL.vision
IMAGE, VIDEO = SMALL.image_token_id, SMALL.video_token_id


@pytest.mark.torch
@pytest.mark.parametrize("grid", [(8, 8), (2, 2), (4, 18), (10, 14), (16, 24), (2, 40), (34, 6)])
def test_windows_are_those_of_transformers(grid):
    torch = pytest.importorskip("torch")
    from transformers.vision_utils import get_vision_window_index

    order, edges = get_vision_window_index(torch.tensor([[1, *grid]]), 2, 112, 14)
    found = layout.window_layout(*grid, VISION)
    present = found >= 0
    np.testing.assert_array_equal(found[present], order.numpy())
    np.testing.assert_array_equal(present.sum(1) * 4, np.diff(edges.numpy()))


@pytest.mark.torch
@pytest.mark.parametrize("seed", range(4))
def test_positions_are_those_of_transformers(seed):
    torch = pytest.importorskip("torch")
    from types import SimpleNamespace

    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

    rng = np.random.default_rng(seed)
    grids = [tuple((2 * rng.integers(1, 9, 2)).tolist()) for _ in range(rng.integers(1, 4))]
    pieces = [rng.integers(0, 70, rng.integers(0, 5))]
    for grid_h, grid_w in grids:
        pieces += [[IMAGE] * (grid_h * grid_w // 4), rng.integers(0, 70, rng.integers(1, 9))]
    token_ids = np.concatenate(pieces).astype(np.int32)
    positions, next_position = layout.mrope_positions(token_ids, grids, SMALL)

    vision = SimpleNamespace(spatial_merge_size=2, tokens_per_second=4)
    holder = SimpleNamespace(config=SimpleNamespace(vision_config=vision))
    holder.get_vision_position_ids = Qwen2_5_VLModel.get_vision_position_ids.__get__(holder)
    expected, delta = Qwen2_5_VLModel.get_rope_index(
        holder,
        torch.from_numpy(token_ids)[None],
        torch.from_numpy(token_ids == IMAGE).int()[None],
        torch.tensor([[1, *grid] for grid in grids]),
    )
    np.testing.assert_array_equal(positions, expected[:, 0].numpy())
    assert next_position == int(delta) + len(token_ids)


def test_patches_do_not_depend_on_how_pixels_lie_in_memory():
    rng = np.random.default_rng(0)
    for height, width in ((112, 224), (84, 140), (28, 28)):
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        planes = np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0)
        count = layout.count_tokens(height, width, VISION)
        ids = np.full(count, IMAGE, np.int32)
        first, second = (layout.build_row(ids, [i], SMALL) for i in (image, planes))
        np.testing.assert_array_equal(first.patches, second.patches)
        assert second.patches.flags.c_contiguous and second.patches.dtype == np.uint8


@pytest.mark.parametrize("name", PROMPTS)
def test_every_pixel_stands_where_its_position_says(name):
    token_ids, images = make_prompt(name, SMALL)
    row = layout.build_row(token_ids, images, SMALL)
    seen = [np.zeros(image.shape[:2], int) for image in images]
    for window, slot in np.argwhere(row.patch_mask):
        image = row.window_image[window]
        top, left = 14 * row.patch_positions[window, slot]
        cut = (slice(top, top + 14), slice(left, left + 14))
        patch = row.patches[window, slot].reshape(3, 14, 14).transpose(1, 2, 0)
        np.testing.assert_array_equal(patch, images[image][cut])
        seen[image][cut] += 1
    assert all((count == 1).all() for count in seen)
    assert not row.patches[~row.patch_mask].any()


@pytest.mark.parametrize("name", PROMPTS)
def test_each_image_token_finds_its_square_of_patches(name):
    token_ids, images = make_prompt(name, SMALL)
    row = layout.build_row(token_ids, images, SMALL)
    is_image = token_ids == IMAGE
    np.testing.assert_array_equal(row.vision_index >= 0, is_image)
    expected = [
        (number, 2 * unit_row, 2 * unit_column)
        for number, image in enumerate(images)
        for unit_row in range(image.shape[0] // 28)
        for unit_column in range(image.shape[1] // 28)
    ]
    units = row.patch_positions.reshape(-1, 4, 2)[row.vision_index[is_image]]
    number = row.window_image[row.vision_index[is_image] // VISION.merged_per_window]
    found = np.concatenate([number[:, None], units[:, 0]], axis=1)
    np.testing.assert_array_equal(found, np.array(expected).reshape(-1, 3))
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    np.testing.assert_array_equal(units - units[:, :1], np.tile(corners, (len(units), 1, 1)))


@pytest.mark.parametrize(
    ("token_ids", "sizes", "message"),
    [
        ([], [], "0 tokens"),
        ([1, 2, 80], [], "vocabulary has 80"),
        ([1, -1], [], "vocabulary has 80"),
        ([1, VIDEO], [], "video"),
        ([1, IMAGE], [], r"lengths \[1\].*need \[\]"),
        ([1, 2], [(28, 28)], r"lengths \[\].*need \[1\]"),
        ([IMAGE] * 3, [(56, 56)], r"lengths \[3\].*need \[4\]"),
        ([IMAGE] * 2, [(28, 28), (28, 28)], r"lengths \[2\].*need \[1, 1\]"),
        ([1] * 129, [], "129 tokens"),
    ],
)
def test_mismatched_prompts_are_refused(token_ids, sizes, message):
    text = dataclasses.replace(SMALL.text, max_position_embeddings=128)
    config = dataclasses.replace(SMALL, text=text)
    images = [np.zeros((*size, 3), np.uint8) for size in sizes]
    with pytest.raises(UserError, match=message):
        layout.build_row(np.array(token_ids, np.int32), images, config)


@pytest.mark.parametrize("size", [(27, 28), (28, 30), (0, 28)])
def test_unresized_images_are_refused(size):
    with pytest.raises(ValueError, match="multiples of 28"):
        layout.build_row(np.array([1], np.int32), [np.zeros((*size, 3), np.uint8)], SMALL)


def test_rows_are_padded_on_the_right():
    rows = [make_row("two images", SMALL), make_row("text only", SMALL)]
    batch = stack_rows(rows, prompt_length=45, num_windows=4, pad_token_id=70)
    for number, row in enumerate(rows):
        length, windows = row.length, row.num_windows
        np.testing.assert_array_equal(batch.token_ids[number, :length], row.token_ids)
        np.testing.assert_array_equal(batch.positions[number, :, :length], row.positions)
        np.testing.assert_array_equal(batch.patches[number, :windows], row.patches)
        assert (batch.token_ids[number, length:] == 70).all()
        assert batch.mask[number].tolist() == [True] * length + [False] * (45 - length)
        assert not batch.patch_mask[number, windows:].any()
        assert (batch.window_image[number, windows:] == -1).all()
        assert (batch.vision_index[number, length:] == -1).all()
    dtypes = {field.name: getattr(batch, field.name).dtype for field in dataclasses.fields(batch)}
    assert dtypes.pop("patches") == np.uint8
    assert dtypes.pop("mask") == dtypes.pop("patch_mask") == np.bool_
    assert set(dtypes.values()) == {np.dtype(np.int32)}


@pytest.mark.parametrize(("length", "windows"), [(38, 4), (45, 2)])
def test_rows_are_never_truncated(length, windows):
    rows = [make_row("text only", SMALL), make_row("two images", SMALL)]
    with pytest.raises(UserError, match="prompt 1 has 39 tokens and 3 image windows"):
        stack_rows(rows, prompt_length=length, num_windows=windows)
