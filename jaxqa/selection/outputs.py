"""What a run leaves: the chosen images, every candidate, the study, and a page to look at.

trace.jsonl    every candidate: path, instruction, scores, rationales, errors, chosen or not
chosen/        GenEval's layout, one image for each prompt (or T2I-CompBench's)
chosen.csv     prompt, path and scores of the chosen images
study.csv, study.md    the selector study
index.html     contact sheet
candidates/, journal.jsonl    what was made, and what `--resume` reads
"""

import csv
import filecmp
import glob
import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jaxqa.errors import UserError
from jaxqa.selection import benchmark_files, sheet, tables
from jaxqa.selection.candidates import Candidate, Selection, trace
from jaxqa.selection.panel import Weights
from jaxqa.selection.study import Study, study
from jaxqa.train.json_lines import explain_disk_errors, replacing, write_json_lines

Layout = Literal["geneval", "compbench"]


def write(
    selections: Sequence[Selection],
    weights: Weights,
    folder: Path,
    *,
    title: str,
    layout: Layout = "geneval",
    link: bool = False,
    shown: int = 50,
) -> Study:
    """Write all of the module's list into a run's folder; returns the study.

    Args:
      selections: of `run.best_of_n`.
      weights: of the judges.
      folder: of the run.
      title: of the page.
      layout: of the chosen images.
      link: symbolic links to the chosen images in the place of copies.
      shown: prompts with pictures on the page.

    Raises:
      UserError: another file is where a chosen image belongs, or the disk refuses.
    """
    found = study(selections, weights)
    places = _places(selections, weights, folder / "chosen", layout)
    for place, selection, candidate in places:
        assert candidate.path is not None
        if layout == "geneval":
            _write_metadata(place.parents[1], selection)
        ours = [Path(c.path) for c in selection.candidates if c.path is not None]
        _place(Path(candidate.path), place, ours, link=link)
    for selection in selections:
        home = folder / "candidates" / selection.prompts.key
        if home.is_dir():  # so that GenEval's evaluator reads all that was made, too
            _write_metadata(home, selection)
    write_json_lines(folder / "trace.jsonl", trace(selections, weights))
    _write(folder / "chosen.csv", _chosen_csv(places, weights))
    shown_tables = tables.study_tables(found)
    rounds = tables.round_table(selections, weights)
    shown_tables = [*([rounds] if rounds else []), *shown_tables]
    _write(folder / "study.csv", tables.study_csv(found))
    _write(folder / "study.md", tables.markdown(shown_tables))
    page = sheet.render(selections, weights, title=title, tables=shown_tables, shown=shown)
    _write(folder / "index.html", page)
    return found


Placed = tuple[Path, Selection, Candidate]


def _places(
    selections: Sequence[Selection], weights: Weights, folder: Path, layout: Layout
) -> list[Placed]:
    """Where each chosen image goes; prompts without one are left out."""
    places = []
    for number, selection in enumerate(selections):
        best = selection.best(weights)
        if best is None or best.path is None:
            continue
        suffix = Path(best.path).suffix
        if layout == "compbench":
            name = benchmark_files.compbench_name(selection.prompts.prompt, number, suffix)
            places.append((folder / "samples" / name, selection, best))
        else:
            home = folder / selection.prompts.key / "samples"
            places.append((home / f"00000{suffix}", selection, best))
    return places


def _place(source: Path, target: Path, ours: Sequence[Path], *, link: bool) -> None:
    """Copy or link an image.

    One that is there already must be the same, or another candidate of the prompt, which an earlier
    run chose when this one could not be made.
    """
    with explain_disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        for found in target.parent.glob(f"{glob.escape(target.stem)}.*"):
            if found == target and filecmp.cmp(source, found, shallow=False):
                return
            if not any(filecmp.cmp(path, found, shallow=False) for path in ours if path.exists()):
                raise UserError(
                    f"{found} is there already and is no candidate; give another --output: "
                    "nothing is overwritten"
                )
            found.unlink()
        if link:
            os.symlink(os.path.relpath(source.resolve(), target.parent.resolve()), target)
            return
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)


def _write_metadata(home: Path, selection: Selection) -> None:
    text = json.dumps(dict(selection.prompts.metadata), ensure_ascii=False)
    _write(home / "metadata.jsonl", text + "\n")


def _chosen_csv(places: Sequence[Placed], weights: Weights) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["key", "prompt", "path", "combined", *weights, "candidate", "round"])
    for place, selection, candidate in places:
        scores: list[Any] = [candidate.scores[name]["score"] for name in weights]
        numbers = [candidate.combined(weights), *scores, candidate.number, candidate.round]
        prompts = selection.prompts
        writer.writerow([prompts.key, prompts.prompt, place, *numbers])
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))
