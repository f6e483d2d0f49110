"""Scenes made by formula: more content for training than the photographs on the machine give.

They are never in the validation or test split. What matters is that they share the statistics by
which a distortion is seen in a photograph: sharp occlusion edges, textures at all scales, smooth
shading, saturated and dull colours. Their surfaces can be cut from training photographs.
"""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import KDTree

Surfaces = Sequence[np.ndarray]
"""Pictures, uint8 [H W 3], that lend their texture."""

Maker = Callable[[int, np.random.Generator, Surfaces], np.ndarray]


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
    """Random colours [count 3] in 0..1: brightness varies more than colour, as outdoors."""
    tint = rng.uniform(0.3, 0.7) + rng.normal(0, 0.12, 3)
    spread = rng.uniform(0.02, 0.15)
    grey = rng.normal(0, 0.25, (count, 1))
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


def _cut(size: int, rng: np.random.Generator, surfaces: Surfaces) -> np.ndarray:
    """A square of one of `surfaces` as [size size 3], at half to full size, colours permuted."""
    image = Image.fromarray(surfaces[int(rng.integers(len(surfaces)))])
    side = min(size * rng.uniform(1.0, 2.0), *image.size)
    left, top = rng.uniform(0, image.width - side), rng.uniform(0, image.height - side)
    box = (left, top, left + side, top + side)
    cut = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
    turned = np.rot90(cut, int(rng.integers(4)))[..., rng.permutation(3)]
    return turned.astype(np.float32) / 255 * rng.uniform(0.6, 1.1)


def _texture(size: int, rng: np.random.Generator, surfaces: Surfaces) -> np.ndarray:
    """One surface [size size 3]: cut from a picture, flat, shaded, cloudy, striped or rough."""
    if len(surfaces) and rng.random() < 0.6:
        return _cut(size, rng, surfaces)
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
    smooth = corners == 40
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    if smooth:
        angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    wobble = np.ones(corners) if smooth else rng.uniform(0.75, 1.0, corners)
    stretch, turn = rng.uniform(0.3, 1.0), rng.uniform(0, np.pi)
    x, y = radius * wobble * np.cos(angles), radius * wobble * stretch * np.sin(angles)
    points_x = centre[0] + x * np.cos(turn) - y * np.sin(turn)
    points_y = centre[1] + x * np.sin(turn) + y * np.cos(turn)
    draw.polygon([(float(a), float(b)) for a, b in zip(points_x, points_y, strict=True)], fill=255)
    return np.asarray(image) > 0


def dead_leaves(size: int, rng: np.random.Generator, surfaces: Surfaces) -> np.ndarray:
    """Overlapping shapes of power-law sizes with own textures; those behind may be out of focus."""
    canvas = _texture(size, rng, surfaces)
    smallest, largest = rng.uniform(0.015, 0.05) * size, rng.uniform(0.2, 0.6) * size
    count = int(rng.integers(15, 80))
    uniform = rng.random(count)
    radii = np.sort(1 / np.sqrt(uniform / smallest**2 + (1 - uniform) / largest**2))[::-1]
    focus = int(rng.integers(count // 2)) if rng.random() < 0.4 else -1
    colours = palette(rng, count)
    for number, radius in enumerate(radii):
        mask = _mask(size, rng, float(radius))
        textured = radius > 0.08 * size
        canvas[mask] = _texture(size, rng, surfaces)[mask] if textured else colours[number]
        if number == focus:
            sigma = rng.uniform(1, 6)
            canvas = ndimage.gaussian_filter(canvas, (sigma, sigma, 0))
    return _shade(canvas, rng)


def _shade(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light that falls off smoothly across the picture."""
    light = spectral_field(len(canvas), rng, exponent=2.0) * rng.uniform(0, 0.25)
    return canvas * np.exp(light)[:, :, None]


def lattice(size: int, rng: np.random.Generator, surfaces: Surfaces) -> np.ndarray:
    """Thin crossing lines and small lights before a smooth background: masts, wires, twigs."""
    del surfaces
    rows = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    top, bottom = palette(rng, 2)
    smooth = np.broadcast_to(top + rows * (bottom - top), (size, size, 3))
    smooth = smooth + 0.1 * rng.random() * spectral_field(size, rng, exponent=1.8)[:, :, None]
    image = Image.fromarray((np.clip(smooth, 0, 1) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    inks = [tuple(int(v) for v in colour * 255) for colour in palette(rng, 4)]
    for _ in range(int(rng.integers(2, 12))):
        knots = rng.uniform(0, size, 2) + np.cumsum(rng.normal(0, 0.15 * size, (8, 2)), 0)
        width = int(rng.integers(1, 7))
        points = [(float(x), float(y)) for x, y in knots.tolist()]
        draw.line(points, fill=inks[rng.integers(4)], width=width)
    for _ in range(int(rng.integers(0, 40))):
        x, y = rng.uniform(0, size, 2)
        radius = rng.uniform(0.5, 5)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=inks[rng.integers(4)])
    return np.asarray(image).astype(np.float32) / 255


def clouds(size: int, rng: np.random.Generator, surfaces: Surfaces) -> np.ndarray:
    """Three correlated 1/f fields as colour channels."""
    del surfaces
    exponent = rng.uniform(0.8, 1.6)
    common = spectral_field(size, rng, exponent=exponent)
    own = rng.uniform(0.1, 0.6)
    channels = [common + own * spectral_field(size, rng, exponent=exponent) for _ in range(3)]
    return rng.uniform(0.3, 0.7, 3).astype(np.float32) + 0.2 * np.stack(channels, -1)


def landscape(size: int, rng: np.random.Generator, surfaces: Surfaces) -> np.ndarray:
    """A shaded sky over several ragged ridges, nearer ones rougher."""
    del surfaces
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


def mosaic(size: int, rng: np.random.Generator, surfaces: Surfaces) -> np.ndarray:
    """Voronoi cells with jittered colours and dark joints, like stones or tiles."""
    del surfaces
    count = int(rng.integers(20, 250))
    points = rng.uniform(0, size, (count, 2))
    nearest = KDTree(points).query(np.indices((size, size)).reshape(2, -1).T)
    distance, cell = (part.reshape(size, size) for part in nearest)
    canvas = palette(rng, count)[cell]
    canvas = canvas * (1 - rng.uniform(0, 0.02) * distance[:, :, None])
    edges = (cell != np.roll(cell, 1, 0)) | (cell != np.roll(cell, 1, 1))
    if rng.random() < 0.6:
        joints = np.asarray(ndimage.binary_dilation(edges), bool)
        canvas[joints] = palette(rng, 1)[0] * 0.4
    roughness = rng.uniform(0, 0.08) * spectral_field(size, rng, exponent=0.7)
    return canvas + roughness[:, :, None]


def page(size: int, rng: np.random.Generator, surfaces: Surfaces) -> np.ndarray:
    """Lines of letters in a few sizes over a smooth background."""
    del surfaces
    background = clouds(size, rng, ()) * 0.2 + palette(rng, 1)[0]
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
    "lattice": lattice,
    "clouds": clouds,
    "page": page,
}
_WEIGHTS = (0.5, 0.12, 0.1, 0.1, 0.1, 0.08)


def procedural_scene(
    size: int, rng: np.random.Generator, surfaces: Surfaces = ()
) -> tuple[str, np.ndarray]:
    """Draw one scene: (name of its maker, uint8 [size size 3])."""
    name = str(rng.choice(list(MAKERS), p=_WEIGHTS))
    canvas = np.clip(MAKERS[name](size, rng, surfaces), 0, 1)
    return name, np.rint(canvas * 255).astype(np.uint8)
