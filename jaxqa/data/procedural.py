"""Scenes made by formula: more content for training than the photographs on the machine give.

They are never in the validation or test split. What matters is that they share the statistics by
which a distortion is seen in a photograph: sharp occlusion edges, textures at all scales, smooth
shading, saturated and dull colours.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

Maker = Callable[[int, np.random.Generator], np.ndarray]


def spectral_field(size: int, rng: np.random.Generator, *, exponent: float) -> np.ndarray:
    """Random field [size size] with power spectrum 1/f^(2 exponent), mean 0, deviation 1."""
    frequency_y = np.fft.fftfreq(size)[:, None]
    frequency_x = np.fft.rfftfreq(size)[None, :]
    stretch, angle = rng.uniform(1, 3), rng.uniform(0, np.pi)
    along = np.cos(angle) * frequency_x + np.sin(angle) * frequency_y
    across = -np.sin(angle) * frequency_x + np.cos(angle) * frequency_y
    radius = np.hypot(along * stretch, across)
    radius[0, 0] = np.inf
    noise = rng.normal(size=(*radius.shape, 2)).astype(np.float32)
    spectrum = (noise[..., 0] + 1j * noise[..., 1]) * radius**-exponent
    field = np.fft.irfft2(spectrum, s=(size, size))
    return ((field - field.mean()) / (field.std() + 1e-9)).astype(np.float32)


def palette(rng: np.random.Generator, count: int) -> np.ndarray:
    """Random colours [count 3] in 0..1 around one common tint, some of them saturated."""
    tint = rng.uniform(0.2, 0.8, 3)
    spread = rng.uniform(0.05, 0.35)
    grey = rng.normal(0, 0.3, (count, 1))
    colours = tint + grey + rng.normal(0, spread, (count, 3))
    return np.clip(colours, 0.0, 1.0).astype(np.float32)


def colourise(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Map a grey picture in 0..1, [H W], through a random smooth colour ramp to [H W 3]."""
    stops = palette(rng, 4)
    stops = stops[np.argsort(stops.mean(1))]
    stops[0] *= 0.3
    stops[-1] = 1 - 0.3 * (1 - stops[-1])
    knots = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(grey, knots, stops[:, c]) for c in range(3)], -1).astype(np.float32)


def _texture(size: int, rng: np.random.Generator) -> np.ndarray:
    """One surface [size size 3]: flat, shaded, cloudy, striped, or rough."""
    base, other = palette(rng, 2)
    kind = rng.integers(5)
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32) / size
    if kind == 0:
        pattern = np.zeros((size, size), np.float32)
    elif kind == 1:
        angle = rng.uniform(0, 2 * np.pi)
        pattern = np.cos(angle) * rows + np.sin(angle) * columns
    elif kind == 2:
        pattern = 0.4 * spectral_field(size, rng, exponent=rng.uniform(1.0, 2.0))
    elif kind == 3:
        angle, cycles = rng.uniform(0, np.pi), rng.uniform(4, size / 5)
        wave = np.sin(2 * np.pi * cycles * (np.cos(angle) * rows + np.sin(angle) * columns))
        pattern = (wave if rng.random() < 0.5 else np.sign(wave)) * rng.uniform(0.2, 0.6)
    else:
        pattern = 0.3 * spectral_field(size, rng, exponent=rng.uniform(0.4, 1.0))
    return base + pattern[:, :, None].astype(np.float32) * (other - base)


def _mask(size: int, rng: np.random.Generator, radius: float) -> np.ndarray:
    """Boolean [size size] silhouette: ellipse, polygon or ragged blob."""
    image = Image.new("L", (size, size))
    draw = ImageDraw.Draw(image)
    centre = rng.uniform(0, size, 2)
    corners = int(rng.integers(3, 9)) if rng.random() < 0.6 else 40
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners)) if corners < 40 else None
    if angles is None:
        angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    wobble = rng.uniform(0.75, 1.0, corners) if corners < 40 else 1.0
    stretch, turn = rng.uniform(0.3, 1.0), rng.uniform(0, np.pi)
    x, y = radius * wobble * np.cos(angles), radius * wobble * stretch * np.sin(angles)
    points_x = centre[0] + x * np.cos(turn) - y * np.sin(turn)
    points_y = centre[1] + x * np.sin(turn) + y * np.cos(turn)
    draw.polygon([(float(a), float(b)) for a, b in zip(points_x, points_y, strict=True)], fill=255)
    return np.asarray(image) > 0


def dead_leaves(size: int, rng: np.random.Generator) -> np.ndarray:
    """Overlapping shapes of power-law sizes, each with its own texture."""
    canvas = _texture(size, rng)
    smallest, largest = rng.uniform(0.02, 0.06) * size, rng.uniform(0.2, 0.6) * size
    count = int(rng.integers(15, 70))
    uniform = rng.random(count)
    radii = 1 / np.sqrt(uniform / smallest**2 + (1 - uniform) / largest**2)
    for radius in np.sort(radii)[::-1]:
        mask = _mask(size, rng, float(radius))
        textured = radius > 0.08 * size
        surface = _texture(size, rng)[mask] if textured else palette(rng, 1)
        canvas[mask] = surface
    return canvas


def clouds(size: int, rng: np.random.Generator) -> np.ndarray:
    """Three correlated 1/f fields as colour channels."""
    exponent = rng.uniform(0.8, 1.6)
    common = spectral_field(size, rng, exponent=exponent)
    own = rng.uniform(0.1, 0.6)
    channels = [common + own * spectral_field(size, rng, exponent=exponent) for _ in range(3)]
    return rng.uniform(0.3, 0.7, 3).astype(np.float32) + 0.2 * np.stack(channels, -1)


def landscape(size: int, rng: np.random.Generator) -> np.ndarray:
    """A shaded sky over several ragged ridges, nearer ones rougher."""
    rows = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    top, bottom = palette(rng, 2)
    canvas = np.broadcast_to(top + rows * (bottom - top), (size, size, 3)).copy()
    canvas += 0.05 * rng.random() * spectral_field(size, rng, exponent=1.6)[:, :, None]
    for horizon in np.sort(rng.uniform(0.2, 0.95, int(rng.integers(2, 5)))):
        ridge = spectral_field(size, rng, exponent=rng.uniform(0.9, 1.5))[0]
        mask = np.arange(size)[:, None] > (horizon + 0.08 * ridge[None, :]) * size
        surface = palette(rng, 1)[0] + rng.uniform(0.05, 0.25) * spectral_field(
            size, rng, exponent=rng.uniform(0.5, 1.2)
        )[:, :, None] * rng.uniform(0.5, 1.0, 3).astype(np.float32)
        canvas[mask] = surface[mask]
    return canvas


def mosaic(size: int, rng: np.random.Generator) -> np.ndarray:
    """Voronoi cells with jittered colours and dark joints, like stones or tiles."""
    count = int(rng.integers(20, 250))
    points = rng.uniform(0, size, (count, 2))
    seeds = np.ones((size, size), bool)
    rows, columns = points.astype(int).T
    seeds[rows, columns] = False
    distance, nearest = ndimage.distance_transform_edt(seeds, return_indices=True)
    labels = nearest[0] * size + nearest[1]
    _, cell = np.unique(labels, return_inverse=True)
    cell = cell.reshape(size, size)
    canvas = palette(rng, int(cell.max()) + 1)[cell]
    canvas = canvas * (1 - rng.uniform(0, 0.02) * distance[:, :, None])
    edges = (cell != np.roll(cell, 1, 0)) | (cell != np.roll(cell, 1, 1))
    if rng.random() < 0.6:
        canvas[ndimage.binary_dilation(edges)] = palette(rng, 1)[0] * 0.4
    roughness = rng.uniform(0, 0.08) * spectral_field(size, rng, exponent=0.7)
    return canvas + roughness[:, :, None]


def page(size: int, rng: np.random.Generator) -> np.ndarray:
    """Lines of letters in a few sizes over a smooth background."""
    background = clouds(size, rng) * 0.2 + palette(rng, 1)[0]
    image = Image.fromarray((np.clip(background, 0, 1) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789    "))
    top = 0
    while top < size:
        height = int(rng.integers(10, 48))
        ink = tuple(int(v) for v in palette(rng, 1)[0] * 255)
        line = "".join(rng.choice(letters, max(4, 3 * size // height)))
        draw.text((int(rng.integers(-20, 20)), top), line, fill=ink, font_size=height)
        top += int(height * rng.uniform(1.0, 1.6))
    return np.asarray(image).astype(np.float32) / 255


MAKERS: dict[str, Maker] = {
    "dead_leaves": dead_leaves,
    "landscape": landscape,
    "mosaic": mosaic,
    "clouds": clouds,
    "page": page,
}
_WEIGHTS = (0.5, 0.15, 0.15, 0.1, 0.1)


def procedural_scene(size: int, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """Draw one scene: (name of its maker, uint8 [size size 3])."""
    name = str(rng.choice(list(MAKERS), p=_WEIGHTS))
    canvas = np.clip(MAKERS[name](size, rng), 0, 1)
    return name, np.rint(canvas * 255).astype(np.uint8)
