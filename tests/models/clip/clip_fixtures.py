"""Small CLIP and SigLIP models and their Hugging Face twins, shared by the tests of this folder."""

import dataclasses
import functools

import jax
import numpy as np

from jaxqa.models.clip import hf_config, weights
from jaxqa.models.clip.config import (
    LEGACY_EOS,
    SIGLIP_MEAN,
    SIGLIP_STD,
    ClipConfig,
    TextConfig,
    VisionConfig,
)
from jaxqa.models.weight_table import slots, stored_tensors

# Different widths, head counts and depths in the two towers, and an image side that is no multiple
# of the patch: nothing that a mistake could cancel in.
CLIP = ClipConfig(
    vision=VisionConfig(
        hidden_size=24,
        intermediate_size=36,
        num_hidden_layers=3,
        num_attention_heads=3,
        image_size=22,
        patch_size=5,
    ),
    text=TextConfig(
        hidden_size=20,
        intermediate_size=28,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=40,
        max_position_embeddings=9,
        eos_token_id=37,
    ),
    projection_dim=14,
)
LEGACY = dataclasses.replace(
    CLIP, text=dataclasses.replace(CLIP.text, eos_token_id=LEGACY_EOS, hidden_act="gelu")
)
_SIGLIP = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
SIGLIP = ClipConfig(
    vision=dataclasses.replace(
        CLIP.vision, image_mean=SIGLIP_MEAN, image_std=SIGLIP_STD, **_SIGLIP
    ),
    text=dataclasses.replace(CLIP.text, **_SIGLIP),
    projection_dim=24,
    family="siglip",
)

# The functions here run once on tiny arrays: compiling them is what takes time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})


def draw_params(config, seed=0):
    """Large random parameters, norms and biases included."""
    from jaxqa.models.clip.model import Clip

    leaves, treedef = jax.tree.flatten_with_path(Clip(config=config).abstract_params())
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        if "norm" in name and "weight" in name:
            return 1 + 0.3 * noise
        if "bias" in name or "norm" in name or "logit" in name:
            return np.asarray(0.3 * noise, np.float32)
        if "embedding" in name and "patch" not in name:
            return noise
        return noise * np.float32(1.5 / np.sqrt(leaf.shape[-2]))

    return jax.tree.unflatten(treedef, [draw(path, leaf) for path, leaf in leaves])


def relative_error(actual, expected) -> float:
    """Largest deviation, relative to the largest expected value."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-30))


def draw_inputs(config, rows=3, seed=1):
    """Pixels in 0..255, and token ids with an end-of-text token at different places."""
    rng = np.random.default_rng(seed)
    side, text = config.vision.image_size, config.text
    pixels = rng.integers(0, 256, (rows, side, side, 3)).astype(np.uint8)
    ids = rng.integers(3, 37, (rows, text.max_position_embeddings)).astype(np.int32)
    for row, end in enumerate(rng.integers(1, text.max_position_embeddings, rows)):
        ids[row, end:] = 37  # the end, and padding with the same token
    return pixels, ids


def hf_class(config):
    import transformers

    names = {
        ("clip", True): ("CLIPConfig", "CLIPModel"),
        ("clip", False): ("CLIPVisionConfig", "CLIPVisionModelWithProjection"),
        ("siglip", True): ("SiglipConfig", "SiglipModel"),
        ("siglip", False): ("SiglipVisionConfig", "SiglipVisionModel"),
    }[config.family, config.text is not None]
    return tuple(getattr(transformers, name) for name in names)


class TorchTwin:
    """The Hugging Face model with the same weights; eager attention in float32."""

    def __init__(self, config, params):
        import torch

        values = hf_config.model_config(config, dtype="float32")
        config_class, model_class = hf_class(config)
        for name in ("architectures", "model_type", "torch_dtype"):
            values.pop(name)
        hf = config_class(**values)
        hf._attn_implementation = "eager"
        self.model = model_class(hf).float().eval()
        self.parameters = dict(self.model.named_parameters())
        tensors = stored(params)
        if config.is_siglip and config.text is None:  # torch leaves out the prefix here
            tensors = {name.removeprefix("vision_model."): t for name, t in tensors.items()}
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(torch.from_numpy(np.array(tensors[name])))

    def gradient_errors(self, grads) -> dict[str, float]:
        """Relative error of our gradient of every parameter that torch has."""
        tensors = stored(grads)
        assert tensors.keys() == self.parameters.keys()
        return {
            name: relative_error(tensors[name], parameter.grad.numpy())
            for name, parameter in self.parameters.items()
        }


def stored(params) -> dict[str, np.ndarray]:
    """Our parameters under torch's names and in its layout."""
    _, fetch = stored_tensors(weights.ROWS, params, dtype=None)
    return {name: fetch(name) for name in slots(weights.ROWS, params)}


def pixel_values(pixels, config):
    """Normalised [B 3 h w] as HF's image processor makes them of images of the right size."""
    import torch

    scaled = pixels.astype(np.float64) * (1 / 255)
    mean, std = np.array(config.vision.image_mean), np.array(config.vision.image_std)
    values = ((scaled - mean) / std).transpose(0, 3, 1, 2)
    return torch.from_numpy(values.astype(np.float32))
