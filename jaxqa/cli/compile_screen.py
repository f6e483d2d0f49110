"""What `compile` shows and records of each program."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxqa.models.qwen2_5_vl.config import Qwen2_5_VLConfig
from jaxqa.stages.ahead import Finding
from jaxqa.stages.compiled import GIB, Buffer, Memory


class Screen:
    """The table of each stage, programs side by side, in GiB on one chip."""

    def __init__(self, limit: float | None):
        """Take the GiB that programs may take; None where nothing limits them."""
        self._limit = limit
        self._console = Console()

    def introduce(
        self,
        machine: str,
        mesh: Mapping[str, int],
        model: Qwen2_5_VLConfig,
        layers: int | None,
    ) -> None:
        """Say what is compiled for what."""
        sizes = " x ".join(f"{size} {axis}" for axis, size in mesh.items())
        text = model.text
        self._console.print(
            f"{machine}: {sizes}; model of width {text.hidden_size}, "
            f"{text.num_hidden_layers} text layers and {model.vision.depth} vision blocks",
            highlight=False,
        )
        if layers is not None:
            self._console.print("fewer layers than the model has: this says nothing about fitting")

    def announce(self, stage: str, program: str) -> None:
        """Say what is being compiled, which takes minutes at full size."""
        if self._console.is_terminal:
            self._console.print(f"compiling {stage} {program} ...", style="dim")

    def show(self, stage: str, findings: Sequence[Finding]) -> None:
        """Print the table of a stage, then what its largest arrays are."""
        table = Table(title=f"{stage}: GiB on a chip", title_justify="left")
        table.add_column("")
        for finding in findings:
            table.add_column(finding.program, justify="right")
        for label, cells in self._rows(findings):
            table.add_row(label, *cells)
        self._console.print(table)
        for finding in findings:
            for line in _remarks(finding):
                self._console.print(f"{finding.program}: {line}", highlight=False, soft_wrap=True)

    def _rows(self, findings: Sequence[Finding]) -> list[tuple[str, list[str]]]:
        def of(name: str) -> list[str]:
            return [_gib(f.memory and getattr(f.memory, name)) for f in findings]

        limit = "none" if self._limit is None else f"{self._limit:.2f}"
        return [
            ("arguments", of("arguments")),
            ("outputs", of("outputs")),
            ("aliased", of("aliased")),
            ("temporaries", of("temporaries")),
            ("code", of("program")),
            ("peak", of("peak")),
            ("waiting beside it", [_gib(f.beside) for f in findings]),
            ("peak in all", [_gib(f.total) if f.memory else "-" for f in findings]),
            ("limit", [limit] * len(findings)),
            ("fits", ["yes" if fits(f, self._limit) else "NO" for f in findings]),
            ("donation honoured", [_donation(f) for f in findings]),
            ("largest all-gather", [_array(f.gather) for f in findings]),
            ("largest all-reduce", [_array(f.reduction) for f in findings]),
            ("logits kept whole", [_array(f.logits) for f in findings]),
            ("seconds to compile", [f"{f.seconds:.0f}" for f in findings]),
        ]


def fits(finding: Finding, limit: float | None) -> bool:
    """Whether the program and what waits beside it stay below `limit` GiB."""
    if finding.memory is None:
        return False
    return limit is None or finding.total <= limit * GIB


def record(finding: Finding, limit: float | None) -> dict[str, Any]:
    """The figures of one program as JSON; bytes are those of one chip."""
    memory = finding.memory
    return {
        "program": finding.program,
        "fits": fits(finding, limit),
        "refusal": finding.refusal,
        "bytes": None if memory is None else _bytes(memory),
        "beside": finding.beside,
        "total": None if memory is None else finding.total,
        "donated": finding.donated,
        "donation_honoured": finding.honoured,
        "largest_all_gather": _described(finding.gather),
        "largest_all_reduce": _described(finding.reduction),
        "logits": _described(finding.logits),
        "seconds": round(finding.seconds, 1),
    }


def _bytes(memory: Memory) -> dict[str, int]:
    return vars(memory) | {"temporaries": memory.temporaries, "peak": memory.peak}


def _gib(size: int | float | None) -> str:
    return "-" if size is None else f"{size / GIB:.3f}"


def _donation(finding: Finding) -> str:
    if not finding.donated:
        return "nothing donated"
    return f"{'yes' if finding.honoured else 'NO'} ({_gib(finding.donated)})"


def _array(buffer: Buffer | None) -> str:
    return "none" if buffer is None else f"{_gib(buffer.size)} {buffer}"


def _described(buffer: Buffer | None) -> dict[str, Any] | None:
    if buffer is None:
        return None
    return {"array": str(buffer), "bytes": buffer.size, "op": buffer.op, "origin": buffer.origin}


def _remarks(finding: Finding) -> list[str]:
    lines = []
    if finding.refusal is not None:
        lines.append(f"the compiler refuses: {finding.refusal}")
    if finding.gather is not None and finding.gather.origin:
        lines.append(f"largest all-gather in {finding.gather.origin}")
    if finding.logits is not None:
        lines.append(f"logits in {finding.logits.origin}")
    return lines
