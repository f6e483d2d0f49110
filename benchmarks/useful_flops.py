"""Floating-point operations that Qwen2.5-VL needs, from its architecture: what utilisation counts.

Products only, 2 operations per multiplication; real tokens and patches only, so padding, ragged
windows and recomputation count as waste, not as work. A backward pass is twice the forward pass.
A prompt counts once per group, as it is computed; `repeated` says what a trainer would do that
repeats it for each completion.
"""

from typing import NamedTuple

from jaxqa.models.qwen2_5_vl.config import Qwen2_5_VLConfig


class Group(NamedTuple):
    """One prompt with its completions, in tokens."""

    visual: int
    text: int
    completions: int
    tokens: int

    @property
    def prompt(self) -> int:
        """Tokens of the prompt."""
        return self.visual + self.text


def vision(config: Qwen2_5_VLConfig, visual: int) -> float:
    """The tower's forward pass over one image of `visual` merged tokens."""
    v = config.vision
    patches, width = visual * v.merge_unit, v.hidden_size
    linear = 4 * width**2 + 3 * width * v.intermediate_size
    full = len(v.fullatt_block_indexes)
    seen = full * patches + (v.depth - full) * min(v.patches_per_window, patches)
    merged = width * v.merge_unit
    merger = merged**2 + merged * v.out_hidden_size
    embedding = v.patch_values * v.temporal_patch_size * width
    return 2.0 * (patches * (v.depth * linear + embedding + 2 * width * seen) + visual * merger)


def text_token(config: Qwen2_5_VLConfig) -> float:
    """One token through the layers, without attention to others and without the head."""
    t = config.text
    key_values = 2 * t.hidden_size * t.num_key_value_heads * t.head_dim
    layer = 2 * t.hidden_size**2 + key_values + 3 * t.hidden_size * t.intermediate_size
    return 2.0 * t.num_hidden_layers * layer


def attention(config: Qwen2_5_VLConfig, pairs: float) -> float:
    """Attention of all layers over so many pairs of a query and a key."""
    return 4.0 * config.text.num_hidden_layers * config.text.hidden_size * pairs


def head(config: Qwen2_5_VLConfig) -> float:
    """One token's logits."""
    return 2.0 * config.text.hidden_size * config.text.vocab_size


def prefill(config: Qwen2_5_VLConfig, group: Group) -> float:
    """Vision tower and prompt, once."""
    prompt = group.prompt
    return (
        vision(config, group.visual)
        + prompt * text_token(config)
        + attention(config, prompt * (prompt + 1) / 2)
    )


def completions(config: Qwen2_5_VLConfig, group: Group) -> float:
    """Layers and head of all completion tokens."""
    tokens = group.completions * group.tokens
    pairs = tokens * (group.prompt + (group.tokens + 1) / 2)
    return tokens * (text_token(config) + head(config)) + attention(config, pairs)


def forward(config: Qwen2_5_VLConfig, group: Group) -> float:
    """Log-probabilities of a group."""
    return prefill(config, group) + completions(config, group)


def repeated(config: Qwen2_5_VLConfig, group: Group) -> float:
    """The same where image and prompt are computed for each completion."""
    return group.completions * prefill(config, group) + completions(config, group)
