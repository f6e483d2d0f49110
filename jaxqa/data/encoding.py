"""Examples to prompt rows and target ids: chat text, tokens, images, vision windows."""

import io
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image

from jaxqa.data import images as images_lib
from jaxqa.data.images import ImageSource
from jaxqa.data.prompts import PromptTemplate
from jaxqa.data.records import Example
from jaxqa.data.source import Source
from jaxqa.data.stored import StoredImage
from jaxqa.data.tokenizer import Message, Tokenizer
from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl import layout, preprocess
from jaxqa.models.qwen2_5_vl.config import Qwen2_5_VLConfig
from jaxqa.models.qwen2_5_vl.inputs import PromptRow
from jaxqa.models.qwen2_5_vl.preprocess import ImageConfig
from jaxqa.typing import Int, UInt8

_CACHED_PROMPTS = 4096


class PromptEncoder:
    """Chat messages and images to prompt rows; picklable, for loader workers.

    Prompt texts that repeat, as those of quality prompts do, are rendered and tokenised once.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        config: Qwen2_5_VLConfig,
        image_config: ImageConfig,
    ):
        """Take the tokenizer, the model's architecture and the limits on image size.

        Raises:
            UserError: the tokenizer's special ids differ from the model's.
        """
        for name in ("image_token_id", "vision_start_token_id", "vision_end_token_id"):
            if getattr(tokenizer, name) != getattr(config, name):
                raise UserError(
                    f"{name} is {getattr(tokenizer, name)} in the tokenizer and "
                    f"{getattr(config, name)} in the model; use the tokenizer the model was made "
                    "with"
                )
        self.tokenizer = tokenizer
        self.config = config
        self.image_config = image_config
        self._text_ids: dict[str, np.ndarray] = {}

    def row(
        self,
        messages: Sequence[Message],
        images: Sequence[UInt8[np.ndarray, "_ _ 3"] | Image.Image],
    ) -> PromptRow:
        """Lay out one prompt; `images` are RGB of any size, in the order of their placeholders.

        Raises:
            UserError: placeholders and images do not match, or an image cannot be resized.
        """
        factor = self.config.vision.merged_size
        resized = [
            preprocess.resize_image(image, self.image_config, factor=factor) for image in images
        ]
        vision = self.config.vision
        counts = [layout.count_tokens(image.shape[0], image.shape[1], vision) for image in resized]
        return layout.build_row(self._token_ids(messages, counts), resized, self.config)

    def measure(
        self, messages: Sequence[Message], sizes: Sequence[tuple[int, int]]
    ) -> tuple[int, int]:
        """Tokens and vision windows of the prompt with images of `sizes` (height, width).

        Raises:
            UserError: an image of that size cannot be resized.
        """
        vision, limits = self.config.vision, self.image_config
        resized = [
            preprocess.smart_resize(
                height,
                width,
                factor=vision.merged_size,
                min_pixels=limits.min_pixels,
                max_pixels=limits.max_pixels,
            )
            for height, width in sizes
        ]
        counts = [layout.count_tokens(*size, vision) for size in resized]
        windows = [
            -(-height // vision.window_size) * -(-width // vision.window_size)
            for height, width in resized
        ]
        return len(self._token_ids(messages, counts)), sum(windows)

    def _token_ids(
        self, messages: Sequence[Message], counts: Sequence[int]
    ) -> Int[np.ndarray, " S"]:
        """Token ids of the chat text, each `<|image_pad|>` repeated once per merged token."""
        key = repr(messages)
        ids = self._text_ids.get(key)  # not looked up twice: other threads may clear it
        if ids is None:
            if len(self._text_ids) >= _CACHED_PROMPTS:
                self._text_ids.clear()
            text = self.tokenizer.render_chat(messages)
            ids = self._text_ids[key] = np.asarray(self.tokenizer.encode(text), np.int32)
        is_image = ids == self.tokenizer.image_token_id
        if is_image.sum() != len(counts):
            raise UserError(
                f"the prompt has {is_image.sum()} image placeholders and {len(counts)} images; "
                "expected one placeholder for each image"
            )
        repeats = np.ones(len(ids), np.int64)
        repeats[is_image] = counts
        return np.repeat(ids, repeats)


def build_prompt_row(
    example: Example, template: PromptTemplate, encoder: PromptEncoder
) -> PromptRow:
    """Decode `example`'s images and lay out the prompt that asks about them.

    Raises:
        UserError: an image cannot be read or resized; the message begins with its name.
    """
    images = [images_lib.open_rgb(image, name=name) for name, image in named_images(example)]
    try:
        return encoder.row(template.messages(example), images)
    except UserError as error:
        raise UserError(f"{image_name(example)}: {error}") from error


def measure_prompt(
    example: Example, template: PromptTemplate, encoder: PromptEncoder
) -> tuple[int, int]:
    """Tokens and windows of `example`'s prompt, from the headers of its image files.

    Raises:
        UserError: an image cannot be read or resized; the message begins with its name.
    """
    sizes = [read_image_size(image, name=name) for name, image in named_images(example)]
    try:
        return encoder.measure(template.messages(example), sizes)
    except UserError as error:
        raise UserError(f"{image_name(example)}: {error}") from error


def read_image_size(image: ImageSource, *, name: str) -> tuple[int, int]:
    """Sides of an image from its header; which is the height matters to no token count.

    Raises:
        UserError: no image there.
    """
    if isinstance(image, StoredImage):
        return image.size  # read when the data set was prepared
    source = io.BytesIO(image) if isinstance(image, bytes) else image
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `decode` has the last word on sizes
        try:
            with Image.open(source) as opened:
                return opened.height, opened.width
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            height, width, _ = images_lib.decode(image, name=name).shape
            return height, width


def named_images(example: Example) -> list[tuple[str, ImageSource]]:
    """An example's images in the order of its prompt, each with what messages call it."""
    extra = [
        (str(image) if not isinstance(image, bytes) else f"{image_name(example)}, image {n}", image)
        for n, image in enumerate(example.extra_images, start=2)
    ]
    return [(image_name(example), example.image), *extra]


def image_name(example: Example) -> str:
    """What messages call an example's image: its path, else its data set and id."""
    if isinstance(example.image, bytes):
        return f"{example.dataset} example {example.example_id}"
    return str(example.image)


def encode_target(example: Example, source: Source, tokenizer: Tokenizer) -> Int[np.ndarray, " T"]:
    """Token ids of what the model should answer about `example`, `<|im_end|>` last.

    Raises:
        UserError: the example lacks what the source's prompt wants, or it makes no valid target.
    """
    template, score = source.template, source.score(example)
    lacks = "score" if score is None and template.low is not None else ""
    if (template.think or template.answer == "text") and example.rationale is None:
        lacks = lacks or "rationale"
    if lacks:
        raise UserError(
            f"{image_name(example)} has no {lacks}; supervised fine-tuning with prompt "
            f"{template.name!r} needs the {lacks} of every example"
        )
    try:
        text = template.target(example, score)
    except UserError as error:
        raise UserError(f"{image_name(example)}: {error}") from error
    return np.asarray(tokenizer.encode(text), np.int32)
