"""The parts of `gpu.py`: each builds what it needs, measures, and lets go of it."""

import dataclasses
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import useful_flops
from small_models import draw_prompt, host_batch
from useful_flops import Group

from jaxqa import sharding
from jaxqa.errors import UserError
from jaxqa.models.clip.config import PRESETS as CLIP_PRESETS
from jaxqa.models.clip.config import ClipConfig
from jaxqa.models.clip.model import Clip
from jaxqa.models.qwen2_5_vl import config as qwen
from jaxqa.models.qwen2_5_vl.inputs import Prompts
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.nn.attention_backends import Backend, choose
from jaxqa.nn.stack import Remat
from jaxqa.sampling.config import SamplingConfig
from jaxqa.sampling.keys import sample_keys
from jaxqa.sampling.sampler import Sampler
from jaxqa.train import losses
from jaxqa.train.optimizer import OptimizerConfig

OPTIMIZERS = {
    "adafactor": OptimizerConfig(rule="adafactor", beta1=0.0),
    "adamw": OptimizerConfig(moments="bfloat16"),
}
"""AdamW's moments would take 31 GiB more of the 7B model, which leaves an H200 no margin."""


class Figure(NamedTuple):
    """One thing to measure; `seconds` guesses what it takes on an H200, compiling included."""

    name: str
    seconds: float
    measure: Callable[[], dict[str, Any]]


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
      working_gib: of training, about, for one layer at a time: scores of a whole-image vision layer
        and their gradient 2 x 1.2 in 7B, a text layer 1.5, a chunk of the vocabulary 0.6.
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
    working_gib: float


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
        working_gib=5.0,
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
        working_gib=0.0,
    ),
}


@dataclasses.dataclass(kw_only=True)
class Bench:
    """How it is measured.

    Attributes:
      preset: what.
      rounds: how often, after the call that compiles.
      remat: of training.
      optimizer: a key of `OPTIMIZERS`.
      attention: of everything, but where backends are compared.
      peaks: operations and bytes per second, None if not known.
    """

    preset: Preset
    rounds: int
    remat: Remat
    optimizer: Literal["adafactor", "adamw"]
    attention: Backend = "xla"
    peaks: tuple[float, float] | None = None

    def seconds(self, run: Callable[[], Any]) -> float:
        """The median of the rounds after one that compiles."""
        jax.block_until_ready(run())
        return statistics.median(_seconds(run) for _ in range(self.rounds))

    def share_of_peak(self, flops: float, seconds: float) -> dict[str, float]:
        """Utilisation, where the device's peak is known."""
        rate = {"useful_tflops_per_second": flops / seconds / 1e12}
        return rate | ({"share_of_peak": flops / seconds / self.peaks[0]} if self.peaks else {})

    def backend(self, choice: Backend) -> Backend:
        """What a choice of attention means here; UserError if it cannot be."""
        config, dtype = self.preset.config, self.preset.dtype
        return choose(
            choice,
            device=jax.devices()[0],
            num_devices=1,
            compute_dtype=dtype,
            head_dims=(config.vision.head_dim, config.text.head_dim),
        )

    @property
    def model(self) -> Qwen2_5_VL:
        """The model as it samples."""
        preset = self.preset
        return Qwen2_5_VL(
            config=preset.config, compute_dtype=preset.dtype, attention=self.attention
        )

    @property
    def trained_model(self) -> Qwen2_5_VL:
        """The model as it trains."""
        return dataclasses.replace(self.model, remat=self.remat)

    @functools.cached_property
    def params(self) -> Any:
        """Random parameters in the compute dtype, for all parts.

        Training forgets them, because it has no room; the next part draws them again.
        """
        return self._draw(jax.random.key(0))

    @functools.cached_property
    def _draw(self) -> Any:
        init = functools.partial(self.model.init, param_dtype=self.preset.dtype)
        place = sharding.replicated(sharding.make_mesh(sharding.MeshConfig()))
        return jax.jit(init, out_shardings=place)

    @functools.cached_property
    def prefill(self) -> Any:
        """Encodes prompts; one program for each number of them."""
        return jax.jit(self.model.prefill)

    def host_prompts(self, rows: int) -> Prompts:
        """Different prompts of the preset's length, as NumPy arrays."""
        preset = self.preset
        sides = (preset.height, preset.width)
        drawn = [
            draw_prompt(preset.config, preset.prompt, side=sides, seed=row) for row in range(rows)
        ]
        return host_batch(preset.config, drawn)

    def prompts(self, rows: int) -> Prompts:
        """The same on the device."""
        return jax.tree.map(jnp.asarray, self.host_prompts(rows))

    def work(self) -> Group:
        """One prompt and its completions."""
        preset = self.preset
        side = preset.config.vision.merged_size
        visual = (preset.height // side) * (preset.width // side)
        return Group(visual, preset.prompt - visual, preset.group, preset.tokens)

    def sampler(self, model: Any, group: int) -> Sampler:
        """Samples to the full length: no token ends a completion."""
        config = SamplingConfig(num_samples=group, max_new_tokens=self.preset.tokens)
        return Sampler(model=model, config=config, stop_token_ids=(), pad_token_id=0)


Part = Callable[[Bench], Iterator[Figure]]


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def text_of(error: Exception) -> str:
    """An error as a figure."""
    return f"{type(error).__name__}: {error}"[:1000]


def choose_attention(bench: Bench, choice: Backend) -> Iterator[tuple[str, str]]:
    """Let `bench` compute with the choice; of `auto`, with the first backend that works.

    Yields what each backend before it raised, and the one that was taken.
    """
    bench.attention = bench.backend(choice)
    if choice == "auto":
        candidates: tuple[Backend, ...] = (bench.attention, "auto", "chunked")
        for bench.attention in dict.fromkeys(candidates):
            try:
                _probe(bench)
                break
            except Exception as error:  # JAX's checks and cuDNN raise many kinds
                yield bench.attention, text_of(error)
    yield "taken", bench.attention


def _probe(bench: Bench) -> None:
    """One gradient and one prefill of a few layers, in the shapes of the whole model's."""
    params, config = bench.params, bench.preset.config
    depth = config.vision.fullatt_block_indexes[0] + 1
    vision = dataclasses.replace(config.vision, depth=depth, fullatt_block_indexes=(depth - 1,))
    text = dataclasses.replace(config.text, num_hidden_layers=1)
    shallow = dataclasses.replace(config, vision=vision, text=text)
    model = dataclasses.replace(bench.trained_model, config=shallow)
    blocks = jax.tree.map(lambda leaf: leaf[:depth], params["visual"]["blocks"])
    layers = jax.tree.map(lambda leaf: leaf[:1], params["model"]["layers"])
    params = params | {
        "visual": params["visual"] | {"blocks": blocks},
        "model": params["model"] | {"layers": layers},
    }
    loss, grads = jax.jit(jax.value_and_grad(functools.partial(group_loss, model)))(
        params, bench.prompts(1), completion_ids(bench)
    )
    prefix = jax.jit(model.prefill)(params, bench.prompts(bench.preset.decode_rows[0]))
    sums = [loss, prefix.last_hidden.sum(), *(leaf.sum() for leaf in jax.tree.leaves(grads))]
    if not np.isfinite(jax.device_get(jnp.stack([x.astype(jnp.float32) for x in sums]))).all():
        raise FloatingPointError("a result is not finite")


@dataclasses.dataclass(frozen=True)
class _Encoded:
    """A model for prompts that are encoded already: its sampler decodes and does nothing else."""

    model: Qwen2_5_VL

    def prefill(self, params: Any, prefix: Any) -> Any:
        return prefix

    def init_cache(self, prefix: Any, num_samples: int, length: int) -> Any:
        return self.model.init_cache(prefix, num_samples, length)

    def decoder(self, params: Any, prefix: Any) -> Any:
        return self.model.decoder(params, prefix)

    def head(self, params: Any) -> Any:
        return self.model.head(params)


LAYERS = {"stacked": 0, "unstacked": 2**62}
"""`Qwen2_5_VL.most_unstacked`: decoding loops over stacked layers, whose weights XLA may copy out
of their stack at every token, or has them one by one."""


def decode(bench: Bench) -> Iterator[Figure]:
    """Tokens per second of the steps alone and of whole rollouts, layers stacked and unstacked.

    The last case is a single completion.
    """
    cases = [(rows, bench.preset.group) for rows in bench.preset.decode_rows] + [(1, 1)]
    for (rows, group), layers in itertools.product(cases, LAYERS):
        run = functools.partial(_decode, bench, rows, group, LAYERS[layers])
        yield Figure(f"{rows}x{group}_{layers}", 35 if layers == "stacked" else 70, run)


def _decode(bench: Bench, rows: int, group: int, most_unstacked: int) -> dict[str, float]:
    """The share of bandwidth counts one read of the layers and the head per step."""
    preset, params, prompts = bench.preset, bench.params, bench.prompts(rows)
    keys = sample_keys(0, "benchmark", 0, np.arange(rows), group)
    model = dataclasses.replace(bench.model, most_unstacked=most_unstacked)
    sampler = bench.sampler(_Encoded(model), group)
    prefix = bench.prefill(params, prompts)
    steps = bench.seconds(lambda: sampler(params, prefix, keys))
    whole = bench.seconds(lambda: sampler(params, bench.prefill(params, prompts), keys))
    tokens = rows * group * preset.tokens
    found = {
        "decode_tokens_per_second": tokens / steps,
        "rollout_tokens_per_second": tokens / whole,
        "step_ms": 1e3 * steps / preset.tokens,
    }
    if bench.peaks:
        read = _layer_bytes(params) * preset.tokens / steps
        found["weights_share_of_bandwidth"] = read / bench.peaks[1]
    return found


def _layer_bytes(params: Any) -> int:
    """Of the text layers and the head."""
    text = params["model"]
    head = params.get("lm_head", text["embed_tokens"])
    return sum(leaf.nbytes for leaf in jax.tree.leaves((text["layers"], head)))


def prefill(bench: Bench) -> Iterator[Figure]:
    """Vision tower and prompt, for as many images as the smallest decoding case."""
    rows = bench.preset.decode_rows[0]

    def measure() -> dict[str, float]:
        params, prompts = bench.params, bench.prompts(rows)
        seconds = bench.seconds(lambda: bench.prefill(params, prompts))
        flops = rows * useful_flops.prefill(bench.preset.config, bench.work())
        return {"ms_per_image": 1e3 * seconds / rows, **bench.share_of_peak(flops, seconds)}

    yield Figure(f"{rows}_images", 10, measure)


def clip(bench: Bench) -> Iterator[Figure]:
    """Images per second of the image encoder, from pixels on the device."""
    preset = bench.preset

    def measure() -> dict[str, float]:
        model = Clip(config=preset.clip, compute_dtype=preset.dtype)
        params = jax.jit(functools.partial(model.init, param_dtype=preset.dtype))(jax.random.key(0))
        size = preset.clip.vision.image_size
        pixels = jnp.zeros((preset.clip_batch, size, size, 3), jnp.uint8)
        run = jax.jit(model.image_embeddings)
        return {"images_per_second": preset.clip_batch / bench.seconds(lambda: run(params, pixels))}

    yield Figure(f"{preset.clip_batch}_images", 30, measure)


def attention(bench: Bench) -> Iterator[Figure]:
    """Loss and gradients of one group with each backend, or why it refuses."""

    def measure(name: Backend) -> dict[str, Any]:
        try:
            model = dataclasses.replace(bench.trained_model, attention=bench.backend(name))
        except UserError as error:
            return {"refused": str(error)}
        step = jax.jit(jax.value_and_grad(functools.partial(group_loss, model)))
        arguments = bench.params, bench.prompts(1), completion_ids(bench)
        milliseconds = 1e3 * bench.seconds(lambda: step(*arguments))
        return {"ms": milliseconds, "loss": float(step(*arguments)[0])}

    for name in get_args(Backend):
        yield Figure(name, 60, functools.partial(measure, name))


def completion_ids(bench: Bench) -> jax.Array:
    """Of one group."""
    return jnp.ones((1, bench.preset.group, bench.preset.tokens), jnp.int32)


def group_loss(model: Qwen2_5_VL, params: Any, prompts: Prompts, ids: jax.Array) -> jax.Array:
    """What a micro-batch of training differentiates, in kind."""
    return -losses.completion_log_probs(model, params, prompts, ids)[0].sum()
