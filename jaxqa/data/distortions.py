"""Eight distortions at five levels, in the spirit of KADID-10k, on uint8 [H W 3] pictures.

Every function is deterministic; where a distortion has a random part (noise, the direction of
motion) it comes from the generator that the caller passes.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

Distortion = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]

NUM_LEVELS = 5

JPEG_QUALITY = (20, 11, 6, 3, 1)
BLUR_SIGMA = (0.9, 1.3, 1.9, 2.8, 4.5)
MOTION_LENGTH = (4.0, 6.0, 9.0, 14.0, 22.0)
NOISE_SIGMA = (12.0, 22.0, 36.0, 55.0, 85.0)
QUANTISATION_LEVELS = (8, 6, 4, 3, 2)
DARKENING_GAIN = (0.7, 0.52, 0.37, 0.25, 0.15)
RESCALE_FACTOR = (1.8, 2.4, 3.2, 4.5, 7.0)
PIXEL_BLOCK = (2, 3, 4, 6, 10)


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Compress with JPEG, chroma at half resolution."""
    del rng
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY[level - 1], subsampling=2)
    return np.asarray(Image.open(buffer).convert("RGB"))


def gaussian_blur(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Blur with an isotropic Gaussian."""
    del rng
    sigma = BLUR_SIGMA[level - 1]
    blurred = ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0), mode="reflect")
    return _to_uint8(blurred)


def motion_blur(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Average along a line in a random direction."""
    length = MOTION_LENGTH[level - 1]
    angle = rng.uniform(0, np.pi)
    samples = 2 * int(np.ceil(length)) + 1
    offsets = np.linspace(-(length - 1) / 2, (length - 1) / 2, samples)
    radius = int(np.ceil(length / 2)) + 1
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    rows, columns = radius + offsets * np.sin(angle), radius + offsets * np.cos(angle)
    for row, column in zip(rows, columns, strict=True):
        r, c = int(np.floor(row)), int(np.floor(column))
        fr, fc = row - r, column - c
        kernel[r, c] += (1 - fr) * (1 - fc)
        kernel[r, c + 1] += (1 - fr) * fc
        kernel[r + 1, c] += fr * (1 - fc)
        kernel[r + 1, c + 1] += fr * fc
    kernel /= kernel.sum()
    blurred = ndimage.convolve(image.astype(np.float32), kernel[:, :, None], mode="reflect")
    return _to_uint8(blurred)


def noise(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Add white Gaussian noise to each channel."""
    return _to_uint8(image + rng.normal(0, NOISE_SIGMA[level - 1], image.shape))


def colour_quantisation(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Keep a few equally spaced values of each channel, without dithering."""
    del rng
    steps = QUANTISATION_LEVELS[level - 1] - 1
    return _to_uint8(np.rint(image / 255.0 * steps) * (255.0 / steps))


def darkening(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Scale towards black, which takes brightness and contrast away together."""
    del rng
    return _to_uint8(image * DARKENING_GAIN[level - 1])


def rescaling(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Shrink by averaging, then enlarge bilinearly."""
    del rng
    height, width = image.shape[:2]
    factor = RESCALE_FACTOR[level - 1]
    small = (max(1, round(width / factor)), max(1, round(height / factor)))
    shrunk = Image.fromarray(image).resize(small, Image.Resampling.BOX)
    return np.asarray(shrunk.resize((width, height), Image.Resampling.BILINEAR))


def pixelation(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Replace square blocks by their mean colour."""
    del rng
    block = PIXEL_BLOCK[level - 1]
    height, width = image.shape[:2]
    rows, columns = -(-height // block), -(-width // block)
    padding = ((0, rows * block - height), (0, columns * block - width), (0, 0))
    padded = np.pad(image.astype(np.float32), padding, mode="edge")
    means = padded.reshape(rows, block, columns, block, 3).mean((1, 3))
    full = means.repeat(block, 0).repeat(block, 1)
    return _to_uint8(full[:height, :width])


DISTORTIONS: dict[str, Distortion] = {
    "jpeg": jpeg,
    "gaussian_blur": gaussian_blur,
    "motion_blur": motion_blur,
    "noise": noise,
    "colour_quantisation": colour_quantisation,
    "darkening": darkening,
    "rescaling": rescaling,
    "pixelation": pixelation,
}
"""Distortion number n of a file name `I01_0n_05.png` is the n-th entry, counted from 1."""


def distort(image: np.ndarray, name: str, level: int, *, rng: np.random.Generator) -> np.ndarray:
    """Apply the named distortion at level 1 (slight) to 5 (severe) to uint8 [H W 3]."""
    if name not in DISTORTIONS:
        raise ValueError(f"unknown distortion {name!r}; known: {', '.join(DISTORTIONS)}")
    if not 1 <= level <= NUM_LEVELS:
        raise ValueError(f"distortion level must be 1 to {NUM_LEVELS}, found {level}")
    return DISTORTIONS[name](image, level, rng)
