"""Adapters in a run: which stage has which, and a policy in the form that a stage trains."""

import dataclasses
from typing import Literal

import jax

from jaxqa import tree
from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl import adapters, parts
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.nn.lora import LoraConfig
from jaxqa.stages.config import RunConfig
from jaxqa.stages.sections import GrpoStage, SftStage
from jaxqa.stages.setup import Setup, stage_key
from jaxqa.typing import Params

NO_ADAPTERS = LoraConfig()


def lora_of(config: RunConfig, name: str | None) -> LoraConfig:
    """The adapters of the policy after stage `name`; None is the run's first model."""
    stage = None if name is None else config.sections[name]
    has_some = isinstance(stage, SftStage | GrpoStage) and stage.lora.rank
    return stage.lora if has_some else NO_ADAPTERS  # type: ignore[union-attr]


def base_of(config: RunConfig, name: str) -> str | None:
    """Stage whose policy lies under the adapters that stage `name` trains.

    A stage with the adapters of the stage before it goes on with those.
    """
    lora, start = lora_of(config, name), config.trainer_of(config.start_of(name))
    while start is not None and lora_of(config, start) == lora:
        start = config.trainer_of(config.start_of(start))
    return start


def reference_of(
    config: RunConfig, name: str
) -> tuple[Literal["start", "base", "other"], str | None]:
    """The policy from which the KL penalty of GRPO stage `name` counts, and who trained it.

    "start" is the one that it starts from, "base" the same without the adapters that it trains.
    None trained the run's first model.
    """
    stage = config.sections[name]
    start, other = (config.trainer_of(of(name)) for of in (config.start_of, config.reference_of))
    if stage.lora.rank and other == base_of(config, name):
        return "base", other
    return ("start" if start == other else "other"), other


def model_of(setup: Setup, name: str | None) -> Qwen2_5_VL:
    """The model as stage `name` leaves its parameters."""
    return dataclasses.replace(setup.model, lora=lora_of(setup.config, name))


def check(setup: Setup, name: str) -> None:
    """Raise UserError unless the stage's patterns match linear maps of the model."""
    try:
        model_of(setup, name).abstract_params()
    except ValueError as error:
        raise UserError(f"config.{name}.lora: {error}") from error


def adapted(setup: Setup, params: Params, held: LoraConfig, wanted: LoraConfig, key: str) -> Params:
    """`params`, which hold the adapters `held`, with the adapters `wanted`.

    Other ones are merged into the kernels first. New ones add 0 and are drawn with `key`; what
    lies under them is not trained, so it is kept in the model's compute dtype.
    """
    if held == wanted:
        return params
    if held.rank:
        params = adapters.merge(params, held)
    return _with_new(setup, params, wanted, key) if wanted.rank else params


def _with_new(setup: Setup, params: Params, lora: LoraConfig, key: str) -> Params:
    base = parts.compute_copy(params, setup.model.compute_dtype, own=False)
    model = dataclasses.replace(setup.model, lora=lora)
    shapes, _ = tree.split(setup.abstract_policy(model), adapters.is_adapter)

    def draw(key: jax.Array) -> Params:
        return tree.split(model.init(key), adapters.is_adapter)[0]

    places = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    drawn = jax.jit(draw, out_shardings=places)(stage_key(setup.config.seed, f"{key}.lora"))
    return tree.join(base, drawn)
