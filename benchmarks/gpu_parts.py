"""The parts of `gpu.py`: each builds what it needs, measures, and lets go of it."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import useful_flops
from small_models import batch, draw_prompt
from useful_flops import Group

from jaxqa import sharding
from jaxqa.errors import UserError
from jaxqa.models.clip.config import PRESETS as CLIP_PRESETS
from jaxqa.models.clip.config import ClipConfig
from jaxqa.models.clip.model import Clip
from jaxqa.models.qwen2_5_vl import config as qwen
from jaxqa.models.qwen2_5_vl.inputs import Prompts
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.nn.attention_backends import Backend, BackendChoice, choose
from jaxqa.objectives import grpo
from jaxqa.objectives.entropy_gate import GateConfig
from jaxqa.sampling.config import SamplingConfig
from jaxqa.sampling.keys import sample_keys
from jaxqa.sampling.sampler import Sampler
from jaxqa.train import losses
from jaxqa.train.batches import GrpoBatch
from jaxqa.train.micro_batches import over_micro_batches
from jaxqa.train.optimizer import OptimizerConfig, make_optimizer
from jaxqa.train.state import create_state
from jaxqa.train.step import make_update


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """What is measured.

    Attributes:
      config, clip: the models.
      dtype: of activations, and of the parameters that sample.
      height, width: of the image, in pixels.
      prompt, tokens, group: P, T, G.
      decode_rows: numbers of images to decode for.
      train_rows: images of a training step, one in each micro-batch.
      clip_batch: images of an embedding call.
    """

    config: qwen.Qwen2_5_VLConfig
    clip: ClipConfig
    dtype: str
    height: int
    width: int
    prompt: int
    tokens: int
    group: int
    decode_rows: tuple[int, ...]
    train_rows: int
    clip_batch: int


_TINY_CLIP = dataclasses.replace(
    CLIP_PRESETS["vit-l-14-336"].image_only(),
    vision=dataclasses.replace(
        CLIP_PRESETS["vit-l-14-336"].vision,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
    ),
    projection_dim=16,
)
PRESETS = {
    "7b": Preset(
        config=qwen.PRESETS["7b"],
        clip=CLIP_PRESETS["vit-l-14-336"].image_only(),
        dtype="bfloat16",
        height=756,
        width=1036,
        prompt=1152,
        tokens=160,
        group=8,
        decode_rows=(8, 32),
        train_rows=16,
        clip_batch=256,
    ),
    "tiny": Preset(
        config=qwen.PRESETS["tiny"],
        clip=_TINY_CLIP,
        dtype="float32",
        height=56,
        width=84,
        prompt=24,
        tokens=4,
        group=2,
        decode_rows=(2,),
        train_rows=2,
        clip_batch=2,
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """How it is measured; `peaks` are operations and bytes per second, None if not known."""

    preset: Preset
    rounds: int
    peaks: tuple[float, float] | None

    def seconds(self, run: Callable[[], Any]) -> float:
        """The fastest of the rounds after one that compiles."""
        jax.block_until_ready(run())
        found = []
        for _ in range(self.rounds):
            start = time.perf_counter()
            jax.block_until_ready(run())
            found.append(time.perf_counter() - start)
        return min(found)

    def share_of_peak(self, flops: float, seconds: float) -> dict[str, float]:
        """Utilisation, where the device's peak is known."""
        rate = {"useful_tflops_per_second": flops / seconds / 1e12}
        return rate | ({"share_of_peak": flops / seconds / self.peaks[0]} if self.peaks else {})

    def model(self, attention: BackendChoice = "auto") -> Qwen2_5_VL:
        """The model under measurement."""
        config, dtype = self.preset.config, self.preset.dtype
        backend = choose(
            attention,
            device=jax.devices()[0],
            num_devices=1,
            compute_dtype=dtype,
            head_dims=(config.vision.head_dim, config.text.head_dim),
        )
        return Qwen2_5_VL(config=config, compute_dtype=dtype, attention=backend)

    def params(self, dtype: str) -> Any:
        """Random parameters, drawn on the device."""
        init = functools.partial(self.model().init, param_dtype=dtype)
        place = sharding.replicated(sharding.make_mesh(sharding.MeshConfig()))
        return jax.jit(init, out_shardings=place)(jax.random.key(0))

    def prompts(self, rows: int) -> Prompts:
        """Different prompts of the preset's length."""
        preset = self.preset
        sides = (preset.height, preset.width)
        drawn = [
            draw_prompt(preset.config, preset.prompt, side=sides, seed=row) for row in range(rows)
        ]
        return batch(preset.config, drawn)

    def work(self) -> Group:
        """One prompt and its completions."""
        preset = self.preset
        side = preset.config.vision.merged_size
        visual = (preset.height // side) * (preset.width // side)
        return Group(visual, preset.prompt - visual, preset.group, preset.tokens)

    def sampler(self, group: int) -> Sampler:
        """Samples to the full length: no token ends a completion."""
        config = SamplingConfig(num_samples=group, max_new_tokens=self.preset.tokens)
        return Sampler(model=self.model(), config=config, stop_token_ids=(), pad_token_id=0)


def decode(bench: Bench) -> dict[str, float]:
    """Tokens per second of the steps alone, and of whole rollouts; and of a single completion.

    The share of bandwidth counts one read of the layers and the head per step.
    """
    preset, found = bench.preset, {}
    params = bench.params(preset.dtype)
    cases = [(rows, preset.group) for rows in preset.decode_rows] + [(1, 1)]
    for rows, group in cases:
        prompts, sampler = bench.prompts(rows), bench.sampler(group)
        keys = sample_keys(0, "benchmark", 0, np.arange(rows), group)
        prefill_run = jax.jit(bench.model().prefill)
        whole = bench.seconds(functools.partial(sampler, params, prompts, keys))
        steps = whole - bench.seconds(functools.partial(prefill_run, params, prompts))
        tokens, name = rows * group * preset.tokens, f"{rows}x{group}"
        found[f"{name}_decode_tokens_per_second"] = tokens / steps
        found[f"{name}_rollout_tokens_per_second"] = tokens / whole
        found[f"{name}_step_ms"] = 1e3 * steps / preset.tokens
        if bench.peaks:
            read = _layer_bytes(params) * preset.tokens / steps
            found[f"{name}_weights_share_of_bandwidth"] = read / bench.peaks[1]
    return found


def _layer_bytes(params: Any) -> int:
    """Of the text layers and the head."""
    text = params["model"]
    head = params.get("lm_head", text["embed_tokens"])
    return sum(leaf.nbytes for leaf in jax.tree.leaves((text["layers"], head)))


def prefill(bench: Bench) -> dict[str, float]:
    """Vision tower and prompt, for as many images as the smallest decoding case."""
    rows = bench.preset.decode_rows[0]
    params, prompts = bench.params(bench.preset.dtype), bench.prompts(rows)
    run = jax.jit(bench.model().prefill)
    seconds = bench.seconds(lambda: run(params, prompts))
    flops = rows * useful_flops.prefill(bench.preset.config, bench.work())
    return {"ms_per_image": 1e3 * seconds / rows, **bench.share_of_peak(flops, seconds)}


def clip(bench: Bench) -> dict[str, float]:
    """Images per second of the image encoder, from pixels on the device."""
    preset = bench.preset
    model = Clip(config=preset.clip, compute_dtype=preset.dtype)
    params = jax.jit(functools.partial(model.init, param_dtype=preset.dtype))(jax.random.key(0))
    size = preset.clip.vision.image_size
    pixels = jnp.zeros((preset.clip_batch, size, size, 3), jnp.uint8)
    run = jax.jit(model.image_embeddings)
    return {"images_per_second": preset.clip_batch / bench.seconds(lambda: run(params, pixels))}


def attention(bench: Bench) -> dict[str, Any]:
    """Loss and gradients of one group with each attention backend, or why it refuses."""
    preset, found = bench.preset, {}
    params, prompts = bench.params(preset.dtype), bench.prompts(1)
    ids = jnp.ones((1, preset.group, preset.tokens), jnp.int32)
    for name in get_args(Backend):
        try:
            model = bench.model(name)
        except UserError as error:
            found[f"{name}_refused"] = str(error)
            continue
        step = jax.jit(jax.value_and_grad(functools.partial(_loss, model)))
        found[f"{name}_ms"] = 1e3 * bench.seconds(functools.partial(step, params, prompts, ids))
    return found


def _loss(model: Qwen2_5_VL, params: Any, prompts: Prompts, ids: jax.Array) -> jax.Array:
    return -losses.completion_log_probs(model, params, prompts, ids)[0].sum()


def training(bench: Bench) -> dict[str, float]:
    """Update, reference and rollout of full-parameter GRPO, and all three in turn.

    float32 master parameters, Adam's moments and the sum over micro-batches in bfloat16, and two
    more copies of the parameters in the compute dtype: for sampling, and the reference.
    """
    preset, rows, group = bench.preset, bench.preset.train_rows, bench.preset.group
    mesh = sharding.make_mesh(sharding.MeshConfig())
    optimizer = make_optimizer(OptimizerConfig(moments="bfloat16"), 100)
    objective = losses.GrpoObjective(
        model=bench.model(),
        config=grpo.GrpoConfig(beta=0.04),
        gate=GateConfig(),
        temperature=1.0,
    )
    update = make_update(
        objective,
        optimizer,
        learning_rate=lambda step: jnp.float32(1e-6),
        micro_batches=rows,
        accumulator="bfloat16",
    )
    state = create_state(bench.params("float32"), optimizer)
    reference = bench.params(preset.dtype)
    prompts = sharding.shard_rows(bench.prompts(rows), mesh)
    keys = sample_keys(0, "benchmark", 0, np.arange(rows), group)
    sampler, cast = bench.sampler(group), _caster(preset.dtype)
    frozen = _reference(bench)
    advantages = jnp.asarray(np.random.default_rng(0).standard_normal((rows, group)), jnp.float32)

    def roll_out(params: Any) -> Any:
        return jax.block_until_ready(sampler(cast(params), prompts, keys))

    def refer(rollout: Any) -> jax.Array:
        return jax.block_until_ready(frozen(reference, (prompts, rollout.token_ids)))

    def learn(state: Any, rollout: Any, ref_log_probs: jax.Array) -> Any:
        normalizer = grpo.loss_normalizer(rollout.mask, objective.config, max_length=preset.tokens)
        rows = GrpoBatch(
            prompts=prompts,
            completion_ids=rollout.token_ids,
            completion_mask=rollout.mask,
            sampler_log_probs=rollout.log_probs,
            advantages=advantages,
            normalizer=normalizer,
            ref_log_probs=ref_log_probs,
        )
        return jax.block_until_ready(update(state, rows)[0])

    best = {"rollout": np.inf, "reference": np.inf, "update": np.inf}
    for number in range(bench.rounds + 1):
        marks = [time.perf_counter()]
        rollout = roll_out(state.params)
        marks.append(time.perf_counter())
        ref_log_probs = refer(rollout)
        marks.append(time.perf_counter())
        state = learn(state, rollout, ref_log_probs)
        marks.append(time.perf_counter())
        if number:  # the first one compiles
            spent = np.diff(marks)
            best = {name: min(best[name], s) for name, s in zip(best, spent, strict=True)}
    flops = rows * useful_flops.forward(preset.config, bench.work())
    return {
        **{f"{name}_seconds": float(seconds) for name, seconds in best.items()},
        "completions_per_second": rows * group / float(sum(best.values())),
        **{
            f"update_{name}": value
            for name, value in bench.share_of_peak(3 * flops, best["update"]).items()
        },
        "useful_over_repeated_flops": useful_flops.forward(preset.config, bench.work())
        / useful_flops.repeated(preset.config, bench.work()),
    }


def _caster(dtype: str) -> Callable[[Any], Any]:
    return jax.jit(lambda params: jax.tree.map(lambda leaf: leaf.astype(dtype), params))


def _reference(bench: Bench) -> Callable[[Any, Any], jax.Array]:
    """Log-probabilities under a policy, a group at a time as in the update."""

    @jax.jit
    def log_probs(params: Any, rows: tuple[Prompts, jax.Array]) -> jax.Array:
        def of(rows: tuple[Prompts, jax.Array]) -> tuple[tuple[()], jax.Array]:
            return (), losses.completion_log_probs(bench.model(), params, *rows)[0]

        return over_micro_batches(of, rows, micro_batches=bench.preset.train_rows)[1]

    return log_probs
