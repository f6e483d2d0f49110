"""The page to look at: a few static files, which need no build step and no other server."""

import hashlib
from dataclasses import dataclass
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

ASSETS = "/page"
"""Where the page's files are; the page itself is at `/`."""

_PAGE = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

# Nothing from elsewhere, nothing inline, nobody's frame; pictures are those that the user chose.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)

HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, kw_only=True)
class Asset:
    """A file of the page.

    Attributes:
      content: its bytes.
      media_type: what browsers are told it is.
      tag: changes with the content.
    """

    content: bytes
    media_type: str
    tag: str


def read_assets() -> dict[str, Asset]:
    """Name -> file, of everything that the page consists of."""
    found = {}
    for entry in resources.files("jaxqa.serving").joinpath("page").iterdir():
        kind = _TYPES.get(entry.name[entry.name.rfind(".") :])
        if kind is not None:
            content = entry.read_bytes()
            tag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
            found[entry.name] = Asset(content=content, media_type=kind, tag=tag)
    return found


def open_paths() -> tuple[str, ...]:
    """Paths that are answered without a key: the page must be there before one can be typed in."""
    return "/", *(f"{ASSETS}/{name}" for name in read_assets())


def routes() -> list[Route]:
    """The page at `/` and its files below `ASSETS`."""
    assets = read_assets()
    pages = [Route("/", _answer(assets[_PAGE]))]
    return pages + [Route(f"{ASSETS}/{name}", _answer(assets[name])) for name in assets]


def _answer(asset: Asset):
    async def handle(request: Request) -> Response:
        headers = {**HEADERS, "ETag": asset.tag}
        if request.headers.get("if-none-match") == asset.tag:
            return Response(status_code=304, headers=headers)
        return Response(asset.content, headers=headers, media_type=asset.media_type)

    return handle
