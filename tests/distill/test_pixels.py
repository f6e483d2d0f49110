"""Images prepared in blocks: order, padding, errors, any number of workers."""

import numpy as np
import pytest
from distill_fixtures import CLIP, encode, make_triplets

from jaxqa.distill.pixels import ImagePool, blocks, prepare
from jaxqa.errors import UserError
from jaxqa.models.clip.preprocess import prepare_image


@pytest.mark.parametrize("count", [0, 1, 4, 11])
@pytest.mark.parametrize("workers", [1, 3])
def test_blocks_keep_the_order_and_pad_the_last(count, workers):
    sources = [triplet.image for triplet in make_triplets(count)]
    found = list(blocks(iter(sources), CLIP, size=4, workers=workers))
    assert len(found) == -(-count // 4)
    assert all(block.pixels.shape == (4, 16, 16, 3) for block in found)
    assert sum(len(block.errors) for block in found) == count
    pixels = np.concatenate([block.pixels[: len(block.errors)] for block in found] or [[]])
    for row, source in zip(pixels, sources, strict=True):
        np.testing.assert_array_equal(row, prepare(source, CLIP))
    if count % 4:
        assert not found[-1].pixels[count % 4 :].any()


def test_an_unreadable_image_does_not_stop_the_others(tmp_path):
    (tmp_path / "cut.png").write_bytes(encode(np.ones((30, 30, 3), np.uint8))[:60])
    good = np.full((20, 30, 3), 7, np.uint8)
    sources = [good, tmp_path / "cut.png", tmp_path / "none.png", b"text", encode(good)]
    (block,) = blocks(sources, CLIP, size=8, workers=2)
    assert [error is None for error in block.errors] == [True, False, False, False, True]
    for error, name in zip(block.errors[1:4], ("cut.png", "none.png", "<4 bytes>"), strict=True):
        assert name in error
    np.testing.assert_array_equal(block.pixels[0], block.pixels[4])
    np.testing.assert_array_equal(block.pixels[0], prepare_image(good, CLIP))


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_pixels_of_another_kind_are_refused(pixels):
    with pytest.raises(UserError, match=r"expected uint8 \[h, w, 3\]"):
        prepare(pixels, CLIP)


def test_no_workers_are_refused():
    with pytest.raises(ValueError, match="workers is 0"):
        ImagePool(CLIP, workers=0)
