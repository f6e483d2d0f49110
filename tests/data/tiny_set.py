"""A tiny data set, tokenizer and encoder, shared by the tests of the text pipeline."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from jaxqa.data import prompts
from jaxqa.data.batching import Buckets
from jaxqa.data.encoding import PromptEncoder
from jaxqa.data.loader import Loader, LoaderConfig, train_loader
from jaxqa.data.records import Example
from jaxqa.data.source import Source
from jaxqa.data.tokenizer import Tokenizer, build_demo_tokenizer
from jaxqa.models.qwen2_5_vl.config import PRESETS, Qwen2_5_VLConfig
from jaxqa.models.qwen2_5_vl.preprocess import ImageConfig

TEMPLATE = prompts.get_template("concise")
BUCKETS = Buckets(prompt_lengths=(72, 96), window_counts=(1, 2), completion_lengths=(16, 32, 64))
SIZES = ((56, 56), (112, 84), (60, 140), (112, 112), (84, 200))


def corpus() -> list[str]:
    rationales = ("strong blur softens the edges", "mild noise", "blocks from coarse compression")
    targets = [
        f"<think> {text} </think><answer> {1 + i:.2f} </answer><|im_end|>"
        for i, text in enumerate(rationales)
    ]
    return [*targets, TEMPLATE.question, str(TEMPLATE.system)] * 3


@functools.cache
def tokenizer() -> Tokenizer:
    return build_demo_tokenizer(corpus(), 420)


def model_config(tokenizer: Tokenizer) -> Qwen2_5_VLConfig:
    return dataclasses.replace(
        PRESETS["tiny"],
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        vision_start_token_id=tokenizer.vision_start_token_id,
        vision_end_token_id=tokenizer.vision_end_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@functools.cache
def encoder() -> PromptEncoder:
    return PromptEncoder(
        tokenizer(), config=model_config(tokenizer()), image_config=ImageConfig(max_pixels=40_000)
    )


def write_examples(
    directory: Path, count: int, *, sizes: Sequence[tuple[int, int]] = SIZES
) -> list[Example]:
    rng = np.random.default_rng(count)
    examples = []
    for i in range(count):
        path = directory / f"{i}.png"
        height, width = sizes[i % len(sizes)]
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
        examples.append(
            Example(
                example_id=2**40 + 7 * i,
                image=path,
                score=1 + (i % 40) / 10,
                dataset="b" if i % 3 else "a",
                task="quality",
                rationale="mild noise " * (1 + i % 4),
            )
        )
    return examples


def source(examples: Sequence[Example], name: str = "only", **options) -> Source:
    """A source of `examples`; labels are in the prompt's range."""
    return Source(name=name, examples=examples, **({"template": TEMPLATE} | options))


def training(examples: Sequence[Example] | Sequence[Source], **options) -> Loader:
    """Training loader of examples or sources; options of `LoaderConfig`, and of `train_loader`."""
    names = {field.name for field in dataclasses.fields(LoaderConfig)}
    config = {"batch_size": 4} | {k: v for k, v in options.items() if k in names}
    rest = {"seed": 0} | {k: v for k, v in options.items() if k not in names}
    sources = [examples] if isinstance(examples[0], Example) else examples
    return train_loader(
        [s if isinstance(s, Source) else source(s) for s in sources],
        encoder=encoder(),
        buckets=BUCKETS,
        config=LoaderConfig(**config),
        **rest,
    )
