"""Protocols that trainers speak already: chat completions, Flow-Factory, flow_grpo."""

import pickle
import time
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.requests import Request

from jaxqa.errors import UserError
from jaxqa.scoring.results import Score
from jaxqa.serving import safe_pickle
from jaxqa.serving.native import read_json
from jaxqa.serving.service import Service, image_of

Answer = tuple[dict[str, Any], list[Score]]

SCORE_LINE = "Final Score:"
"""What reward clients look for in the text of a chat completion."""


async def chat(request: Request, service: Service) -> Answer:
    """Answer `/v1/chat/completions`: each image of the last user message is scored.

    The model's name may end in `:TASK`. The text of the message is the prompt of tasks that need
    one. What was answered ends in a line `Final Score: 3.42` for each image.

    Raises:
      UserError: a wrong request, or an image that cannot be read.
    """
    fields = read_json(await request.body())
    if fields.get("stream") or fields.get("n") not in (None, 1):
        raise UserError("stream and n are not served; ask for one whole completion")
    question = service.question(_task(fields.get("model"), service))
    images, text = _message(fields.get("messages"))
    found = await service.score(question, images, [text or None] * len(images))
    unread = [score.error for score in found if score.error is not None and not score.text]
    if unread:
        raise UserError(str(unread[0]))
    content = "\n".join(_written(score) for score in found)
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": service.name,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }, found


async def flow_factory(request: Request, service: Service) -> Answer:
    """Answer `/compute` of Flow-Factory: normalised scores, null where there is none.

    Raises:
      UserError: a wrong request.
    """
    fields = read_json(await request.body())
    images, prompts = fields.get("image"), fields.get("prompt")
    if not isinstance(images, list):
        raise UserError("image: expected a list of images in base64")
    if any(fields.get(name) for name in ("video", "condition_videos", "condition_images")):
        raise UserError("videos and condition images are not scored; send image and prompt alone")
    encoded = [image_of(image, f"image {number}") for number, image in enumerate(images)]
    question = service.question()
    found = await service.score(question, encoded, _texts(prompts, len(encoded)))
    rewards = [score.normalised for score in found]
    return {"rewards": rewards, "errors": [score.error for score in found]}, found


async def flow_grpo(request: Request, service: Service) -> tuple[bytes, list[Score]]:
    """Answer the pickled form of flow_grpo: `{"images": [...]}` to `{"outputs": [...]}`, 0 to 1.

    A request with an image that has no score is refused as a whole: its clients take numbers only.

    Raises:
      UserError: a wrong request, or an image without a score.
    """
    fields = safe_pickle.loads(await request.body())
    if not isinstance(fields, dict):
        raise UserError("the pickle holds no dict; expected images and perhaps prompts")
    images = fields.get("images")
    if not isinstance(images, list | tuple) or not all(isinstance(i, bytes) for i in images):
        raise UserError("images: expected a list of encoded images")
    prompts = fields.get("prompts")
    if isinstance(prompts, np.ndarray):
        prompts = [str(prompt) for prompt in prompts.ravel()]
    found = await service.score(service.question(), images, _texts(prompts, len(images)))
    for score in found:
        if score.error is not None:
            raise UserError(score.error)
    return pickle.dumps({"outputs": [score.normalised for score in found]}), found


def _task(model: Any, service: Service) -> str | None:
    if model is not None and not isinstance(model, str):
        raise UserError(f"model is {model!r:.80}; expected text")
    name, colon, task = (model or service.name).rpartition(":")
    if model in (None, service.name):
        return None
    if colon and name == service.name:
        return task
    raise UserError(f"model {model!r:.80} is not served; expected {service.name} or that and :TASK")


def _message(messages: Any) -> tuple[list[bytes | str], str]:
    """Images and text of the last user message."""
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise UserError("messages: expected a list of objects")
    asked = [m.get("content") for m in messages if m.get("role") == "user"]
    parts = asked[-1] if asked else None
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise UserError("messages: expected a user message with an image_url")
    images, texts = [], []
    for part in parts:
        if part.get("type") == "image_url":
            url = part.get("image_url")
            url = url.get("url") if isinstance(url, dict) else url
            if not isinstance(url, str):
                raise UserError("image_url: expected an object with a url")
            images.append(image_of({"url": url}, f"image {len(images)}"))
        elif part.get("type") == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            raise UserError(f"content of type {part.get('type')!r:.80}; expected image_url or text")
    return images, "\n".join(texts)


def _written(score: Score) -> str:
    """The answer, with the score where clients look for it."""
    if score.score is None:
        return f"{score.text}\nNo score: {score.error}"
    return f"{score.text}\n{SCORE_LINE} {score.score:.4f}".lstrip()


def _texts(prompts: Any, count: int) -> Sequence[str | None]:
    if prompts is None:
        return [None] * count
    if not isinstance(prompts, list | tuple) or len(prompts) != count:
        raise UserError(f"prompts: expected a list of {count} texts, one for each image")
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise UserError("prompts: expected texts")
    return prompts
