"""A run: its stages in order, each trained, tested and recorded; then report and export.

Run again, finished stages are skipped and the unfinished one goes on at its last checkpoint.
"""

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxqa import processes, sharding, tree
from jaxqa.data.loader import Loader
from jaxqa.errors import UserError
from jaxqa.evaluation import report, terminal
from jaxqa.models.qwen2_5_vl import parts, weights
from jaxqa.models.qwen2_5_vl.adapters import is_adapter, merge, save_peft, without_adapters
from jaxqa.nn.lora import LoraConfig
from jaxqa.scoring import manifest
from jaxqa.stages import adapters, distillation, kinds, rationales, testing, training
from jaxqa.stages.config import RunConfig
from jaxqa.stages.distill_sections import BasisStage
from jaxqa.stages.sections import GrpoStage, RationalesStage, StageConfig
from jaxqa.stages.setup import Setup, set_up
from jaxqa.stages.workdir import WorkDir, open_workdir
from jaxqa.train.checkpoint import Checkpoints
from jaxqa.train.reference import Reference
from jaxqa.train.stop import StopRequest
from jaxqa.typing import Params


def run(
    config: RunConfig,
    workdir: Path,
    console: Console | None = None,
    stop: StopRequest | None = None,
    environment: Mapping[str, str] | None = None,
    profile: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Do what is left of the run in `workdir` and return its summary.

    Args:
      console: where to show what is done.
      stop: looked at between steps; a door enters it, so that signals set it.
      environment: variables that hold the API keys which the config names.
      profile: first and last step of each stage that are traced, or None.

    Raises:
      UserError: bad data, model, devices or work directory.
      loop.TrainingDiverged: a loss was not finite.
      stop.Stopped: a stop was requested; the same command goes on.
    """
    console, stop = console or Console(), stop or StopRequest()
    stop.share(processes.any_of)
    if not processes.is_first():
        console = Console(quiet=True)
    with open_workdir(workdir, config) as work:
        summary = processes.from_first(work.read_summary)
        if not processes.from_first(lambda: _is_complete(config, work, summary)):
            _do_the_rest(config, work, summary, console, stop, environment or {}, profile)
        terminal.print_summary(summary, console)
        console.print(f"report: {work.report}", highlight=False)
        for made in _made(config, work):
            console.print(f"model:  {made}", highlight=False)
        return summary


def _is_complete(config: RunConfig, work: WorkDir, summary: dict[str, Any]) -> bool:
    done = [stage["name"] for stage in summary["stages"]]
    made = all(path.exists() for path in _made(config, work))
    return done == list(config.stages) and made and work.report.exists()


def _made(config: RunConfig, work: WorkDir) -> list[Path]:
    """The models that the run makes: the trained policy, and distilled scorers."""
    scorers = [n for n in config.stages if isinstance(config.sections[n], BasisStage)]
    return [work.export] * config.trains_policy + [work.artifact(name) for name in scorers]


def _do_the_rest(
    config: RunConfig,
    work: WorkDir,
    summary: dict[str, Any],
    console: Console,
    stop: StopRequest,
    environment: Mapping[str, str],
    profile: tuple[int, int] | None,
) -> None:
    stop.check("setup")
    begun = time.monotonic()
    setup = set_up(config, work, console, environment, profile=profile)
    stop.check("setup")
    summary.setdefault("setup_seconds", time.monotonic() - begun)
    left = config.stages[len(summary["stages"]) :]
    asking = [name for name in left if not distillation.is_distillation(config.sections[name])]
    with processes.together():
        loaders = {name: _loader(setup, name, left) for name in left}
        if any(config.sections[name].evaluate for name in asking):
            setup.check_room(config.evaluation.max_new_tokens, name="evaluation")
            testing.check(setup)
    policies = _Policies(setup)
    if asking and config.start_of(asking[0]) is None:
        policies.keep(None, setup.initial_params())  # it may not fit: before the claim
    # Nothing of the user's is wrong, as far as can be known now.
    processes.first_does(lambda: work.claim(config))
    for name in left:
        stage, loader = config.sections[name], loaders.pop(name)
        if distillation.is_distillation(stage):
            summary["stages"].append(distillation.run_stage(setup, name, stop))
            _write_summary(work, summary)
            continue
        params = policies.take(config.start_of(name), name)
        if isinstance(stage, RationalesStage):
            entry = _write_stage(setup, name, stage, params, stop)
        else:
            with processes.together():
                loader = loader or kinds.make_loader(setup, name, stage)
            reference = policies.reference(name)
            params, seconds = _train_stage(
                setup, name, stage, params, loader=loader, reference=reference, stop=stop
            )
            entry = _test_stage(setup, name, stage, params, seconds, stop)
        policies.keep(name, params)
        summary["stages"].append(entry)
        _write_summary(work, summary)
    exported = processes.from_first(work.export.exists)
    if config.trains_policy and not exported:
        _export(setup, policies)
    processes.first_does(lambda: report.write_report(work.root))


class _Policies:
    """Policies between stages: the newest is kept, others are read from their checkpoints."""

    def __init__(self, setup: Setup):
        self._setup = setup
        self._kept: tuple[str | None, Params] | None = None

    def keep(self, name: str | None, params: Params) -> None:
        """Remember the policy after stage `name`, or the run's first model."""
        trainer = self._setup.config.trainer_of(name)
        if trainer != name and adapters.lora_of(self._setup.config, trainer).rank:
            return  # what such a stage was given has its adapters merged
        self._kept = (trainer, params)

    def take(self, name: str | None, stage: str | None = None) -> Params:
        """The policy after stage `name`, or the run's first model; a stage donates its buffers.

        With the adapters that `stage` trains; plain where it trains none.
        """
        setup = self._setup
        name = setup.config.trainer_of(name)
        kept, self._kept = self._kept, None
        params = kept[1] if kept is not None and kept[0] == name else self._read(name)
        kept = None  # adapters may need another type: then the first one goes
        held, wanted = (adapters.lora_of(setup.config, one) for one in (name, stage))
        return adapters.adapted(setup, params, held, wanted, stage or "")

    def with_adapters(self, name: str) -> Params:
        """The policy after stage `name`, whose trainer trained adapters, with those beside it."""
        trainer = self._setup.config.trainer_of(name)
        return self.take(trainer, trainer)

    def reference(self, name: str) -> Reference:
        """The reference of a GRPO stage."""
        stage = self._setup.config.sections[name]
        if not isinstance(stage, GrpoStage) or not stage.objective.beta:
            return "start"
        kind, trainer = adapters.reference_of(self._setup.config, name)
        return partial(self._read_plain, trainer) if kind == "other" else kind

    def _read_plain(self, name: str | None) -> Params:
        """Without adapters of its own, in the run's compute dtype."""
        held = adapters.lora_of(self._setup.config, name)
        plain = adapters.adapted(self._setup, self._read(name), held, adapters.NO_ADAPTERS, "")
        return parts.compute_copy(plain, self._setup.model.compute_dtype, own=False)

    def _read(self, name: str | None) -> Params:
        if name is None:
            return self._setup.initial_params()
        setup = self._setup
        if not (lora := adapters.lora_of(setup.config, name)).rank:
            return self._read_stage(name, setup.abstract_policy())
        base = adapters.base_of(setup.config, name)
        under = adapters.adapted(
            setup, self._read(base), adapters.lora_of(setup.config, base), lora, name
        )
        shapes = setup.abstract_policy(adapters.model_of(setup, name))
        like, _ = tree.split(shapes, is_adapter)
        return tree.join(without_adapters(under), self._read_stage(name, like))

    def _read_stage(self, name: str, like: Params) -> Params:
        """Parameters from the last checkpoint of a finished stage."""
        stage = self._setup.config.sections[name]
        checkpoints = Checkpoints(self._setup.work.checkpoints(name))
        try:
            step = checkpoints.latest_step()
            if step is None or step != stage.steps:
                raise UserError(
                    f"{checkpoints.directory}: stage {name} is finished, but its checkpoint of "
                    f"step {stage.steps} is not there (newest: {step}); restore it or use a new "
                    "--workdir"
                )
            found = checkpoints.restore_params(step, kinds.with_policy(stage, like))
            return kinds.policy_params(stage, found)
        finally:
            checkpoints.close()


def _loader(setup: Setup, name: str, left: Sequence[str]) -> Loader | None:
    """A stage's batches after its checks; None where there are none, or not yet."""
    stage = setup.config.sections[name]
    if distillation.is_distillation(stage):
        awaits = rationales.is_awaited(stage, left)
        distillation.check(setup, name, stage, awaits_texts=awaits)
        return None
    if isinstance(stage, RationalesStage):
        rationales.check(setup, name, stage)
        return None
    if rationales.is_awaited(stage, left):
        return None
    return kinds.make_loader(setup, name, stage)


def _write_summary(work: WorkDir, summary: dict[str, Any]) -> None:
    """Record the finished stages; the whole time leaves out what killed processes spent in vain."""
    spent = (s["seconds"] + (s.get("evaluation_seconds") or 0.0) for s in summary["stages"])
    summary["seconds"] = summary["setup_seconds"] + sum(spent)
    processes.first_does(lambda: work.write_summary(summary))


def _train_stage(
    setup: Setup,
    name: str,
    stage: StageConfig,
    params: Params,
    *,
    loader: Loader,
    reference: Reference,
    stop: StopRequest,
) -> tuple[Params, float]:
    """Policy after the stage and the seconds its training took; instant if it is finished."""
    state, seconds = training.train_stage(
        setup,
        name,
        lambda rollouts: kinds.prepare(
            setup, name, stage, params, loader=loader, rollouts=rollouts, reference=reference
        ),
        steps=stage.steps,
        save_every=stage.save_every,
        stop=stop,
        loader=loader,
    )
    return kinds.policy_params(stage, state.params), seconds


def _write_stage(
    setup: Setup, name: str, stage: RationalesStage, params: Params, stop: StopRequest
) -> dict[str, Any]:
    """The entry in summary.json of a stage that writes rationales."""
    found, seconds = rationales.write(setup, name, stage, params, stop)
    counts = {"steps": 0, "evaluation": None, "rationales": found["images"]}
    return {"name": name, "seconds": seconds, **counts}


def _test_stage(
    setup: Setup,
    name: str,
    stage: StageConfig,
    params: Params,
    seconds: float,
    stop: StopRequest,
) -> dict[str, Any]:
    """The stage's entry in summary.json."""
    completions = kinds.completions_per_step(stage) * stage.steps
    entry: dict[str, Any] = {
        "name": name,
        "steps": stage.steps,
        "seconds": seconds,
        "completions_per_second": completions / seconds if completions else None,
        "evaluation": None,
    }
    if stage.evaluate:
        begun = time.monotonic()
        adapted = dataclasses.replace(setup, model=adapters.model_of(setup, name))
        found = testing.test_policy(adapted, name, params, stop)
        entry["evaluation"] = next(iter(found.values()))
        if len(found) > 1:
            entry["evaluations"] = found
        entry["evaluation_seconds"] = time.monotonic() - begun
    return entry


def _export(setup: Setup, policies: _Policies) -> None:
    """Write the policy as a Hugging Face directory; adapters of a named model beside it, too."""
    last = setup.config.trainer_of(setup.config.stages[-1])
    assert last is not None  # a stage trained the policy
    lora, path = adapters.lora_of(setup.config, last), setup.config.model.path
    params = policies.with_adapters(last)
    if lora.rank:
        if path is not None and adapters.base_of(setup.config, last) is None:
            whole = sharding.fetch(tree.split(params, is_adapter)[0], setup.mesh)
            processes.first_does(partial(_write_adapters, setup.work.adapter, whole, lora, path))
        params = merge(params, lora)
    weights.save_pretrained(
        setup.work.export,
        setup.model.config,
        params,
        source_dir=setup.side_files(),
        image_config=setup.config.data.images,
        json_files=_manifest(setup),
    )


def _write_adapters(directory: Path, params: Params, lora: LoraConfig, base: str) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    save_peft(directory, params, lora, base=base)


def _manifest(setup: Setup) -> dict[str, Any]:
    """How the exported model wants to be asked: the run's prompt of each task."""
    sources = [*setup.test.values(), *setup.train.values()]
    templates = {
        s.template.task: s.template for s in reversed(sources) if s.template.answer != "text"
    }
    if not templates:
        return {}
    length = setup.config.evaluation.max_new_tokens
    asked = manifest.Manifest(templates=templates, max_new_tokens=length)
    return {manifest.FILE_NAME: manifest.manifest_values(asked)}
