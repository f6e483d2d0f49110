"""The compiled programs of a stage, made from model, stage and mesh alone.

Training runs them on arrays; `jaxqa compile` compiles the same for machines that are not there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from jaxqa import sharding
from jaxqa.models.qwen2_5_vl import parts
from jaxqa.models.qwen2_5_vl.adapters import is_adapter
from jaxqa.models.qwen2_5_vl.inputs import Prompts
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.sampling.sampler import Sampler
from jaxqa.stages.sections import GrpoStage, SftStage, StageConfig, WarmupStage
from jaxqa.train import losses
from jaxqa.train.micro_batches import over_micro_batches
from jaxqa.train.optimizer import learning_rate_schedule, make_optimizer
from jaxqa.train.state import TrainState, abstract_state
from jaxqa.train.step import Objective, make_update
from jaxqa.typing import Array, Params


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a stage trains.

    Attributes:
      optimizer: of the parameters that are trained.
      trained: whether the parameter of a "/"-joined path is trained; None: all are.
      update: jitted `(state, batch, advance, used) -> (state, metrics, outputs)`; `make_update`
        describes it.
      state: shapes and places of the training state.
    """

    optimizer: optax.GradientTransformation
    trained: Callable[[str], bool] | None
    update: Any
    state: TrainState


def training(model: Qwen2_5_VL, stage: StageConfig, mesh: Mesh, params: Params) -> Training:
    """Optimizer and update of a stage that trains; `params` may be `jax.ShapeDtypeStruct`s."""
    optimizer = make_optimizer(stage.optimizer, stage.steps * _updates(stage))
    trained = trained_part(stage)
    state = abstract_state(params, optimizer, trained=trained)
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    update = stage_update(_objective(model, stage, mesh), optimizer, stage, places=places)
    return Training(optimizer=optimizer, trained=trained, update=update, state=state)


def stage_update(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    stage: StageConfig,
    *,
    places: TrainState | None = None,
) -> Any:
    """One update of a stage's parameters, see `make_update`."""
    updates = _updates(stage)
    schedule = learning_rate_schedule(stage.optimizer, stage.steps * updates)
    return make_update(
        objective,
        optimizer,
        learning_rate=lambda step: schedule(step * updates),
        micro_batches=stage.micro_batches,
        accumulator=stage.accumulator,
        trained=trained_part(stage),
        places=places,
    )


def _updates(stage: StageConfig) -> int:
    return stage.updates_per_rollout if isinstance(stage, GrpoStage) else 1


def trained_part(stage: StageConfig) -> Callable[[str], bool] | None:
    """Which parameters a stage trains, by "/"-joined path; None for all."""
    if not isinstance(stage, SftStage | GrpoStage):
        return None
    return is_adapter if stage.lora.rank else parts.holds(stage.trains)


def _objective(model: Qwen2_5_VL, stage: StageConfig, mesh: Mesh) -> Objective:
    if isinstance(stage, WarmupStage):
        return losses.WarmupObjective(model=model, mesh=mesh)
    if isinstance(stage, SftStage):
        return losses.SftObjective(model=model, mesh=mesh)
    assert isinstance(stage, GrpoStage)  # STAGE_KINDS has no other that trains
    return losses.GrpoObjective(
        model=model,
        config=stage.objective,
        gate=stage.gate,
        temperature=stage.sampling.temperature,
        mesh=mesh,
    )


def policy_sampler(
    model: Qwen2_5_VL,
    stage: GrpoStage,
    mesh: Mesh,
    *,
    stop_token_ids: tuple[int, ...],
    pad_token_id: int,
) -> Sampler:
    """What samples the answers of a GRPO stage."""
    return Sampler(
        model=model,
        config=stage.sampling,
        stop_token_ids=stop_token_ids,
        pad_token_id=pad_token_id,
        row_blocks=sharding.row_shards(mesh),
        mesh=mesh,
    )


def reference_log_probs(model: Qwen2_5_VL, stage: GrpoStage, mesh: Mesh) -> Any:
    """Jitted `(params, (prompts, completion_ids), used) -> [B G T]`: log-probabilities of a policy.

    Computed in the same micro-batches as the update; `used` as there.
    """

    @jax.jit
    def log_probs(params: Params, rows: tuple[Prompts, Array], used: Array | None) -> Array:
        def of(rows: tuple[Prompts, Array]) -> tuple[tuple[()], Array]:
            temperature = stage.sampling.temperature
            found = losses.completion_log_probs(
                model, params, *rows, temperature=temperature, mesh=mesh
            )
            return (), found[0]

        return over_micro_batches(of, rows, micro_batches=stage.micro_batches, used=used)[1]

    return log_probs
