"""The table of `docs/demo.md`: the demo over folds and seeds, against its controls, row by row.

    python benchmarks/demo_sweep.py --workdir=runs/sweep            # goes on where it stopped
    python benchmarks/demo_sweep.py --workdir=runs/sweep --table    # only prints the table

Every photograph is tested once per seed (k-fold over scenes). Two kinds of runs:

    demo      warm-up, SFT on the taught share, GRPO; then, from the SFT policy again, `own` and
              `control`: SFT with the scores that GRPO saw, for the time that GRPO took
    ceiling   warm-up, then SFT on every rationale and score, for the time of SFT and GRPO together

A row is one run; it is appended to `benchmarks/results/demo_sweep.jsonl` when it is complete.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "demo_sweep.jsonl"
STAGES = {
    "demo": ("warmup", "sft", "grpo", "own", "control"),
    "ceiling": ("warmup", "ceiling"),
}
FIGURES = ("plcc", "srcc", "mae")

Row = dict[str, Any]


def main() -> int:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=STAGES, default=tuple(STAGES))
    parser.add_argument("--rows", type=int, default=0, help="stop after so many new rows")
    parser.add_argument("--table", action="store_true", help="run nothing")
    options = parser.parse_args()
    left = 0 if options.table else options.rows or sys.maxsize
    for kind, fold, seed in planned(options.kinds, options.folds, options.seeds):
        done = {(row["kind"], row["fold"], row["seed"]) for row in read_rows(options.results)}
        if left > 0 and (kind, fold, seed) not in done:
            append(options.results, run(options.workdir.absolute(), kind, fold, seed))
            left -= 1
    print(table(read_rows(options.results)))
    return 0


def planned(kinds: tuple[str, ...], folds: int, seeds: int) -> Iterator[tuple[str, int, int]]:
    """All rows, in the order of their worth: every photograph once before the next seed."""
    for seed in range(seeds):
        for kind in kinds:
            for fold in range(folds):
                yield kind, fold, seed


def run(workdir: Path, kind: str, fold: int, seed: int) -> Row:
    """One run, resumed if it was cut; its row."""
    place = workdir / f"{kind}-fold{fold}-seed{seed}"
    overrides = [
        f"--config.seed={seed}",
        f"--config.data.demo.fold={fold}",
        f"--config.data.root={workdir / f'data-fold{fold}'}",
        f"--config.stages={STAGES[kind]}",
    ]
    commit = _git("rev-parse", "HEAD") + ("-changed" if _git("status", "--porcelain") else "")
    command = ["launchers/train.py", "--config=configs/demo.py", f"--workdir={place}", *overrides]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    summary = json.loads((place / "summary.json").read_text())
    return {
        "kind": kind,
        "fold": fold,
        "seed": seed,
        "date": date.today().isoformat(),
        "commit": commit,
        "machine": f"{platform.processor() or platform.machine()}, CPU",
        "cores": len(os.sched_getaffinity(0)),
        "seconds": summary["seconds"],
        "stages": summary["stages"],
    }


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


def table(rows: list[Row]) -> str:
    """Markdown: means over folds and seeds, the spread among runs; paired differences below."""
    lines = [
        "| after | runs | PLCC | SRCC | MAE | unparsed | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for label, stage in (
        ("SFT on the taught share", "sft"),
        ("then GRPO", "grpo"),
        ("or then more SFT (control)", "control"),
        ("SFT on everything (ceiling)", "ceiling"),
    ):
        entries = list(tested(rows, stage).values())
        if entries:
            tests = [entry["evaluation"] for entry in entries]
            figures = (spread([test[name] for test in tests]) for name in FIGURES)
            failed = sum(test["n_failed"] for test in tests) / sum(test["n"] for test in tests)
            seconds = np.mean([entry["seconds"] for entry in entries])
            cells = [label, str(len(tests)), *figures, f"{failed:.2%}", f"{seconds:.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
    for label, other in (("GRPO less SFT", "sft"), ("GRPO less control", "control")):
        ours, theirs = tested(rows, "grpo"), tested(rows, other)
        both = sorted(ours.keys() & theirs.keys())
        if both:
            gaps = (
                spread(
                    [
                        ours[key]["evaluation"][name] - theirs[key]["evaluation"][name]
                        for key in both
                    ]
                )
                for name in FIGURES
            )
            lines.append(f"| {label} | {len(both)} | {' | '.join(gaps)} | | |")
    return "\n".join(lines)


def tested(rows: list[Row], stage: str) -> dict[tuple[int, int], Row]:
    """The entries of one stage, by fold and seed."""
    return {
        (row["fold"], row["seed"]): entry
        for row in rows
        for entry in row["stages"]
        if entry["name"] == stage
    }


def spread(values: list[float | None]) -> str:
    """Mean and sample standard deviation; a run without a value is named, not dropped."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return f"{len(values) - len(known)} without a value"
    deviation = f" ± {np.std(known, ddof=1):.3f}" if len(known) > 1 else ""
    return f"{np.mean(known):.3f}{deviation}"


def _git(*arguments: str) -> str:
    answer = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return answer.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
