"""The table of `docs/demo.md`: the demo over folds and seeds, against its controls, row by row.

    python benchmarks/demo_sweep.py --workdir=runs/sweep            # goes on where it stopped
    python benchmarks/demo_sweep.py --workdir=runs/sweep --table    # only prints the table

Every real scene is tested once per seed (k-fold over scenes). Three kinds of runs:

    grpo      warm-up, SFT on the labels of some references, GRPO on all labels
    control   the same, but GRPO's wall time goes into more SFT with the labels that GRPO sees
    ceiling   SFT on all labels from the start, for the time of SFT and GRPO together

A row is one run; it is appended to `benchmarks/results/demo_sweep.jsonl` when it is complete.
"""

import argparse
import json
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "demo_sweep.jsonl"
KINDS = ("grpo", "control", "ceiling")


def main() -> int:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--rows", type=int, default=0, help="stop after so many new rows")
    parser.add_argument("--table", action="store_true", help="run nothing")
    options = parser.parse_args()
    left = options.rows or sys.maxsize
    for seed in range(options.seeds):
        for fold in range(options.folds):
            for kind in options.kinds:
                if not options.table and left > 0 and find(kind, fold, seed) is None:
                    run(options.workdir, kind, fold, seed)
                    left -= 1
    print(table(read_rows()))
    return 0


def run(workdir: Path, kind: str, fold: int, seed: int) -> None:
    """One run, resumed if it was cut; its row is appended at the end."""
    place = workdir / f"{kind}-fold{fold}-seed{seed}"
    overrides = [
        f"--config.seed={seed}",
        f"--config.data.demo.fold={fold}",
        f"--config.data.root={workdir / f'data-fold{fold}'}",
        *stage_options(kind, fold, seed),
    ]
    command = ["launchers/train.py", "--config=configs/demo.py", f"--workdir={place}", *overrides]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    summary = json.loads((place / "summary.json").read_text())
    row = {
        "kind": kind,
        "fold": fold,
        "seed": seed,
        "date": date.today().isoformat(),
        "machine": f"{platform.processor() or platform.machine()}, CPU",
        "overrides": overrides[3:],
        "seconds": summary["seconds"],
        "stages": summary["stages"],
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")


def stage_options(kind: str, fold: int, seed: int) -> list[str]:
    """What tells a control from the demo itself; its steps follow the demo's measured times."""
    if kind == "grpo":
        return []
    demo = find("grpo", fold, seed)
    if demo is None:
        raise SystemExit(f"run kind grpo of fold {fold}, seed {seed} first: it sets the time")
    stages = {stage["name"]: stage for stage in demo["stages"]}
    sft_pace = stages["sft"]["steps"] / stages["sft"]["seconds"]
    extra = round(stages["grpo"]["seconds"] * sft_pace)
    if kind == "control":
        return [
            "--config.stages=('warmup', 'sft', 'control')",
            f"--config.control.steps={extra}",
        ]
    return [
        "--config.stages=('warmup', 'sft')",
        "--config.sft.label_fraction=1.0",
        f"--config.sft.steps={stages['sft']['steps'] + extra}",
    ]


def read_rows() -> list[dict]:
    """All complete rows."""
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def find(kind: str, fold: int, seed: int) -> dict | None:
    """The row of one run, if it is complete."""
    rows = (r for r in read_rows() if (r["kind"], r["fold"], r["seed"]) == (kind, fold, seed))
    return next(rows, None)


def table(rows: list[dict]) -> str:
    """Markdown: mean and spread over folds and seeds of each tested stage."""
    lines = ["| after | runs | PLCC | SRCC | MAE | unparsed |", "|---|---|---|---|---|---|"]
    for label, kind, stage in (
        ("SFT, some labels", "grpo", "sft"),
        ("SFT, then GRPO", "grpo", "grpo"),
        ("SFT, then more SFT (control)", "control", "control"),
        ("SFT on all labels (ceiling)", "ceiling", "sft"),
    ):
        tests = [
            entry["evaluation"]
            for row in rows
            if row["kind"] == kind
            for entry in row["stages"]
            if entry["name"] == stage
        ]
        if tests:
            figures = (spread([test[name] for test in tests]) for name in ("plcc", "srcc", "mae"))
            failed = sum(test["n_failed"] for test in tests) / sum(test["n"] for test in tests)
            lines.append(f"| {label} | {len(tests)} | {' | '.join(figures)} | {failed:.2%} |")
    return "\n".join(lines)


def spread(values: list[float | None]) -> str:
    """Mean and sample standard deviation; a run without a value is named, not dropped."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return f"{len(values) - len(known)} without a value"
    deviation = f" ± {np.std(known, ddof=1):.3f}" if len(known) > 1 else ""
    return f"{np.mean(known):.3f}{deviation}"


if __name__ == "__main__":
    sys.exit(main())
