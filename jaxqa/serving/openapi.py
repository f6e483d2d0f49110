"""What the server offers, in OpenAPI's form."""

from collections.abc import Sequence
from typing import Any

_IMAGE = {
    "oneOf": [
        {"type": "object", "properties": {"b64": {"type": "string"}}, "required": ["b64"]},
        {"type": "object", "properties": {"url": {"type": "string"}}, "required": ["url"]},
    ]
}
_NUMBERS = {"type": "array", "items": {"type": "number", "nullable": True}}
_TEXTS = {"type": "array", "items": {"type": "string", "nullable": True}}


def description(name: str, tasks: Sequence[str]) -> dict[str, Any]:
    """The OpenAPI document of a server."""
    task = {"type": "string", "enum": list(tasks)}
    mode = {"type": "string", "enum": ["think", "fast", "expected", "mean"]}
    wanted = {"enum": ["rationale", "text", "distribution", "samples", "spread"]}
    score = {
        "images": {"type": "array", "items": _IMAGE},
        "prompts": {"type": "array", "items": {"type": "string"}},
        "prompt": {"type": "string"},
        "task": task,
        "mode": mode,
        "return": {"type": "array", "items": wanted},
    }
    scored = {
        "scores": _NUMBERS,
        "normalised": _NUMBERS,
        "errors": _TEXTS,
        "range": {"type": "array", "items": {"type": "number"}},
    }
    compare = {"a": _IMAGE, "b": _IMAGE, "reference": _IMAGE, "prompt": {"type": "string"}}
    return {
        "openapi": "3.0.3",
        "info": {"title": f"jaxqa: {name}", "version": "1"},
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{"key": []}, {}],
        "paths": {
            "/v1/score": _post("Score images.", score, ["images"], scored),
            "/v1/compare": _post("Which of two images is better.", compare, ["a", "b"], {}),
            "/v1/chat/completions": _post("Score images, as OpenAI's clients ask.", {}, [], {}),
            "/compute": _post("Score images, as Flow-Factory asks.", {}, [], {}),
            "/v1/models": _get("The model and its tasks."),
            "/health": _get("200 while the server can answer."),
            "/metrics": _get("Counters for Prometheus."),
        },
    }


def _post(
    summary: str, fields: dict[str, Any], required: Sequence[str], answer: dict[str, Any]
) -> dict[str, Any]:
    asked: dict[str, Any] = {"type": "object", "properties": fields}
    if required:
        asked["required"] = list(required)
    answered = {"application/json": {"schema": {"type": "object", "properties": answer}}}
    body = {"required": True, "content": {"application/json": {"schema": asked}}}
    responses: dict[str, Any] = {
        "200": {"description": "The answer.", "content": answered},
        "400": {"description": "A wrong request; says what is wrong."},
        "429": {"description": "The queue is full; Retry-After says when to come again."},
    }
    return {"post": {"summary": summary, "requestBody": body, "responses": responses}}


def _get(summary: str) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": {"200": {"description": summary}}}}
