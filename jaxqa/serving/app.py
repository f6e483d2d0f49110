"""The reward server: routes to protocols, and errors to answers that clients understand."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from jaxqa.errors import UserError
from jaxqa.serving import adapters, native, web
from jaxqa.serving.batcher import Busy, Closed
from jaxqa.serving.guard import Guard, error_body
from jaxqa.serving.measures import Measures
from jaxqa.serving.openapi import description, page
from jaxqa.serving.service import Service, TooSlow

Handler = Callable[[Request], Awaitable[Response]]


def make_app(
    service: Service,
    *,
    key: str | None = None,
    pickles: bool = False,
    ui: bool = False,
) -> Guard:
    """The server as an ASGI application.

    Args:
      service: who answers; closed when the server ends.
      key: what clients must send; None lets everyone in.
      pickles: whether flow_grpo's pickled requests are answered.
      ui: whether there is a page to look at.
    """
    measures = Measures()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.batcher.close)

    app = Starlette(
        routes=_routes(service, measures, pickles=pickles) + (web.routes() if ui else []),
        exception_handlers={
            UserError: _on(400),
            TooSlow: _on(504),
            Busy: _on(429),
            Closed: _on(503),
            HTTPException: _on_http,
            RuntimeError: _on(500),
            MemoryError: _on(500),
        },
        lifespan=lifespan,
    )
    return Guard(
        app,
        key=key,
        max_body_bytes=service.limits.max_body_bytes,
        max_held_bytes=service.limits.max_held_bytes,
        read_timeout=service.limits.read_timeout,
        measures=measures,
        reads=web.open_paths() if ui else (),
    )


def _routes(service: Service, measures: Measures, *, pickles: bool) -> list[Route]:
    def scoring(answer: Callable[[Request, Service], Awaitable[tuple[Any, Any]]]) -> Handler:
        async def handle(request: Request) -> Response:
            body, scores = await answer(request, service)
            measures.scores(scores)
            if isinstance(body, bytes):
                return Response(body, media_type="application/octet-stream")
            return JSONResponse(body)

        return handle

    async def compare(request: Request) -> Response:
        return JSONResponse(await native.compare(request, service))

    async def models(request: Request) -> Response:
        return JSONResponse(native.models(service))

    async def health(request: Request) -> Response:
        if not service.batcher.is_alive:
            return JSONResponse({"status": "failed"}, 500)
        return JSONResponse({"status": "ok"})

    async def metrics(request: Request) -> Response:
        measures.pending.set(service.batcher.pending)
        return Response(measures.text(), media_type="text/plain; version=0.0.4")

    async def openapi(request: Request) -> Response:
        return JSONResponse(description(service.name, service.scorer.tasks))

    async def docs(request: Request) -> Response:
        return HTMLResponse(page(description(service.name, service.scorer.tasks)))

    routes = [
        Route("/v1/score", scoring(native.score), methods=["POST"]),
        Route("/v1/compare", compare, methods=["POST"]),
        Route("/v1/chat/completions", scoring(adapters.chat), methods=["POST"]),
        Route("/compute", scoring(adapters.flow_factory), methods=["POST"]),
        Route("/v1/models", models),
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/openapi.json", openapi),
        Route("/docs", docs),
    ]
    if pickles:
        routes.append(Route("/", scoring(adapters.flow_grpo), methods=["POST"]))
    return routes


def _on(status: int) -> Callable[[Request, Exception], Response]:
    def handle(request: Request, error: Exception) -> Response:
        # What the program itself did wrong is in the log, not in the answer.
        message = str(error) if status != 500 else "the model could not answer"
        headers = {"Retry-After": str(error.retry_after)} if isinstance(error, Busy) else None
        return JSONResponse(error_body(status, message), status, headers)

    return handle


def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = error_body(error.status_code, str(error.detail))
    return JSONResponse(body, error.status_code, error.headers)
