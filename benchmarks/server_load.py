"""The reward server under load, beside the offline scorer in the same run.

    python benchmarks/server_load.py --model=runs/demo/export --valid 0.2 --serve --modes think

Starts `jaxqa serve` in a process of its own, with what the command line gives unless told
otherwise, and measures, in this order:

1. saturation: clients that each wait for their answer and ask again, in turns with the offline
   scorer on the same images, since the load of a machine changes; the ratio is the median of turns;
2. latency at half of that: requests of one image at times drawn beforehand (Poisson), counted from
   the time at which each should have left, however late the client was;
3. many requests, good and hostile, from many clients: every score, and where the protocol has them
   the entropies of the answer, are compared with the offline ones bit for bit, and the server's
   resident memory is read at each twentieth of the way.

Prints JSON; exits with 1 if an answer was wrong.
"""

import argparse
import asyncio
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import server_client
from PIL import Image
from server_client import Client, Picture

import jaxqa
from jaxqa.scoring.api import ImageScorer

STARTUP_SECONDS = 900
SAMPLES = 20  # of memory


def main() -> int:
    """Measure; print."""
    flags = _flags()
    images = _images(flags.images, flags.side)
    scorer = jaxqa.load(flags.model)
    first = scorer.score(images)
    pictures = [Picture.of(image, score) for image, score in zip(images, first, strict=True)]
    with _server(flags) as (port, process):
        turns = [_turn(scorer, pictures, port, flags) for _ in range(flags.turns)]
        rate = statistics.median(turn["server"] for turn in turns)
        latency = asyncio.run(_open_loop(pictures, port, rate / 2, flags.seconds))
        mixed = asyncio.run(_mixed(pictures, port, process.pid, flags))
    found = {
        "images": len(images),
        "distinct_scores": len({picture.score for picture in pictures}),
        "distinct_answers": len({str(picture.tokens) for picture in pictures}),
        "without_score": sum(picture.score is None for picture in pictures),
        "turns": turns,
        "server_over_offline": statistics.median(turn["ratio"] for turn in turns),
        "latency_at_half_load": latency,
        "mixed": mixed,
        "load_average": os.getloadavg(),
    }
    print(json.dumps(found, indent=2))
    wrong = mixed["wrong"] + latency["wrong"] + sum(turn["wrong"] for turn in turns)
    return 1 if wrong else 0


def _images(count: int, side: int) -> list[bytes]:
    """Noise of all strengths over gradients, as PNG: scores should differ."""
    random = np.random.default_rng(0)
    found = []
    for number in range(count):
        ramp = np.linspace(0, 255, side)[:, None, None] * random.uniform(0, 1, (1, 1, 3))
        noise = random.normal(0, 100 * number / count, (side, side, 3))
        pixels = np.clip(ramp + noise, 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


@contextmanager
def _server(flags: argparse.Namespace) -> Iterator[tuple[int, subprocess.Popen]]:
    """A server that is ready; it gets SIGTERM at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jaxqa.cli.main", "serve", f"--model={flags.model}"]
    command += [f"--port={port}", "--flow_grpo", "--warm_up", f"{flags.side}x{flags.side}"]
    command += flags.serve
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + STARTUP_SECONDS
            while not _is_ready(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the server did not start: {' '.join(command)}")
                time.sleep(0.2)
            yield port, process
        finally:
            process.terminate()


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            return reply.status == 200
    except (urllib.error.URLError, ConnectionError):
        return False


def _turn(
    scorer: ImageScorer, pictures: Sequence[Picture], port: int, flags: argparse.Namespace
) -> dict[str, float]:
    """Images per second of both, one after the other."""
    begun = time.perf_counter()
    scorer.score([picture.data for picture in pictures])
    offline = len(pictures) / (time.perf_counter() - begun)
    begun = time.perf_counter()
    wrong = asyncio.run(_closed_loop(pictures, port, clients=8, each=8))
    server = len(pictures) / (time.perf_counter() - begun)
    return {"offline": offline, "server": server, "ratio": server / offline, "wrong": wrong}


async def _closed_loop(pictures: Sequence[Picture], port: int, *, clients: int, each: int) -> int:
    """All pictures once, `each` in a request; the number of wrong answers."""
    starts = iter(range(0, len(pictures), each))
    wrong = 0

    async def work() -> None:
        nonlocal wrong
        client = Client(port)
        for start in starts:
            shot = server_client.native(pictures[start : start + each])
            wrong += not shot.is_right(*await client.post(shot))
        await client.close()

    await asyncio.gather(*(work() for _ in range(clients)))
    return wrong


async def _open_loop(
    pictures: Sequence[Picture], port: int, rate: float, seconds: float
) -> dict[str, Any]:
    """Latencies of single images that come at a given rate, whether answered or not."""
    random = np.random.default_rng(1)
    times = np.cumsum(random.exponential(1 / rate, max(1, int(rate * seconds))))
    shots = [server_client.native([pictures[n % len(pictures)]]) for n in range(len(times))]
    idle: list[Client] = []
    latencies, wrong, begun = [], 0, time.perf_counter() + 0.1

    async def ask(at: float, shot: server_client.Shot) -> None:
        nonlocal wrong
        await asyncio.sleep(begun + at - time.perf_counter())
        client = idle.pop() if idle else Client(port)
        wrong += not shot.is_right(*await client.post(shot))
        latencies.append(time.perf_counter() - begun - at)
        idle.append(client)

    await asyncio.gather(*map(ask, times, shots))
    for client in idle:
        await client.close()
    quantiles = np.quantile(latencies, [0.5, 0.95, 0.99])
    return {
        "requests": len(times),
        "rate": rate,
        "seconds": dict(zip(("p50", "p95", "p99"), quantiles.tolist(), strict=True)),
        "wrong": wrong,
    }


async def _mixed(
    pictures: Sequence[Picture], port: int, pid: int, flags: argparse.Namespace
) -> dict[str, Any]:
    """Good and hostile requests until all are sent; what came of them, and the server's memory."""
    attacks = server_client.hostile(np.random.default_rng(2).bytes(3000))
    memory: list[float] = []
    counts = {"valid": 0, "hostile": 0, "no_requests": 0, "images": 0, "busy": 0, "wrong": 0}
    numbers = iter(range(flags.requests))

    async def work(seed: int) -> None:
        random, client = np.random.default_rng(seed), Client(port)
        for number in numbers:
            if number % max(1, flags.requests // SAMPLES) == 0:
                memory.append(_resident_megabytes(pid))
            draw = random.random()
            if draw < 0.02:
                counts["no_requests"] += 1
                await client.attack(server_client.NO_REQUESTS[number % 6])
                continue
            is_valid = draw < flags.valid
            shot = (
                server_client.valid(pictures, random)
                if is_valid
                else attacks[random.integers(len(attacks))]
            )
            status, body = await client.post(shot)
            while status == 429:
                counts["busy"] += 1
                await asyncio.sleep(1)
                status, body = await client.post(shot)
            counts["valid" if is_valid else "hostile"] += 1
            counts["images"] += shot.images
            if not shot.is_right(status, body):
                counts["wrong"] += 1
                print(f"wrong: {shot.path} {shot.body[:80]!r}: {status} {body[:300]!r}",
                      file=sys.stderr)  # fmt: skip
        await client.close()

    begun = time.perf_counter()
    await asyncio.gather(*map(work, range(flags.clients)))
    memory.append(_resident_megabytes(pid))
    assert _is_ready(port)
    seconds = time.perf_counter() - begun
    return {**counts, "clients": flags.clients, "seconds": seconds, "memory_mb": memory}


def _resident_megabytes(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _flags() -> argparse.Namespace:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--model", required=True, help="folder of the model")
    flags.add_argument("--images", type=int, default=192, help="different images (default 192)")
    flags.add_argument("--side", type=int, default=112, help="their height and width (default 112)")
    flags.add_argument("--turns", type=int, default=5, help="of saturation (default 5)")
    flags.add_argument("--seconds", type=float, default=60, help="of half load (default 60)")
    flags.add_argument("--requests", type=int, default=20_000, help="mixed (default 20000)")
    flags.add_argument("--clients", type=int, default=64, help="of mixed requests (default 64)")
    flags.add_argument("--valid", type=float, default=0.3, help="share of them (default 0.3)")
    flags.add_argument(
        "--serve",
        nargs=argparse.REMAINDER,
        default=[],
        help="all that follows are flags of `jaxqa serve`, such as --modes think",
    )
    return flags.parse_args()


if __name__ == "__main__":
    sys.exit(main())
