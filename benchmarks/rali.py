"""A distilled scorer against the reasoning scorer it stands for: time and memory per batch.

    python benchmarks/rali.py                      small models of the same proportions, on a CPU
    python benchmarks/rali.py --size=full          ViT-L/14-336 and a 7B model, on a GPU

Both start from decoded images. The distilled scorer resizes nothing (its images have its size) and
computes one block; the reasoning scorer encodes image and question and writes `--tokens` tokens,
no more and no less. Weights are random: they cost what trained ones cost. Every row is measured in
a process of its own, so that memory is that model's alone: the device's peak where the device
counts, else what the process grew by. RALI's paper (figure 6, A100, batch 16): 3.4 % of the time
and 14.7 % of the memory of Q-Insight; by arithmetic 0.9 % of the time is possible.

`--embeddings` also measures scores of cached embeddings.
"""

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxqa.distill.artifact import Artifact
from jaxqa.distill.basis import OutputMapping, ScoreBasis
from jaxqa.distill.scorer import RaliScorer
from jaxqa.models.clip.config import PRESETS as CLIP_PRESETS
from jaxqa.models.clip.config import ClipConfig
from jaxqa.models.clip.config import VisionConfig as ClipVisionConfig
from jaxqa.models.clip.model import Clip
from jaxqa.models.qwen2_5_vl import layout
from jaxqa.models.qwen2_5_vl.config import PRESETS, Qwen2_5_VLConfig, TextConfig, VisionConfig
from jaxqa.models.qwen2_5_vl.inputs import stack_rows
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.sampling.config import SamplingConfig
from jaxqa.sampling.keys import sample_keys
from jaxqa.sampling.sampler import Sampler

QUESTION_TOKENS = 80
DIMENSIONS, VECTORS = 512, 250


@dataclasses.dataclass(frozen=True)
class Size:
    """Models to compare; the reasoner sees images of `height` x `width`."""

    clip: ClipConfig
    reasoner: Qwen2_5_VLConfig
    height: int
    width: int
    dtype: str


def small() -> Size:
    """One part in 24 of the parameters; ViT-L/14-336 has one in 27 of a 7B model's."""
    clip = ClipConfig(
        vision=ClipVisionConfig(
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=6,
            num_attention_heads=4,
            image_size=112,
            patch_size=14,
        ),
        text=None,
        projection_dim=128,
    )
    reasoner = dataclasses.replace(
        PRESETS["tiny"],
        vision=VisionConfig(
            depth=4,
            hidden_size=192,
            intermediate_size=512,
            num_heads=6,
            out_hidden_size=512,
            fullatt_block_indexes=(3,),
        ),
        text=TextConfig(
            vocab_size=2048,
            hidden_size=512,
            intermediate_size=1536,
            num_hidden_layers=9,
            num_attention_heads=8,
            num_key_value_heads=2,
            mrope_section=(8, 12, 12),
            tie_word_embeddings=True,
            max_position_embeddings=4096,
        ),
    )
    return Size(clip=clip, reasoner=reasoner, height=252, width=252, dtype="float32")


def full() -> Size:
    """The paper's models; an image of KonIQ-10k, about 1000 visual tokens."""
    return Size(
        clip=CLIP_PRESETS["vit-l-14-336"].image_only(),
        reasoner=PRESETS["7b"],
        height=756,
        width=1036,
        dtype="bfloat16",
    )


SIZES = {"small": small, "full": full}


def main() -> None:
    """Measure in child processes and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--batch_sizes", default="1,4,16")
    parser.add_argument("--tokens", type=int, default=100, help="length of every answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--embeddings", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        name, batch = flags.child.split(":")
        print(json.dumps(MEASURES[name](SIZES[flags.size](), int(batch), flags)))
        return
    print("| batch | RALI | images/s | reasoner | time | memory, RALI | reasoner | memory |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for batch in map(int, flags.batch_sizes.split(",")):
        fast, slow = (in_child(name, batch) for name in ("rali", "reasoner"))
        shares = [f"{100 * fast[key] / slow[key]:.2f} %" for key in ("seconds", "bytes")]
        print(
            f"| {batch} | {1000 * fast['seconds']:.1f} ms | {batch / fast['seconds']:.0f} "
            f"| {1000 * slow['seconds']:.0f} ms | {shares[0]} | {fast['bytes'] / 1e6:.0f} MB "
            f"| {slow['bytes'] / 1e6:.0f} MB | {shares[1]} |",
            flush=True,
        )
    if flags.embeddings:
        print(f"\ncached embeddings: {in_child('embeddings', 100_000)['per_second']:,.0f} a second")


def in_child(name: str, batch: int) -> dict[str, float]:
    """One measurement in a process of its own, with the flags of this one."""
    command = [sys.executable, __file__, *sys.argv[1:], f"--child={name}:{batch}"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])


def measure_rali(size: Size, batch: int, flags: argparse.Namespace) -> dict[str, float]:
    """One block of images."""
    before = resident()
    scorer = make_scorer(size, batch)
    side = size.clip.vision.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3)).astype(np.uint8)
    seconds = best(lambda: np.asarray(scorer.dispatch(pixels)), flags.rounds)
    return {"seconds": seconds, "bytes": peak(before)}


def measure_embeddings(size: Size, count: int, flags: argparse.Namespace) -> dict[str, float]:
    """Scores of `count` cached embeddings."""
    scorer = make_scorer(size, 1)
    shape = (count, size.clip.projection_dim)
    embeddings = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    seconds = best(lambda: scorer.score_embeddings(embeddings), flags.rounds)
    return {"per_second": count / seconds}


def measure_reasoner(size: Size, batch: int, flags: argparse.Namespace) -> dict[str, float]:
    """One batch of images with answers of a fixed length."""
    before = resident()
    config = size.reasoner
    model = Qwen2_5_VL(config=config, compute_dtype=size.dtype)
    params = jax.jit(lambda key: model.init(key, param_dtype=size.dtype))(jax.random.key(0))
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (size.height, size.width, 3)).astype(np.uint8)
    visual = [config.image_token_id] * layout.count_tokens(size.height, size.width, config.vision)
    question = rng.integers(0, 500, QUESTION_TOKENS)
    start, end = [config.vision_start_token_id], [config.vision_end_token_id]
    row = layout.build_row(
        np.concatenate([start, visual, end, question]).astype(np.int32), [image], config
    )
    prompts = stack_rows([row] * batch, prompt_length=row.length, num_windows=row.num_windows)
    sampler = Sampler(
        model=model,
        config=SamplingConfig(max_new_tokens=flags.tokens, temperature=0.0),
        stop_token_ids=(),
        pad_token_id=config.pad_token_id,
    )
    keys = sample_keys(0, "benchmark", 0, np.arange(batch), 1)
    seconds = best(lambda: np.asarray(sampler(params, prompts, keys).token_ids), flags.rounds)
    return {"seconds": seconds, "bytes": peak(before)}


MEASURES = {
    "rali": measure_rali,
    "reasoner": measure_reasoner,
    "embeddings": measure_embeddings,
}


def make_scorer(size: Size, batch: int) -> RaliScorer:
    """A scorer of random weights."""
    width, dimensions = size.clip.projection_dim, min(DIMENSIONS, size.clip.projection_dim)
    rng = np.random.default_rng(0)
    params = {
        "mean": np.zeros(width),
        "components": np.eye(width, dimensions),
        "vectors": rng.standard_normal((VECTORS, dimensions)),
        "scores": rng.uniform(1, 5, VECTORS),
    }
    basis = ScoreBasis(
        params={name: leaf.astype(np.float32) for name, leaf in params.items()},
        temperature=1.0,
        mapping=OutputMapping(low=1.0, high=5.0),
    )
    init = jax.jit(lambda key: Clip(config=size.clip).init(key, param_dtype=size.dtype))
    artifact = Artifact(config=size.clip, encoder=init(jax.random.key(0)), basis=basis)
    return RaliScorer(artifact, block_size=batch, compute_dtype=size.dtype)


def best(run: Callable[[], object], rounds: int) -> float:
    """Seconds of the fastest round, after one that compiles."""
    run()
    spent = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        spent.append(time.perf_counter() - start)
    return min(spent)


def resident() -> int:
    """Largest memory of the process so far, in bytes, once the device is there."""
    jnp.zeros(1).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak(before: int) -> int:
    """Bytes at the peak: the device's own count, or what the process grew by."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use") or max(1, resident() - before)


if __name__ == "__main__":
    main()
