"""jaxqa beside `transformers` on a CPU: the same weights in the same process, run in turn.

    taskset -c 0 python benchmarks/against_transformers.py                 5 M parameters, 1 thread
    taskset -c 0 python benchmarks/against_transformers.py --size=20m
    python benchmarks/against_transformers.py --rounds=9                   all cores

One prompt of P tokens with an image, G completions of T tokens, all of full length. First
generation (temperature 1, the whole distribution; jaxqa also computes log-probabilities and
entropies, transformers does not), then one training step: policy loss over the completions' tokens
and all gradients. Everything is float32. Read ratios, not times; with one thread take those of CPU
time, which other load on the machine disturbs least. Compilation and a first run do not count.

transformers runs in every setting that could be its fastest: sdpa and eager attention, sdpa with
the text model under `torch.compile`, G copies of prompt and image (what trainers do), the prompt
read once and its cache repeated, both with sdpa also on a static cache; training with G copies of
the image and with its features computed once. TRL's whole GRPO step: `against_trl.py`.
"""

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
import small_models  # noqa: E402
from interleaved import Seconds, fastest  # noqa: E402

from jaxqa.models.qwen2_5_vl.inputs import Prompts  # noqa: E402
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL  # noqa: E402
from jaxqa.objectives import log_probabilities  # noqa: E402
from jaxqa.sampling.config import SamplingConfig  # noqa: E402
from jaxqa.sampling.keys import sample_keys  # noqa: E402
from jaxqa.sampling.sampler import Sampler  # noqa: E402

Runs = Mapping[str, Callable[[], Any]]


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=small_models.SIZES, default="5m")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--generation_prompt", type=int, default=256)
    parser.add_argument("--training_prompt", type=int, default=384)
    parser.add_argument("--side", type=int, default=336, help="of the image, in pixels")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--torch_compile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also transformers under torch.compile, which takes minutes to compile",
    )
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    from hugging_face import prepare  # here: it loads torch

    machine = prepare()
    params = jax.jit(model_of(options).init)(jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6
    print(
        f"{count:.1f} M parameters, G={options.group}, T={options.tokens}, {machine}; "
        f"fastest of {options.rounds} rounds in turn\n"
    )
    figures = {"generation": generation(options, params), "training": training(options, params)}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def model_of(options: argparse.Namespace) -> Qwen2_5_VL:
    """The model of the wanted size, in float32."""
    return Qwen2_5_VL(config=small_models.SIZES[options.size])


def generation(options: argparse.Namespace, params: Any) -> dict[str, Any]:
    """Group generation."""
    from hugging_face import HuggingFace

    model, group, length = model_of(options), options.group, options.tokens
    prompt = small_models.draw_prompt(model.config, options.generation_prompt, side=options.side)
    prompts = small_models.batch(model.config, [prompt])
    keys = sample_keys(0, "benchmark", 0, np.array([1]), group)
    sampler = Sampler(
        model=model,
        config=SamplingConfig(num_samples=group, max_new_tokens=length),
        stop_token_ids=(),
        pad_token_id=0,
    )
    stacked = dataclasses.replace(sampler, model=dataclasses.replace(model, most_unstacked=0))
    others = {
        name: HuggingFace(model.config, params, prompt, group=group, attention=name)
        for name in ("sdpa", "eager")
    }
    if options.torch_compile:
        others["sdpa, torch.compile"] = HuggingFace(
            model.config, params, prompt, group=group, attention="sdpa", compiled=True
        )
    greedy = dataclasses.replace(sampler.config, temperature=0.0)
    expected = dataclasses.replace(sampler, config=greedy)(params, prompts, keys).token_ids[0]
    writers = settings_of(others, length)
    for name, write in writers.items():
        agreement = np.mean(write(greedy=True).numpy() == np.asarray(expected))
        if agreement < 0.9:  # near ties may round differently; another prompt would not agree
            raise AssertionError(f"{name}: only {agreement:.0%} of the greedy tokens agree")
    runs: dict[str, Callable[[], Any]] = {
        "jaxqa": lambda: jax.block_until_ready(sampler(params, prompts, keys)),
        "jaxqa, loop over layers": lambda: jax.block_until_ready(stacked(params, prompts, keys)),
    }
    runs |= writers
    title = f"Generation, P={options.generation_prompt}"
    return report(title, fastest(runs, options.rounds), tokens=group * length)


def settings_of(others: Mapping[str, Any], length: int) -> dict[str, Callable[..., Any]]:
    """Every way in which transformers may write `length` tokens, by name."""
    found: dict[str, Callable[..., Any]] = {}
    for name, other in others.items():
        for kind, static in (("", False), (", static cache", True)):
            if static and name == "eager":  # the slowest already
                continue
            ways = {"G copies": other.generate, "prompt read once": other.generate_prefilled}
            for way, write in ways.items():
                found[f"{name}{kind}, {way}"] = functools.partial(write, length, static=static)
    return found


def training(options: argparse.Namespace, params: Any) -> dict[str, Any]:
    """One group's training step; prints how far the gradients are apart."""
    from hugging_face import HuggingFace

    model, group = model_of(options), options.group
    prompt = small_models.draw_prompt(model.config, options.training_prompt, side=options.side)
    rng = np.random.default_rng(1)
    ids = rng.integers(0, model.config.text.vocab_size, (group, options.tokens)).astype(np.int32)
    advantages = rng.standard_normal((group, 1)).astype(np.float32)
    weights = np.broadcast_to(advantages / ids.size, ids.shape).copy()
    shared = small_models.batch(model.config, [prompt])
    repeated = small_models.batch(model.config, [prompt] * group)
    step = jax.jit(jax.value_and_grad(loss, argnums=1), static_argnums=0)
    once = lambda: step(model, params, shared, ids[None], weights[None])  # noqa: E731
    naive = lambda: step(model, params, repeated, ids[:, None], weights[:, None])  # noqa: E731
    runs: dict[str, Callable[[], Any]] = {
        "jaxqa": lambda: jax.block_until_ready(once()),
        "jaxqa, prompt repeated G times": lambda: jax.block_until_ready(naive()),
    }
    gaps = {"its own naive layout": relative_gap(once()[1], naive()[1])}
    compiling = ("sdpa, torch.compile",) if options.torch_compile else ()
    for name in ("sdpa", "eager", *compiling):
        attention, _, compiled = name.partition(", ")
        other = HuggingFace(
            model.config, params, prompt, group=group, attention=attention, compiled=bool(compiled)
        )
        other.model.train()
        for label, image_once in ((f"{name}, G copies", False), (f"{name}, image once", True)):
            runs[label] = lambda other=other, once=image_once: other.step(
                ids, weights, image_once=once
            )
            runs[label]()
            gaps[label] = relative_gap(once()[1], other.gradients())
    figures = report(f"Training step, P={options.training_prompt}", fastest(runs, options.rounds))
    print("\nLargest difference of a gradient, relative to the parameter's largest, from")
    for name, gap in gaps.items():
        print(f"  {name}: {gap:.1e}")
    return figures | {"gradient_gaps": gaps}


def loss(
    model: Qwen2_5_VL, params: Any, prompts: Prompts, ids: np.ndarray, weights: np.ndarray
) -> jax.Array:
    """Weighted sum of the negative log-probabilities: GRPO's loss where the ratio is 1."""
    hidden = model.group_hidden(params, prompts, jnp.asarray(ids))
    found, _ = log_probabilities.token_log_probs(hidden, model.head(params), jnp.asarray(ids))
    return -(found * weights).sum()


def relative_gap(found: Any, expected: Any) -> float:
    """The largest over all parameters."""

    def of(a: Any, b: Any) -> float:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        return float(np.abs(a - b).max() / np.abs(b).max())

    return max(jax.tree.leaves(jax.tree.map(of, found, expected)))


def report(title: str, seconds: dict[str, Seconds], *, tokens: int = 0) -> dict[str, Any]:
    """Print a Markdown table of times and of ratios to jaxqa's, and return it."""
    ours = seconds["jaxqa"]
    print(f"| {title} | wall ms | CPU ms | jaxqa faster by, wall | by CPU time |")
    print("|---|---|---|---|---|")
    for name, (wall, cpu) in seconds.items():
        rate = f" ({tokens / wall:.0f} tokens/s)" if tokens else ""
        print(
            f"| {name} | {1e3 * wall:.0f}{rate} | {1e3 * cpu:.0f} | {wall / ours.wall:.2f} | "
            f"{cpu / ours.cpu:.2f} |"
        )
    return {name: dict(zip(("wall_s", "cpu_s"), s, strict=True)) for name, s in seconds.items()}


if __name__ == "__main__":
    main()
