"""What growing caches and leaving completions save, where completions end anywhere.

    taskset -c 0 python benchmarks/decode_buckets.py

The same rollout three times in turn: with one cache of full length, with a growing one, and with
completions that leave at its steps. Every token ends a completion with the same probability, so
lengths are as different as they can be. Fails if a token differs.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
import small_models  # noqa: E402
from interleaved import fastest  # noqa: E402

from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL  # noqa: E402
from jaxqa.sampling.config import SamplingConfig  # noqa: E402
from jaxqa.sampling.keys import sample_keys  # noqa: E402
from jaxqa.sampling.sampler import Sampler  # noqa: E402


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=small_models.SIZES, default="5m")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--mean", type=float, default=80, help="mean length, were there no longest")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    config = small_models.SIZES[options.size]
    model = Qwen2_5_VL(config=config)
    params = jax.jit(model.init)(jax.random.key(0))
    drawn = [small_models.draw_prompt(config, 128, side=224, seed=n) for n in range(options.rows)]
    prompts = small_models.batch(config, drawn)
    keys = sample_keys(0, "benchmark", 0, np.arange(options.rows), options.group)
    # A freshly drawn model's tokens are all about as probable.
    stops = np.linspace(0, config.text.vocab_size - 1, round(config.text.vocab_size / options.mean))
    plain = Sampler(
        model=model,
        config=SamplingConfig(num_samples=options.group, max_new_tokens=options.tokens),
        stop_token_ids=tuple(sorted({int(stop) for stop in stops})),
        pad_token_id=0,
        cache_lengths=(),
    )
    grown = dataclasses.replace(plain, cache_lengths=Sampler.cache_lengths)
    samplers = {
        "one cache": plain,
        "growing": grown,
        "growing, completions leave": dataclasses.replace(grown, row_blocks=1),
    }
    rollouts = {name: sampler(params, prompts, keys) for name, sampler in samplers.items()}
    for rollout in rollouts.values():
        np.testing.assert_array_equal(rollout.token_ids, rollouts["one cache"].token_ids)
    lengths = np.asarray(rollouts["one cache"].length)
    seconds = fastest(
        {
            name: lambda sampler=sampler: jax.block_until_ready(sampler(params, prompts, keys))
            for name, sampler in samplers.items()
        },
        options.rounds,
    )
    print(
        f"{lengths.size} completions, mean length {lengths.mean():.0f}, longest {lengths.max()}\n"
    )
    print("| cache | wall ms | CPU ms | share of the first's CPU time |\n|---|---|---|---|")
    for name, (wall, cpu) in seconds.items():
        share = cpu / seconds["one cache"].cpu
        print(f"| {name} | {1e3 * wall:.0f} | {1e3 * cpu:.0f} | {share:.2f} |")


if __name__ == "__main__":
    main()
