import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy import fft
from skimage import data
from sklearn.datasets import load_sample_images

from jaxqa.models.qwen2_5_vl.config import PRESETS
from jaxqa.models.qwen2_5_vl.layout import build_row
from jaxqa.objectives import warmup

CONFIG = PRESETS["tiny"]
_statistics = jax.jit(warmup.local_statistics)


def _row(image: np.ndarray):
    """The prompt row that the model would get for one image."""
    num_tokens = image.shape[0] * image.shape[1] // 28**2
    ids = [CONFIG.vision_start_token_id] + [CONFIG.image_token_id] * num_tokens
    return build_row(np.array([*ids, CONFIG.vision_end_token_id], np.int32), [image], CONFIG)


def _by_token(image: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics of the image's 28 x 28 blocks, in raster order, by name."""
    row = _row(image)
    statistics = np.asarray(_statistics(jnp.asarray(row.patches))).reshape(-1, warmup.NUM_TARGETS)
    slots = row.vision_index[row.vision_index >= 0]
    return dict(zip(warmup.TARGET_NAMES, statistics[slots].T, strict=True))


def _blocks(image: np.ndarray) -> list[np.ndarray]:
    height, width = image.shape[0] // 28, image.shape[1] // 28
    return [
        image[28 * i : 28 * (i + 1), 28 * j : 28 * (j + 1)] / 255.0
        for i in range(height)
        for j in range(width)
    ]


def _expected(block: np.ndarray) -> dict[str, float]:
    """One token's statistics by loops, in float64."""
    red, green, blue = np.moveaxis(block, -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = {"luma": luma, "blue": blue - luma, "red": red - luma}
    found = {name: plane.mean() for name, plane in planes.items()}
    for name, plane in planes.items():
        found[f"{name}_contrast"] = 0.5 * np.log(plane.var() + 1e-7)
    found |= _expected_energies(planes, "luma", ("luma",), (0.5, 1.5, 3, 5, 8, 12, 20))
    found |= _expected_energies(planes, "chroma", ("blue", "red"), (0.5, 3, 8, 20))
    floor = 0.25 / 255
    for axis, name in ((1, "x"), (0, "y")):
        steps = np.abs(np.diff(luma, axis=axis))
        found[f"flat_{name}"] = (steps < floor).mean()
        rms = np.sqrt((steps**2).mean())
        found[f"sparse_{name}"] = np.log((rms + floor) / (steps.mean() + floor))
        profile = steps.mean(axis=1 - axis)
        strongest = max(profile[phase::8].mean() for phase in range(8))
        found[f"blocks_{name}"] = np.log((strongest + floor) / (profile.mean() + floor))
    return found


def _expected_energies(planes, kind: str, names, edges) -> dict[str, float]:
    energies = np.zeros((2, len(edges) - 1))
    for name in names:
        for patch in planes[name].reshape(2, 14, 2, 14).swapaxes(1, 2).reshape(4, 14, 14):
            power = fft.dctn(patch, norm="ortho") ** 2 / 196 / 4
            for (row, column), value in np.ndenumerate(power):
                if row == column == 0:
                    continue
                band = np.searchsorted(edges, np.hypot(row, column)) - 1
                share = 1.0 if column > row else 0.5 if column == row else 0.0
                energies[:, band] += value * np.array([share, 1 - share])
    total = energies.sum()
    if kind == "chroma":
        shares = {f"chroma_energy_{b}": value for b, value in enumerate(energies.sum(axis=0))}
    else:
        shares = {f"luma_energy_x_{b}": value for b, value in enumerate(energies[0])}
        shares |= {f"luma_energy_y_{b}": value for b, value in enumerate(energies[1])}
    return {name: np.log((value + 1e-7) / (total + 1e-7)) for name, value in shares.items()}


@pytest.mark.parametrize("shape", [(112, 112), (84, 140)])
def test_statistics_equal_loops_over_the_blocks_of_the_image(shape: tuple[int, int]):
    image = np.asarray(Image.fromarray(data.coffee()).resize(shape[::-1]))
    found, expected = _by_token(image), [_expected(block) for block in _blocks(image)]
    assert set(expected[0]) == set(warmup.TARGET_NAMES)
    for name, values in found.items():
        reference = [statistics[name] for statistics in expected]
        np.testing.assert_allclose(values, reference, rtol=1e-3, atol=1e-3, err_msg=name)


def test_what_the_statistics_tell_apart():
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (112, 1, 1)).astype(np.uint8)
    rows = np.broadcast_to(grey, (112, 112, 3))  # varies along y only
    stripes, columns = _by_token(rows), _by_token(rows.swapaxes(0, 1))
    assert stripes["flat_x"].min() > 0.999 and (stripes["flat_y"] < 0.2).all()
    for band in range(6):
        along_y, along_x = stripes[f"luma_energy_y_{band}"], columns[f"luma_energy_x_{band}"]
        np.testing.assert_allclose(along_y, along_x.reshape(4, 4).T.reshape(-1), atol=1e-4)
        assert (stripes[f"luma_energy_x_{band}"] < along_y).all()
    cells = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    noise = _by_token(rng.integers(0, 256, (112, 112, 3)).astype(np.uint8))
    for shift in (0, 3):  # wherever the grid starts
        blocky = _by_token(cells[shift : shift + 112, shift : shift + 112])
        assert blocky["blocks_x"].min() > 1.5 > 0.5 > noise["blocks_x"].max()


def test_a_flat_image_is_finite_and_clipped():
    row = _row(np.full((28, 28, 3), 255, np.uint8))
    targets, mask = warmup.warmup_targets(
        jnp.asarray(row.patches[None]), jnp.asarray(row.patch_mask[None])
    )
    assert np.isfinite(targets).all() and np.abs(targets).max() <= 4.0
    assert (targets.shape, mask.shape) == ((1, 16, warmup.NUM_TARGETS), (1, 16))
    assert mask.sum() == 1


def _versions(photograph: np.ndarray) -> list[np.ndarray]:
    image = Image.fromarray(photograph).reduce(2)
    jpeg = io.BytesIO()
    image.save(jpeg, "jpeg", quality=15)
    pixels = np.asarray(image)
    noise = np.random.default_rng(0).normal(0, 20, pixels.shape)
    small = image.resize((image.width // 3, image.height // 3))
    return [
        pixels,
        np.asarray(image.filter(ImageFilter.GaussianBlur(1.5))),
        np.asarray(Image.open(jpeg)),
        np.clip(pixels + noise, 0, 255).astype(np.uint8),
        np.asarray(small.resize(image.size, Image.Resampling.NEAREST)),
    ]


def _as_patches(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[0] // 28, image.shape[1] // 28
    cut = image[: height * 28, : width * 28].reshape(height, 2, 14, width, 2, 14, 3)
    return cut.transpose(0, 3, 1, 4, 6, 2, 5).reshape(1, 1, -1, 588)


def test_targets_of_photographs_are_about_standard():
    photographs = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    photographs += load_sample_images().images
    patches = np.concatenate(
        [_as_patches(v) for photo in photographs for v in _versions(photo)], axis=2
    )
    targets, mask = warmup.warmup_targets(jnp.asarray(patches), jnp.ones(patches.shape[:3], bool))
    assert mask.all()
    mean, deviation = np.mean(targets, axis=(0, 1)), np.std(targets, axis=(0, 1))
    assert np.abs(mean).max() < 0.5, dict(zip(warmup.TARGET_NAMES, mean, strict=True))
    assert 0.8 < deviation.min() and deviation.max() < 1.2


def test_loss_equals_numpy_and_ignores_what_is_masked():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 5, 7)).astype(np.float32)
    targets = rng.normal(size=(2, 5, warmup.NUM_TARGETS)).astype(np.float32)
    mask = rng.uniform(size=(2, 5)) < 0.6
    head = warmup.init_head(jax.random.key(0), 7)
    head["bias"] += 0.1
    total, count = warmup.warmup_loss(head, *(jnp.asarray(x) for x in (features, targets, mask)))
    predictions = features.astype(np.float64) @ np.asarray(head["kernel"]) + 0.1
    expected = np.square(predictions - targets)[mask].mean(axis=-1).sum()
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert float(count) == mask.sum()

    def loss(features):
        return warmup.warmup_loss(head, features, jnp.asarray(targets), jnp.asarray(mask))[0]

    gradient = np.asarray(jax.grad(loss)(jnp.asarray(features, jnp.bfloat16)))
    assert (gradient[~mask] == 0).all() and (gradient[mask] != 0).any()


def test_patches_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\[\.\.\., 4 \* tokens, 588\]"):
        warmup.local_statistics(jnp.zeros((4, 3 * 16 * 16), jnp.uint8))
    with pytest.raises(ValueError, match="tokens"):
        warmup.local_statistics(jnp.zeros((6, 588), jnp.uint8))
