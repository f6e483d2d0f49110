"""What training, sampling and testing give on a mesh: arrays by name, the same on every mesh.

In a process of its own, `python sharded_cases.py PORT NUMBER FOLDER`, it is process NUMBER of two
with four devices each; the first one writes the arrays, and both a checkpoint and an export.
"""

import dataclasses
import io
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import tiny_model
from distill_fixtures import CLIP
from PIL import Image

from jaxqa import processes, sharding, tree
from jaxqa.data.batching import Buckets, PromptBatch
from jaxqa.data.encoding import PromptEncoder
from jaxqa.data.loader import Loader
from jaxqa.data.prompts import get_template
from jaxqa.data.records import Example
from jaxqa.data.tokenizer import Tokenizer
from jaxqa.distill.alignment import (
    AlignmentBatch,
    AlignmentConfig,
    AlignmentObjective,
    aligned_params,
)
from jaxqa.models.clip.model import Clip
from jaxqa.models.qwen2_5_vl import layout, weights
from jaxqa.models.qwen2_5_vl.config import Qwen2_5_VLConfig, TextConfig, VisionConfig
from jaxqa.models.qwen2_5_vl.inputs import stack_rows
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.models.qwen2_5_vl.preprocess import ImageConfig
from jaxqa.objectives.advantages import AdvantageConfig, FilterConfig
from jaxqa.objectives.entropy_gate import GateConfig
from jaxqa.objectives.grpo import GrpoConfig
from jaxqa.rewards.registry import RewardTerm
from jaxqa.sampling.sampler import Sampler, SamplingConfig
from jaxqa.scoring.scorer import Scorer
from jaxqa.train.batches import SftBatch
from jaxqa.train.checkpoint import Checkpoints
from jaxqa.train.losses import GrpoObjective, SftObjective, completion_log_probs
from jaxqa.train.rollout import RolloutConfig, RolloutSource
from jaxqa.train.state import create_state
from jaxqa.train.step import make_update

CONFIG = Qwen2_5_VLConfig(
    vision=VisionConfig(
        depth=1,
        hidden_size=16,
        intermediate_size=24,
        num_heads=2,
        out_hidden_size=32,
        fullatt_block_indexes=(0,),
    ),
    text=TextConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        mrope_section=(1, 1, 2),
    ),
    **dict(image_token_id=40, video_token_id=41, vision_start_token_id=42),
    **dict(vision_end_token_id=43, bos_token_id=44, eos_token_id=45, pad_token_id=44),
    initializer_range=0.3,
)
MODEL = Qwen2_5_VL(config=CONFIG)
ROWS, GROUP, LENGTH = 8, 2, 5
STOPS = (45, *range(20, 40))  # many, so that most completions have left before the last stretch
WIDE = sharding.MeshConfig(data=2, fsdp=2, tensor=2)


def host_prompts(number: int = 0):
    rng = np.random.default_rng(number)
    rows = []
    for place in range(ROWS):
        text = rng.integers(0, 40, 2 + place % 3)
        ids = np.concatenate([text, [42], [40] * 4, [43], text]).astype(np.int32)
        image = rng.integers(0, 256, (56, 56, 3)).astype(np.uint8)
        rows.append(layout.build_row(ids, [image], CONFIG))
    return stack_rows(rows, prompt_length=16, num_windows=1)


def host_completions():
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 40, (ROWS, GROUP, LENGTH)).astype(np.int32)
    lengths = rng.integers(1, LENGTH + 1, (ROWS, GROUP))
    return ids, np.arange(LENGTH) < lengths[..., None]


def place_params(mesh):
    places = sharding.tree_shardings(MODEL.abstract_params(), sharding.QWEN2_5_VL_RULES, mesh)
    return sharding.place(jax.jit(MODEL.init)(jax.random.key(3)), places)


def mine(values, mesh):
    """This process's rows."""
    rows = sharding.row_share(mesh).rows(ROWS)
    return jax.tree.map(lambda leaf: leaf[rows], values)


def put(values, mesh):
    return sharding.shard_rows(mine(values, mesh), mesh)


def descend(name, params, objective, batch, mesh, *, micro_batches=1, used=None):
    """Loss and gradients: plain descent at rate 1, so the parameters' change is the gradient."""
    optimizer = optax.sgd(1.0)
    update = make_update(
        objective,
        optimizer,
        learning_rate=optax.constant_schedule(1.0),
        micro_batches=micro_batches,
    )
    state = create_state(jax.tree.map(lambda leaf: leaf.copy(), params), optimizer)
    state, metrics, _ = update(state, batch, used=used)
    before, after = sharding.fetch((params, state.params), mesh)
    changes = tree.flatten(jax.tree.map(lambda old, new: old - new, before, after))
    loss = np.asarray(jax.device_get(metrics["loss"]))
    return {f"{name} loss": loss, **{f"{name} gradient {k}": v for k, v in changes.items()}}


def sft(mesh, params):
    ids, mask = host_completions()
    fields = dict(prompts=host_prompts(), completion_ids=ids, completion_mask=mask)
    tokens = sharding.replicate(np.float32(mask.sum()), mesh)
    batch = SftBatch(**put(fields, mesh), num_tokens=tokens)
    return descend("sft", params, SftObjective(model=MODEL, mesh=mesh), batch, mesh)


class NumberedPrompts(Loader):
    """This process's rows of batch after batch."""

    def __init__(self, mesh):
        self._mesh, self._number = mesh, 0

    def take(self, work):
        number, self._number = self._number, self._number + 1
        absent = np.full(ROWS, -1, np.int32)
        fields = {
            "prompts": host_prompts(number),
            "example_ids": np.arange(ROWS) + 2**40 + ROWS * number,
            "labels": np.linspace(1, 5, ROWS, dtype=np.float32),
            "pools": np.arange(ROWS, dtype=np.int32) % 2,
            "task": np.zeros(ROWS, np.int32),
            "class_id": absent,
            "severity_id": absent,
            "choice_id": absent,
            "valid": np.arange(ROWS) != 3,
        }
        rows = mine(fields, self._mesh)
        return PromptBatch(**rows, errors=(None,) * len(rows["valid"]))


class NumberTokenizer(Tokenizer):
    """Every completion reads as a score; some do not parse, and many are the same."""

    def __init__(self):
        pass

    def decode(self, ids):
        number = sum(ids) % 7
        return "?" if number == 0 else f"<think> . </think><answer> {1 + number // 2} </answer>"


def grpo(mesh, params):
    """Ranking rewards, the filter, other groups in place of those it drops, micro-batches.

    The sampler is that of training: a policy gathered for it, stretches, completions that leave.
    """
    records = []
    sampler = Sampler(
        model=MODEL,
        config=SamplingConfig(num_samples=GROUP, max_new_tokens=LENGTH),
        stop_token_ids=STOPS,
        pad_token_id=44,
        cache_lengths=(1, 3),
        row_blocks=sharding.row_shards(mesh),
        mesh=mesh,
    )
    source = RolloutSource(
        RolloutConfig(
            seed=0,
            stage="grpo",
            terms=(("rank", RewardTerm(name="thurstone_fidelity")),),
            advantages=AdvantageConfig(),
            objective=GrpoConfig(beta=0.1, aggregation="token_mean"),
            filter=FilterConfig(tau=0.001, resample_rounds=1),
            gate=GateConfig(source="sampler", rho=0.4),
            micro_batches=2,
            completion_lengths=(LENGTH,),
        ),
        prompter=NumberedPrompts(mesh),
        sampler=sampler,
        tokenizer=NumberTokenizer(),
        mesh=mesh,
        reference=lambda policy, prompts, ids, used: _log_probs(params, prompts, ids),
        copy=lambda params: sharding.gather(params, "fsdp"),
        write=lambda step, lines: records.extend(lines),
    )
    with jax.transfer_guard("disallow"):
        batch, metrics = source.next(params, 3)
    objective = GrpoObjective(
        model=MODEL,
        config=source.config.objective,
        gate=source.config.gate,
        temperature=1.0,
        mesh=mesh,
    )
    found = descend(
        "grpo", params, objective, batch, mesh, micro_batches=2, used=batch.micro_batches
    )
    names = ("completion_ids", "sampler_log_probs", "completion_mask", "advantages", "gate")
    found |= {name: sharding.fetch(getattr(batch, name), mesh) for name in names}
    found["rewards"] = np.array([line["reward"] for line in records])
    found["examples"] = np.array([line["example_id"] for line in records])
    return found | {f"metric {name}": np.array(value) for name, value in metrics.items()}


@jax.jit
def _log_probs(params, prompts, ids):
    return 0.9 * completion_log_probs(MODEL, params, prompts, ids)[0]


def alignment(mesh):
    clip, options = Clip(config=CLIP), AlignmentConfig(temperature=0.2)
    params = aligned_params(jax.jit(clip.init)(jax.random.key(0)), options)
    params = sharding.place(params, sharding.tree_shardings(params, sharding.CLIP_RULES, mesh))
    rng = np.random.default_rng(4)
    texts = rng.normal(size=(ROWS, CLIP.projection_dim)).astype(np.float32)
    batch = AlignmentBatch(
        **put(
            {
                "pixels": rng.integers(0, 256, (ROWS, 16, 16, 3)).astype(np.uint8),
                "texts": texts / np.linalg.norm(texts, axis=1, keepdims=True),
            },
            mesh,
        )
    )
    objective = AlignmentObjective(model=clip, config=options)
    return descend("alignment", params, objective, batch, mesh)


def evaluation(mesh):
    """Scores of 11 images in blocks of 8, one of them unreadable."""
    tokenizer = tiny_model.make_tokenizer()
    config = tiny_model.make_config(tokenizer)
    rng, examples = np.random.default_rng(5), []
    for number in range(11):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (56, 56, 3)).astype(np.uint8)).save(file, "PNG")
        data = file.getvalue()[: None if number != 6 else -400]
        labels = {"score": 3.0, "dataset": "jaxqa_demo", "task": "quality"}
        examples.append(Example(example_id=number, image=data, **labels))
    model = Qwen2_5_VL(config=config)
    places = sharding.tree_shardings(model.abstract_params(), sharding.QWEN2_5_VL_RULES, mesh)
    scorer = Scorer(
        model=model,
        encoder=PromptEncoder(
            tokenizer, config=config, image_config=ImageConfig(max_pixels=56 * 56)
        ),
        template=get_template("concise"),
        mesh=mesh,
        buckets=Buckets(prompt_lengths=(96,), window_counts=(1,)),
        max_new_tokens=12,
        batch_size=ROWS,
    )
    params = tiny_model.make_params(tokenizer, config)
    # The same answers by logits of up to 40: of 400, float32 knows the next only 3e-5 away.
    params["lm_head"]["weight"] *= 0.1
    params = sharding.place(params, places)
    answers = list(scorer.score(params, examples))
    return {
        "score ids": np.array([answer.example.example_id for answer in answers]),
        "scores": np.array([np.nan if a.score is None else a.score for a in answers]),
        "score log_probs": np.array([answer.log_prob or 0.0 for answer in answers]),
    }


def compute(mesh):
    """All of it, on the host, in every process."""
    params = place_params(mesh)
    return sft(mesh, params) | grpo(mesh, params) | alignment(mesh) | evaluation(mesh)


def state_on(mesh):
    """A training state whose moments are not zero."""
    params, optimizer = place_params(mesh), optax.adam(0.1)
    state = create_state(params, optimizer)
    moved = jax.jit(lambda leaves: jax.tree.map(lambda leaf: leaf + 1, leaves))(state.opt_state)
    return dataclasses.replace(state, opt_state=moved)


def save(folder, mesh):
    """A checkpoint and an export."""
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(1, state_on(mesh), {"source": {"next_batch": 5}})
    checkpoints.close()
    weights.save_pretrained(folder / "export", CONFIG, state_on(mesh).params)


def restored(folder, mesh):
    """What `save` saved, on the host."""
    checkpoints = Checkpoints(folder / "checkpoints")
    state, host = checkpoints.restore(1, state_on(mesh))
    checkpoints.close()
    return sharding.fetch(state, mesh), host


def main() -> None:
    port, number, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.distributed.initialize(f"localhost:{port}", 2, number, heartbeat_timeout_seconds=60)
    mesh = sharding.make_mesh(WIDE)
    found = compute(mesh)
    (folder / "two").mkdir(exist_ok=True)
    save(folder / "two", mesh)
    state, host = restored(folder / "one", mesh)
    found |= {f"restored {name}": leaf for name, leaf in tree.flatten(state).items()}
    assert host == {"source": {"next_batch": 5}}
    if processes.is_first():
        np.savez(folder / "found.npz", **found)


if __name__ == "__main__":
    main()
