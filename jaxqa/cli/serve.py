"""Answer scoring requests over HTTP, until SIGTERM; what was taken is finished first."""

import argparse
import dataclasses
import ipaddress
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from jaxqa.cli import score_flags
from jaxqa.cli.errors import run_door
from jaxqa.cli.model_names import name_of_directory
from jaxqa.errors import UserError

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
_ALL_SIZES = "all"
_MEGABYTE, _MEGAPIXEL = 2**20, 10**6
_BODIES_HELD = 8
"""So many of the largest requests may wait at a time; of small ones, very many."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status."""
    return run_door(serve, argv)


def serve(argv: Sequence[str] | None) -> int:
    """Load, compile, listen.

    Raises:
      UserError: a bad flag or model, no key where one is needed, or a missing library.
    """
    flags = _parser().parse_args(argv)
    key = os.environ.get(flags.api_key_env) or None
    if key is None and not is_loopback(flags.host):
        raise UserError(
            f"--host={flags.host} is open to others: set {flags.api_key_env} to the key that "
            "clients must send, or listen on 127.0.0.1"
        )
    sizes = _sizes(flags.warm_up)
    if flags.max_megapixels < 1:
        raise UserError(f"--max_megapixels={flags.max_megapixels}: expected at least 1")
    uvicorn = _uvicorn()
    from jaxqa.cli.score import load_scorer  # here: it loads JAX
    from jaxqa.data.images import DecodeLimits
    from jaxqa.serving.app import make_app
    from jaxqa.serving.batcher import BatcherConfig
    from jaxqa.serving.heads import Draining, punctual
    from jaxqa.serving.service import ServerLimits, Service

    limits = ServerLimits(
        max_body_bytes=flags.max_body_mb * _MEGABYTE,
        max_held_bytes=_BODIES_HELD * flags.max_body_mb * _MEGABYTE,
        max_images=flags.max_images,
        timeout=flags.timeout,
        allow_urls=flags.allow_urls,
    )
    batching = BatcherConfig(
        workers=flags.workers or max(1, min(8, os.cpu_count() or 1)),
        max_queue=flags.max_queue,
        max_wait=flags.max_wait_ms / 1000,
        blocks=flags.batch_size,
    )
    scorer, question = load_scorer(flags)
    scorer.limits = DecodeLimits(
        max_bytes=limits.max_body_bytes, max_pixels=flags.max_megapixels * _MEGAPIXEL
    )
    if flags.modes and flags.mode is None and question.mode not in flags.modes:
        question = dataclasses.replace(question, mode=flags.modes[0])
    service = Service(
        scorer,
        name=flags.name or name_of_directory(flags.model),
        default=question,
        limits=limits,
        batching=batching,
        modes=flags.modes,
    )
    service.warm_up(sizes, tell=lambda line: print(line, file=sys.stderr, flush=True))
    app = make_app(service, key=key, pickles=flags.flow_grpo, ui=flags.ui)
    config = uvicorn.Config(
        app,
        host=flags.host,
        port=flags.port,
        http=punctual(limits.read_timeout),
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=flags.max_connections,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=int(flags.timeout) + 1,
    )
    print(f"serving {service.name} on http://{flags.host}:{flags.port}", flush=True)
    server = Draining(config)
    server.run()
    return 0 if server.started else 1


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _uvicorn() -> Any:
    try:
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise UserError(f"the server needs {error.name}: `pip install 'jaxqa[serve]'`") from error
    return uvicorn


def _sizes(texts: Sequence[str]) -> list[tuple[int, int]] | None:
    """Heights and widths; None stands for all."""
    if list(texts) == [_ALL_SIZES]:
        return None
    return [_size(text) for text in texts]


def _size(text: str) -> tuple[int, int]:
    match = _SIZE.fullmatch(text)
    if match is None or "0" in match.groups():
        raise UserError(
            f"--warm_up={text}: expected WIDTHxHEIGHT, such as 512x512, or {_ALL_SIZES} alone"
        )
    return int(match.group(2)), int(match.group(1))


def _parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser("serve", description=__doc__, allow_abbrev=False)
    score_flags.add_model(flags)
    score_flags.add_mode(flags)
    flags.add_argument("--host", default="127.0.0.1", help="where to listen (default 127.0.0.1)")
    flags.add_argument("--port", type=int, default=8000, help="(default 8000)")
    flags.add_argument("--name", help="what clients call the model (default: its run or folder)")
    flags.add_argument(
        "--api_key_env",
        default="JAXQA_API_KEY",
        metavar="NAME",
        help="environment variable with the key that clients must send (default JAXQA_API_KEY)",
    )
    flags.add_argument(
        "--flow_grpo",
        action="store_true",
        help="answer flow_grpo's pickled requests too; nothing that a pickle names is run",
    )
    flags.add_argument(
        "--ui", action="store_true", help="show a page at / where people score and compare images"
    )
    flags.add_argument(
        "--warm_up",
        nargs="+",
        default=["512x512"],
        metavar="WIDTHxHEIGHT",
        help="sizes of images to compile for before listening (default 512x512); "
        f"{_ALL_SIZES}: for every size and text, which takes long",
    )
    flags.add_argument(
        "--modes",
        nargs="+",
        choices=score_flags.MODES,
        default=[],
        help="what requests may choose; each is compiled for each task before listening, others "
        "are refused (default: all that the model has)",
    )
    limits = flags.add_argument_group("limits")
    limits.add_argument("--max_body_mb", type=int, default=64, help="of a request (default 64)")
    limits.add_argument("--max_images", type=int, default=64, help="in a request (default 64)")
    limits.add_argument("--max_megapixels", type=int, default=64, help="of an image (default 64)")
    limits.add_argument("--max_queue", type=int, default=1024, help="waiting images (default 1024)")
    limits.add_argument("--max_connections", type=int, default=512, help="at a time (default 512)")
    limits.add_argument("--timeout", type=float, default=120.0, help="seconds (default 120)")
    limits.add_argument(
        "--max_wait_ms", type=float, default=10.0, help="that an image waits for others (10)"
    )
    devices = flags.add_argument_group("devices")
    devices.add_argument(
        "--batch_size", type=int, default=2, help="blocks on the device at a time (default 2)"
    )
    score_flags.add_machine(devices)
    return flags
