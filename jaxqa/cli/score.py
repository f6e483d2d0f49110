"""Score images with a model: files, folders, patterns, lists; a table, a file, or lists to keep.

Exit status: 0 if every image has a score, 1 if some have none, 2 for wrong input, 130 if stopped.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from jaxqa.cli import score_filter, score_flags, score_inputs, score_output
from jaxqa.cli.errors import FAILED_STATUS, STOPPED_STATUS, run_door
from jaxqa.cli.score_inputs import Item
from jaxqa.cli.score_output import Journal, Row
from jaxqa.errors import UserError
from jaxqa.train.stop import Stopped, StopRequest

if TYPE_CHECKING:
    from jaxqa.scoring.api import ImageScorer
    from jaxqa.scoring.question import Question


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status."""
    return run_door(score, argv)


def score(argv: Sequence[str] | None) -> int:
    """Check what is cheap to check, score what is missing, write.

    Raises:
      UserError: a bad flag, input, model or place to write.
    """
    flags = score_flags.parser(__doc__).parse_args(argv)
    items = score_inputs.expand(flags.inputs, prompt=flags.text)
    output = _output(flags)
    if flags.keep or flags.drop:
        score_output.check_listable(item.path for item in items)
    if output is not None and _is_finished(flags, output, items):
        return _leave_finished(flags, output, items)
    console = Console(stderr=True)
    try:
        with StopRequest() as stop:
            scorer, question = load_scorer(flags)
            if output is None:
                rows = _collect(scorer, question, items, flags, stop, console)
            else:
                rows = _record(scorer, question, items, flags, stop, console, output)
    except Stopped as stopped:
        what = "" if output is None else "; run the same command with --resume to go on"
        console.print(f"{stopped}{what}", highlight=False)
        return STOPPED_STATUS
    _report(rows, output, flags, scorer, question, console)
    return FAILED_STATUS if any(row["error"] for row in rows) else 0


def load_scorer(flags: argparse.Namespace) -> "tuple[ImageScorer, Question]":
    """The model and what it is asked.

    Raises:
      UserError: no model, or one that cannot be asked so.
    """
    scorer, named = load_model(flags, flags.model)
    question = scorer.question(
        flags.task or named,
        flags.mode,
        samples=flags.samples,
        temperature=flags.temperature,
        seed=flags.seed,
    )
    return scorer, question


def load_model(flags: argparse.Namespace, path: Path) -> "tuple[ImageScorer, str | None]":
    """A model, and the task of the prompt that --prompt names without a task.

    Raises:
      UserError: no model, or prompts that it cannot be asked.
    """
    # Imported late: a wrong path or flag is answered before JAX is loaded.
    from jaxqa.evaluation.selection import parse_prompts
    from jaxqa.serving import loading
    from jaxqa.sharding import MeshConfig

    if flags.fsdp < 1 or flags.tensor < 1:
        raise UserError("--fsdp and --tensor must be at least 1")
    prompts = parse_prompts(flags.prompt)
    unnamed = prompts.pop("", None)
    if unnamed is not None:
        prompts.setdefault(unnamed.task, unnamed)
    options = loading.LoadOptions(
        prompts=prompts,
        max_new_tokens=flags.max_new_tokens,
        max_pixels=flags.max_pixels,
        mesh=MeshConfig(data=-1, fsdp=flags.fsdp, tensor=flags.tensor),
        block_rows=flags.block_rows,
    )
    scorer = loading.load(path, options=options, workers=flags.workers)
    return scorer, unnamed.task if unnamed else None


def _output(flags: argparse.Namespace) -> Path | None:
    """The file to write, if any.

    Raises:
      UserError: a suffix that is not known, flags that do not go together.
    """
    filtered = _filters(flags)
    if (flags.keep or flags.drop) and not filtered:
        raise UserError("--keep and --drop need --top, --threshold or --quantile")
    if flags.resume and flags.overwrite:
        raise UserError("--resume goes on and --overwrite begins again; give one of them")
    if flags.output in (None, "-"):
        if flags.resume:
            raise UserError("--resume needs --output=FILE, beside which it finds what is done")
        return None
    output = Path(flags.output)
    score_output.format_of(output)
    if output.is_dir():
        raise UserError(f"--output={output} is a folder; give the name of a file")
    return output


def _is_finished(flags: argparse.Namespace, output: Path, items: Sequence[Item]) -> bool:
    """Whether there is nothing left to do.

    Raises:
      UserError: the output is there, and nobody asked to go on or to replace it.
    """
    journal = output.with_name(f"{output.name}.partial")
    if flags.overwrite or journal.exists() or not output.exists():
        return False
    if not flags.resume:
        raise UserError(f"{output} is there already; give --overwrite, or another --output")
    missing = {item.key for item in items} - {_key(row) for row in score_output.read_rows(output)}
    if missing:
        raise UserError(
            f"{output} is finished and lacks {len(missing)} of these images, for example "
            f"{min(missing)!r}; give another --output, or --overwrite to score all again"
        )
    return True


def _leave_finished(flags: argparse.Namespace, output: Path, items: Sequence[Item]) -> int:
    """Filter a finished file anew if asked to, say so, and return the exit status."""
    rows = score_output.read_rows(output)
    wanted = {item.key for item in items}
    asked = [row for row in rows if _key(row) in wanted]
    kept = ""
    if _filters(flags):
        marks = {_key(row): row["keep"] for row in _filtered(asked, flags)}
        rows = [{**row, "keep": marks.get(_key(row))} for row in rows]
        score_output.write(output, rows)
        kept = f", {sum(keep is True for keep in marks.values())} kept"
    failed = sum(1 for row in asked if row["error"])
    lacking = f", {failed} without a score" if failed else ""
    print(f"{output} is finished: all {len(items)} images are in it{lacking}{kept}")
    return FAILED_STATUS if failed else 0


def _key(row: Row) -> str:
    return Item(row["path"], row.get("prompt") or None).key


def _settings(flags: argparse.Namespace, question: "Question") -> dict[str, Any]:
    """What scores depend on."""
    import dataclasses

    from jaxqa.files import weights_digest

    named = ("prompt", "max_new_tokens", "max_pixels", "block_rows", "fsdp", "tensor")
    return {
        "model": weights_digest(flags.model),
        **dataclasses.asdict(question),
        **{name: getattr(flags, name) for name in named},
    }


def _record(
    scorer: "ImageScorer",
    question: "Question",
    items: Sequence[Item],
    flags: argparse.Namespace,
    stop: StopRequest,
    console: Console,
    output: Path,
) -> list[Row]:
    """All rows, in order; those of an earlier run are not scored again."""
    settings = _settings(flags, question)
    with Journal(output, settings, resume=flags.resume, overwrite=flags.overwrite) as journal:
        left = [item for item in items if item.key not in journal.rows]
        done = len(items) - len(left)
        for item, row in _rows(scorer, question, left, flags, stop, console, done=done):
            journal.add(item.key, row)
        rows = _filtered([journal.rows[item.key] for item in items], flags)
        score_output.write(output, rows)
        journal.remove()
    return rows


def _collect(
    scorer: "ImageScorer",
    question: "Question",
    items: Sequence[Item],
    flags: argparse.Namespace,
    stop: StopRequest,
    console: Console,
) -> list[Row]:
    found = dict(_rows(scorer, question, items, flags, stop, console, done=0))
    return _filtered([found[item] for item in items], flags)


def _rows(
    scorer: "ImageScorer",
    question: "Question",
    items: Sequence[Item],
    flags: argparse.Namespace,
    stop: StopRequest,
    console: Console,
    *,
    done: int,
) -> Iterator[tuple[Item, Row]]:
    """Score; rows come as they are ready."""
    from jaxqa.cli.score_screen import progress

    if question.task == "alignment" and any(item.prompt is None for item in items):
        raise UserError(
            "--task=alignment rates how well images show a text: give --text=TEXT, or a list with "
            "a column prompt"
        )
    found = scorer.stream(
        [item.path for item in items],
        question,
        prompts=[item.prompt for item in items],
        batch_size=flags.batch_size,
        allow_urls=flags.allow_urls,
    )
    with progress(console, done + len(items), done) as advance:
        for count, (number, result) in enumerate(found, start=1):
            item = items[number]
            yield item, {"path": item.path, "prompt": item.prompt, **result.as_dict()}
            advance(done + count)
            stop.check("scoring")


def _filters(flags: argparse.Namespace) -> dict[str, Any]:
    """The limits that were given; empty if nothing is filtered."""
    limits = {name: getattr(flags, name) for name in ("top", "threshold", "quantile")}
    return limits if score_filter.check(**limits) else {}


def _filtered(rows: list[Row], flags: argparse.Namespace) -> list[Row]:
    """The rows with what is to be kept, and the lists."""
    limits = _filters(flags)
    if not limits:
        return rows
    kept = score_filter.keep([row["score"] for row in rows], **limits)
    rows = [{**row, "keep": keep} for row, keep in zip(rows, kept, strict=True)]
    for path, wanted in ((flags.keep, True), (flags.drop, False)):
        if path is not None:
            score_output.write_paths(path, [r["path"] for r in rows if r["keep"] is wanted])
    return rows


def _report(
    rows: Sequence[Row],
    output: Path | None,
    flags: argparse.Namespace,
    scorer: "ImageScorer",
    question: "Question",
    console: Console,
) -> None:
    """What the user sees at the end."""
    from jaxqa.cli import score_screen

    if flags.output == "-":
        sys.stdout.write(score_output.encode(rows, "csv").decode())
    elif output is None and len(rows) == 1:
        asked = f"{question.task}, {question.mode}, {scorer.name}"
        limits = scorer.score_range(question.task)
        Console().print(score_screen.card(rows[0], limits, question=asked))
    elif output is None:
        score_screen.print_table(rows)
    failed = [row for row in rows if row["error"]]
    kept = sum(row.get("keep") is True for row in rows)
    parts = [f"{len(rows) - len(failed)} of {len(rows)} images have a score"]
    parts += [f"{kept} kept"] if "keep" in rows[0] else []
    parts += [f"wrote {output}"] if output is not None else []
    if output is not None or len(rows) > 1:
        console.print("; ".join(parts), highlight=False, soft_wrap=True)
    if failed and (output is not None or flags.output == "-"):
        console.print(f"no score: {_named_error(failed[0])}", highlight=False, soft_wrap=True)


def _named_error(row: Row) -> str:
    """The error with the image's path; those of reading the image begin with it already."""
    path, error = row["path"], row["error"]
    return error if error.startswith(path) else f"{path}: {error}"
