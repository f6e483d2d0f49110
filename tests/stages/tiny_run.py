"""Config of a run that is as small as a run can be, for tests: seconds, and most of them imports.

Warm-up, SFT that learns to write one sentence, GRPO on real rewards with a reference; a worker
process. Use it as `--config=tests/stages/tiny_run.py:DATA`, DATA made by `write_dataset`.
"""

import csv
import json
from pathlib import Path

import ml_collections
import numpy as np
from PIL import Image

from jaxqa.data.batching import Buckets
from jaxqa.models.qwen2_5_vl.config import TextConfig, VisionConfig
from jaxqa.models.qwen2_5_vl.preprocess import ImageConfig
from jaxqa.objectives.advantages import FilterConfig
from jaxqa.objectives.entropy_gate import GateConfig
from jaxqa.objectives.grpo import GrpoConfig
from jaxqa.rewards.registry import RewardTerm
from jaxqa.sampling.config import SamplingConfig
from jaxqa.stages.config import make_config
from jaxqa.stages.sections import GrpoStage, RationalesStage, SftStage, WarmupStage
from jaxqa.stages.sources import DataConfig, DataSource, EvaluationConfig, ModelSource
from jaxqa.train.optimizer import OptimizerConfig


def get_config(root: str | None) -> ml_collections.ConfigDict:
    """The config; `root` is the data set's folder."""
    return make_config(
        stages={
            "warmup": WarmupStage(steps=5, batch_size=4, save_every=2),
            "sft": SftStage(
                steps=60,
                batch_size=4,
                save_every=20,
                optimizer=OptimizerConfig(learning_rate=0.01, schedule="constant"),
            ),
            "grpo": GrpoStage(
                steps=5,
                batch_size=4,
                save_every=2,
                rewards={
                    "gaussian": RewardTerm(name="gaussian", options={"sigma": 0.5}),
                    "format": RewardTerm(name="format", weight=0.5),
                },
                objective=GrpoConfig(beta=0.04),
                sampling=SamplingConfig(num_samples=3, max_new_tokens=16),
                optimizer=OptimizerConfig(learning_rate=1e-3),
            ),
        },
        spare={
            "own": RationalesStage(
                batch_size=1, sampling=SamplingConfig(temperature=0.0, max_new_tokens=32)
            ),
            "control": SftStage(
                steps=4, batch_size=2, rationales=("own",), evaluate=False, start_from="sft"
            ),
            "grpo_phase2": GrpoStage(
                steps=4,
                batch_size=4,
                save_every=1,
                micro_batches=2,
                rewards={
                    "gaussian": RewardTerm(name="gaussian", options={"sigma": 0.5}),
                    "words": RewardTerm(
                        name="thinking_cost", options={"words_free": 0, "words_max": 20}
                    ),
                },
                objective=GrpoConfig(beta=0.04, aggregation="token_mean"),
                filter=FilterConfig(tau=0.001, resample_rounds=1),
                gate=GateConfig(source="sampler"),
                reference="sft",
                sampling=SamplingConfig(num_samples=3, max_new_tokens=16),
                optimizer=OptimizerConfig(learning_rate=1e-3),
            ),
        },
        model=_model(),
        data=DataConfig(
            root=root,
            sources={"demo": DataSource(dataset="jaxqa_demo", template="concise")},
            images=ImageConfig(max_pixels=56 * 56),
            buckets=Buckets(prompt_lengths=(72,), window_counts=(1,), completion_lengths=(32,)),
            workers=1,
        ),
        evaluation=EvaluationConfig(batch_size=4, max_new_tokens=16),
    )


def _model() -> ModelSource:
    width = 32
    return ModelSource(
        vision=VisionConfig(
            depth=1,
            hidden_size=width,
            intermediate_size=width,
            num_heads=2,
            out_hidden_size=width,
            fullatt_block_indexes=(0,),
        ),
        text=TextConfig(
            vocab_size=400,
            hidden_size=width,
            intermediate_size=width,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            mrope_section=(2, 3, 3),
            tie_word_embeddings=True,
            max_position_embeddings=256,
        ),
        vision_filters="dct",
        compute_dtype="float32",
    )


def write_dataset(root: Path) -> Path:
    """Pictures of noise with made-up labels; one rationale for all, so that SFT learns it soon."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    labels, splits, rationales = [], [], []
    for number, (part, count) in enumerate({"train": 12, "validation": 2, "test": 6}.items(), 1):
        reference = f"I{number:02d}"
        splits.append((f"{reference}.png", part))
        for i in range(count):
            name = f"{reference}_01_{i + 1:02d}.png"
            pixels = rng.integers(0, 256, (56, 56, 3), np.uint8)
            Image.fromarray(pixels).save(root / "images" / name)
            labels.append((name, f"{reference}.png", f"{1 + (0.31 * i) % 4:.2f}", "0.1"))
            if part == "train":
                rationales.append(json.dumps({"dist_img": name, "rationale": "noise"}) + "\n")
    _write_csv(root / "dmos.csv", ["dist_img", "ref_img", "dmos", "var"], labels)
    _write_csv(root / "splits.csv", ["ref_img", "split"], splits)
    (root / "rationales.jsonl").write_text("".join(rationales))
    return root


def _write_csv(path: Path, header: list[str], rows: list[tuple[str, ...]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
