"""The table of `docs/ablations.md`: claims of the papers on the demo's photographs, row by row.

    python benchmarks/ablations.py --workdir=runs/ablations      # goes on where it stopped
    python benchmarks/ablations.py --workdir=runs/ablations --study=gate --rows=2
    python benchmarks/ablations.py --table                       # only prints the tables

A study has arms that differ in a few overrides; a row is one arm with one seed, appended to
`benchmarks/results/ablations.jsonl` when its run is complete.
"""

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "ablations.jsonl"
LAST_STEPS = 10
"""Metrics are means over so many last steps of the stage."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A claim and the runs that could show it.

    Attributes:
      claim: what the paper says.
      stage: the stage that is measured.
      arms: name -> arguments of the training command.
      metrics: of that stage, from metrics.jsonl.
    """

    claim: str
    stage: str
    arms: Mapping[str, tuple[str, ...]]
    metrics: tuple[str, ...] = ("entropy", "reward_std")


# The demo has changed since the rows of this study were made; the flags make it what it was.
_AES_R1 = ("--config=configs/aes_r1.py:demo", "--config.sft.steps=400", "--config.rapo.steps=80")
_OMNIQUALITY_R = "--config=configs/omniquality_r.py:demo"
_THRESHOLD = "--config=configs/omniquality_r.py:demo_threshold"
_TATAR = "--config=configs/tatar.py:demo"

STUDIES: Mapping[str, Study] = {
    "reward_shape": Study(
        claim="A Gaussian reward beats a threshold (OmniQuality-R, table 6).",
        stage="grpo",
        arms={"gaussian": (_OMNIQUALITY_R,), "threshold": (_THRESHOLD,)},
    ),
    "rank_and_error": Study(
        claim="Rank alone keeps SRCC and lowers PLCC; with the absolute error both are best "
        "(Aes-R1, table 2).",
        stage="rapo",
        arms={
            "rank + error": _AES_R1,
            "rank": (*_AES_R1, "--config.rapo.rewards.error.weight=0.0"),
            "error": (*_AES_R1, "--config.rapo.rewards.rank.weight=0.0"),
        },
    ),
    "gate": Study(
        claim="The entropy gate in the second phase keeps entropy up; filtered groups grow "
        "(OmniQuality-R, section 3.3 and table 4).",
        stage="grpo_phase2",
        arms={
            "filter + gate": (_OMNIQUALITY_R,),
            "filter": (_OMNIQUALITY_R, "--config.grpo_phase2.gate.source=none"),
        },
        metrics=("entropy", "reward_std", "groups_kept", "groups_filtered", "filtered_share"),
    ),
    "asymmetry": Study(
        claim="A reward for each task beats one for all (TATAR).",
        stage="grpo",
        arms={
            "asymmetric": (_TATAR,),
            "symmetric": (
                _TATAR,
                "--config.grpo.rewards.quality.tasks=()",
                "--config.grpo.rewards.ranking.weight=0.0",
            ),
        },
        metrics=(
            "entropy",
            "reward_std",
            "group_variance_quality",
            "group_variance_aesthetics",
            "reward_quality",
            "reward_ranking",
        ),
    ),
}


def main() -> int:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--study", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=0, help="stop after so many new rows")
    parser.add_argument("--table", action="store_true", help="run nothing")
    options = parser.parse_args()
    if options.workdir is None and not options.table:
        parser.error("--workdir is needed, except with --table")
    left = 0 if options.table else options.rows or sys.maxsize
    for seed in range(options.seeds):
        for name in options.study:
            for arm in STUDIES[name].arms:
                if left > 0 and not find(name, arm, seed):
                    run(options.workdir, name, arm, seed)
                    left -= 1
    print("\n\n".join(table(name) for name in options.study))
    return 0


def run(workdir: Path, name: str, arm: str, seed: int) -> None:
    """One run, resumed if it was cut; its row is appended at the end."""
    study = STUDIES[name]
    place = workdir / f"{run_name(study.arms[arm])}-seed{seed}"
    given = [*study.arms[arm], f"--config.seed={seed}"]
    command = ["launchers/train.py", f"--workdir={place}", *given]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    row = {
        "study": name,
        "arm": arm,
        "seed": seed,
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "commit": _commit(),
        "command": " ".join(("python", command[0], f"--workdir=$WORKDIR/{place.name}", *given)),
        **outcome(place, study),
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")


def run_name(arguments: tuple[str, ...]) -> str:
    """The first arm with these arguments: what two studies ask for is run once."""
    arms = ((name, arm) for name, study in STUDIES.items() for arm in study.arms)
    name, arm = next(found for found in arms if STUDIES[found[0]].arms[found[1]] == arguments)
    return f"{name}-{arm.replace(' ', '')}"


def outcome(place: Path, study: Study) -> dict[str, Any]:
    """Tests after the stage by source, and the stage's last metrics."""
    summary = json.loads((place / "summary.json").read_text())
    entry = next(stage for stage in summary["stages"] if stage["name"] == study.stage)
    tests = entry.get("evaluations") or {"": entry["evaluation"]}
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["stage"] == study.stage][-LAST_STEPS:]
    metrics = {
        name: float(np.mean([line[name] for line in last]))
        for name in study.metrics
        if all(name in line for line in last)
    }
    return {"seconds": summary["seconds"], "tests": tests, "metrics": metrics}


def read_rows() -> list[dict[str, Any]]:
    """All complete rows."""
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def find(study: str, arm: str, seed: int) -> dict[str, Any] | None:
    """The row of one run, if it is complete."""
    rows = (r for r in read_rows() if (r["study"], r["arm"], r["seed"]) == (study, arm, seed))
    return next(rows, None)


def table(name: str) -> str:
    """Markdown: mean and spread over seeds of each arm."""
    study = STUDIES[name]
    rows = [row for row in read_rows() if row["study"] == name]
    columns = list(dict.fromkeys(key for row in rows for key in _figures(row)))
    lines = [
        f"### {name}",
        f"{study.claim} Measured after `{study.stage}`.\n",
        f"| arm | seeds | {' | '.join(columns)} |",
        "|---|---|" + "---|" * len(columns),
    ]
    for arm in study.arms:
        found = [_figures(row) for row in rows if row["arm"] == arm]
        if found:
            cells = (spread([figures.get(column) for figures in found]) for column in columns)
            lines.append(f"| {arm} | {len(found)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _figures(row: Mapping[str, Any]) -> dict[str, float | None]:
    """Every number of a row that goes into a column."""
    tests = {
        f"{source} {metric.upper()}".strip(): test[metric]
        for source, test in row["tests"].items()
        for metric in ("plcc", "srcc", "mae")
        if metric in test
    }
    return tests | row["metrics"]


def spread(values: list[float | None]) -> str:
    """Mean and sample standard deviation; a run without a value is named, not dropped."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return f"{len(values) - len(known)} without a value"
    deviation = f" ± {np.std(known, ddof=1):.3f}" if len(known) > 1 else ""
    return f"{np.mean(known):.3f}{deviation}"


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
