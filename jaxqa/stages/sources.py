"""What every stage of a run shares: where model and data come from, and the test."""

import math
from dataclasses import dataclass, field
from typing import Literal

from jax.sharding import Mesh

from jaxqa.data.batching import Buckets
from jaxqa.data.demo import DemoDataConfig
from jaxqa.data.loader import Mixing
from jaxqa.data.scales import LabelRange
from jaxqa.models.qwen2_5_vl.config import Qwen2_5_VLConfig, TextConfig, VisionConfig
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.models.qwen2_5_vl.preprocess import ImageConfig
from jaxqa.nn import attention_backends
from jaxqa.nn.attention_backends import Backend
from jaxqa.nn.stack import Remat

DEMO_DATASET = "jaxqa_demo"


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where the first stage's model comes from: a directory, or random weights.

    Attributes:
      path: Hugging Face or jaxqa directory, with its tokenizer; excludes the next four.
      vision: vision tower of a model from random weights.
      text: text tower of a model from random weights; its tokenizer is trained on the data set's
        rationales with at most `vocab_size` entries.
      vision_filters: starting filters of the patch embedding: `dct` gives cosine patterns, as a
        pretrained tower would have, `random` gives noise.
      initializer_range: standard deviation of random weights.
      compute_dtype: dtype of matrix products; parameters, norms and softmax stay float32.
      remat: what the backward pass of a layer computes again, from least memory to most: `full`
        everything, `offload` all but attention (kept in the host's memory), `attention` the same
        (kept on the device), `dots` all but products with weights, `none` nothing.
      attention: what computes it: `xla`, `chunked` (no array of all scores), `cudnn`, `tokamax`
        (where installed), or `auto`: `cudnn` on Hopper and newer; elsewhere `xla`, and `chunked`
        where the scores of a call take more than 2 GiB of a device.
    """

    path: str | None = None
    vision: VisionConfig | None = None
    text: TextConfig | None = None
    vision_filters: Literal["dct", "random"] = "random"
    initializer_range: float = 0.02
    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    remat: Remat = "none"
    attention: Backend = "auto"

    def __post_init__(self):
        scratch = self.vision is not None and self.text is not None
        if (self.path is not None) == scratch or (self.vision is None) != (self.text is None):
            raise ValueError("give either path, or both vision and text")
        if self.path is not None and (self.vision_filters, self.initializer_range) != (
            ModelSource.vision_filters,
            ModelSource.initializer_range,
        ):
            raise ValueError(
                "vision_filters and initializer_range are for random weights, not for a path; "
                f"leave them at {ModelSource.vision_filters!r} and {ModelSource.initializer_range}"
            )
        if self.initializer_range <= 0:
            raise ValueError(f"initializer_range must be positive, got {self.initializer_range}")
        if self.vision is not None and self.vision.in_channels != 3:
            raise ValueError(f"vision.in_channels is {self.vision.in_channels}; images have 3")

    def policy(self, architecture: Qwen2_5_VLConfig, mesh: Mesh) -> Qwen2_5_VL:
        """The model of an architecture as this run computes it on the devices of a mesh.

        Raises:
          UserError: an attention that they cannot compute.
        """
        attention = attention_backends.choose(
            self.attention,
            device=mesh.devices.flat[0],
            num_devices=mesh.size,
            compute_dtype=self.compute_dtype,
            head_dims=architecture.head_dims,
        )
        return Qwen2_5_VL(
            config=architecture,
            compute_dtype=self.compute_dtype,
            remat=self.remat,
            attention=attention,
        )


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Labelled images of one data set, and how they are asked about.

    Attributes:
      dataset: name in the registry.
      root: its folder; None for the root of the whole `data` section.
      split: named split of the registry; empty for the data set's own split file; "all" for
        everything, either to train on or to test on.
      template: prompt, by name.
      system: replaces the prompt's system turn; an empty one leaves the chat template's own.
      question: replaces the prompt's question, see `PromptTemplate`.
      weight: share of the training rows, relative to the other sources'; 0 only tests, and with
        `evaluate` False the source is left out and need not be there.
      scale: what becomes of labels in the prompt's range: "label" maps the range that labels can
        have, "measured" the published data set's lowest and highest label.
      evaluate: whether its test part is tested.
    """

    dataset: str
    root: str | None = None
    split: str = ""
    template: str = "q_insight"
    system: str | None = None
    question: str | None = None
    weight: float = 1.0
    scale: LabelRange = "label"
    evaluate: bool = True

    def __post_init__(self):
        if not (self.weight >= 0 and math.isfinite(self.weight)):
            raise ValueError(f"weight must be at least 0 and finite, got {self.weight}")
        if self.weight and self.evaluate and self.split == "all":
            raise ValueError(
                'split "all" tests on what it trains on; set weight to 0, evaluate to False or a '
                "split"
            )

    def part(self, name: str) -> str:
        """How the registry calls part `name` of the split."""
        if self.split in ("", "all"):
            return self.split or name
        return f"{self.split}/{name}"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The labelled images.

    Attributes:
      root: folder of the data sets; None for `<workdir>/data` (the demo data set is made there).
      sources: by a name of your choice, in the order of the tests.
      mixing: how training batches take several sources. "rows" puts rows of all of them into
        every batch, so that each update sees every task, as TATAR and Q-Insight train; "batches"
        makes each batch of one source, as VisualQuality-R1 does on each device, which gives
        ranking rewards the most pairs where sources are many and batches small.
      images: pixel limits of resizing.
      buckets: shapes to which prompts and completions are padded.
      workers: decoding processes; 0 decodes in the training process.
      cache_mb: memory for decoded training images, in MB; 0 decodes them anew in every epoch.
      demo: how the demo data set is made; None where no source has it.
      demo_seed: of the demo data set, apart from the run's seed so that runs can share it.
    """

    root: str | None = None
    sources: dict[str, DataSource]
    mixing: Mixing = "rows"
    images: ImageConfig = field(default_factory=ImageConfig)
    buckets: Buckets
    workers: int = 0
    cache_mb: int = 0
    demo: DemoDataConfig | None = None
    demo_seed: int = 0

    def __post_init__(self):
        if not self.sources:
            raise ValueError("sources: expected at least one")
        for name in self.sources:
            if not (name.isascii() and name.isidentifier()):
                raise ValueError(
                    f"source name {name!r} cannot name files and options; use letters, digits and "
                    "_, a letter first"
                )
        if self.workers < 0 or self.cache_mb < 0:
            raise ValueError(
                f"workers and cache_mb must not be negative, got {self.workers} and {self.cache_mb}"
            )
        datasets = [source.dataset for source in self.sources.values()]
        if self.demo is not None and not any(name.startswith(DEMO_DATASET) for name in datasets):
            raise ValueError(
                f"demo makes the data set {DEMO_DATASET!r}, but the sources have "
                f"{', '.join(map(repr, datasets))}; set demo to None or a source's dataset to the "
                "demo's"
            )
        if self.demo_seed < 0:
            raise ValueError(f"demo_seed must not be negative, got {self.demo_seed}")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The test after a stage; answers are greedy.

    Attributes:
      part: which part of the split: `test`, or `validation` while choosing settings.
      batch_size: images per call.
      max_new_tokens: longest answer; one cut off counts as unparsed.
      limit: evaluate only the first images of each source; 0 for all.
    """

    part: Literal["test", "validation"] = "test"
    batch_size: int = 8
    max_new_tokens: int = 512
    limit: int = 0

    def __post_init__(self):
        if self.batch_size < 1 or self.max_new_tokens < 1 or self.limit < 0:
            raise ValueError("batch_size and max_new_tokens must be positive, limit at least 0")
