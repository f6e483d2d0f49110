"""The configuration of a run: shared sections, then one named section per stage."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_collections

from jaxqa import configuration
from jaxqa.errors import UserError
from jaxqa.sharding import MeshConfig
from jaxqa.stages.distill_sections import DISTILL_KINDS, AlignStage, BasisStage
from jaxqa.stages.sections import (
    STAGE_KINDS,
    GrpoStage,
    RationalesStage,
    SectionConfig,
    SftStage,
)
from jaxqa.stages.sources import DataConfig, EvaluationConfig, ModelSource


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A run: what to train on, and the stages in order.

    Attributes:
      seed: of initial weights, data order and sampling.
      stages: names of the sections that run, in this order.
      sections: name -> stage; in a config file they stand beside the other keys.
    """

    seed: int
    stages: tuple[str, ...]
    model: ModelSource
    data: DataConfig
    evaluation: EvaluationConfig
    mesh: MeshConfig
    sections: dict[str, Any]

    def start_of(self, name: str) -> str | None:
        """Stage whose policy stage `name` starts from; None for the run's first model."""
        start, place = self.sections[name].start_from, self.stages.index(name)
        if start == "initial" or (start == "previous" and place == 0):
            return None
        return self.stages[place - 1] if start == "previous" else start

    def reference_of(self, name: str) -> str | None:
        """Stage whose policy is the reference of stage `name`; None for the run's first model."""
        reference = self.sections[name].reference
        if reference == "start":
            return self.start_of(name)
        return None if reference == "initial" else reference

    def trainer_of(self, name: str | None) -> str | None:
        """Stage that trained the policy after stage `name`; None for the run's first model."""
        while name is not None and isinstance(self.sections[name], _KEEP_THE_POLICY):
            name = self.start_of(name)
        return name

    @property
    def trains_policy(self) -> bool:
        """Whether the run has a policy to export: one of its stages trains it."""
        return any(not isinstance(self.sections[name], _KEEP_THE_POLICY) for name in self.stages)


_KEEP_THE_POLICY = (RationalesStage, AlignStage, BasisStage)
_KINDS = STAGE_KINDS | DISTILL_KINDS
_RESERVED = ("previous", "initial", "start")
_SHARED = tuple(f.name for f in dataclasses.fields(RunConfig) if f.name != "sections")


def make_config(
    *,
    stages: Mapping[str, SectionConfig],
    model: ModelSource,
    data: DataConfig,
    evaluation: EvaluationConfig,
    spare: Mapping[str, SectionConfig] | None = None,
    seed: int = 0,
    mesh: MeshConfig | None = None,
) -> ml_collections.ConfigDict:
    """ConfigDict for a config file's `get_config`.

    Args:
      stages: run in the order given.
      spare: sections that run only where `--config.stages=(...)` names them.
    """
    shared = {
        "seed": seed,
        "stages": tuple(stages),
        "model": model,
        "data": data,
        "evaluation": evaluation,
        "mesh": mesh or MeshConfig(),
    }
    return configuration.to_config_dict(shared | dict(stages) | dict(spare or {}))


def parse_config(config: ml_collections.ConfigDict) -> RunConfig:
    """Dataclasses of a (possibly overridden) ConfigDict.

    Raises:
      UserError: unknown key, wrong type or impossible value, naming the key.
    """
    values = config.to_dict()
    shared = {name: values.pop(name) for name in _SHARED if name in values}
    if unknown := [name for name, value in values.items() if not isinstance(value, Mapping)]:
        raise UserError(
            f"config: unknown key {', '.join(map(repr, unknown))}; "
            f"valid keys: {', '.join(_SHARED)}, and a section for each stage"
        )
    sections = {name: _parse_stage(name, section) for name, section in values.items()}
    run = configuration.from_dict(RunConfig, shared | {"sections": {}}, at="config")
    run = dataclasses.replace(run, sections=sections)
    if unknown := [name for name in run.stages if name not in sections]:
        raise UserError(
            f"config.stages: no section {', '.join(map(repr, unknown))}; "
            f"valid names: {', '.join(sections)}"
        )
    if not run.stages or len(set(run.stages)) != len(run.stages):
        raise UserError(f"config.stages: name each stage once, at least one; got {run.stages}")
    for name in run.stages:
        _check_policies(run, name)
        _check_sources(run.data, name, sections[name].sources)
        _check_rationales(run, name)
        _check_align(run, name)
    if not 0 <= run.seed < 2**31:
        raise UserError(f"config.seed: got {run.seed}; expected 0 to {2**31 - 1}")
    return run


def _check_policies(run: RunConfig, name: str) -> None:
    """Raise UserError unless the policies that a stage starts from and refers to are there."""
    stage, earlier = run.sections[name], run.stages[: run.stages.index(name)]
    named = {"start_from": ("previous", stage.start_from)}
    if isinstance(stage, GrpoStage):
        named["reference"] = ("start", stage.reference)
    for field, (usual, policy) in named.items():
        if policy not in (usual, "initial", *earlier):
            raise UserError(
                f"config.{name}.{field}: got {policy!r}; expected {usual}, initial or a stage "
                f"that runs before it ({', '.join(earlier) or 'there is none'})"
            )


def _check_sources(data: DataConfig, stage: str, names: tuple[str, ...]) -> None:
    """Raise UserError unless a stage's sources are there to be trained on."""
    trained = [name for name, source in data.sources.items() if source.weight]
    if unknown := [name for name in names if name not in trained]:
        raise UserError(
            f"config.{stage}.sources: {', '.join(map(repr, unknown))} cannot be trained on; "
            f"sources whose weight is not 0: {', '.join(trained) or 'none'}"
        )
    if not trained:
        raise UserError("config.data.sources: every weight is 0, so there is nothing to train on")


def _check_rationales(run: RunConfig, name: str) -> None:
    """Raise UserError unless the rationales that a stage reads are written before it."""
    stage, earlier = run.sections[name], run.stages[: run.stages.index(name)]
    for place in stage.rationales if isinstance(stage, SftStage | AlignStage) else ():
        writer = run.sections.get(place)
        if writer is not None and (place not in earlier or not isinstance(writer, RationalesStage)):
            raise UserError(
                f"config.{name}.rationales: {place!r} is not a stage of kind rationales that runs "
                f"before it; stages before it: {', '.join(earlier) or 'none'}"
            )


def _check_align(run: RunConfig, name: str) -> None:
    """Raise UserError unless the encoder that a basis stands on is there before it."""
    stage, earlier = run.sections[name], run.stages[: run.stages.index(name)]
    if not isinstance(stage, BasisStage):
        return
    align = run.sections.get(stage.align)
    if not isinstance(align, AlignStage) or (stage.aligned and stage.align not in earlier):
        raise UserError(
            f"config.{name}.align: {stage.align!r} is not a stage of kind align that runs before "
            f"it; stages before it: {', '.join(earlier) or 'none'}"
        )


def _parse_stage(name: str, section: Mapping[str, Any]) -> SectionConfig:
    if not (name.isascii() and name.isidentifier()) or name in _RESERVED:
        raise UserError(
            f"config: stage name {name!r} cannot name files and options; "
            f"use letters, digits and _, a letter first, and none of {', '.join(_RESERVED)}"
        )
    kind = section.get("kind")
    if kind not in _KINDS:
        raise UserError(f"config.{name}: kind is {kind!r}; expected one of {', '.join(_KINDS)}")
    return configuration.from_dict(_KINDS[kind], section, at=f"config.{name}")
