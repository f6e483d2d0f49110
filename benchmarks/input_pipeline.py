"""Images per second and core from a JPEG file to patches, beside Hugging Face's image processors.

    taskset -c 0 python benchmarks/input_pipeline.py

Both sides open the file, decode it, resize it as Qwen2.5-VL wants it and cut it into patches. Ours
also lays the patches out in attention windows with their masks and positions; theirs also
normalises the pixels, which ours leaves to the device. Their processor on Pillow gives the same
pixels; the one on torchvision, whose pixels differ by a level here and there, is measured where
torchvision is installed.

A figure is the CPU time of one thread, the best of several rounds in which the sides take turns.
"""

import argparse
import dataclasses
import importlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from jaxqa.data import images, scenes
from jaxqa.models.qwen2_5_vl import layout, preprocess
from jaxqa.models.qwen2_5_vl.config import PRESETS
from jaxqa.models.qwen2_5_vl.preprocess import ImageConfig

SIZES = ((512, 384), (1024, 768))
THEIRS = {
    "Hugging Face, Pillow": (
        "transformers.models.qwen2_vl.image_processing_pil_qwen2_vl",
        "Qwen2VLImageProcessorPil",
    ),
    "Hugging Face, torchvision": (
        "transformers.models.qwen2_vl.image_processing_qwen2_vl",
        "Qwen2VLImageProcessor",
    ),
}

Process = Callable[[Path], object]


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    sides = {"jaxqa": ours()} | theirs()
    print(f"| images of | {' | '.join(sides)} |\n|---|{'---:|' * len(sides)}")
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            files = photographs(Path(folder), size, options.images)
            seconds = measure(sides, files, options.rounds)
        cells = (
            f"{1 / spent:.0f}/s ({spent / seconds['jaxqa']:.2f} x the time)"
            for spent in seconds.values()
        )
        print(f"| {size[0]} x {size[1]} | {' | '.join(cells)} |")


def ours() -> Process:
    """What the loader does for one image, up to its windows of patches."""
    config, limits = PRESETS["7b"], ImageConfig()
    one = dataclasses.replace(config, image_token_id=0)

    def process(path: Path) -> object:
        pixels = preprocess.resize_image(images.open_rgb(path), limits)
        count = layout.count_tokens(pixels.shape[0], pixels.shape[1], config.vision)
        return layout.build_row(np.zeros(count, np.int32), [pixels], one)

    return process


def theirs() -> dict[str, Process]:
    """Hugging Face's processors, as far as they are installed."""
    try:
        torch = importlib.import_module("torch")
        torch.set_num_threads(1)
        _declare_operators(torch)
    except ImportError:
        pass
    found = {}
    for name, (module, kind) in THEIRS.items():
        try:
            found[name] = _process(getattr(importlib.import_module(module), kind)())
        except (ImportError, RuntimeError) as error:
            print(f"{name}: not installed ({str(error).splitlines()[0]})\n")
    return found


def _declare_operators(torch: ModuleType) -> None:
    """Let a torchvision be imported whose compiled part does not load.

    The released one is built for a torch with CUDA. Beside a torch for CPUs its import ends with
    "operator torchvision::nms does not exist". Image processing calls no such operator.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in ("nms", "qnms"):  # those whose absence ends the import
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", schema)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # what the failed import left
        print("torchvision: does not load as installed; measured with its operators declared\n")


def _process(processor: Callable[..., object]) -> Process:
    tensors = "np" if "Pil" in type(processor).__name__ else "pt"

    def process(path: Path) -> object:
        with Image.open(path) as image:
            return processor(images=image.convert("RGB"), return_tensors=tensors)

    return process


def photographs(folder: Path, size: tuple[int, int], count: int) -> list[Path]:
    """JPEG files of one size, of the photographs that the installed packages bring."""
    found = []
    for number, scene in enumerate(scenes.packaged_scenes()[:count]):
        path = folder / f"{number}.jpg"
        picture = Image.fromarray(scenes.load_scene(scene))
        picture.resize(size, Image.Resampling.BICUBIC).save(path, quality=90)
        found.append(path)
    return found


def measure(sides: dict[str, Process], files: Sequence[Path], rounds: int) -> dict[str, float]:
    """Seconds of CPU per image, by side: the best round."""
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(rounds):
        for name, process in sides.items():
            begun = time.process_time()
            for file in files:
                process(file)
            best[name] = min(best[name], (time.process_time() - begun) / len(files))
    return best


if __name__ == "__main__":
    main()
