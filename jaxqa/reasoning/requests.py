"""Prompts with gaps, filled for one image."""

import string
from collections.abc import Mapping
from typing import Any

from jaxqa.data.tokenizer import Message
from jaxqa.reasoning.expert import Request
from jaxqa.reasoning.pipeline import Ask, Item, Role
from jaxqa.sampling.config import SamplingConfig

IMAGE = "<image>"


def ask(
    item: Item,
    prompt: str,
    sampling: SamplingConfig,
    *,
    facts: Mapping[str, Any],
    role: Role = "expert",
    turn: int = 0,
    system: str = "",
) -> Ask:
    """A request about `item`: `prompt` with its gaps filled, the images at the first `<image>`.

    Without `<image>` the image is not sent. What fills a gap is text and nothing else: an
    `<image>` in it is no image.
    """
    example = item.example
    images = (example.image, *example.extra_images)
    parts = [part.format(**facts) for part in prompt.split(IMAGE, 1)]
    content: list[Message] = [{"type": "text", "text": parts[0]}] if parts[0] else []
    if len(parts) == 2:
        content += [{"type": "image"}] * len(images)
        content += [{"type": "text", "text": parts[1]}] if parts[1] else []
    turns: list[Message] = [{"role": "system", "content": system}] if system else []
    return Ask(
        role=role,
        request=Request(
            messages=(*turns, {"role": "user", "content": content}),
            images=images if len(parts) == 2 else (),
            sampling=sampling,
            example_id=example.example_id,
            turn=turn,
        ),
    )


def check_single(name: str, sampling: SamplingConfig) -> None:
    """Raise ValueError unless one answer is asked for: further ones would be read by nobody."""
    if sampling.num_samples != 1:
        raise ValueError(f"{name}.num_samples is {sampling.num_samples}; one reply is read: set 1")


def check_gaps(name: str, prompt: str, gaps: set[str]) -> None:
    """Raise ValueError unless the gaps of a prompt are among those that can be filled."""
    try:
        found = {field for _, field, _, _ in string.Formatter().parse(prompt) if field is not None}
    except ValueError as error:
        raise ValueError(f"{name}: {error}; write {{{{ and }}}} for braces") from error
    if found - gaps:
        raise ValueError(
            f"{name} has the gaps {sorted(found - gaps)}; expected some of {sorted(gaps)}, and "
            "{{ and }} for braces"
        )
    if prompt.count(IMAGE) > 1:
        raise ValueError(f"{name} has several {IMAGE}; expected one, where the image goes")
