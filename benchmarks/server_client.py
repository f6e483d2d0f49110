"""What `server_load.py` sends: a plain HTTP client, requests with their right answers, and attacks.

A client of its own, since the load must cost little of the machine that the server runs on.
"""

import asyncio
import base64
import dataclasses
import io
import json
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxqa.scoring.results import Score

HEADERS_LIMIT = 2**16
MULTIPART = "multipart/form-data; boundary=xyz"


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image with the offline scorer's result.

    Many images may have one score; the entropies of an answer's tokens tell images apart.
    """

    data: bytes
    score: float | None
    normalised: float | None
    tokens: list[dict[str, Any]] | None

    @classmethod
    def of(cls, data: bytes, score: Score) -> "Picture":
        """The image with its result."""
        pieces = None if score.tokens is None else score.tokens.pieces()
        tokens = None if pieces is None else [dataclasses.asdict(piece) for piece in pieces]
        return cls(data=data, score=score.score, normalised=score.normalised, tokens=tokens)

    @property
    def b64(self) -> str:
        """In base64."""
        return base64.b64encode(self.data).decode()


@dataclasses.dataclass(frozen=True)
class Shot:
    """A request, and whether an answer (status, body) to it is right."""

    path: str
    body: bytes
    is_right: Callable[[int, bytes], bool]
    images: int = 0
    kind: str = "application/json"


class Client:
    """One keep-alive connection."""

    def __init__(self, port: int):
        """Connect when first used."""
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, shot: Shot) -> tuple[int, bytes]:
        """Status and body; a connection that the server has closed is opened anew, once."""
        for last in (False, True):
            try:
                return await self._post(shot)
            except (ConnectionError, asyncio.IncompleteReadError):
                await self.close()
                if last:
                    raise
        raise AssertionError

    async def _post(self, shot: Shot) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(
                "127.0.0.1", self._port, limit=HEADERS_LIMIT
            )
        reader, writer = self._streams
        head = f"POST {shot.path} HTTP/1.1\r\nHost: x\r\nContent-Type: {shot.kind}\r\n"
        writer.write(f"{head}Content-Length: {len(shot.body)}\r\n\r\n".encode() + shot.body)
        await writer.drain()
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection") == "close":
            await self.close()
        return int(lines[0].split()[1]), content

    async def attack(self, data: bytes) -> None:
        """Send bytes that are no request, and leave."""
        _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.close()

    async def close(self) -> None:
        """Leave."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def native(pictures: Sequence[Picture], broken: int | None = None) -> Shot:
    """The server's own protocol; the image at the place `broken` is none."""
    scores = [None if n == broken else p.score for n, p in enumerate(pictures)]
    tokens = [{"tokens": None if n == broken else p.tokens} for n, p in enumerate(pictures)]

    def is_right(status: int, body: bytes) -> bool:
        found = json.loads(body)
        return status == 200 and (found["scores"], found["details"]) == (scores, tokens)

    images = ["bm9uZQ==" if n == broken else p.b64 for n, p in enumerate(pictures)]
    return Shot(
        "/v1/score",
        json.dumps({"images": images, "return": ["tokens"]}).encode(),
        is_right,
        images=len(images),
    )


def multipart(pictures: Sequence[Picture]) -> Shot:
    """A form."""
    head = b'--xyz\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
    body = b"".join(head + picture.data + b"\r\n" for picture in pictures)
    body += b'--xyz\r\nContent-Disposition: form-data; name="return"\r\n\r\ntokens\r\n--xyz--\r\n'
    shot = native(pictures)
    return dataclasses.replace(shot, body=body, kind=MULTIPART)


def chat(picture: Picture) -> Shot:
    """Chat completions."""
    url = {"url": f"data:image/png;base64,{picture.b64}"}
    content = [{"type": "image_url", "image_url": url}]
    end = "No score" if picture.score is None else f"Final Score: {picture.score:.4f}"

    def is_right(status: int, body: bytes) -> bool:
        if status != 200:
            return False
        last = json.loads(body)["choices"][0]["message"]["content"].split("\n")[-1]
        return last.startswith(end)

    body = json.dumps({"messages": [{"role": "user", "content": content}]}).encode()
    return Shot("/v1/chat/completions", body, is_right, images=1)


def flow_factory(pictures: Sequence[Picture]) -> Shot:
    """Flow-Factory's JSON."""
    wanted = [picture.normalised for picture in pictures]
    body = json.dumps({"image": [p.b64 for p in pictures], "prompt": [""] * len(pictures)})
    return Shot(
        "/compute",
        body.encode(),
        lambda status, body: status == 200 and json.loads(body)["rewards"] == wanted,
        images=len(pictures),
    )


def flow_grpo(pictures: Sequence[Picture]) -> Shot:
    """flow_grpo's pickle."""
    wanted: list[Any] = [picture.normalised for picture in pictures]

    def is_right(status: int, body: bytes) -> bool:
        if None in wanted:
            return status == 400
        return status == 200 and pickle.loads(body) == {"outputs": wanted}

    body = pickle.dumps({"images": [picture.data for picture in pictures]})
    return Shot("/", body, is_right, images=len(pictures))


def valid(pictures: Sequence[Picture], random: np.random.Generator) -> Shot:
    """A request of any protocol, with one to three images."""
    chosen = [pictures[n] for n in random.integers(0, len(pictures), random.integers(1, 4))]
    kind = random.integers(0, 6)
    if kind == 0:
        return multipart(chosen)
    if kind == 1:
        return chat(chosen[0])
    if kind == 2:
        return flow_factory(chosen)
    if kind == 3:
        return flow_grpo(chosen)
    return native(chosen, broken=0 if kind == 4 and len(chosen) > 1 else None)


def bomb() -> bytes:
    """A small file with 400 million pixels."""
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    return buffer.getvalue()


class _Evil:
    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return print, ("the pickle was run",)


def hostile(random_bytes: bytes) -> list[Shot]:
    """Requests that must be refused, each with a 4xx, or with null for an image that is none."""

    def refused(status: int, body: bytes) -> bool:
        return 400 <= status < 500 and "error" in json.loads(body)

    def without_scores(status: int, body: bytes) -> bool:
        return status == 200 and json.loads(body)["scores"] == [None]

    def images(*values: Any) -> bytes:
        return json.dumps({"images": list(values)}).encode()

    not_images = [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + random_bytes, b"<svg/>", bomb()]
    encoded = [base64.b64encode(data).decode() for data in not_images]
    bodies = [
        *(b"", b"{", b"[" * 50_000, b'{"images":' * 5_000, random_bytes, b"null", b"[]", b"1e999"),
        *(images(), images(7), images("%%"), images(None), images({"path": "/etc/passwd"})),
        *(images("file:///etc/passwd"), images({"url": "http://127.0.0.1/"}), images(*["AA"] * 99)),
        b'{"images": ["AAAA"], "task": "taste"}',
        b'{"images": ["AAAA"], "seed": 1}',
        json.dumps({"images": ["AAAA"], "prompt": "x" * 10_000}).encode(),
    ]
    pickles = [pickle.dumps({"images": _Evil()}), pickle.dumps([1]), b"\x80\x05", random_bytes]
    return [
        *(Shot("/v1/score", body, refused) for body in bodies),
        *(Shot("/v1/score", images(text), without_scores) for text in encoded),
        *(Shot("/", body, refused) for body in pickles),
        *(
            Shot(path, b"{}", refused)
            for path in ("/v1/compare", "/compute", "/nowhere", "/health")
        ),
        Shot("/v1/chat/completions", b'{"messages": [{"role": "user"}]}', refused),
        Shot("/v1/score", b"--xyz\r\n" + random_bytes, refused, kind=MULTIPART),
    ]


NO_REQUESTS = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
    b"POST /v1/score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /health HTTP/1.1\r\nX: " + b"y" * 100_000,
)
