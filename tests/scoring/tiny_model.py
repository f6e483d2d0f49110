"""A tiny model directory that answers, for tests of doors that score images."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from jaxqa.data.prompts import get_template
from jaxqa.data.tokenizer import Tokenizer, build_demo_tokenizer
from jaxqa.models.qwen2_5_vl import weights
from jaxqa.models.qwen2_5_vl.config import PRESETS, Qwen2_5_VLConfig
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL

ANSWER = "<think> sharp </think><answer> 3.42 </answer>"


def make_config(tokenizer: Tokenizer) -> Qwen2_5_VLConfig:
    names = ("image", "video", "vision_start", "vision_end", "eos", "pad")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    tiny = PRESETS["tiny"]
    text = dataclasses.replace(
        tiny.text, vocab_size=tokenizer.vocab_size, tie_word_embeddings=False
    )
    return dataclasses.replace(
        tiny, text=text, bos_token_id=tokenizer.pad_token_id, initializer_range=0.2, **ids
    )


def make_tokenizer() -> Tokenizer:
    template = get_template("concise")
    corpus = [f"system\n{template.system}\nuser\n{template.question}\nassistant\n", ANSWER]
    return build_demo_tokenizer(corpus * 3, 420)


def make_model(directory: Path, *, seed: int = 1) -> Path:
    """A directory whose model answers ` <answer> 3.58 </answer>`, other digits for other images.

    The last token alone decides which tokens may come next; among digits, what the model has seen
    of the image does. So the first digit is one of 1 to 4, the second of 5 to 7, the third of 8, 9
    and 0.
    """
    tokenizer = make_tokenizer()
    config = make_config(tokenizer)
    params = make_params(tokenizer, config, seed=seed)
    tokenizer.save(directory.with_name(f"{directory.name}_tokenizer"))
    weights.save_pretrained(
        directory, config, params, source_dir=directory.with_name(f"{directory.name}_tokenizer")
    )
    return directory


def make_params(tokenizer: Tokenizer, config: Qwen2_5_VLConfig, *, seed: int = 1):
    """Parameters of that model."""
    params = jax.jit(Qwen2_5_VL(config=config).init)(jax.random.key(seed))
    embedding, head = _chain(tokenizer, config, np.random.default_rng(seed))
    params["model"]["embed_tokens"]["embedding"] = embedding
    params["lm_head"]["weight"] = head
    layers = params["model"]["layers"]
    layers["mlp"]["down_proj"]["kernel"] *= 0.0
    layers["self_attn"]["o_proj"]["kernel"] *= 0.2
    return params


def _chain(
    tokenizer: Tokenizer, config: Qwen2_5_VLConfig, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings that are orthogonal where it matters, and the head that follows the chain."""
    after = [
        ("\n", [" <"]),
        (" <", ["answer"]),
        (">", [" "]),
        (" ", list("1234")),
        *((digit, ["."]) for digit in "1234"),
        (".", list("567")),
        *((digit, list("890")) for digit in "567"),
        *((digit, [" </"]) for digit in "890"),
        (" </", ["answer"]),
        ("answer", [">"]),
    ]
    width, size = config.text.hidden_size, config.text.vocab_size
    assert len(after) < width // 2
    embedding = np.zeros((size, width), np.float32)
    embedding[:, width // 2 :] = random.normal(size=(size, width - width // 2))
    head = np.zeros((size, width), np.float32)
    for axis, (text, followers) in enumerate(after):
        embedding[_id(tokenizer, text)] = 10 * np.eye(width)[axis]
        for follower in followers:
            head[_id(tokenizer, follower), axis] = 40.0
    for digit in "1234567890":
        head[_id(tokenizer, digit), width // 2 :] = 4 * random.normal(size=width - width // 2)
    return embedding, head


def _id(tokenizer: Tokenizer, text: str) -> int:
    (token,) = tokenizer.encode(text)
    return token


def write_image(path: Path, size: tuple[int, int], seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path
