"""Choose the best of several images of each prompt; make the images, and better ones, if asked to.

Exit status: 0 if an image of every prompt was chosen, 1 if some prompts have none, 2 for wrong
input, 130 if stopped.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from jaxqa.cli import best_of_n_flags
from jaxqa.cli.errors import run_door
from jaxqa.errors import UserError
from jaxqa.train.stop import Stopped, StopRequest

if TYPE_CHECKING:
    from jaxqa.selection.generators import Generator
    from jaxqa.selection.panel import Panel
    from jaxqa.selection.reflection import Reflection
    from jaxqa.selection.run import Makers

FAILED_STATUS = 1
STOPPED_STATUS = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status."""
    return run_door(choose, argv)


def choose(argv: Sequence[str] | None) -> int:
    """Check what is cheap to check, make and score what is missing, choose, write.

    Raises:
      UserError: a bad flag, source, model or place to write.
    """
    flags = best_of_n_flags.parser(__doc__).parse_args(argv)
    from jaxqa.cli import best_of_n_screen  # here: these load JAX
    from jaxqa.selection import outputs, prompt_sets
    from jaxqa.selection.run import best_of_n

    makers, reflection = _makers(flags), _reflection(flags)
    prompts = prompt_sets.read(flags.source, images=makers.generator is None)
    console = Console(stderr=True)
    try:
        with StopRequest() as stop:
            panel, models = _panel(flags)
            with best_of_n_screen.watching(console, stop) as watch:
                selections = best_of_n(
                    prompts,
                    panel,
                    flags.output,
                    makers=makers,
                    reflection=reflection,
                    settings={"models": models, **_settings(flags)},
                    resume=flags.resume,
                    watch=watch,
                )
    except Stopped as stopped:
        console.print(f"{stopped}; run the same command with --resume to go on", highlight=False)
        return STOPPED_STATUS
    weights = panel.weights
    found = outputs.write(
        selections,
        weights,
        flags.output,
        title=flags.output.resolve().name,
        layout=flags.layout,
        link=flags.link,
        shown=flags.shown,
    )
    best_of_n_screen.report(selections, weights, found, flags.output, console)
    return FAILED_STATUS if any(s.best(weights) is None for s in selections) else 0


def _settings(flags: argparse.Namespace) -> dict[str, Any]:
    """What scores depend on, beside the models and the questions."""
    named = ("prompt", "max_new_tokens", "max_pixels", "block_rows", "fsdp", "tensor")
    return {name: getattr(flags, name) for name in named}


def _panel(flags: argparse.Namespace) -> "tuple[Panel, dict[str, str]]":
    """The judges, and a digest of each model.

    Raises:
      UserError: no model, a task that it does not rate, or weights that make no sense.
    """
    from jaxqa.cli.evaluate_models import weights_digest
    from jaxqa.cli.score import load_model
    from jaxqa.selection.panel import Judge, Panel

    weights = _weights(flags.weights)
    others = [_other(text) for text in flags.judge]
    drawn = {name: getattr(flags, name) for name in ("samples", "temperature", "seed")}
    scorer, _ = load_model(flags, flags.model)
    models = {"": weights_digest(flags.model)}
    tasks = [name for name in weights if name not in {name for name, _, _ in others}]
    judges = [
        Judge(
            name=task,
            scorer=scorer,
            question=scorer.question(task, flags.mode, **drawn),
            weight=weights.get(task, 1.0),
        )
        for task in tasks or scorer.tasks
    ]
    for name, task, path in others:
        other, _ = load_model(flags, path)
        models[name] = weights_digest(path)
        question = other.question(task, flags.mode, **drawn)
        weight = weights.get(name, 0.0)
        judges.append(Judge(name=name, scorer=other, question=question, weight=weight))
    return Panel(judges), models


def _weights(texts: Sequence[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.partition("=")
        try:
            weights[name] = float(number) if equals else 1.0
        except ValueError as error:
            raise UserError(f"--weights {text}; expected TASK=WEIGHT, such as quality=1") from error
    return weights


def _other(text: str) -> tuple[str, str | None, Path]:
    """Name, task and folder of NAME=[TASK@]FOLDER."""
    name, equals, place = text.partition("=")
    if not (name and equals and place):
        raise UserError(f"--judge {text}; expected NAME=[TASK@]FOLDER")
    task, at, path = place.partition("@")
    if at and task in ("quality", "aesthetics", "alignment"):
        return name, task, Path(path)
    return name, None, Path(place)


def _makers(flags: argparse.Namespace) -> "Makers":
    from jaxqa.selection.run import Makers

    kinds = [(getattr(flags, role) or "").partition("=")[0] for role in ("generator", "editor")]
    if flags.jobs > 1 and "diffusers" in kinds:
        raise UserError(
            f"--jobs={flags.jobs}: a pipeline is called once at a time; give --images_per_call, or "
            "--generator=command=..."
        )
    if flags.images_per_call != 1 and "diffusers" not in kinds:
        raise UserError(
            f"--images_per_call={flags.images_per_call}: only pipelines make several images in one "
            "call; give --generator=diffusers=FOLDER, or --jobs"
        )
    return Makers(
        generator=_maker(flags, "generator"),
        editor=_maker(flags, "editor"),
        candidates=flags.n,
        seed=flags.image_seed,
        jobs=flags.jobs,
    )


def _maker(flags: argparse.Namespace, role: str) -> "Generator | None":
    """What makes images, from --generator or --editor.

    Raises:
      UserError: an unknown kind, or one that cannot be loaded.
    """
    from jaxqa.selection import python_generators
    from jaxqa.selection.commands import Command

    text = getattr(flags, role)
    if text is None:
        return None
    kind, _, what = text.partition("=")
    edits = role == "editor"
    if kind == "command" and what:
        return Command(what, timeout=flags.timeout, shell=flags.shell, edits=edits)
    if kind == "callable" and what:
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())  # the installed command would not look there
        return python_generators.load_function(what, edits=edits)
    if kind == "diffusers" and what:
        return python_generators.load_pipeline(
            what,
            options=_options(flags.pipeline_options),
            device=flags.device,
            edits=edits,
            at_once=flags.images_per_call,
        )
    raise UserError(
        f"--{role}={text}; expected command=TEMPLATE, callable=MODULE:FUNCTION or diffusers=FOLDER"
    )


def _options(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except ValueError as error:
        raise UserError(f"--pipeline_options={text}: {error}; expected a JSON object") from error
    if not isinstance(options, dict):
        raise UserError(f"--pipeline_options={text}; expected a JSON object")
    return options


def _reflection(flags: argparse.Namespace) -> "Reflection":
    import math

    from jaxqa.selection.reflection import TEMPLATE, Reflection

    return Reflection(
        rounds=flags.reflect,
        candidates=flags.reflect_candidates,
        template=flags.template or TEMPLATE,
        judge=flags.reflect_on,
        stop_at=math.inf if flags.stop_at is None else flags.stop_at,
        epsilon=flags.epsilon,
        patience=flags.patience,
        budget=flags.budget,
    )
