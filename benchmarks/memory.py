"""The table of `docs/memory.md`: bytes on a chip of full-size GRPO, compiled for slices of TPUs.

    python benchmarks/memory.py            # compiles what is missing, most important first
    python benchmarks/memory.py --table    # only prints the tables

Needs libtpu (`pip install 'jaxqa[tpu]'`) and no TPU. A row is one program of one plan, compiled by
`launchers/compile.py` in a process of its own; it is appended to `benchmarks/results/memory.jsonl`
when it is there. The job is that of `memory_config.py`: 64 groups of 8, prompts of 1,152 tokens,
completions of 384. GPUs are computed, not compiled: see `docs/memory.md`.
"""

import argparse
import dataclasses
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "memory.jsonl"
PROGRAMS = ("update", "rollout", "reference")
GIB = 2**30

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A model on a slice.

    Attributes:
      size: of the model.
      topology: the slice.
      fsdp, tensor: the mesh.
      micro_batches: of the update.
      moments: of AdamW.
      reference: where it waits, on the device or the host.
      gathered: whether the policy is put together along `fsdp` before it samples.
      adapters: rank of the adapters that are trained in place of the whole model, or 0.
      bar: GiB that a chip may take at most, or None.
    """

    size: str
    topology: str
    fsdp: int
    tensor: int = 1
    micro_batches: int = 1
    moments: str = "float32"
    reference: str = "device"
    gathered: bool = False
    adapters: int = 0
    bar: float | None = None

    @property
    def name(self) -> str:
        """Names the plan in the results."""
        mesh = f"fsdp{self.fsdp}-tensor{self.tensor}-micro{self.micro_batches}"
        waits = "" if self.reference == "device" else f"-reference_on_{self.reference}"
        samples = "-gathered" if self.gathered else ""
        trains = f"-adapters{self.adapters}" if self.adapters else ""
        rest = f"{waits}{samples}{trains}"
        return f"{self.size}-{self.topology}-{mesh}-{self.moments}{rest}"

    def flags(self) -> list[str]:
        """Of `launchers/compile.py`."""
        return [
            f"--config={ROOT / 'benchmarks' / 'memory_config.py'}",
            f"--topology={self.topology}",
            f"--preset={self.size}",
            f"--config.mesh.fsdp={self.fsdp}",
            f"--config.mesh.tensor={self.tensor}",
            f"--config.mesh.gather_for_sampling={self.gathered}",
            f"--config.grpo.micro_batches={self.micro_batches}",
            f"--config.grpo.optimizer.moments={self.moments}",
            f"--config.grpo.reference_placement={self.reference}",
            f"--config.grpo.lora.rank={self.adapters}",
        ]


_SMALLEST_72B = Plan(size="72B", topology="v5p:2x2x4", fsdp=16, micro_batches=4, moments="bfloat16")

PLANS = (
    Plan(size="7B", topology="v5e:8x8", fsdp=64, bar=14),
    Plan(size="7B", topology="v5e:4x4", fsdp=16, micro_batches=4, moments="bfloat16", bar=14),
    Plan(size="7B", topology="v6e:2x4", fsdp=8, micro_batches=8, bar=28),
    Plan(size="7B", topology="v5p:2x2x1", fsdp=4, micro_batches=16, bar=85),
    Plan(size="7B", topology="v5e:8x8", fsdp=16, tensor=4, micro_batches=4, gathered=True),
    Plan(size="72B", topology="v5p:2x4x4", fsdp=32, micro_batches=2),
    _SMALLEST_72B,
    dataclasses.replace(_SMALLEST_72B, reference="host"),
    Plan(size="72B", topology="v5p:4x4x4", fsdp=64),
    Plan(size="72B", topology="v6e:8x8", fsdp=64),
    Plan(size="72B", topology="v5e:16x16", fsdp=64, tensor=4),
    Plan(size="32B", topology="v5p:2x2x4", fsdp=16, micro_batches=4),
    Plan(size="32B", topology="v6e:4x8", fsdp=32, micro_batches=2),
    Plan(size="32B", topology="v5e:8x8", fsdp=64),
    Plan(size="3B", topology="v5e:2x4", fsdp=8, micro_batches=8),
    Plan(size="3B", topology="v5e:4x4", fsdp=16, micro_batches=4),
    Plan(size="3B", topology="v6e:2x2", fsdp=4, micro_batches=16),
    Plan(size="3B", topology="v5p:2x2x1", fsdp=4, micro_batches=16),
    Plan(size="7B", topology="v5e:2x4", fsdp=8, micro_batches=8, adapters=64),
    Plan(size="72B", topology="v5p:2x2x1", fsdp=4, micro_batches=16, adapters=64),
)
"""In the order of their worth."""


PARAMETERS = {
    "3B": 3_754_622_976,
    "7B": 8_292_166_656,
    "32B": 33_452_718_336,
    "72B": 73_410_777_344,
}
"""All of the model, the image tower included."""

GPUS = (
    ("1 x A100-80", 1, 0.95 * 79),
    ("4 x A100-80", 4, 0.95 * 79),
    ("8 x A100-80", 8, 0.95 * 79),
    ("1 x H100-80", 1, 0.95 * 79),
    ("1 x H200", 1, 0.95 * 139),
)
"""Name, number, GiB that training may take of one."""

BYTES_PER_PARAMETER = {"float32": 22, "bfloat16": 16, "Adafactor": 12}
"""Parameters 4, gradients 4, a copy in bfloat16 2; and AdamW's moments 8 with the gradients' sum
over micro-batches 4, in bfloat16 4 and 2; Adafactor without momentum about 0, a bfloat16 sum 2."""

WORK_GIB = {"3B": 4.2, "7B": 5.6, "32B": 7.3, "72B": 8.3}
"""What the work on one layer takes of one group, see docs/memory.md."""


def main() -> int:
    """Compile what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--rows", type=int, default=0, help="stop after so many new rows")
    parser.add_argument("--table", action="store_true", help="compile nothing")
    parser.add_argument("--arithmetic", action="store_true", help="print the table of GPUs alone")
    options = parser.parse_args()
    if options.arithmetic:
        print(arithmetic())
        return 0
    left = 0 if options.table else options.rows or sys.maxsize
    for plan, program in planned():
        done = {(row["plan"], row["program"]) for row in read_rows(options.results)}
        if left > 0 and (plan.name, program) not in done:
            append(options.results, run(plan, program))
            left -= 1
    print(table(read_rows(options.results)))
    return 0


def planned() -> Iterator[tuple[Plan, str]]:
    """All rows: the updates first, of the plans with a bar before the others."""
    barred = [plan for plan in PLANS if plan.bar is not None]
    for plans in (barred, [plan for plan in PLANS if plan.bar is None]):
        for program in PROGRAMS:
            for plan in plans:
                yield plan, program


def run(plan: Plan, program: str) -> Row:
    """One row."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record.json"
        command = ["launchers/compile.py", *plan.flags(), f"--program={program}"]
        subprocess.run([sys.executable, *command, f"--json={record}"], cwd=ROOT, stdout=sys.stderr)
        if not record.exists():
            raise SystemExit(f"{plan.name} {program}: not compiled; see the message above")
        found = json.loads(record.read_text())
    (facts,) = found.pop("programs")
    return {
        "plan": plan.name,
        "date": date.today().isoformat(),
        "commit": _git("rev-parse", "HEAD") + ("-changed" if _git("status", "--porcelain") else ""),
        "topology": plan.topology,
        "mesh": found["mesh"],
        "limit_gib": found["limit_gib"],
        "jax": found["jax"],
        **facts,
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
    """Markdown: a line for each plan; what was not compiled says so."""
    lines = [
        "| model | slice | mesh | micro-batches | moments | reference on | update | rollout "
        "| reference | limit | bar |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    found = {(row["plan"], row["program"]): row for row in rows}
    for plan in PLANS:
        mesh = f"fsdp {plan.fsdp}" + (f" x tensor {plan.tensor}" if plan.tensor > 1 else "")
        mesh += ", gathered" if plan.gathered else ""
        mesh += f", adapters of rank {plan.adapters}" if plan.adapters else ""
        own = [found.get((plan.name, program)) for program in PROGRAMS]
        limit = next((f"{row['limit_gib']:.2f}" for row in own if row), "")
        bar = "" if plan.bar is None else f"{plan.bar:g}: {verdict(plan, own)}"
        cells = [plan.size, plan.topology, mesh, str(plan.micro_batches), plan.moments]
        cells.append(plan.reference)
        lines.append(f"| {' | '.join([*cells, *map(cell, own), limit, bar])} |")
    return "\n".join(lines)


def arithmetic() -> str:
    """Markdown: what GPUs would hold, by counting bytes and a trace; nothing is compiled."""
    names = list(BYTES_PER_PARAMETER)
    lines = [
        f"| model | GPUs | AdamW {names[0]} | {' | '.join(names[1:])} | reference | fits |",
        "|---|---|---|---|---|---|---|",
    ]
    for size, parameters in PARAMETERS.items():
        activations = kept_gib(size) + WORK_GIB[size]
        for label, count, memory in GPUS:
            share = parameters / count / GIB
            totals = [share * size_of + activations for size_of in BYTES_PER_PARAMETER.values()]
            fitting = [
                f"{name}{more}"
                for name, total in zip(names, totals, strict=True)
                for more, extra in ((" with a reference", 2 * share), (" without one", 0.0))
                if total + extra <= memory
            ]
            cells = [size, label, *(f"{total:.0f}" for total in totals), f"{2 * share:.0f}"]
            lines.append(f"| {' | '.join([*cells, fitting[0] if fitting else 'no'])} |")
    return "\n".join(lines)


def kept_gib(size: str) -> float:
    """What the backward pass of one group finds of the forward pass, by full rematerialisation."""
    # Imported here: nothing else of this file needs JAX.
    import jax
    import jax.numpy as jnp
    from counting import abstract_prompts, kept_bytes
    from memory_config import COMPLETION_TOKENS, COMPLETIONS, PROMPT_TOKENS, WINDOWS

    from jaxqa.models.qwen2_5_vl.config import PRESETS
    from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
    from jaxqa.train.losses import completion_log_probs

    model = Qwen2_5_VL(config=PRESETS[size.lower()], compute_dtype="bfloat16", remat="full")
    shapes = abstract_prompts(model.config, 1, length=PROMPT_TOKENS, windows=WINDOWS)

    def loss(params: Any) -> Any:
        prompts = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        ids = jnp.zeros((1, COMPLETIONS, COMPLETION_TOKENS), jnp.int32)
        return completion_log_probs(model, params, prompts, ids)[0].sum()

    return kept_bytes(loss, model.abstract_params()) / GIB


def cell(row: Row | None) -> str:
    """GiB on a chip."""
    if row is None:
        return "not run"
    if row["total"] is None:
        return "refused by the compiler"
    return f"{row['total'] / GIB:.2f}" + ("" if row["fits"] else " (does not fit)")


def verdict(plan: Plan, rows: list[Row | None]) -> str:
    """Whether what was compiled stays below the plan's bar."""
    totals = [math.inf if row["total"] is None else row["total"] / GIB for row in rows if row]
    if any(total > (plan.bar or 0) for total in totals):
        return "missed"
    return "met" if len(totals) == len(PROGRAMS) else f"{len(totals)} of {len(PROGRAMS)} known"


def _git(*arguments: str) -> str:
    answer = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return answer.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
