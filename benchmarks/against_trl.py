"""jaxqa's GRPO step beside that of TRL's trainer on a CPU: the same weights, run in turn.

    pip install trl
    taskset -c 0 python benchmarks/against_trl.py --model=runs/demo/export

A step samples G completions of T tokens to each of N prompts with an image, turns rewards into
advantages and updates every parameter once; beta is 0 and there is no second epoch. The model has
random weights (4.3 M with the demo's vocabulary) and the tokenizer of `--model`; prompts are the
same tokens, all completions are of full length, rewards are random numbers, everything is float32.
TRL's trainer runs on `transformers` generation with sdpa attention, without gradient checkpointing,
logs or saves. Both turn image and text into the model's input within the step; reading them from
files is timed of neither. Read the ratio of CPU times with one thread.
"""

import argparse
import dataclasses
import functools
import json
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
import small_models  # noqa: E402
from interleaved import Seconds  # noqa: E402

from jaxqa import sharding  # noqa: E402
from jaxqa.models.qwen2_5_vl import layout, preprocess, weights  # noqa: E402
from jaxqa.models.qwen2_5_vl.config import Qwen2_5_VLConfig  # noqa: E402
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL  # noqa: E402
from jaxqa.objectives import grpo  # noqa: E402
from jaxqa.objectives.advantages import AdvantageConfig, group_advantages  # noqa: E402
from jaxqa.objectives.entropy_gate import GateConfig  # noqa: E402
from jaxqa.sampling.config import SamplingConfig  # noqa: E402
from jaxqa.sampling.keys import sample_keys  # noqa: E402
from jaxqa.sampling.sampler import Sampler  # noqa: E402
from jaxqa.train import losses  # noqa: E402
from jaxqa.train.batches import GrpoBatch  # noqa: E402
from jaxqa.train.optimizer import OptimizerConfig, make_optimizer  # noqa: E402
from jaxqa.train.state import create_state  # noqa: E402
from jaxqa.train.step import make_update  # noqa: E402

SYSTEM, QUESTION = "Judge the picture.", "Rate its quality from 1 to 5, two decimals."


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a demo's exported model")
    parser.add_argument("--size", choices=("own", "5m"), default="5m")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--side", type=int, default=504, help="of the images, in pixels")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    import trl
    from hugging_face import prepare

    machine = prepare()
    warnings.filterwarnings("ignore", category=FutureWarning)  # of TRL's own settings
    config = model_config(options.model, options.size)
    params = jax.jit(Qwen2_5_VL(config=config).init)(jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "model"
        weights.save_pretrained(home, config, params, source_dir=options.model)
        found = in_turn(options, config, params, home)
    print(
        f"{count:.1f} M parameters, N={options.prompts}, G={options.group}, P={found['prompt']}, "
        f"T={options.tokens}, {machine}, trl {trl.__version__}; "
        f"fastest of {options.rounds} steps in turn\n"
    )
    print("| GRPO step | wall ms | CPU ms | jaxqa faster by, wall | by CPU time |")
    print("|---|---|---|---|---|")
    for name in ("jaxqa", "trl"):
        ratios = [found[name][key] / found["jaxqa"][key] for key in ("wall_s", "cpu_s")]
        times = [1e3 * found[name][key] for key in ("wall_s", "cpu_s")]
        print(f"| {name} | {times[0]:.0f} | {times[1]:.0f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def model_config(directory: Path, size: str) -> Qwen2_5_VLConfig:
    """The directory's own, or one of 5 M parameters with its vocabulary and special tokens."""
    own = weights.read_config(directory)
    if size == "own":
        return own
    large = small_models.SIZES[size]
    text = dataclasses.replace(large.text, vocab_size=own.text.vocab_size)
    return dataclasses.replace(own, vision=large.vision, text=text)


def in_turn(
    options: argparse.Namespace, config: Qwen2_5_VLConfig, params: Any, home: Path
) -> dict[str, Any]:
    """Least seconds of a step of either, after one to compile; also the prompt's length."""
    processor = processor_of(home)
    images = [draw(options.side, number) for number in range(options.prompts)]
    ours = jaxqa_step(options, config, params, processor, images)
    spent: dict[str, list[Seconds]] = {"jaxqa": [], "trl": []}

    def timed(name: str, begun: tuple[float, float]) -> None:
        wall, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
        spent[name].append(Seconds(wall, cpu))

    def turn() -> None:
        begun = (time.perf_counter(), time.process_time())
        ours()
        timed("jaxqa", begun)

    train_with_trl(options, home, processor, images, timed, turn)
    least = {
        name: {"wall_s": min(s.wall for s in rest), "cpu_s": min(s.cpu for s in rest)}
        for name, (_, *rest) in spent.items()
    }
    return {**least, "prompt": len(encode(processor, images[0])["input_ids"][0])}


def draw(side: int, seed: int) -> np.ndarray:
    """An image [side side 3] of random pixels."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def messages() -> list[dict[str, Any]]:
    """The conversation without its image."""
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]


def processor_of(home: Path) -> Any:
    """Hugging Face's processor, its images by Pillow, which works without torchvision."""
    import transformers
    from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as processing

    class WithoutVideos(transformers.Qwen2_5_VLProcessor):
        """Videos would need torchvision."""

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            """Let the processor of videos be None."""

    tokenizer = transformers.AutoTokenizer.from_pretrained(home, padding_side="left")
    return WithoutVideos(
        image_processor=processing.Qwen2VLImageProcessorPil(max_pixels=2**24),
        tokenizer=tokenizer,
        video_processor=None,
        chat_template=(home / "chat_template.jinja").read_text(),
    )


def encode(processor: Any, image: np.ndarray) -> Any:
    """What TRL feeds to the model for one prompt."""
    from PIL import Image

    text = processor.apply_chat_template(messages(), tokenize=False, add_generation_prompt=True)
    return processor(text=[text], images=[Image.fromarray(image)], return_tensors="np")


def own_prompt(
    config: Qwen2_5_VLConfig, processor: Any, image: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and resized pixels, by jaxqa's preprocessing and the processor's tokenizer."""
    pixels = preprocess.resize_image(image, preprocess.ImageConfig(max_pixels=2**24))
    text = processor.apply_chat_template(messages(), tokenize=False, add_generation_prompt=True)
    count = layout.count_tokens(*pixels.shape[:2], config.vision)
    text = text.replace(processor.image_token, processor.image_token * count)
    return np.asarray(processor.tokenizer(text)["input_ids"], np.int32), pixels


def jaxqa_step(
    options: argparse.Namespace,
    config: Qwen2_5_VLConfig,
    params: Any,
    processor: Any,
    images: list[np.ndarray],
) -> Callable[[], None]:
    """One whole step: prompts from images, sample, decode, reward, update."""
    model, group, length = Qwen2_5_VL(config=config), options.group, options.tokens
    mesh = sharding.make_mesh(sharding.MeshConfig())
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-6, weight_decay=0.0), 100)
    objective = losses.GrpoObjective(
        model=model, config=grpo.GrpoConfig(beta=0.0), gate=GateConfig(), temperature=1.0
    )
    update = make_update(
        objective, optimizer, learning_rate=lambda step: jnp.float32(1e-6), micro_batches=1
    )
    prompt = functools.partial(own_prompt, config, processor)
    for image in images:
        np.testing.assert_array_equal(prompt(image)[0], encode(processor, image)["input_ids"][0])
    sampler = Sampler(
        model=model,
        config=SamplingConfig(num_samples=group, max_new_tokens=length),
        stop_token_ids=(),
        pad_token_id=0,
    )
    rng = np.random.default_rng(0)
    state = create_state(jax.device_put(params, sharding.replicated(mesh)), optimizer)

    def step() -> None:
        nonlocal state
        host = small_models.host_batch(config, [prompt(image) for image in images])
        prompts = sharding.shard_rows(host, mesh)
        keys = sample_keys(0, "benchmark", int(state.step), np.arange(len(images)), group)
        rollout = sampler(state.params, prompts, keys)
        processor.tokenizer.batch_decode(np.asarray(rollout.token_ids).reshape(-1, length))
        rewards = jnp.asarray(rng.random((len(images), group)), jnp.float32)
        batch = GrpoBatch(
            prompts=prompts,
            completion_ids=rollout.token_ids,
            completion_mask=rollout.mask,
            sampler_log_probs=rollout.log_probs,
            advantages=group_advantages(rewards, AdvantageConfig()),
            normalizer=grpo.loss_normalizer(rollout.mask, objective.config, max_length=length),
        )
        state = jax.block_until_ready(update(state, batch)[0])

    return step


def train_with_trl(
    options: argparse.Namespace,
    home: Path,
    processor: Any,
    images: list[np.ndarray],
    timed: Callable[[str, tuple[float, float]], None],
    turn: Callable[[], None],
) -> None:
    """Train; call `timed` after each of its steps, then `turn`."""
    import datasets
    import torch
    import transformers
    import trl
    from PIL import Image

    class InTurn(transformers.TrainerCallback):
        """Times a step of TRL's, then lets jaxqa make one."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun = (time.perf_counter(), time.process_time())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            timed("trl", self.begun)
            turn()

    model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
        home, attn_implementation="sdpa", dtype=torch.float32
    )
    rng, rows = np.random.default_rng(0), options.prompts * options.group
    lengths = set()

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        lengths.update(map(len, completion_ids))
        return rng.random(len(completion_ids)).tolist()

    one_epoch = [
        {"prompt": messages_without_image(), "image": Image.fromarray(image)} for image in images
    ]
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=trl.GRPOConfig(
            output_dir=str(home / "trl"),
            per_device_train_batch_size=rows,
            num_generations=options.group,
            max_completion_length=options.tokens,
            generation_kwargs={"min_new_tokens": options.tokens},
            max_steps=options.rounds + 1,
            beta=0.0,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            learning_rate=1e-6,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            shuffle_dataset=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset.from_list(one_epoch * (options.rounds + 1)),
        processing_class=processor,
        callbacks=[InTurn()],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    seen = trainer.state.log_history[-1]["num_tokens"] / (options.rounds + 1) / rows
    expected = len(encode(processor, images[0])["input_ids"][0]) + options.tokens
    if seen != expected:
        raise AssertionError(f"TRL's rows have {seen:g} tokens, jaxqa's {expected}")
    if lengths != {options.tokens}:
        raise AssertionError(f"TRL's completions have {sorted(lengths)} tokens")
    shutil.rmtree(home / "trl", ignore_errors=True)


def messages_without_image() -> list[dict[str, str]]:
    """TRL puts the image before the user's text."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]


if __name__ == "__main__":
    main()
