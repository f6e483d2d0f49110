"""The server's own protocol: `POST /v1/score`, `POST /v1/compare`, `GET /v1/models`."""

import dataclasses
import json
import time
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request

from jaxqa.errors import UserError
from jaxqa.scoring.results import Score
from jaxqa.serving.service import NEED_PROMPT, Service, image_of

_KNOWN = ("images", "prompts", "prompt", "task", "mode", "return", "model")
_DETAILS = ("rationale", "text", "distribution", "samples", "spread", "tokens")


async def score(request: Request, service: Service) -> tuple[dict[str, Any], list[Score]]:
    """Answer `/v1/score`.

    Raises:
      UserError: a wrong request; see `Service.score`.
    """
    begun = time.monotonic()
    fields = await read_fields(request, _KNOWN)
    images = fields.get("images")
    if not isinstance(images, list):
        raise UserError('images: expected a list of {"b64": "..."} or {"url": "..."}')
    encoded = [
        image if isinstance(image, bytes) else image_of(image, f"image {number}")
        for number, image in enumerate(images)
    ]
    question = service.question(text_of(fields, "task"), text_of(fields, "mode"))
    details = _wanted(fields.get("return"))
    prompts = _prompts(fields, len(encoded))
    found = await service.score(question, encoded, prompts)
    return {
        "model": service.name,
        "task": question.task,
        "mode": question.mode,
        "range": list(service.scorer.score_range(question.task)),
        "scores": [score.score for score in found],
        "normalised": [score.normalised for score in found],
        "errors": [score.error for score in found],
        "details": [_details(score, details) for score in found] if details else None,
        "timing_ms": round(1000 * (time.monotonic() - begun), 3),
    }, found


async def compare(request: Request, service: Service) -> dict[str, Any]:
    """Answer `/v1/compare`.

    Raises:
      UserError: a wrong request; see `Service.score`.
    """
    known = ("a", "b", "reference", "prompt", "task", "mode", "model")
    fields = await read_fields(request, known)
    named = {"a": "image A", "b": "image B", "reference": "reference"}
    images = {}
    for field, name in named.items():
        value = fields.get(field)
        if value is None and field != "reference":
            raise UserError(f'{field}: expected an image, {{"b64": "..."}} or {{"url": "..."}}')
        if value is not None:
            images[name] = value if isinstance(value, bytes) else image_of(value, name)
    question = service.question(text_of(fields, "task"), text_of(fields, "mode"))
    found = await service.compare(question, images, text_of(fields, "prompt"))
    return {
        "model": service.name,
        "choice": found.choice,
        "preference": found.preference,
        "consistent": found.consistent,
        "method": found.method,
        "rationales": list(found.rationales),
        "orders": list(found.orders),
        "scores": list(found.scores),
        "error": found.error,
    }


def models(service: Service) -> dict[str, Any]:
    """Answer `/v1/models`: the model, one name for each of its tasks, and what it can be asked."""
    limits = service.limits
    tasks = [task for task in service.scorer.tasks if service.modes(task)]
    names = [service.name, *(f"{service.name}:{task}" for task in tasks)]
    return {
        "object": "list",
        "data": [
            {"id": name, "object": "model", "created": 0, "owned_by": "jaxqa"} for name in names
        ],
        "tasks": {task: list(service.scorer.score_range(task)) for task in tasks},
        "modes": {task: service.modes(task) for task in tasks},
        "default": {
            "task": service.question().task,
            "modes": {task: service.question(task).mode for task in tasks},
        },
        "needs_prompt": [task for task in tasks if task in NEED_PROMPT],
        "compares_with_reference": service.compares_with_reference,
        "limits": {
            "images": limits.max_images,
            "body_bytes": limits.max_body_bytes,
            "prompt_length": limits.max_prompt_length,
            "image_bytes": service.scorer.limits.max_bytes,
            "pixels": service.scorer.limits.max_pixels,
        },
    }


async def read_fields(request: Request, known: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a JSON object or of a form.

    Raises:
      UserError: it is neither, or has fields that are not known.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    form = kind == "multipart/form-data"
    fields = await _read_form(request) if form else read_json(await request.body())
    unknown = fields.keys() - set(known)
    if unknown:
        raise UserError(f"unknown field {min(unknown)!r}; expected {', '.join(known)}")
    return fields


def read_json(body: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
      UserError: anything else.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the body is not JSON: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise UserError(f"the body is a JSON {type(value).__name__}; expected an object")
    return value


def text_of(fields: Mapping[str, Any], name: str) -> str | None:
    """A field of text that may be absent.

    Raises:
      UserError: it is something else.
    """
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{name} is {value!r:.80}; expected text")
    return value


async def _read_form(request: Request) -> dict[str, Any]:
    """Files under `images`, `a`, `b` or `reference`; `prompts` and `return` may be repeated."""
    fields: dict[str, Any] = {}
    limit = 2**31  # the whole body was bounded before
    async with request.form(max_files=1000, max_fields=1000, max_part_size=limit) as form:
        for name, value in form.multi_items():
            content = await value.read() if isinstance(value, UploadFile) else value
            if name in ("images", "prompts", "return"):
                fields.setdefault(name, []).append(content)
            else:
                fields[name] = content
    return fields


def _prompts(fields: Mapping[str, Any], count: int) -> list[str | None]:
    one, several = text_of(fields, "prompt"), fields.get("prompts")
    if several is None:
        return [one] * count
    if not isinstance(several, list) or not all(isinstance(p, str | None) for p in several):
        raise UserError("prompts: expected a list of texts")
    if one is not None or len(several) != count:
        raise UserError(f"{len(several)} prompts for {count} images; expected one for each")
    return several


def _wanted(value: Any) -> list[str]:
    wanted = value or []
    if not isinstance(wanted, list) or any(name not in _DETAILS for name in wanted):
        raise UserError(f"return is {value!r:.80}; expected a list of {', '.join(_DETAILS)}")
    return wanted


def _details(score: Score, wanted: list[str]) -> dict[str, Any]:
    known = {**score.as_dict(), "text": score.text}
    if "tokens" in wanted and score.tokens is not None:
        known["tokens"] = [dataclasses.asdict(piece) for piece in score.tokens.pieces()]
    return {name: known.get(name) for name in wanted}
