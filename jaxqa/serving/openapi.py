"""What the server offers, in OpenAPI's form and as a page to read."""

import html
import json
from collections.abc import Mapping, Sequence
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
    wanted = {"enum": ["rationale", "text", "distribution", "samples", "spread", "tokens"]}
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
    compare |= {"task": task, "mode": mode}
    compared = {
        "choice": {"enum": ["Image A", "Image B", "Similar"], "nullable": True},
        "preference": {"type": "number", "nullable": True},
        "consistent": {"type": "boolean", "nullable": True},
        "method": {"enum": ["prompt", "scores"]},
        "rationales": _TEXTS,
        "orders": _NUMBERS,
        "scores": _NUMBERS,
        "error": {"type": "string", "nullable": True},
    }
    chat = {
        "model": {"enum": [name, *(f"{name}:{each}" for each in tasks)]},
        "messages": {"type": "array", "items": {"type": "object"}},
    }
    choices = {"choices": {"type": "array", "items": {"type": "object"}}}
    flow = {
        "image": {"type": "array", "items": {"type": "string"}},
        "prompt": {"type": "array", "items": {"type": "string"}},
    }
    return {
        "openapi": "3.0.3",
        "info": {"title": f"jaxqa: {name}", "version": "1"},
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{"key": []}, {}],
        "paths": {
            "/v1/score": _post("Score images.", score, ["images"], scored),
            "/v1/compare": _post("Which of two images is better.", compare, ["a", "b"], compared),
            "/v1/chat/completions": _post(
                "Score images, as OpenAI's clients ask.", chat, ["messages"], choices
            ),
            "/compute": _post(
                "Score images, as Flow-Factory asks.",
                flow,
                ["image"],
                {"rewards": _NUMBERS, "errors": _TEXTS},
            ),
            "/v1/models": _get("The model and its tasks."),
            "/health": _get("200 while the server can answer."),
            "/metrics": _get("Counters for Prometheus."),
        },
    }


def page(document: Mapping[str, Any]) -> str:
    """The document as a page that needs nothing else: no scripts, no other server."""
    title = html.escape(document["info"]["title"])
    parts = [f"<h1>{title}</h1><p>As JSON: <a href='openapi.json'>openapi.json</a></p>"]
    for path, methods in document["paths"].items():
        for method, entry in methods.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>")
            parts.append(f"<p>{html.escape(entry['summary'])}</p>")
            asked, answered = entry.get("requestBody"), entry["responses"]["200"]
            for words, body in (("Request", asked), ("Answer", answered)):
                if body and "content" in body:
                    schema = body["content"]["application/json"]["schema"]
                    text = html.escape(json.dumps(schema, indent=2))
                    parts.append(f"<details><summary>{words}</summary><pre>{text}</pre></details>")
    style = ":root { color-scheme: light dark; } body { font: 16px/1.5 system-ui, sans-serif; "
    style += "max-width: 50rem; margin: 2rem auto; padding: 0 1rem; } h2 { font-size: 1.1rem; }"
    head = f'<meta charset="utf-8"><title>{title}</title><style>{style}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>'


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
