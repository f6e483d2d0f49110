"""What the configs of the published systems share, at full size and on the demo's photographs.

At full size every number comes from the papers or their code (docs/systems.md says which). None
of the demo's numbers does: they are what fits a laptop, and a warm-up and a short fine-tuning on
template sentences stand in for the pretrained model that the papers start from.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from jaxqa.data import registry
from jaxqa.data.batching import Buckets
from jaxqa.data.demo import DemoDataConfig
from jaxqa.data.loader import Mixing
from jaxqa.data.scales import LabelRange
from jaxqa.models.qwen2_5_vl.config import TextConfig, VisionConfig
from jaxqa.models.qwen2_5_vl.preprocess import ImageConfig
from jaxqa.nn.lora import LoraConfig
from jaxqa.reasoning.expert import ExpertConfig
from jaxqa.sampling.config import SamplingConfig
from jaxqa.sharding import MeshConfig
from jaxqa.stages.sections import GrpoStage, SectionConfig, SftStage, WarmupStage
from jaxqa.stages.sources import DataConfig, DataSource, EvaluationConfig, ModelSource
from jaxqa.train.optimizer import OptimizerConfig

_Section = TypeVar("_Section", bound=SectionConfig)

EIGHT_GPUS = MeshConfig(fsdp=8, gather_for_sampling=True)
"""The papers train on one machine of 8 (OmniQuality-R: 4), fully sharded (ZeRO-3), and gather the
policy before it samples, as TRL does by default."""

STAND_IN = ExpertConfig(stand_in=True)
"""Writes the demo's rationales: the data set's own sentences."""

DEMO_TESTS = EvaluationConfig(batch_size=40, max_new_tokens=64, limit=200)
"""Tests of the demo recipes: 200 held-out pictures of each task."""


def choose(mode: str | None, *modes: str) -> str:
    """The mode of `--config=FILE:MODE`, `full` unless one is given.

    Raises:
      ValueError: there is no such mode.
    """
    mode, known = mode or "full", ("full", *modes)
    if mode not in known:
        raise ValueError(f"no mode {mode!r}; expected one of {', '.join(known)}")
    return mode


def qwen(size: str) -> ModelSource:
    """Qwen2.5-VL-Instruct of a size ("3B", "7B", ...), from a directory of the Hugging Face Hub."""
    return ModelSource(
        path=f"checkpoints/Qwen2.5-VL-{size}-Instruct", compute_dtype="bfloat16", remat="full"
    )


def full_data(
    sources: dict[str, DataSource],
    *,
    max_pixels: int = 1024 * 1024,
    text_tokens: int = 320,
    completion_lengths: tuple[int, ...] = (),
) -> DataConfig:
    """Data at full size, below the folder `datasets`.

    The buckets hold questions of `text_tokens`, chat turns included, with images of up to
    `max_pixels`: 28 x 28 pixels a token and 112 x 112 a window, with room for windows that the
    border cuts. Q-Insight,
    VisualQuality-R1 and Aes-R1 train without a limit that works; the KonIQ-10k images most of them
    use have 1024 x 768 pixels, which the default does not touch.
    """
    tokens = max_pixels // (28 * 28)
    windows = -(-max_pixels // (112 * 112))
    return DataConfig(
        root="datasets",
        sources=sources,
        images=ImageConfig(max_pixels=max_pixels),
        buckets=Buckets(
            prompt_lengths=(tokens // 2 + text_tokens, tokens + text_tokens),
            window_counts=(windows // 2 + 12, windows + 24),
            completion_lengths=completion_lengths,
        ),
        workers=8,
    )


def test_sources(
    datasets: Sequence[str], template: str, *, scale: LabelRange = "label"
) -> dict[str, DataSource]:
    """Data sets that a paper tests on without training on them, by name.

    A user who lacks one leaves it out with `--config.data.sources.NAME.evaluate=False`.

    Args:
      datasets: `NAME:SPLIT`, as in `evaluation.suites`.
      template: what is asked.
      scale: see `DataSource`.
    """
    found = {}
    for text in datasets:
        name, split = registry.parse_selection(text)
        found[name] = DataSource(
            dataset=name,
            split="" if split in (None, "test") else split,
            template=template,
            weight=0.0,
            scale=scale,
        )
    return found


def rl_optimizer(*, end_fraction: float = 0.0) -> OptimizerConfig:
    """The optimizer of all published RL code: AdamW at 1e-6, linear to 0, no decay, clip 1."""
    return OptimizerConfig(learning_rate=1e-6, schedule="linear", end_fraction=end_fraction)


def rl_sampling(*, num_samples: int, max_new_tokens: int) -> SamplingConfig:
    """The sampling of all published RL code: temperature 1, and the default top_k of 50."""
    return SamplingConfig(num_samples=num_samples, max_new_tokens=max_new_tokens, top_k=50)


def with_adapters(stages: Mapping[str, SectionConfig]) -> dict[str, SectionConfig]:
    """Full-size stages that train adapters, one image at a time, so that one GPU of 80 GB holds 7B.

    Rank 64 and ten times the learning rate are ours; the papers train every parameter.
    docs/training_memory.md has the arithmetic.
    """

    def adapted(stage: SectionConfig) -> SectionConfig:
        if not isinstance(stage, SftStage | GrpoStage):
            return stage
        rate = 10 * stage.optimizer.learning_rate
        return dataclasses.replace(
            stage,
            lora=LoraConfig(rank=64, alpha=128.0),
            micro_batches=stage.batch_size,
            optimizer=dataclasses.replace(stage.optimizer, learning_rate=rate),
        )

    return {name: adapted(stage) for name, stage in stages.items()}


def demo_model() -> ModelSource:
    """A two-layer model of 1 M parameters in Qwen2.5-VL's shape, from random weights."""
    width = 128
    return ModelSource(
        vision=VisionConfig(
            depth=2,
            hidden_size=96,
            intermediate_size=256,
            num_heads=4,
            out_hidden_size=width,
            fullatt_block_indexes=(1,),
        ),
        text=TextConfig(
            vocab_size=640,
            hidden_size=width,
            intermediate_size=352,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            mrope_section=(4, 6, 6),
            tie_word_embeddings=True,
            max_position_embeddings=1024,
        ),
        vision_filters="dct",
        initializer_range=0.05,
        compute_dtype="float32",
    )


def demo_data(
    sources: dict[str, DataSource],
    *,
    prompt_lengths: tuple[int, ...] = (96,),
    window_counts: tuple[int, ...] = (1,),
    completion_lengths: tuple[int, ...] = (48, 64),
    mixing: Mixing = "rows",
) -> DataConfig:
    """The demo's photographs for the tasks of `sources`, fewer of them than the demo itself has."""
    tasks = [source.dataset.removeprefix("jaxqa_demo").strip("_") for source in sources.values()]
    return DataConfig(
        sources=sources,
        images=ImageConfig(max_pixels=112 * 112),
        buckets=Buckets(
            prompt_lengths=prompt_lengths,
            window_counts=window_counts,
            completion_lengths=completion_lengths,
        ),
        mixing=mixing,
        cache_mb=512,
        demo=DemoDataConfig(
            photograph_crops=200,
            auxiliary_crops=40,
            procedural_crops=160,
            tasks=tuple(dict.fromkeys(task for task in tasks if task)),
        ),
    )


def demo_source(task: str, template: str, *, weight: float = 1.0) -> DataSource:
    """One task of the demo's photographs."""
    dataset = "jaxqa_demo" if task == "quality" else f"jaxqa_demo_{task}"
    return DataSource(dataset=dataset, template=template, weight=weight)


def demo_warmup(steps: int = 150) -> WarmupStage:
    """Stands in for a pretrained vision tower."""
    return WarmupStage(steps=steps, batch_size=32, save_every=steps, optimizer=demo_optimizer(1e-3))


def demo_sft(steps: int, **options: Any) -> SftStage:
    """Fine-tuning on rationales; without options, what stands in for an instruct model."""
    stage = SftStage(steps=steps, batch_size=32, save_every=steps, optimizer=demo_optimizer(1e-3))
    return dataclasses.replace(stage, **options)


def shrink(stage: _Section, **options: Any) -> _Section:
    """A full-size stage with the demo's sizes; its rewards and objective stay."""
    return dataclasses.replace(stage, **options)


def demo_optimizer(learning_rate: float) -> OptimizerConfig:
    """The demo's AdamW."""
    return OptimizerConfig(
        learning_rate=learning_rate,
        schedule="cosine",
        warmup_fraction=0.05,
        end_fraction=0.05,
        beta2=0.98,
        weight_decay=0.05,
    )
