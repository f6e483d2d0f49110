"""The tables of `docs/rali.md`: RALI on the demo beside the reasoning model it learned from.

    python benchmarks/rali_demo.py --workdir=runs/rali_sweep            # goes on where it stopped
    python benchmarks/rali_demo.py --workdir=runs/rali_sweep --rows=1
    python benchmarks/rali_demo.py --table                              # only prints the tables

A row is one seed. First the demo is trained (configs/demo.py: warm-up, SFT, GRPO); then its policy
writes four texts about every training image, and configs/rali.py:demo_words learns from them, on
the same images and labels: all of Table 4 and Table A.5 from one encoder, and an encoder that saw
one text of each image only. Teacher and pupils are tested on the same photographs. The row is
appended to `benchmarks/results/rali.jsonl` when both runs are complete.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "rali.jsonl"

TABLES = {
    "Table 4": {
        "everything, four texts": "basis",
        "everything, one text": "basis_one_seed",
        "no alignment": "basis_unaligned",
        "no PCA": "basis_no_pca",
        "plain k-means": "basis_plain",
        "no fitted basis (line calibrated)": "basis_unfitted",
    },
    "Table A.5 (dimensions / vectors / buckets)": {
        "1: 20 / 25 / 22, not fitted": "a5_case1",
        "2: 20 / 25 / 22": "a5_case2",
        "3: 20 / 64 / 60, not fitted": "a5_case3",
        "4: 20 / 64 / 60": "a5_case4",
        "5: 32 / 25 / 22, not fitted": "a5_case5",
        "6: 32 / 25 / 22": "a5_case6",
        "7: 32 / 64 / 60, not fitted": "basis_unfitted",
        "8: 32 / 64 / 60": "basis",
        "9: 56 / 64 / 60, not fitted": "a5_case9",
        "10: 56 / 64 / 60": "a5_case10",
    },
}
"""Title -> label of a table's line -> the stage that is measured."""

FIGURES = ("plcc", "srcc", "mae")
TRAINED = ("rationales", "align", "align_one_seed")
MEASURED = tuple(dict.fromkeys(stage for lines in TABLES.values() for stage in lines.values()))

SAME_IMAGES = (
    "--config.data.demo.photograph_crops=300",
    "--config.data.demo.auxiliary_crops=72",
    "--config.data.demo.procedural_crops=300",
    "--config.data.demo.validation_crops=10",
    "--config.data.demo.test_crops=20",
)
"""What configs/demo.py makes; configs/rali.py:demo_words alone takes fewer."""

Row = dict[str, Any]


def main() -> int:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=0, help="stop after so many new rows")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("overrides", nargs="*", help="for both runs, for example to shrink them")
    options = parser.parse_args()
    workdir: Path | None = options.workdir
    left = 0 if options.table else options.rows or sys.maxsize
    for seed in range(options.seeds):
        if left > 0 and seed not in {row["seed"] for row in read_rows(options.results)}:
            if workdir is None:
                parser.error("--workdir is needed, except with --table")
            append(options.results, run(workdir.absolute(), seed, options.overrides))
            left -= 1
    print(tables(read_rows(options.results)))
    return 0


def run(workdir: Path, seed: int, overrides: list[str]) -> Row:
    """Teacher and pupil of one seed, resumed if they were cut; their row."""
    both = [f"--config.seed={seed}", f"--config.data.root={workdir / 'data'}", *SAME_IMAGES]
    both += overrides
    teacher, pupil = (workdir / f"{name}-seed{seed}" for name in ("teacher", "pupil"))
    commit = _git("rev-parse", "--short", "HEAD") + ("-changed" if _git("status", "-s") else "")
    commands = [
        ["launchers/train.py", "--config=configs/demo.py", f"--workdir={teacher}", *both],
        [
            "launchers/train.py",
            "--config=configs/rali.py:demo_words",
            f"--workdir={pupil}",
            *both,
            f"--config.model.path={teacher / 'export'}",
            f"--config.stages={(*TRAINED, *MEASURED)}",
        ],
    ]
    wanted = (("grpo",), MEASURED)
    for command, place, stages in zip(commands, (teacher, pupil), wanted, strict=True):
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
        _check_complete(place, stages)
    summaries = [json.loads((place / "summary.json").read_text()) for place in (teacher, pupil)]
    return {
        "seed": seed,
        "date": date.today().isoformat(),
        "commit": commit,
        "machine": f"{platform.machine()}, CPU",
        "cores": len(os.sched_getaffinity(0)),
        "seconds": sum(summary["seconds"] for summary in summaries),
        "teacher": summaries[0]["stages"],
        "pupil": summaries[1]["stages"],
    }


def _check_complete(place: Path, stages: tuple[str, ...]) -> None:
    """End unless a run has these stages: one that was asked to stop exits with 0, too."""
    summary = json.loads((place / "summary.json").read_text())
    done = {stage["name"] for stage in summary["stages"]}
    if missing := [name for name in stages if name not in done]:
        sys.exit(f"{place} was stopped before {missing[0]}; run the same command again to go on")


def append(results: Path, row: Row) -> None:
    """Add a complete row."""
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a") as file:
        file.write(json.dumps(row) + "\n")


def read_rows(results: Path) -> list[Row]:
    """All complete rows."""
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text().splitlines()]


def tables(rows: list[Row]) -> str:
    """Markdown: PLCC / SRCC / mean absolute error of every seed, and the mean."""
    seeds = [f"seed {row['seed']}" for row in rows]
    parts = []
    for title, lines in TABLES.items():
        found = [f"| {title} | {' | '.join(seeds)} | mean |", "|---|" + "---|" * (len(rows) + 1)]
        wanted = {"the reasoning model": ("teacher", "grpo")}
        wanted |= {label: ("pupil", stage) for label, stage in lines.items()}
        for label, (who, stage) in wanted.items():
            tests = [_test(row[who], stage) for row in rows]
            cells = [_cell([test]) for test in tests] + [_cell(tests)]
            found.append(f"| {label} | {' | '.join(cells)} |")
        parts.append("\n".join(found))
    return "\n\n".join(parts)


def _test(stages: list[Row], name: str) -> Row:
    return next(stage["evaluation"] for stage in stages if stage["name"] == name)


def _cell(tests: list[Row]) -> str:
    """The means of some tests; a figure that one of them lacks is a dash."""
    values = [[test[name] for test in tests] for name in FIGURES]
    return " / ".join("–" if None in v or not v else f"{np.mean(v):.3f}" for v in values)


def _git(*arguments: str) -> str:
    answer = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return answer.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
