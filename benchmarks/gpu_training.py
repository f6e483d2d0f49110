"""The training part of `gpu.py`: rounds of full-parameter GRPO, and the bytes they should take.

float32 master parameters and gradients of one group at a time, their sum in bfloat16, a copy of
the parameters in the compute dtype for each rollout; the reference waits in the host's memory.
"""

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import useful_flops
from counting import kept_bytes
from gpu_parts import OPTIMIZERS, Bench, Figure, completion_ids, group_loss

from jaxqa import sharding
from jaxqa.models.qwen2_5_vl.inputs import Prompts
from jaxqa.nn.attention_backends import Backend
from jaxqa.objectives import grpo
from jaxqa.objectives.advantages import AdvantageConfig, group_advantages
from jaxqa.objectives.entropy_gate import GateConfig
from jaxqa.rewards import parsing
from jaxqa.rewards.answers import score_targets
from jaxqa.rewards.registry import RewardTerm, combine
from jaxqa.sampling.keys import sample_keys
from jaxqa.train import losses
from jaxqa.train.batches import GrpoBatch
from jaxqa.train.micro_batches import over_micro_batches
from jaxqa.train.optimizer import make_optimizer
from jaxqa.train.reference import Frozen
from jaxqa.train.state import create_state
from jaxqa.train.step import make_update

GIB = 2**30
ACCUMULATOR = "bfloat16"
TERMS = (
    ("rank", RewardTerm(name="thurstone_fidelity")),
    ("format", RewardTerm(name="format", weight=0.5)),
)


def training(bench: Bench) -> Iterator[Figure]:
    """The update as it is compiled; a first rollout, reference and update; then whole rounds."""
    yield Figure("plan", 5, functools.partial(expected_gib, bench, bench.attention))
    trainer = _Trainer(bench)
    yield Figure("compiled", 120, trainer.compile)
    yield Figure("first", 120, trainer.first)
    yield Figure("rounds", 15 * bench.rounds, trainer.rounds)


def expected_gib(bench: Bench, choice: Backend) -> dict[str, Any]:
    """What an update should hold, by arithmetic and a trace; nothing is computed.

    "cast copy" are all weights in the compute dtype: XLA may take their casts out of the loops.
    """
    bench.attention = bench.backend(choice)
    preset, params = bench.preset, bench.model.abstract_params()
    optimizer = make_optimizer(OPTIMIZERS[bench.optimizer], 100)
    prompts = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, bench.host_prompts(1)))
    ids = jax.eval_shape(lambda: completion_ids(bench))
    model, size = bench.trained_model, _bytes(params)
    loss = functools.partial(_of_params, model, prompts, ids)
    parts = {
        "master": size,
        "moments": _bytes(jax.eval_shape(optimizer.init, params)),
        "gradients": size,
        "sum": size // 4 * jnp.dtype(ACCUMULATOR).itemsize,
        "cast copy": size // 2 if preset.dtype != "float32" else 0,
        f"kept by remat={bench.remat}": kept_bytes(loss, params),
    }
    found = {name: part / GIB for name, part in parts.items()}
    found["a layer's work"] = preset.working_gib
    settings = {"attention": bench.attention, "optimizer": bench.optimizer, "reference": "host"}
    return settings | {"gib": found, "total_gib": sum(found.values())}


def _of_params(model: Any, prompts: Any, ids: Any, params: Any) -> jax.Array:
    zeros = functools.partial(jax.tree.map, lambda leaf: jnp.zeros(leaf.shape, leaf.dtype))
    return group_loss(model, params, zeros(prompts), zeros(ids))


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


class _Trainer:
    """State, programs and data of one run."""

    def __init__(self, bench: Bench):
        """Draw the parameters, which are the reference as well."""
        self.bench, preset = bench, bench.preset
        self.rows, self.group = preset.train_rows, preset.group
        self.mesh = sharding.make_mesh(sharding.MeshConfig())
        optimizer = make_optimizer(OPTIMIZERS[bench.optimizer], 100)
        self.objective = losses.GrpoObjective(
            model=bench.trained_model,
            config=grpo.GrpoConfig(beta=0.04),
            gate=GateConfig(),
            temperature=1.0,
        )
        self.update: Any = make_update(
            self.objective,
            optimizer,
            learning_rate=lambda step: jnp.float32(1e-6),
            micro_batches=self.rows,
            accumulator=ACCUMULATOR,
        )
        self.host_prompts = bench.host_prompts(self.rows)
        self.sampler = bench.sampler(bench.model, self.group)
        self.copy, self.log_probs = _caster(preset.dtype), _log_probs(bench)
        masters = _caster("float32")(bench.params)
        self.reference = Frozen(bench.params, "host")
        del bench.params
        self.state = create_state(masters, optimizer)
        self.texts, self.targets = _answers(self.rows, self.group)

    def compile(self) -> dict[str, float]:
        """Compile the update; what the compiler says it takes, which need not be what it does."""
        shape = (self.rows, self.group, self.bench.preset.tokens)
        rollout = sharding.shard_rows(
            (np.zeros(shape, np.int32), np.ones(shape, bool), np.zeros(shape, np.float32)),
            self.mesh,
        )
        prompts = sharding.shard_rows(self.host_prompts, self.mesh)
        advantages = sharding.shard_rows(np.zeros(shape[:2], np.float32), self.mesh)
        begun = time.perf_counter()
        batch = self.batch(prompts, rollout, advantages, rollout[2])
        self.update = self.update.lower(self.state, batch).compile()
        seconds, memory = time.perf_counter() - begun, self.update.memory_analysis()
        return {
            "compile_seconds": seconds,
            "arguments_gib": memory.argument_size_in_bytes / GIB,
            "temporaries_gib": memory.temp_size_in_bytes / GIB,
        }

    def batch(self, prompts: Prompts, rollout: Any, advantages: Any, reference: Any) -> GrpoBatch:
        """What the update reads; `rollout` are tokens, mask and log-probabilities."""
        ids, mask, log_probs = rollout
        length = self.bench.preset.tokens
        return GrpoBatch(
            prompts=prompts,
            completion_ids=ids,
            completion_mask=mask,
            sampler_log_probs=log_probs,
            advantages=advantages,
            normalizer=grpo.loss_normalizer(mask, self.objective.config, max_length=length),
            ref_log_probs=reference,
        )

    def first(self) -> dict[str, float]:
        """Seconds of a first round, which compiles all but the update."""
        return {f"{name}_seconds": seconds for name, seconds in self.round().items()}

    def rounds(self) -> dict[str, float]:
        """Medians over whole rounds, and of their phases."""
        found = [self.round() for _ in range(self.bench.rounds)]
        medians = {name: statistics.median(one[name] for one in found) for name in found[0]}
        whole = statistics.median(sum(one.values()) for one in found)
        config, work = self.bench.preset.config, self.bench.work()
        forward = useful_flops.forward(config, work)
        used = self.bench.share_of_peak(3 * self.rows * forward, medians["update"])
        return {
            **{f"{name}_seconds": seconds for name, seconds in medians.items()},
            "round_seconds": whole,
            "completions_per_second": self.rows * self.group / whole,
            **{f"update_{name}": value for name, value in used.items()},
            "useful_over_repeated_flops": forward / useful_flops.repeated(config, work),
        }

    def round(self) -> dict[str, float]:
        """Seconds of each phase; together they are the round."""
        spent, begun = {}, time.perf_counter()

        def timed(name: str, result: Any) -> Any:
            nonlocal begun
            jax.block_until_ready(result)
            now = time.perf_counter()
            spent[name], begun = now - begun, now
            return result

        prompts = timed("transfer", sharding.shard_rows(self.host_prompts, self.mesh))
        rollout = timed("rollout", self.roll_out(prompts))
        advantages = timed("rewards", self.reward(rollout))
        reference = timed("reference", self.refer(prompts, rollout))
        drawn = (rollout.token_ids, rollout.mask, rollout.log_probs)
        batch = self.batch(prompts, drawn, advantages, reference)
        self.state = timed("update", self.update(self.state, batch)[0])
        return spent

    def roll_out(self, prompts: Prompts) -> Any:
        """Completions of the current parameters, read from a copy."""
        keys = sample_keys(0, "benchmark", int(self.state.step), np.arange(self.rows), self.group)
        return self.sampler(self.copy(self.state.params), prompts, keys)

    def reward(self, rollout: Any) -> jax.Array:
        """Advantages: tokens come to the host, texts are parsed, rewards computed.

        Without a tokenizer the texts are made up; putting tokens together is not timed.
        """
        jax.device_get((rollout.token_ids, rollout.length))
        answers = parsing.parse_answers(self.texts)
        rewards, _, _ = combine(TERMS, *sharding.shard_rows((answers, self.targets), self.mesh))
        return group_advantages(rewards, AdvantageConfig())

    def refer(self, prompts: Prompts, rollout: Any) -> jax.Array:
        """The reference's log-probabilities; its parameters come from the host and go again."""
        return self.log_probs(self.reference.on_devices(), (prompts, rollout.token_ids))


def _answers(rows: int, group: int) -> tuple[list[list[str]], Any]:
    """Texts of about 160 tokens, and the true scores."""
    rng = np.random.default_rng(0)
    thought = "the picture is sharp and well lit, but " * 12

    def text() -> str:
        return f"<think>{thought}</think><answer>{rng.uniform(1, 5):.2f}</answer>"

    texts = [[text() for _ in range(group)] for _ in range(rows)]
    return texts, score_targets(rng.uniform(1, 5, rows), np.zeros(rows, np.int32))


def _caster(dtype: str) -> Callable[[Any], Any]:
    return jax.jit(lambda params: jax.tree.map(lambda leaf: leaf.astype(dtype), params))


def _log_probs(bench: Bench) -> Callable[[Any, Any], jax.Array]:
    """Log-probabilities under a policy, a group at a time as in the update."""

    @jax.jit
    def log_probs(params: Any, rows: tuple[Prompts, jax.Array]) -> jax.Array:
        def of(rows: tuple[Prompts, jax.Array]) -> tuple[tuple[()], jax.Array]:
            return (), losses.completion_log_probs(bench.model, params, *rows)[0]

        return over_micro_batches(of, rows, micro_batches=bench.preset.train_rows)[1]

    return log_probs
