"""A model directory as a scorer: what every door that scores images does first."""

import itertools
from pathlib import Path

import jax
from jax.sharding import Mesh

from jaxqa import sharding
from jaxqa.data.batching import Buckets
from jaxqa.data.encoding import PromptEncoder
from jaxqa.data.prompts.template import IMAGE, PromptTemplate
from jaxqa.data.records import Example
from jaxqa.data.tokenizer import load_tokenizer
from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl import hf_config, weights
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.models.qwen2_5_vl.preprocess import ImageConfig
from jaxqa.typing import Params

_STEPS_PER_OCTAVE = (4, 5, 6, 7)
_SHORTEST = 64
_WINDOW_TOKENS = 16


def load_model(
    directory: Path, *, mesh: Mesh, max_pixels: int | None = None
) -> tuple[Qwen2_5_VL, PromptEncoder, Params]:
    """Model, encoder and parameters of a Hugging Face or jaxqa directory, on the mesh.

    Computes in float32 on a CPU and in bfloat16 elsewhere.

    Args:
      max_pixels: larger images are reduced; None keeps what the directory says.

    Raises:
      UserError: not a Qwen2.5-VL directory, or a damaged one.
    """
    encoder = load_encoder(directory, max_pixels=max_pixels)
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    model = Qwen2_5_VL(config=encoder.config, compute_dtype=dtype)
    places = sharding.tree_shardings(model.abstract_params(), sharding.QWEN2_5_VL_RULES, mesh)
    _, params = weights.load_model_directory(directory, shardings=places)
    return model, encoder, params


def load_encoder(directory: Path, *, max_pixels: int | None = None) -> PromptEncoder:
    """What turns messages and images into prompts for a model; reads no weights.

    Raises:
      UserError: see `load_model`; or limits on image size that no image meets.
    """
    config = hf_config.read_config(directory)  # first: it refuses other architectures
    limits = hf_config.read_image_config(directory)
    if max_pixels is not None:
        try:
            limits = ImageConfig(
                min_pixels=min(limits.min_pixels, max_pixels), max_pixels=max_pixels
            )
        except ValueError as error:
            raise UserError(f"max_pixels: {error}") from error
    return PromptEncoder(load_tokenizer(directory), config=config, image_config=limits)


def standard_buckets(
    encoder: PromptEncoder, template: PromptTemplate, *, max_new_tokens: int
) -> Buckets:
    """A fixed ladder of shapes, four steps to each doubling, as far as the model has positions.

    An image's shape follows from the image and the template alone, not from what else is scored.
    There are a quarter more windows than a bucket's image tokens fill; more elongated images go to
    a longer bucket.

    Raises:
      UserError: the model has no room for a prompt and an answer.
    """
    example = Example(example_id=0, image=b"", score=None, dataset="", task="", prompt="-")
    side = encoder.config.vision.merged_size
    pictures = [(side, side)] * max(1, template.question.count(IMAGE))
    text, _ = encoder.measure(template.messages(example), pictures)
    room = encoder.config.text.max_position_embeddings - max_new_tokens
    if text > room:
        raise UserError(
            f"the model has room for {encoder.config.text.max_position_embeddings} tokens; prompt "
            f"{template.name!r} with {max_new_tokens} new tokens needs more: lower max_new_tokens"
        )
    # Twice the largest image: texts that images were made from differ, so there is room for them.
    most = 2 * (text + len(pictures) * (encoder.image_config.max_pixels // side**2 + 1))
    units = (_SHORTEST // 4 * 2**octave for octave in itertools.count())
    ladder = (unit * step for unit in units for step in _STEPS_PER_OCTAVE)
    lengths = [*itertools.takewhile(lambda length: length < min(most, room), ladder)]
    lengths.append(min(most, room))
    windows = [max(0, length - text) * 5 // (4 * _WINDOW_TOKENS) + 4 for length in lengths]
    return Buckets(prompt_lengths=tuple(lengths), window_counts=tuple(windows))
