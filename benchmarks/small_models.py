"""Random models in the shape of Qwen2.5-VL that a CPU can run, and a prompt with an image."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxqa.models.qwen2_5_vl import layout
from jaxqa.models.qwen2_5_vl.config import PRESETS, Qwen2_5_VLConfig, TextConfig, VisionConfig
from jaxqa.models.qwen2_5_vl.inputs import Prompts, stack_rows


def _sized(
    width: int, feed_forward: int, layers: int, vocabulary: int, sections: tuple[int, int, int]
) -> Qwen2_5_VLConfig:
    return dataclasses.replace(
        PRESETS["tiny"],
        vision=VisionConfig(
            depth=4,
            hidden_size=128,
            intermediate_size=344,
            num_heads=4,
            out_hidden_size=width,
            fullatt_block_indexes=(3,),
        ),
        text=TextConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=feed_forward,
            num_hidden_layers=layers,
            num_attention_heads=8,
            num_key_value_heads=2,
            mrope_section=sections,
            tie_word_embeddings=True,
            max_position_embeddings=4096,
        ),
        initializer_range=0.05,
    )


SIZES: dict[str, Qwen2_5_VLConfig] = {
    "tiny": PRESETS["tiny"],
    "5m": _sized(256, 704, 4, 4096, (4, 6, 6)),
    "20m": _sized(512, 1408, 5, 8192, (8, 12, 12)),
}


def draw_prompt(
    config: Qwen2_5_VLConfig, length: int, *, side: int | tuple[int, int], seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [length] with one image, and its pixels.

    Args:
      side: of the image in pixels, or its height and width.
    """
    height, width = (side, side) if isinstance(side, int) else side
    rng = np.random.default_rng(seed)
    tokens = [config.image_token_id] * layout.count_tokens(height, width, config.vision)
    ids = [5, config.vision_start_token_id, *tokens, config.vision_end_token_id]
    if len(ids) >= length:
        raise ValueError(
            f"an image of {height} x {width} pixels takes {len(ids)} tokens of {length}"
        )
    text = rng.integers(0, config.text.vocab_size // 2, length - len(ids)).tolist()
    return np.array(ids + text, np.int32), rng.integers(0, 256, (height, width, 3), np.uint8)


def host_batch(
    config: Qwen2_5_VLConfig,
    prompts: list[tuple[np.ndarray, np.ndarray]],
    *,
    prompt_length: int | None = None,
) -> Prompts:
    """NumPy arrays, padded to `prompt_length` tokens, or else to the longest."""
    rows = [layout.build_row(ids, [image], config) for ids, image in prompts]
    return stack_rows(
        rows,
        prompt_length=prompt_length or max(row.length for row in rows),
        num_windows=max(row.num_windows for row in rows),
    )


def batch(
    config: Qwen2_5_VLConfig,
    prompts: list[tuple[np.ndarray, np.ndarray]],
    *,
    prompt_length: int | None = None,
) -> Prompts:
    """`host_batch` on the device."""
    return jax.tree.map(jnp.asarray, host_batch(config, prompts, prompt_length=prompt_length))
