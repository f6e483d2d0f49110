"""CLIP and SigLIP as a frozen object over explicit parameters.

model = Clip(config=PRESETS["vit-l-14-336"])
params = model.init(jax.random.key(0))
logits = model.logits(params, model.image_embeddings(params, pixels),
                      model.text_embeddings(params, token_ids))
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxqa.models.clip.config import ClipConfig
from jaxqa.models.clip.text import TextTower
from jaxqa.models.clip.vision import ImageTower, everything
from jaxqa.typing import Array, Float, Int, Key, Params, Shaped

IMAGE_KEYS = ("vision_model", "visual_projection")
"""Parameters of the image tower: the top-level names, where present."""

TEXT_KEYS = ("text_model", "text_projection")

LOGIT_SCALE = 2.6592
"""Log of the scale of a new model's logits, 1 / 0.07."""

SIGLIP_LOGITS = (2.302585, -10.0)
"""Log scale and bias of a new SigLIP model (arXiv 2303.15343, section 3.3)."""


@functools.cache
def _image_graphdef(config: ClipConfig) -> nnx.GraphDef:
    build = functools.partial(ImageTower, config, dtype=jnp.dtype("float32"))
    return nnx.split(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))))[0]


@functools.cache
def _text_graphdef(config: ClipConfig) -> nnx.GraphDef:
    build = functools.partial(TextTower, config, dtype=jnp.dtype("float32"))
    return nnx.split(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))))[0]


@functools.cache
def _abstract_params(config: ClipConfig, param_dtype: str) -> Params:
    init = functools.partial(Clip(config=config).init, param_dtype=param_dtype)
    return jax.eval_shape(init, jax.random.key(0))


def unit(x: Float[Array, "... E"]) -> Float[Array, "... E"]:
    """Scale the last axis to length 1, in float32; zero stays zero."""
    x32 = x.astype(jnp.float32)
    # The floor keeps the gradient of a zero vector finite.
    squares = jnp.maximum(jnp.sum(jnp.square(x32), axis=-1, keepdims=True), 1e-24)
    return x32 * jax.lax.rsqrt(squares)


def image_params(params: Params) -> Params:
    """The image tower's part of a parameter tree."""
    return {key: params[key] for key in IMAGE_KEYS if key in params}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """The model: hashable, without state; every method is a pure function of `params`.

    The methods on images need only the image tower's parameters (`image_params`), those on texts
    only the text tower's.

    Attributes:
        config: the architecture.
        compute_dtype: dtype of activations; norms and softmax are float32 throughout. Parameters
            keep their own dtype and are cast layer by layer.
        remat: "full" recomputes every layer in the backward pass instead of keeping activations.
    """

    config: ClipConfig
    compute_dtype: str = "float32"
    remat: Literal["none", "full"] = "none"

    def __post_init__(self) -> None:
        if self.compute_dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(
                f"compute_dtype is {self.compute_dtype!r}; "
                "it must be 'float32', 'bfloat16' or 'float16'"
            )
        if self.remat not in ("none", "full"):
            raise ValueError(f"remat is {self.remat!r}; it must be 'none' or 'full'")

    def init(self, key: Key[Array, ""], *, param_dtype: str = "float32") -> Params:
        """Draw parameters with the deviations of HF's CLIP: normal matrices, zero biases."""
        dtype = jnp.dtype(param_dtype)
        image_key, text_key = jax.random.split(key)
        tower = ImageTower(self.config, dtype=dtype, rngs=nnx.Rngs(params=image_key))
        params = nnx.to_pure_dict(nnx.split(tower)[1])
        if self.config.text is None:
            return params
        tower = TextTower(self.config, dtype=dtype, rngs=nnx.Rngs(params=text_key))
        params |= nnx.to_pure_dict(nnx.split(tower)[1])
        if self.config.is_siglip:
            scale, bias = (jnp.full((1,), value, dtype) for value in SIGLIP_LOGITS)
            return params | {"logit_scale": scale, "logit_bias": bias}
        return params | {"logit_scale": jnp.asarray(LOGIT_SCALE, dtype)}

    def abstract_params(self, *, param_dtype: str = "float32") -> Params:
        """Return the parameter tree as `jax.ShapeDtypeStruct`s."""
        return jax.tree.map(lambda leaf: leaf, _abstract_params(self.config, param_dtype))

    def image_embeddings(
        self, params: Params, pixels: Shaped[Array, "B h w 3"]
    ) -> Float[Array, "B E"]:
        """Return float32 embeddings, of any length, of raw pixels in 0..255.

        Pixels are uint8, or any float type: then they may be differentiated.

        Raises:
            ValueError: the images have another size than the tower.
        """
        self._check_size(pixels)
        tower = self._image(params)
        return tower(pixels, dtype=self._dtype, remat=self.remat).astype(jnp.float32)

    def image_activations(
        self, params: Params, pixels: Shaped[Array, "B h w 3"]
    ) -> Float[Array, "L B S D"]:
        """Return the residual stream before the first layer and after each one."""
        self._check_size(pixels)
        model = self._image(params).vision_model
        x = model.tokens(pixels, dtype=self._dtype)
        return model.encoder.activations(x, everything(x))

    def text_embeddings(self, params: Params, token_ids: Int[Array, "B T"]) -> Float[Array, "B E"]:
        """Return float32 embeddings, of any length.

        Texts are padded on the right: CLIP's reading ends at the first end-of-text token, SigLIP's
        texts are always `max_position_embeddings` long.
        """
        tower = self._text(params)
        return tower(token_ids, dtype=self._dtype, remat=self.remat).astype(jnp.float32)

    def text_activations(
        self, params: Params, token_ids: Int[Array, "B T"]
    ) -> Float[Array, "L B T D"]:
        """Return the residual stream before the first layer and after each one."""
        model = self._text(params).text_model
        x = model.embeddings(token_ids, dtype=self._dtype)
        return model.encoder.activations(x, model.mask(token_ids.shape[1]))

    def logits(
        self, params: Params, images: Float[Array, "B E"], texts: Float[Array, "C E"]
    ) -> Float[Array, "B C"]:
        """Return scaled cosines of every image with every text, with SigLIP's bias."""
        scale = jnp.exp(params["logit_scale"].astype(jnp.float32)).reshape(1, 1)
        cosines = unit(images) @ unit(texts).T
        if not self.config.is_siglip:
            return scale * cosines
        return scale * cosines + params["logit_bias"].astype(jnp.float32).reshape(1, 1)

    @property
    def _dtype(self) -> jnp.dtype:
        return jnp.dtype(self.compute_dtype)

    def _image(self, params: Params) -> ImageTower:
        return nnx.merge(_image_graphdef(self.config.image_only()), image_params(params))

    def _text(self, params: Params) -> TextTower:
        parts = {key: params[key] for key in TEXT_KEYS if key in params}
        return nnx.merge(_text_graphdef(self.config), parts)

    def _check_size(self, pixels: Shaped[Array, "B h w 3"]) -> None:
        side = self.config.vision.image_size
        if pixels.shape[1:3] != (side, side):
            raise ValueError(f"images are {pixels.shape[1:3]}; expected {side} x {side} pixels")
