"""A server on a real socket, and what a plain client does with it."""

import base64
import contextlib
import io
import json
import socket
import threading
import time
import urllib.error
import urllib.request

import uvicorn
from PIL import Image
from stand_in import StandInModel, grey

from jaxqa.data.images import DecodeLimits
from jaxqa.scoring.api import ImageScorer
from jaxqa.serving.app import make_app
from jaxqa.serving.batcher import BatcherConfig
from jaxqa.serving.heads import Draining, punctual
from jaxqa.serving.service import ServerLimits, Service


@contextlib.contextmanager
def running(asker=None, *, model=None, key=None, pickles=True, ui=False, **limits):
    model = model or StandInModel(asker)
    scorer = ImageScorer(model, limits=DecodeLimits(max_pixels=10_000))
    service = Service(
        scorer,
        name="tiny",
        limits=ServerLimits(**{"max_images": 8, "read_timeout": 1.0, **limits}),
        batching=BatcherConfig(workers=4, max_queue=40, max_wait=0.002),
    )
    service.warm_up([(8, 8)])
    app = make_app(service, key=key, pickles=pickles, ui=ui)
    http = punctual(service.limits.read_timeout)
    config = uvicorn.Config(
        app, port=0, http=http, log_level="critical", timeout_graceful_shutdown=10
    )
    server = Draining(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(256)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        deadline = time.monotonic() + 20
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive() and not service.batcher.is_alive


def png(level, size=(8, 8)):
    buffer = io.BytesIO()
    Image.fromarray(grey(level, size)).save(buffer, "PNG")
    return buffer.getvalue()


def b64(data):
    return base64.b64encode(data).decode()


def expected(level):
    return 1 + 4 * level / 255


def ask(url, body=None, *, headers=None, with_headers=False):
    """Status and content, perhaps headers; JSON is read."""
    data = json.dumps(body).encode() if isinstance(body, dict | list) else body
    request = urllib.request.Request(url, data, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            status, content, found = reply.status, reply.read(), reply.headers
    except urllib.error.HTTPError as error:
        with error:
            status, content, found = error.code, error.read(), error.headers
    if found["content-type"] == "application/json":
        content = json.loads(content)
    return (status, content, found) if with_headers else (status, content)
