"""A chat endpoint on loopback that answers as a test tells it to, and remembers what it was asked.

And the few things that tests about rationales share.
"""

import base64
import contextlib
import dataclasses
import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxqa.data.prompts import get_template
from jaxqa.data.records import Example, stable_id
from jaxqa.data.source import Source
from jaxqa.reasoning.audit import audit
from jaxqa.reasoning.endpoint import EndpointExpert
from jaxqa.reasoning.expert import ExpertConfig, Request
from jaxqa.reasoning.pipeline import Item
from jaxqa.reasoning.writer import write_rationales
from jaxqa.sampling.config import SamplingConfig
from jaxqa.train.json_lines import read_json_lines

GREEDY = SamplingConfig(temperature=0.0, max_new_tokens=64)


@dataclasses.dataclass
class Answer:
    """One HTTP answer.

    Attributes:
      text: content of a chat completion; ignored where `raw` is given.
      status, headers: of the answer.
      raw: body instead of a chat completion.
      finish: the completion's finish reason.
      until: hold the answer back until this is set.
    """

    text: str | None = "fine"
    status: int = 200
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    raw: bytes | None = None
    finish: str = "stop"
    until: threading.Event | None = None

    def body(self) -> bytes:
        if self.raw is not None:
            return self.raw
        choice = {"message": {"content": self.text}, "finish_reason": self.finish}
        usage = {"prompt_tokens": 7, "completion_tokens": 3}
        return json.dumps({"choices": [choice], "usage": usage}).encode()


class ChatServer:
    """Answers with `reply(body)`; `bodies` and `most_at_once` say what came in."""

    def __init__(self, reply: Callable[[dict[str, Any]], Answer]):
        self.reply = reply
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer._serve(self, body)

            def log_message(self, *arguments):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request, client_address):
                pass  # a client that gave up

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()

    def _serve(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self.bodies.append(body)
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
        try:
            answer = self.reply(body)
            if answer.until is not None:
                answer.until.wait(10)
        finally:
            with self._lock:
                self._at_once -= 1
        content = answer.body()
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def serving(reply: Callable[[dict[str, Any]], Answer]) -> Iterator[ChatServer]:
    server = ChatServer(reply)
    try:
        yield server
    finally:
        server.close()


class Naps:
    """Stands in for `asyncio.sleep`: notes how long, and does not."""

    def __init__(self):
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@contextlib.contextmanager
def expert(url: str, cache: Path, **options: Any) -> Iterator[EndpointExpert]:
    keyword = {name: options.pop(name) for name in ("sleep", "api_key") if name in options}
    config = ExpertConfig(endpoint=url, model="some-model", **options)
    made = EndpointExpert(config, cache, **keyword)
    try:
        yield made
    finally:
        made.close()


def request(text: str = "Well?", **fields: Any) -> Request:
    fields.setdefault("sampling", GREEDY)
    return Request(messages=({"role": "user", "content": text},), **fields)


def nothing() -> None:
    """A check that never stops anything."""


def prompt_of(body: dict[str, Any]) -> str:
    """All text of a request."""
    parts = []
    for message in body["messages"]:
        content = message["content"]
        parts += [content] if isinstance(content, str) else [p.get("text", "") for p in content]
    return "\n".join(parts)


def pictures_of(body: dict[str, Any]) -> list[Image.Image]:
    """The images of a request, decoded."""
    urls = [
        part["image_url"]["url"]
        for message in body["messages"]
        if not isinstance(message["content"], str)
        for part in message["content"]
        if part["type"] == "image_url"
    ]
    return [Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))) for url in urls]


def png(seed: int = 0, size: tuple[int, int] = (8, 6)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def item(
    number: int = 0, *, score: float | None = 3.0, template: str = "q_insight", **fields: Any
) -> Item:
    """An item with a picture of its own; its labels are in the prompt's range."""
    prompt = get_template(template)
    fields = {"dataset": "some", "task": prompt.task, "image": png(number)} | fields
    example = Example(example_id=stable_id("test", str(number)), score=score, **fields)
    return Item(example=example, source=Source(name="some", examples=[example], template=prompt))


def write_all(
    path: Path,
    items: list[Item],
    pipeline: Any,
    server: ChatServer,
    *,
    sampling: SamplingConfig = GREEDY,
    size: int = 8,
    check: Callable[[], None] | None = None,
    **options: Any,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run a pipeline; the lines of its file, and its audit."""
    options = {"retries": 0, "sleep": Naps()} | options
    with expert(server.url, path.with_suffix(".answers"), **options) as made:
        write_rationales(
            path,
            items,
            pipeline,
            {"expert": made, "judge": made},
            sampling=sampling,
            size=size,
            refuse=lambda item, text: ("too_long", "so it is") if len(text) > 2000 else None,
            check=check or nothing,
            advance=lambda count: None,
        )
        wanted = pipeline.quotas()
        found = audit(path, calls={"expert": made.calls}, total=len(items), wanted=wanted)
    return list(read_json_lines(path)), found
