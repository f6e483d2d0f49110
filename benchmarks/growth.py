"""How cost grows with the group, the answers' length, the vocabulary and the image.

    python benchmarks/growth.py

Most lines count: multiplications of the traced full-size 7B model (nothing runs), bytes that XLA
plans, programs that are compiled. They are the same on every machine. Only the last line is timed,
in turn. Exits with 1 if a bound does not hold.
"""

import argparse
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
import small_models  # noqa: E402
from counting import abstract_prompts, dot_flops, elements_read, shapes  # noqa: E402
from interleaved import fastest  # noqa: E402

from jaxqa.models.qwen2_5_vl.config import PRESETS  # noqa: E402
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL  # noqa: E402
from jaxqa.objectives.log_probabilities import token_log_probs  # noqa: E402
from jaxqa.sampling import sampler as sampling  # noqa: E402
from jaxqa.sampling.config import SamplingConfig  # noqa: E402
from jaxqa.sampling.keys import sample_keys  # noqa: E402
from jaxqa.sampling.sampler import Sampler  # noqa: E402

PROMPT, TOKENS, WINDOWS = 1152, 160, 70
"""An image of 756 x 1036 pixels (999 tokens) and a question; 7 x 10 windows."""


class Growth(NamedTuple):
    """One line of the table: `value` must be at most `bound`."""

    what: str
    value: float
    bound: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=small_models.SIZES, default="5m", help="what is timed")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    lines = []
    print("| growth | found | at most | holds |\n|---|---|---|---|")
    for line in (*counted(), *compiled(), *timed(options.size, options.rounds)):
        lines.append(line)
        holds = "yes" if line.value <= line.bound else "NO"
        print(f"| {line.what} | {line.value:.4g} | {line.bound:g} | {holds} |", flush=True)
    sys.exit(any(line.value > line.bound for line in lines))


def counted() -> Iterator[Growth]:
    """Multiplications of the 7B model, by one attention whatever the size of a call."""
    model = Qwen2_5_VL(config=PRESETS["7b"], compute_dtype="bfloat16", attention="xla")
    params = model.abstract_params()
    prompts = abstract_prompts(model.config, 1, length=PROMPT, windows=WINDOWS)
    step = jax.value_and_grad(functools.partial(_loss, model))

    def train(group: int, keep: Any = lambda dot: True) -> float:
        ids = jax.ShapeDtypeStruct((1, group, TOKENS), jnp.int32)
        return dot_flops(step, params, prompts, ids, keep=keep)

    def is_vision(dot: Any) -> bool:
        sizes = {model.config.vision.hidden_size, model.config.vision.intermediate_size}
        return any(sizes & set(shape) for shape in shapes(dot))

    yield Growth("training step, G 4 to 16", train(16) / train(4), 2.6)
    vision = [train(group, is_vision) for group in (4, 16)]
    yield Growth("vision tower in training, G 4 to 16", vision[1] / vision[0], 1.0)
    yield Growth("prefill in sampling, G 4 to 16", _prefill(16) / _prefill(4), 1.0)
    read = [_prompt_read(group) for group in (4, 16)]
    yield Growth("prompt's keys and values read in a decoding step", read[1] / read[0], 1.0)
    yield from _area(model)


def _loss(model: Qwen2_5_VL, params: Any, prompts: Any, ids: Any) -> jax.Array:
    hidden = model.group_hidden(params, prompts, ids)
    return -token_log_probs(hidden, model.head(params), ids)[0].sum()


def _rollout(group: int) -> tuple[Any, ...]:
    """The sampler's program and its arguments' shapes."""
    model = Qwen2_5_VL(config=PRESETS["7b"], compute_dtype="bfloat16")
    sampler = _sampler(model, group, TOKENS)
    keys = jax.eval_shape(lambda: sample_keys(0, "growth", 0, np.arange(1), group))
    prompts = abstract_prompts(model.config, 1, length=PROMPT, windows=WINDOWS)
    run = functools.partial(sampling._sample.__wrapped__, sampler)
    return run, model.abstract_params(), prompts, keys


def _prefill(group: int) -> float:
    """All of a rollout but its decoding steps."""
    return dot_flops(*_rollout(group))


def _prompt_read(group: int) -> float:
    """Numbers of the prompt's keys and values that one decoding step multiplies by."""

    def is_prompt(shape: tuple[int, ...]) -> bool:
        return PROMPT in shape and PRESETS["7b"].text.head_dim in shape

    read = [elements_read(*_rollout(group), keep=is_prompt, decoding_steps=n) for n in (0, 1)]
    return read[1] - read[0]


def _area(model: Qwen2_5_VL) -> Iterator[Growth]:
    """The tower's attention, windowed and full, when the image's area doubles."""
    patches = model.config.vision.patches_per_window

    def attention(windows: int, windowed: bool) -> float:
        prompts = abstract_prompts(model.config, 1, length=PROMPT, windows=windows)

        def keep(dot: Any) -> bool:
            side = patches if windowed else windows * patches
            return any(shape[-2:] == (side, side) for shape in shapes(dot))

        return dot_flops(model.image_features, model.abstract_params(), prompts, keep=keep)

    for name, windowed, bound in (("windowed", True, 2.2), ("full", False, 4.4)):
        grown, before = attention(2 * WINDOWS, windowed), attention(WINDOWS, windowed)
        yield Growth(f"{name} vision attention, image area x 2", grown / before, bound)


def compiled() -> Iterator[Growth]:
    """What XLA makes of small models."""
    rows, width = 64, 64

    def temporary(vocabulary: int, tokens: int) -> int:
        arrays = (
            jax.ShapeDtypeStruct((rows, tokens, width), jnp.float32),
            jax.ShapeDtypeStruct((vocabulary, width), jnp.float32),
        )
        ids = jax.ShapeDtypeStruct((rows, tokens), jnp.int32)

        def loss(hidden: jax.Array, head: jax.Array, ids: jax.Array) -> jax.Array:
            return token_log_probs(hidden, head, ids)[0].sum()

        gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
        return gradient.lower(*arrays, ids).compile().memory_analysis().temp_size_in_bytes

    large, small, longer = temporary(131072, 8), temporary(32768, 8), temporary(32768, 16)
    yield Growth("memory of log-probabilities, V 32k to 128k", large / small, 1.2)
    yield Growth("memory of log-probabilities, T x 2", longer / small, 2.2)
    buckets = (24, 40, 64)
    yield Growth("programs for 50 ragged batches, 3 buckets", _programs(buckets), len(buckets))


def _programs(buckets: tuple[int, ...]) -> int:
    """Programs that the sampler compiles for prompts of any length."""
    config = small_models.SIZES["tiny"]
    model = Qwen2_5_VL(config=config)
    params = jax.jit(model.init)(jax.random.key(0))
    sampler = _sampler(model, 2, 3)
    rng, before = np.random.default_rng(0), sampling._sample._cache_size()
    for number in range(50):
        length = int(rng.integers(12, buckets[-1] + 1))
        bucket = next(size for size in buckets if size >= length)
        ids, image = small_models.draw_prompt(config, length, side=56, seed=number)
        prompts = small_models.batch(config, [(ids, image)], prompt_length=bucket)
        sampler(params, prompts, sample_keys(0, "growth", number, np.arange(1), 2))
    return sampling._sample._cache_size() - before


def timed(size: str, rounds: int) -> Iterator[Growth]:
    """Decoding time when every completion ends within a tenth of the longest."""
    config = small_models.SIZES[size]
    model = Qwen2_5_VL(config=config)
    params = jax.jit(model.init)(jax.random.key(0))
    prompt = small_models.draw_prompt(config, 64, side=112)
    prompts = small_models.batch(config, [prompt])
    keys = sample_keys(0, "growth", 0, np.arange(1), 8)
    whole = _sampler(model, 8, TOKENS)
    last = np.asarray(whole(params, prompts, keys).token_ids)[0, :, TOKENS // 10 - 1]
    stops = tuple(sorted({int(token) for token in last}))
    short = Sampler(model=model, config=whole.config, stop_token_ids=stops, pad_token_id=0)
    assert int(short(params, prompts, keys).num_steps) <= TOKENS // 10
    prefill = jax.jit(model.prefill)
    seconds = fastest(
        {
            "whole": lambda: jax.block_until_ready(whole(params, prompts, keys)),
            "short": lambda: jax.block_until_ready(short(params, prompts, keys)),
            "prefill": lambda: jax.block_until_ready(prefill(params, prompts)),
        },
        rounds,
    )
    decoding = {name: s.cpu - seconds["prefill"].cpu for name, s in seconds.items()}
    yield Growth("decoding time when all end at 10 %", decoding["short"] / decoding["whole"], 0.2)


def _sampler(model: Qwen2_5_VL, group: int, length: int) -> Sampler:
    config = SamplingConfig(num_samples=group, max_new_tokens=length)
    return Sampler(model=model, config=config, stop_token_ids=(), pad_token_id=0)


if __name__ == "__main__":
    main()
