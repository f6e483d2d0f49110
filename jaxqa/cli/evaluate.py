"""Evaluate models and other tools on labelled data sets: correlations, intervals, tests, tables.

Run again, the same command goes on where it stopped.
"""

import argparse
import dataclasses
import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxqa.cli import evaluate_flags
from jaxqa.cli.errors import FAILED_STATUS, STOPPED_STATUS, run_door
from jaxqa.cli.evaluate_models import ENDPOINT, EvaluatedModel, make_model
from jaxqa.cli.model_names import name_of_directory
from jaxqa.errors import UserError
from jaxqa.evaluation import benchmark_files, score_files
from jaxqa.evaluation.answer_store import WHOLE, AnswerStore, Shard
from jaxqa.evaluation.answering import answer_all
from jaxqa.evaluation.benchmark import Benchmark, Entry, Settings, run_benchmark
from jaxqa.evaluation.benchmark_table import plain_table
from jaxqa.evaluation.protocols import get_protocol
from jaxqa.evaluation.selection import Selection, parse_prompts, select
from jaxqa.evaluation.suites import get_suite
from jaxqa.scoring.decoding import MEAN_SAMPLES, Decoding
from jaxqa.scoring.manifest import DEFAULT_TEMPLATES
from jaxqa.stages.progress import show_progress
from jaxqa.train.stop import Stopped, StopRequest

_NAMED = re.compile(r"([\w.+-]+)=(.+)")

Stores = Mapping[tuple[str, str], AnswerStore]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status."""
    return run_door(evaluate, argv)


def evaluate(argv: Sequence[str] | None) -> int:
    """Check everything that is cheap to check, answer what is missing, write the tables.

    Returns:
      0 when the tables are written, or this process's shard is done and others are not; 1 when
      answers are missing that an endpoint failed to give; 130 when stopped by a signal.

    Raises:
      UserError: a bad flag, model, data set, scores file or place to write.
    """
    flags = evaluate_flags.parser(__doc__).parse_args(argv)
    shard, decoding = Shard.parse(flags.shard), _decoding(flags)
    for path in flags.output:
        benchmark_files.writer(path)  # refuses other suffixes
    answers = flags.answers or flags.output[0].with_suffix(".answers")
    named = _names(flags.model, _model_name)
    models = {
        name: make_model(text, decoding, flags, answers / name / "replies.jsonl")
        for name, text in named.items()
    }
    selections = _selections(flags)
    entries = _tool_entries(flags, selections, taken=models)
    asked = {name: [m.asked_as(s) for s in selections] for name, m in models.items()}
    stores = {}
    for name, model in models.items():
        identity = model.identity()
        for selection in asked[name]:
            settings = identity | _asked(model, selection, decoding, flags)
            store = AnswerStore(answers / name, selection.title, settings, shard)
            stores[name, selection.title] = store
    console = Console(stderr=True)
    try:
        with StopRequest() as stop:
            for name, model in models.items():
                _answer(name, model, asked[name], stores, shard, stop, console)
    except Stopped as stopped:
        message = f"{stopped}; run the same command again to go on"
        console.print(message, highlight=False, soft_wrap=True)
        return STOPPED_STATUS
    for store in stores.values():
        store.refresh()
    if missing := _missing(selections, stores, models):
        return _report_missing(missing, _missing(selections, stores, models, shard), shard)
    answered = [_entry(name, s, stores[name, s.title]) for name in models for s in selections]
    benchmark = run_benchmark([*answered, *entries], _settings(flags, selections))
    _write(benchmark, _notes(selections, asked, decoding, flags), flags.output)
    return 0


def _decoding(flags: argparse.Namespace) -> Decoding:
    samples = flags.samples
    if samples is None:
        samples = MEAN_SAMPLES if flags.decoding == "mean" else 1
    default = 1.0 if flags.decoding == "mean" or samples > 1 else 0.0
    try:
        decoding = Decoding(
            mode=flags.decoding,
            samples=samples,
            temperature=default if flags.temperature is None else flags.temperature,
            top_p=flags.top_p,
            seed=flags.seed,
        )
        decoding.sampling(1 if flags.max_new_tokens is None else flags.max_new_tokens)  # its rules
        return decoding
    except ValueError as error:
        raise UserError(str(error)) from error


def _names(texts: Sequence[str], default: Any) -> dict[str, str]:
    """Name -> what it stands for, from `NAME=TEXT` or `TEXT`."""
    named: dict[str, str] = {}
    for text in texts:
        match = None if Path(text).exists() else _NAMED.fullmatch(text)
        name, rest = match.groups() if match else (default(text), text)
        if name in named:
            raise UserError(
                f"two models are called {name}: {named[name]} and {rest}; name them, as in "
                f"--model=OTHER={rest}"
            )
        named[name] = rest
    return named


def _model_name(text: str) -> str:
    """The last part of a path that says something; the model's name at an endpoint."""
    if text.startswith(ENDPOINT):
        return re.sub(r"[^\w.+-]+", "-", text.partition("#")[2]) or "endpoint"
    return name_of_directory(text)


def _selections(flags: argparse.Namespace) -> list[Selection]:
    """The data sets of the flags and suites, in order, each once."""
    texts = [*flags.dataset, *(d for name in flags.suite for d in get_suite(name).datasets)]
    if not texts:
        raise UserError("nothing to evaluate on: give --dataset=NAME[:SPLIT] or --suite=NAME")
    if not flags.model and not flags.scores:
        raise UserError("nothing to evaluate: give --model=PATH or --scores=NAME:FILE")
    for name in ("limit", "resamples", "workers"):
        if getattr(flags, name) < 0:
            raise UserError(f"--{name} is {getattr(flags, name)}; expected 0 or more")
    prompts = parse_prompts(flags.prompt) or {**DEFAULT_TEMPLATES}
    found: dict[str, Selection] = {}
    for text in texts:
        try:
            selection = select(
                text, flags.data_root, prompts, labels=flags.scale, limit=flags.limit
            )
        except UserError as error:
            if text in flags.dataset or not flags.skip_missing:
                raise
            print(f"left out: {error}", file=sys.stderr)
            continue
        found.setdefault(selection.title, selection)
    if not found:
        raise UserError(f"{flags.data_root} holds none of the suite's data sets")
    return list(found.values())


def _tool_entries(
    flags: argparse.Namespace, selections: Sequence[Selection], taken: Mapping[str, Any]
) -> list[Entry]:
    """Other tools' scores; each tool's files together hold all data sets."""
    files: dict[str, list[Path]] = {}
    for text in flags.scores:
        name, colon, path = text.partition(":")
        if not (name and colon and path):
            raise UserError(f"--scores={text}: expected NAME:FILE, for example NIQE:niqe.csv")
        if name in taken:
            raise UserError(f"--scores={text}: a model is called {name} too; choose another name")
        files.setdefault(name, []).append(Path(path))
    if unknown := [name for name in flags.lower_is_better if name not in files]:
        raise UserError(f"--lower_is_better={unknown[0]}: no --scores={unknown[0]}:FILE is given")
    return [
        Entry(
            model=name,
            dataset=selection.title,
            task=selection.info.task,
            predictions=score_files.match_scores(
                score_files.read_scores(paths),
                selection.examples,
                selection.info,
                source=", ".join(map(str, paths)),
                higher_is_better=name not in flags.lower_is_better,
                elements=score_files.read_elements(paths),
            ),
            has_label_scale=False,
        )
        for name, paths in files.items()
        for selection in selections
    ]


def _asked(
    model: EvaluatedModel, selection: Selection, decoding: Decoding, flags: argparse.Namespace
) -> dict[str, Any]:
    """What answers depend on, besides the model."""
    asked = repr(dataclasses.astuple(selection.template)).encode()
    return {
        "prompt": selection.template.name,
        "prompt_digest": hashlib.blake2b(asked, digest_size=8).hexdigest(),
        "decoding": decoding.label,
        "top_p": decoding.top_p,
        "seed": decoding.seed,
        "max_new_tokens": model.longest_answer,
        "max_pixels": flags.max_pixels,
        "scale": flags.scale,
    }


def _answer(
    name: str,
    model: EvaluatedModel,
    selections: Sequence[Selection],
    stores: Stores,
    shard: Shard,
    stop: StopRequest,
    console: Console,
) -> None:
    """Answer this process's share of all data sets; loads the model only if something is left."""
    left = [
        s for s in selections if any(
            e.example_id not in stores[name, s.title].answers
            for e in s.examples[shard.index :: shard.count]
        )
    ]  # fmt: skip
    if not left:
        return
    with model.asking(lambda: stop.check(f"the evaluation of {name}")) as ask_with:
        for selection in left:
            store, total = (
                stores[name, selection.title],
                len(selection.examples[shard.index :: shard.count]),
            )
            done = sum(e.example_id in store.answers for e in selection.examples)
            label = f"{name} on {selection.title}"
            with show_progress(console, label, total, done) as advance:
                answer_all(
                    ask_with(selection.template),
                    selection,
                    store,
                    shard=shard,
                    advance=lambda number, show=advance: show(number, {}),
                )


def _missing(
    selections: Sequence[Selection],
    stores: Stores,
    models: Mapping[str, Any],
    shard: Shard = WHOLE,
) -> int:
    """How many answers of a share of the work are not there."""
    return sum(
        example.example_id not in stores[name, selection.title].answers
        for name in models
        for selection in selections
        for example in selection.examples[shard.index :: shard.count]
    )


def _report_missing(missing: int, own: int, shard: Shard) -> int:
    """Say why there is no table yet; the exit status."""
    if own == 0:
        print(f"{missing} answers are still missing: run the remaining shards, then once more")
        return 0
    share = "" if shard == WHOLE else f" of this shard (of {missing} in all)"
    print(
        f"{own} answers{share} are still missing: the endpoint failed to give them; run the same "
        "command again to ask for them",
        file=sys.stderr,
    )
    return FAILED_STATUS


def _entry(name: str, selection: Selection, store: AnswerStore) -> Entry:
    predictions = [store.answers[example.example_id] for example in selection.examples]
    return Entry(
        model=name, dataset=selection.title, task=selection.info.task, predictions=predictions
    )


def _settings(flags: argparse.Namespace, selections: Sequence[Selection]) -> Settings:
    """How figures are computed; the suites say what is averaged, and under which protocol."""
    suites = [get_suite(name) for name in flags.suite]
    names = flags.protocol or [suite.protocol for suite in suites] or ["raw"]
    groups = {
        group if len(suites) == 1 else f"{suite.name} {group}": titles
        for suite in suites
        for group, titles in suite.groups.items()
    }
    shown = {selection.title for selection in selections}
    return Settings(
        protocols=tuple(get_protocol(name) for name in dict.fromkeys(names)),
        resamples=flags.resamples,
        groups={name: titles for name, titles in groups.items() if shown >= set(titles)},
    )


def _notes(
    selections: Sequence[Selection],
    asked: Mapping[str, Sequence[Selection]],
    decoding: Decoding,
    flags: argparse.Namespace,
) -> list[str]:
    """How the scores were made."""
    notes = []
    for model, given in asked.items():
        prompts = {s.info.task: s.template.name for s in given}
        named = ", ".join(f"{name} ({task})" for task, name in prompts.items())
        notes.append(f"{model}: prompt {named}; decoding: {decoding.label}")
    if flags.scores:
        notes.append("scores of other tools keep their own scale, so they have no RMSE and MAE")
    if flags.limit:
        notes.append(f"only the first {flags.limit} images of each data set")
    wanted = dict.fromkeys(d for name in flags.suite for d in get_suite(name).datasets)
    if absent := [text for text in wanted if text not in {s.title for s in selections}]:
        notes.append(f"left out, because they could not be read: {', '.join(absent)}")
    if made := [s.title for s in selections if s.info.synthetic]:
        notes.append(f"labels of {', '.join(made)} were computed; no person gave them")
    return notes


def _write(benchmark: Benchmark, notes: Sequence[str], paths: Sequence[Path]) -> None:
    """The files, and the short table on the terminal."""
    for path in paths:
        benchmark_files.write_benchmark(path, benchmark, notes)
    console = Console()
    for protocol in benchmark.settings.protocols:
        header, rows = plain_table(benchmark, protocol.name, width=console.width)
        table = Table(title=f"PLCC / SRCC (scored + failed), {protocol.name}", box=None)
        for column in header:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    print(*(f"wrote {path}" for path in paths), sep="\n")
