"""What one large GPU makes of the full-size 7B model: random weights, under ten minutes.

    python benchmarks/gpu.py --json=gpu.json            one H200 or H100
    python benchmarks/gpu.py --preset=tiny              the same journey on a CPU, to see it work

Needs jax, flax and optax; no weights, no data, no tokenizer. Prompts hold an image of 756 x 1036
pixels (999 tokens) and a question, together 1152 tokens; completions are 160 tokens long, whatever
is sampled. Utilisation counts `useful_flops`. Parts that the time no longer allows are named, as
are those that do not fit; every part's figures are printed as soon as it is done.
"""

import argparse
import dataclasses
import datetime
import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

sys.path.insert(0, str(Path(__file__).resolve().parent))
import gpu_parts  # noqa: E402
from gpu_parts import PRESETS, Bench  # noqa: E402

PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "decode": gpu_parts.decode,
    "prefill": gpu_parts.prefill,
    "clip": gpu_parts.clip,
    "attention": gpu_parts.attention,
    "training": gpu_parts.training,
}
PEAKS = {
    "H200": (989e12, 4.8e12),
    "H100": (989e12, 3.35e12),
    "A100": (312e12, 2.04e12),
}
"""Floating-point operations in bfloat16 and bytes per second, of the data sheets."""


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="7b")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--seconds", type=float, default=570, help="start no part after these")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    device, begun = jax.devices()[0], time.monotonic()
    bench = Bench(preset=PRESETS[options.preset], rounds=options.rounds, peaks=_peaks(device))
    record: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "device": f"{device.platform} {device.device_kind}",
        "command": shlex.join(["python", *sys.argv]),
        "jax": jax.__version__,
        "preset": dataclasses.asdict(bench.preset) | {"config": options.preset, "clip": ""},
    }
    for name in options.parts.split(","):
        spent = time.monotonic() - begun
        record[name] = (
            _measured(PARTS[name], bench)
            if spent < options.seconds
            else {"skipped": f"{spent:.0f} seconds were gone"}
        )
        print(json.dumps({name: record[name]}), flush=True)
    record["seconds"] = round(time.monotonic() - begun, 1)
    print(json.dumps(record, indent=2))
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n")


def _peaks(device: Any) -> tuple[float, float] | None:
    for name, peaks in PEAKS.items():
        if name in device.device_kind:
            return peaks
    return None


def _measured(part: Callable[[Bench], dict[str, Any]], bench: Bench) -> dict[str, Any]:
    """A part's figures, or what the device says of it."""
    begun = time.monotonic()
    try:
        found: dict[str, Any] = dict(part(bench))
    except jax.errors.JaxRuntimeError as error:  # out of memory, or a kernel that does not exist
        found = {"error": str(error).splitlines()[0]}
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        found["peak_gib_so_far"] = stats["peak_bytes_in_use"] / 2**30
    return found | {"part_seconds": time.monotonic() - begun}


if __name__ == "__main__":
    main()
