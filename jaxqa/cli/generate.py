"""`generate`: what a model writes about images and a prompt."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxqa.cli.errors import run_door
from jaxqa.data import images as images_lib
from jaxqa.data.batching import PromptEncoder
from jaxqa.data.tokenizer import Message, Tokenizer, load_tokenizer
from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl import hf_config, weights
from jaxqa.models.qwen2_5_vl.inputs import stack_rows
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.sampling.keys import sample_keys
from jaxqa.sampling.sampler import Rollout, Sampler, SamplingConfig

_SAMPLING_HELP = {
    "num_samples": "completions to write",
    "max_new_tokens": "longest completion in tokens",
    "temperature": "divides the logits; 0 is greedy",
    "top_k": "keep the k best tokens; 0 keeps all",
    "top_p": "keep the best tokens up to this probability; 1 keeps all",
    "min_p": "keep tokens with this share of the best one's probability; 0 keeps all",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status."""
    return run_door(generate, argv)


def generate(argv: Sequence[str] | None) -> int:
    """Parse flags, sample, print text or one JSON object.

    Computes in float32 on a CPU and in bfloat16 elsewhere. Sampling options come from the flags
    only; a completion ends at the model's end-of-turn and end-of-text tokens.

    Raises:
      UserError: a bad flag, model or image.
    """
    flags = _parser().parse_args(argv)
    options = {name: getattr(flags, name) for name in _SAMPLING_HELP}
    try:
        sampling = SamplingConfig(**options)
        keys = sample_keys(flags.seed, "generate", 0, np.zeros(1, np.int64), sampling.num_samples)
    except ValueError as error:
        raise UserError(str(error)) from error
    hf_config.read_config(flags.model)  # refuses other architectures before their tokenizers
    tokenizer = load_tokenizer(flags.model)
    rollout = _sample(flags, sampling, tokenizer, keys)
    completions = _completions(rollout, tokenizer)
    print(json.dumps({"completions": completions}) if flags.json else _as_text(completions))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("generate", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", required=True, type=Path, help="model directory")
    parser.add_argument(
        "--image", default=[], nargs="+", action="extend", help="image file; several in order"
    )
    parser.add_argument("--prompt", required=True, help="the user's text, after the images")
    parser.add_argument("--system", help="system text; the chat template's own if not given")
    for field in dataclasses.fields(SamplingConfig):
        text = f"{_SAMPLING_HELP[field.name]} (default {field.default})"
        parser.add_argument(f"--{field.name}", type=field.type, default=field.default, help=text)
    parser.add_argument("--seed", type=int, default=0, help="names the random draws (default 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _sample(
    flags: argparse.Namespace, sampling: SamplingConfig, tokenizer: Tokenizer, keys: jax.Array
) -> Rollout:
    """Load the model, lay out the prompt and sample; everything cheap is checked first."""
    config = hf_config.read_config(flags.model)
    image_config = hf_config.read_image_config(flags.model)
    encoder = PromptEncoder(tokenizer, config=config, image_config=image_config)
    row = encoder.row(_messages(flags), [images_lib.decode(path) for path in flags.image])
    positions = config.text.max_position_embeddings
    if row.length + sampling.max_new_tokens > positions:
        raise UserError(
            f"the prompt has {row.length} tokens and max_new_tokens is {sampling.max_new_tokens}; "
            f"the model has room for {positions} in all: shorten one of them"
        )
    prompts = stack_rows([row], prompt_length=row.length, num_windows=max(1, row.num_windows))
    config, params = weights.load_model_directory(flags.model)
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    sampler = Sampler(
        model=Qwen2_5_VL(config=config, compute_dtype=dtype),
        config=sampling,
        stop_token_ids=tuple(dict.fromkeys((config.eos_token_id, *tokenizer.stop_token_ids))),
        pad_token_id=config.pad_token_id,
    )
    rollout = jax.device_get(sampler(params, prompts, keys))
    if not np.isfinite(rollout.log_probs).all():
        raise UserError(
            f"{flags.model}: found probabilities that are not numbers, expected finite ones; the "
            "weights are damaged: convert or download them again"
        )
    return rollout


def _messages(flags: argparse.Namespace) -> list[Message]:
    system = [] if flags.system is None else [{"role": "system", "content": flags.system}]
    content = [*({"type": "image"} for _ in flags.image), {"type": "text", "text": flags.prompt}]
    return [*system, {"role": "user", "content": content}]


def _completions(rollout: Rollout, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """One record per completion; ids and log-probabilities include the stop token."""
    records = []
    for ids, log_probs, length in zip(
        rollout.token_ids[0], rollout.log_probs[0], rollout.length[0], strict=True
    ):
        ids = ids[:length].tolist()
        records.append(
            {
                "text": tokenizer.decode(ids),
                "token_ids": ids,
                "logprobs": log_probs[:length].tolist(),
            }
        )
    return records


def _as_text(completions: Sequence[dict[str, Any]]) -> str:
    """The text alone; several completions are numbered."""
    if len(completions) == 1:
        return completions[0]["text"]
    return "\n".join(f"[{number}] {c['text']}" for number, c in enumerate(completions, start=1))
