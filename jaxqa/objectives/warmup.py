"""The warm-up stage: what stands in for pretraining in a vision tower made from scratch.

The vision tokens learn to tell simple statistics of their own pixels: how much detail at which
frequency and direction, contrast, brightness, colour, and traces of blocks and flat areas. A
pretrained checkpoint knows such things already and skips the stage.

Targets are computed on the device from the raw pixels that are the model's input anyway. They are
standardised with fixed constants, not with those of the batch: a target then depends on its own
pixels alone, so micro-batches, devices and a resumed run agree to the bit.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import fft

from jaxqa.typing import Array, Bool, Float, Key, UInt8

_PATCH = 14  # pixels along a patch
_TOKEN = 2 * _PATCH  # pixels along a merged token: 2 x 2 patches
_VALUES = 3 * _PATCH * _PATCH
_BLOCK_PERIOD = 8  # JPEG's grid

# Radii between bands of DCT coefficients, in half cycles per patch; radius 0 is the mean.
_LUMA_BANDS = (0.5, 1.5, 3.0, 5.0, 8.0, 12.0, 20.0)
_CHROMA_BANDS = (0.5, 3.0, 8.0, 20.0)

# Added before taking logarithms: a little less than what rounding to 256 levels puts in a band, and
# a quarter of a level.
_ENERGY_FLOOR = 1e-7
_STEP_FLOOR = 0.25 / 255

_LUMA_SCALES = ((-1.8, 1.2), (-2.8, 1.1), (-3.6, 1.1), (-4.1, 1.5), (-4.6, 2.0), (-5.5, 2.4))

# Mean and standard deviation of each statistic over the six colour photographs that scikit-image
# and scikit-learn carry (halved; sharp, blurred, as JPEG, noisy, pixelated: the unit test computes
# them again). They only balance the targets against each other.
_SCALES = {
    **{f"luma_energy_x_{band}": scale for band, scale in enumerate(_LUMA_SCALES)},
    **{f"luma_energy_y_{band}": scale for band, scale in enumerate(_LUMA_SCALES)},
    **{"chroma_energy_0": (-0.6, 0.8), "chroma_energy_1": (-2.2, 0.9)},
    **{"chroma_energy_2": (-3.3, 2.0)},
    **{"luma": (0.4, 0.22), "blue": (0.0, 0.13), "red": (0.0, 0.13)},
    **{"luma_contrast": (-2.7, 1.0), "blue_contrast": (-3.3, 1.1), "red_contrast": (-3.6, 1.3)},
    **{"flat_x": (0.3, 0.3), "flat_y": (0.3, 0.3)},
    **{"sparse_x": (0.5, 0.3), "sparse_y": (0.5, 0.3)},
    **{"blocks_x": (0.4, 0.35), "blocks_y": (0.4, 0.35)},
}
TARGET_NAMES = tuple(_SCALES)
NUM_TARGETS = len(TARGET_NAMES)

_MEAN, _DEVIATION = np.array(list(_SCALES.values()), np.float32).T[:, None, None, :]
_CLIP = 4.0  # standard deviations; an empty sky must not outweigh the rest of the picture


def warmup_targets(
    patches: UInt8[Array, "B W P C"], patch_mask: Bool[Array, "B W P"]
) -> tuple[Float[Array, "B M K"], Bool[Array, "B M"]]:
    """Return standardised statistics of every merged token, and which tokens count.

    Tokens are in the order of the vision tower's merged features: M = W * P / 4.
    """
    rows = patches.shape[0]
    statistics = local_statistics(patches).reshape(rows, -1, NUM_TARGETS)
    targets = jnp.clip((statistics - _MEAN) / _DEVIATION, -_CLIP, _CLIP)
    return targets, patch_mask[..., ::4].reshape(rows, -1)


def local_statistics(patches: UInt8[Array, "*lead P C"]) -> Float[Array, "*lead M K"]:
    """Return the statistics named in `TARGET_NAMES` of every merged token, float32, unscaled.

    `patches` are raw RGB pixels in (channel, row, column) order; each four in a row are the 2 x 2
    patches of one merged token. Energies are logarithms of the share that a band of DCT
    coefficients has of the four patches' variance, for luma parted into mostly horizontal (x) and
    mostly vertical (y) frequencies. The rest is computed on the token's 28 x 28 pixels: means,
    logarithms of standard deviations, and of steps between neighbouring pixels the share that is
    flat, the sparseness and the excess at one phase of an 8-pixel grid.
    """
    if patches.shape[-1] != _VALUES or patches.shape[-2] % 4:
        raise ValueError(
            f"patches have shape {patches.shape}, expected [..., 4 * tokens, {_VALUES}]"
        )
    opponent = _opponent(patches)  # [*lead M 2 2 3 14 14]
    tokens = jnp.moveaxis(opponent, (-3, -5, -2, -4, -1), (-5, -4, -3, -2, -1))
    tokens = tokens.reshape(*tokens.shape[:-5], 3, _TOKEN, _TOKEN)
    luma = tokens[..., 0, :, :]
    statistics = (
        _band_energies(opponent),
        tokens.mean(axis=(-2, -1)),
        0.5 * jnp.log(tokens.var(axis=(-2, -1)) + _ENERGY_FLOOR),
        *_step_statistics(jnp.diff(luma, axis=-1), jnp.diff(luma, axis=-2).swapaxes(-1, -2)),
    )
    return jnp.concatenate(statistics, axis=-1)


def init_head(key: Key[Array, ""], feature_width: int) -> dict[str, Float[Array, "..."]]:
    """Return the linear read-out: kernel [D K] of small random values and bias [K] of zeros."""
    kernel = 0.02 * jax.random.normal(key, (feature_width, NUM_TARGETS))
    return {"kernel": kernel, "bias": jnp.zeros((NUM_TARGETS,))}


def warmup_loss(
    head_params: dict[str, Float[Array, "..."]],
    features: Float[Array, "B M D"],
    targets: Float[Array, "B M K"],
    mask: Bool[Array, "B M"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return (squared error, mean over targets and summed over real tokens; number of those).

    Both are float32 scalars. Divide by the token count of the whole batch, and the losses of
    micro-batches add up to the loss of the batch; 1 is what predicting nothing would cost.
    """
    kernel, bias = head_params["kernel"], head_params["bias"]
    predictions = features.astype(jnp.float32) @ kernel + bias[None, None, :]
    errors = jnp.square(predictions - targets).mean(axis=-1)
    return jnp.where(mask, errors, 0.0).sum(), mask.sum(dtype=jnp.float32)


def _opponent(patches: jax.Array) -> jax.Array:
    """Luma, blue and red difference, [*lead P C] uint8 -> [*lead M 2 2 3 14 14] about [0, 1]."""
    *lead, num_patches, _ = patches.shape
    rgb = patches.reshape(*lead, num_patches // 4, 2, 2, 3, _PATCH, _PATCH)
    rgb = rgb.astype(jnp.float32) / 255.0
    luma = 0.299 * rgb[..., 0, :, :] + 0.587 * rgb[..., 1, :, :] + 0.114 * rgb[..., 2, :, :]
    return jnp.stack([luma, rgb[..., 2, :, :] - luma, rgb[..., 0, :, :] - luma], axis=-3)


def _band_weights(edges: tuple[float, ...]) -> np.ndarray:
    """Which DCT coefficient [row column] counts in which band, [num_bands 14 14]."""
    row, column = np.indices((_PATCH, _PATCH))
    radius = np.hypot(row, column)
    bands = [(low < radius) & (radius <= high) for low, high in zip(edges, edges[1:], strict=False)]
    return np.stack(bands).astype(np.float32)


def _direction_weights() -> np.ndarray:
    """Shares of x (varying along a row) and y frequencies, [2 14 14]; the diagonal is halved."""
    row, column = np.indices((_PATCH, _PATCH))
    along_x = np.where(column > row, 1.0, np.where(column == row, 0.5, 0.0))
    return np.stack([along_x, 1.0 - along_x]).astype(np.float32)


_DCT = np.asarray(fft.dct(np.eye(_PATCH), norm="ortho", axis=0), np.float32)
_LUMA_WEIGHTS = np.einsum("aij,bij->abij", _direction_weights(), _band_weights(_LUMA_BANDS))
_CHROMA_WEIGHTS = _band_weights(_CHROMA_BANDS)[None]


def _band_energies(opponent: jax.Array) -> jax.Array:
    """[*lead M 2 2 3 14 14] -> [*lead M 15]: luma x bands, luma y bands, chroma bands."""
    spectrum = jnp.einsum("ir,...rc,jc->...ij", _DCT, opponent, _DCT)
    power = jnp.square(spectrum).mean(axis=(-5, -4)) / _PATCH**2  # [*lead M 3 14 14]
    luma = _shares(jnp.einsum("...ij,abij->...ab", power[..., 0, :, :], _LUMA_WEIGHTS))
    chroma = _shares(jnp.einsum("...nij,cbij->...cb", power[..., 1:, :, :], _CHROMA_WEIGHTS))
    return jnp.concatenate([luma, chroma], axis=-1)


def _shares(energies: jax.Array) -> jax.Array:
    """Logarithm of each band's share of the energy, [... a b] -> [... a * b].

    Not of the energy itself: all bands rise and fall with the contrast, which is a target of its
    own, and what tells blur, noise and blocks apart is the shape of the spectrum.
    """
    total = energies.sum(axis=(-2, -1), keepdims=True)
    shares = jnp.log((energies + _ENERGY_FLOOR) / (total + _ENERGY_FLOOR))
    return shares.reshape(*shares.shape[:-2], -1)


def _step_statistics(*steps_by_axis: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Flatness, sparseness and blocks, each [*lead M 2], of steps [*lead M 28 27] along x and y."""
    sizes = jnp.abs(jnp.stack(steps_by_axis, axis=-3))  # [*lead M 2 28 27]
    mean = sizes.mean(axis=(-2, -1))
    flat = (sizes < _STEP_FLOOR).mean(axis=(-2, -1), dtype=jnp.float32)
    root_mean_square = jnp.sqrt(jnp.square(sizes).mean(axis=(-2, -1)))
    sparse = jnp.log((root_mean_square + _STEP_FLOOR) / (mean + _STEP_FLOOR))
    phases = np.arange(_TOKEN - 1)[:, None] % _BLOCK_PERIOD == np.arange(_BLOCK_PERIOD)[None, :]
    phases = (phases / phases.sum(axis=0, keepdims=True)).astype(np.float32)
    by_phase = sizes.mean(axis=-2) @ phases  # [*lead M 2 8]
    blocks = jnp.log((by_phase.max(axis=-1) + _STEP_FLOOR) / (mean + _STEP_FLOOR))
    return flat, sparse, blocks
