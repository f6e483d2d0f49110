"""Small models, prompts and their Hugging Face twins, shared by the tests of this folder."""

import dataclasses
import functools

import jax
import numpy as np

from jaxqa.models.qwen2_5_vl import layout
from jaxqa.models.qwen2_5_vl.config import Qwen2_5_VLConfig, TextConfig, VisionConfig
from jaxqa.models.qwen2_5_vl.inputs import PromptRow

# Three query heads per key head, three unequal rotary sections, two runs of different vision
# blocks: nothing that a mistake could cancel in.
SMALL = Qwen2_5_VLConfig(
    vision=VisionConfig(
        depth=4,
        hidden_size=32,
        intermediate_size=44,
        num_heads=2,
        out_hidden_size=96,
        fullatt_block_indexes=(1, 3),
    ),
    text=TextConfig(
        vocab_size=80,
        hidden_size=96,
        intermediate_size=72,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        mrope_section=(1, 3, 4),
        rope_theta=5000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    ),
    image_token_id=75,
    video_token_id=76,
    vision_start_token_id=72,
    vision_end_token_id=73,
    bos_token_id=70,
    eos_token_id=71,
    pad_token_id=70,
)
TIED = dataclasses.replace(SMALL, text=dataclasses.replace(SMALL.text, tie_word_embeddings=True))

# The functions here run once on tiny arrays: compiling them is what takes time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})

# Each prompt is a list of images (height, width) and of text lengths around them.
PROMPTS = {
    "square": ([(112, 112)], [3, 4]),
    "wide": ([(56, 252)], [1, 6]),
    "ragged": ([(140, 196)], [5, 2]),
    "smaller than a window": ([(28, 56)], [2, 9]),
    "two images": ([(84, 56), (112, 140)], [2, 3, 4]),
    "text only": ([], [7]),
    "image last": ([(56, 28)], [4, 0]),
}


def make_prompt(
    name: str, config: Qwen2_5_VLConfig, seed: int = 0
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw the token ids and images of one of `PROMPTS`."""
    rng = np.random.default_rng([seed, list(PROMPTS).index(name)])
    sizes, text_lengths = PROMPTS[name]
    images = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]
    pieces = [rng.integers(0, 70, text_lengths[0])]
    for (height, width), length in zip(sizes, text_lengths[1:], strict=True):
        count = layout.count_tokens(height, width, config.vision)
        inner = [config.image_token_id] * count
        pieces += [[config.vision_start_token_id], inner, [config.vision_end_token_id]]
        pieces += [rng.integers(0, 70, length)]
    return np.concatenate(pieces).astype(np.int32), images


def make_row(name: str, config: Qwen2_5_VLConfig, seed: int = 0) -> PromptRow:
    return layout.build_row(*make_prompt(name, config, seed), config)


def perturb(params, seed: int = 0):
    """Replace freshly drawn parameters by large random ones, norms and biases included."""
    leaves, treedef = jax.tree.flatten_with_path(params)
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        if "norm" in name or "ln_q" in name:
            return 1 + 0.3 * noise
        if "bias" in name:
            return 0.3 * noise
        fan_in = leaf.shape[-1] if "embedding" in name or "lm_head" in name else leaf.shape[-2]
        return noise * np.float32(1.5 / np.sqrt(fan_in))

    return jax.tree.unflatten(treedef, [draw(path, leaf) for path, leaf in leaves])


def relative_error(actual, expected) -> float:
    """Largest deviation, relative to the largest expected value."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-30))


def relative_errors(actual, expected) -> dict[str, float]:
    """`relative_error` of each leaf by name."""
    pairs = jax.tree.map(lambda a, e: (a, e), actual, expected)
    leaves = jax.tree.leaves_with_path(pairs, is_leaf=lambda x: isinstance(x, tuple))
    return {jax.tree_util.keystr(path): relative_error(*pair) for path, pair in leaves}


class TorchTwin:
    """The Hugging Face model with the same weights; eager attention in float32."""

    def __init__(self, config: Qwen2_5_VLConfig, params):
        import torch
        import transformers

        vision, text = dataclasses.asdict(config.vision), dataclasses.asdict(config.text)
        for name in ("image_mean", "image_std"):
            vision.pop(name)
        text["rope_parameters"] = {
            "rope_type": "default",
            "rope_theta": text.pop("rope_theta"),
            "mrope_section": list(text.pop("mrope_section")),
        }
        tied = text.pop("tie_word_embeddings")
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        text.update({name: getattr(config, name) for name in names})
        tokens = ("image_token_id", "video_token_id", "vision_start_token_id")
        hf_config = transformers.Qwen2_5_VLConfig(
            vision_config=vision,
            text_config=text,
            vision_end_token_id=config.vision_end_token_id,
            tie_word_embeddings=tied,
            **{name: getattr(config, name) for name in tokens},
        )
        hf_config._attn_implementation = "eager"
        self.config = config
        self.model = transformers.Qwen2_5_VLForConditionalGeneration(hf_config).float().eval()
        self.parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                value = np.array(self._from_tree(name, params))
                parameter.copy_(torch.from_numpy(value).reshape(parameter.shape))

    def _from_tree(self, name: str, tree):
        """Pick the parameter that torch calls `name` from a tree of ours, in torch's layout."""
        parts = name.removeprefix("model.").replace("language_model.", "model.").split(".")
        layer = next(
            (int(part) for part in parts if part.isdigit() and "mlp" not in parts[:2]), None
        )
        merger = {"0": "fc1", "2": "fc2"}
        if parts[:2] == ["visual", "merger"] and parts[2] == "mlp":
            parts[2:4] = [merger[parts[3]]]
        parts = [part for part in parts if not part.isdigit()]
        if parts[-1] == "weight" and "norm" not in parts[-2] and parts[-2] != "ln_q":
            parts[-1] = {"embed_tokens": "embedding", "lm_head": "weight"}.get(parts[-2], "kernel")
        leaf = functools.reduce(lambda node, part: node[part], parts, tree)
        if layer is not None and "merger" not in parts:
            leaf = leaf[layer]
        if parts[-1] != "kernel":
            return leaf
        if parts[1] != "patch_embed":
            return leaf.T
        vision = self.config.vision  # [temporal C D] to [D channel temporal row column]
        split = leaf.reshape(
            vision.temporal_patch_size, vision.in_channels, vision.patch_size, vision.patch_size, -1
        )
        return split.transpose(4, 1, 0, 2, 3)

    def gradient_errors(self, grads) -> dict[str, float]:
        """Relative error of our gradient of every parameter that torch has."""
        return {
            name: relative_error(self._from_tree(name, grads), parameter.grad.numpy())
            for name, parameter in self.parameters.items()
        }

    def inputs(self, prompts: list[tuple[np.ndarray, list[np.ndarray]]]) -> dict:
        """Pad on the right and preprocess with Hugging Face's own image processor."""
        import torch
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
            Qwen2VLImageProcessorPil,
        )

        length = max(len(token_ids) for token_ids, _ in prompts)
        ids = np.full((len(prompts), length), self.config.pad_token_id)
        mask = np.zeros((len(prompts), length), np.int64)
        for row, (token_ids, _) in enumerate(prompts):
            ids[row, : len(token_ids)] = token_ids
            mask[row, : len(token_ids)] = 1
        inputs = {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask),
            "mm_token_type_ids": torch.from_numpy((ids == self.config.image_token_id) * mask).int(),
        }
        images = [image for _, images in prompts for image in images]
        if images:
            processor = Qwen2VLImageProcessorPil(do_resize=False)
            pixels = processor(
                images=images, return_tensors="pt", input_data_format="channels_last"
            )
            inputs |= {key: pixels[key] for key in ("pixel_values", "image_grid_thw")}
        return inputs
