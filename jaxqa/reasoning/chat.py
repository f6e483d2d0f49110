"""OpenAI's chat completions, as far as experts need them: bodies, answers, errors."""

import email.utils
import math
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2

from jaxqa.reasoning.expert import CUT_OFF, EMPTY, WITHHELD, ExpertConfig, Request, Sample
from jaxqa.reasoning.image_urls import data_url

SHOWN_CHARACTERS = 200
"""So much of a text goes into reasons and messages."""


def chat_body(request: Request, config: ExpertConfig) -> dict[str, Any]:
    """JSON body of a call, images still placeholders."""
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": config.model,
        "messages": [dict(message) for message in request.messages],
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
    }
    # Beyond the OpenAI interface, or refused by some models: only where asked for.
    for name, off in (("top_p", 1.0), ("top_k", 0), ("min_p", 0.0)):
        if getattr(sampling, name) != off:
            body[name] = getattr(sampling, name)
    body |= config.extra
    return {name: value for name, value in body.items() if value is not None}


def with_images(
    messages: Sequence[Mapping[str, Any]], images: Sequence[tuple[str, bytes]]
) -> list[dict[str, Any]]:
    """`messages` with the placeholders filled, in order, by (media type, bytes)."""
    left = iter(images)

    def filled(part: Mapping[str, Any]) -> Mapping[str, Any]:
        if part["type"] != "image":
            return part
        return {"type": "image_url", "image_url": {"url": data_url(*next(left))}}

    return [
        dict(message)
        if isinstance(message["content"], str)
        else {**message, "content": [filled(part) for part in message["content"]]}
        for message in messages
    ]


def parse_completion(response: httpx2.Response) -> dict[str, Any] | None:
    """What is kept of a chat completion: text, finish reason, tokens; None if it is none."""
    try:
        value = response.json()
        choice = value["choices"][0]
        content = choice["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if isinstance(content, list):  # parts
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if not isinstance(content, str | None):
        return None
    usage = value.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    names = ("prompt_tokens", "completion_tokens")
    return {
        "text": content or "",
        "finish": str(choice.get("finish_reason")),
        "usage": {name: counts[name] for name in names if isinstance(counts.get(name), int)},
    }


def read_completion(kept: Mapping[str, Any]) -> Sample:
    """What `parse_completion` kept, as a sample."""
    text, finish = str(kept["text"]), kept["finish"]
    if finish == "length":
        return Sample(text=text, problem=CUT_OFF, detail=text[-SHOWN_CHARACTERS:])
    if finish == "content_filter":
        return Sample(text=text, problem=WITHHELD, detail=text[-SHOWN_CHARACTERS:])
    return Sample(text=text, problem=None if text.strip() else EMPTY)


def error_text(response: httpx2.Response) -> str:
    """The endpoint's own words about an error, shortened."""
    try:
        error = response.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:SHOWN_CHARACTERS]
    except (ValueError, LookupError, TypeError, RecursionError):
        return response.text[:SHOWN_CHARACTERS]


def retry_after(header: str | None, *, now: float) -> float | None:
    """Seconds that a `Retry-After` header asks for: a number, or a date; None if neither."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - now
        except ValueError:
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None
