"""What one large GPU makes of the full-size 7B model: random weights, under ten minutes.

    python benchmarks/gpu.py --json=gpu.json            one H200
    python benchmarks/gpu.py --plan                     bytes that training should take, by count
    python benchmarks/gpu.py --preset=tiny              the same journey on a CPU, to see it work

Needs jax, flax, optax and jaxtyping; no weights, no data, no tokenizer. Prompts hold an image of
756 x 1036 pixels (999 tokens) and a question, together 1152 tokens; completions are 160 tokens
long, whatever is sampled. Utilisation counts `useful_flops`. Times are medians. The most important
part comes first; a figure is printed and written as soon as it is there, and what fails leaves its
error in the figure's place. What would end too late, by a guess of how long it takes, is skipped; a
second run with `--parts` finds its programs compiled.
"""

import argparse
import dataclasses
import datetime
import gc
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from jaxqa.cli import compiled, gpu_environment

gpu_environment.prepare(os.environ)  # a GPU's memory is shared out when JAX first looks at it
import jax  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent))
import gpu_parts  # noqa: E402
import gpu_training  # noqa: E402
from gpu_parts import PRESETS, Bench, Figure, Part  # noqa: E402

from jaxqa.nn.attention_backends import Backend  # noqa: E402
from jaxqa.nn.stack import Remat  # noqa: E402

PARTS: dict[str, Part] = {
    "training": gpu_training.training,
    "decode": gpu_parts.decode,
    "prefill": gpu_parts.prefill,
    "clip": gpu_parts.clip,
    "attention": gpu_parts.attention,
}
PEAKS = {
    "NVIDIA H200": (989e12, 4.8e12),
    "NVIDIA H100 80GB HBM3": (989e12, 3.35e12),
    "NVIDIA A100-SXM4-80GB": (312e12, 2.04e12),
}
"""Floating-point operations in bfloat16 and bytes per second, of the data sheets, by the device's
whole name: a GH200 or an H100 on PCIe has others."""


class Record:
    """All that was found; its file is whole at every moment."""

    def __init__(self, path: Path | None, found: dict[str, Any]):
        """Start with `found`; without a path nothing is written."""
        self.found, self._path = found, path

    def add(self, part: str, name: str, value: Any) -> None:
        """Keep and show a figure."""
        self.found.setdefault(part, {})[name] = value
        print(json.dumps({part: {name: value}}), flush=True)
        self.write()

    def write(self) -> None:
        """Put the file's next version in the place of the last."""
        if self._path:
            new = self._path.with_name(f"{self._path.name}.new")
            new.write_text(json.dumps(self.found, indent=2) + "\n")
            new.replace(self._path)


def main() -> None:
    """Measure and print JSON."""
    begun, options = time.monotonic(), _options()
    bench = Bench(
        preset=PRESETS[options.preset],
        rounds=options.rounds,
        remat=options.remat,
        optimizer=options.optimizer,
    )
    if options.plan:
        print(json.dumps(gpu_training.expected_gib(bench, options.attention), indent=2))
        return
    cache = compiled.cache_folder(options.compilation_cache, os.environ, shared=None)
    compiled.keep_compiled(cache, on_cpu=options.compilation_cache is not None)
    device = jax.devices()[0]
    bench.peaks = PEAKS.get(device.device_kind)
    record = Record(options.json, _head(options, bench, device))
    for name, value in gpu_parts.choose_attention(bench, options.attention):
        record.add("attention_choice", name, value)
    for name in options.parts.split(","):
        measure(record, name, PARTS[name], bench, until=begun + options.seconds)
    record.found["seconds"] = round(time.monotonic() - begun, 1)
    record.write()
    print(json.dumps(record.found, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="7b")
    parser.add_argument("--parts", default=",".join(PARTS), help="in this order")
    parser.add_argument("--seconds", type=float, default=570, help="start nothing that ends later")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there, each at once")
    parser.add_argument("--attention", choices=get_args(Backend), default="auto")
    parser.add_argument("--remat", choices=get_args(Remat), default="attention")
    parser.add_argument("--optimizer", choices=gpu_parts.OPTIMIZERS, default="adafactor")
    parser.add_argument("--plan", action="store_true", help="print what training should take")
    parser.add_argument(
        "--compilation_cache",
        metavar="DIR",
        help="where compiled programs are kept, or 'off' (default: as `jaxqa train`)",
    )
    return parser.parse_args()


def _head(options: argparse.Namespace, bench: Bench, device: Any) -> dict[str, Any]:
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return {
        "date": datetime.date.today().isoformat(),
        "device": f"{device.platform} {device.device_kind}",
        "limit_gib": limit and limit / 2**30,
        "command": shlex.join(["python", *sys.argv]),
        "jax": jax.__version__,
        "preset": dataclasses.asdict(bench.preset) | {"config": options.preset, "clip": ""},
        "remat": options.remat,
        "optimizer": options.optimizer,
    }


def measure(record: Record, name: str, part: Part, bench: Bench, *, until: float) -> None:
    """All figures of a part, each on its own."""
    begun = time.monotonic()
    for figure in _figures(record, name, part(bench)):
        left = until - time.monotonic()
        if figure.seconds > left:
            text = f"takes about {figure.seconds:.0f} seconds, {max(left, 0):.0f} are left"
            record.add(name, figure.name, {"skipped": text})
            continue
        try:
            found = figure.measure()
        except Exception as error:  # whatever it is, the other figures are worth having
            found = {"error": gpu_parts.text_of(error)}
        record.add(name, figure.name, found)
    gc.collect()  # the part's arrays, before the next one makes its own
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:  # JAX cannot start it anew
        record.add(name, "peak_gib_since_start", stats["peak_bytes_in_use"] / 2**30)
    record.add(name, "part_seconds", round(time.monotonic() - begun, 1))


def _figures(record: Record, name: str, part: Iterator[Figure]) -> Iterator[Figure]:
    """What a part has to measure, up to where it cannot go on."""
    try:
        yield from part
    except Exception as error:
        record.add(name, "error", gpu_parts.text_of(error))


if __name__ == "__main__":
    main()
