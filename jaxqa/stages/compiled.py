"""What a compiled program says of itself: bytes on a chip, donation, gathers, large arrays."""

import math
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

GIB = 2**30

_BYTES = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2}
_BYTES |= {"s16": 2, "u16": 2}  # every other element type is counted as a byte

_INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<shapes>.*?) (?P<op>[a-z][\w\-]*)\("
)
_SHAPE = re.compile(r"\b(?P<type>pred|[a-z]+\d+\w*)\[(?P<axes>[\d,]*)\]")
_ORIGIN = re.compile(r'op_name="([^"]*)"')
_TOTAL = re.compile(r"Memory Space: default \(color=0\)\nTotal bytes: (\d+)")


@dataclass(frozen=True)
class Buffer:
    """One array that an instruction makes on each chip.

    Attributes:
      op: the instruction, such as `all-gather`.
      origin: the place in the program that it comes from, as JAX names it.
      dtype: HLO's name of the element type.
      shape: on one chip.
    """

    op: str
    origin: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * _BYTES.get(self.dtype, 1)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one chip.

    Attributes:
      arguments, outputs: of the call.
      aliased: outputs that take the place of donated arguments.
      planned: all arrays as the compiler placed them, constants and gaps between arrays included.
      program: the code.
    """

    arguments: int
    outputs: int
    aliased: int
    planned: int
    program: int

    @property
    def temporaries(self) -> int:
        """Everything but arguments and outputs."""
        return self.planned - self.arguments - self.outputs + self.aliased

    @property
    def peak(self) -> int:
        """All that must be there while it runs."""
        return self.planned + self.program


def compile_measured(lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, Memory]:
    """Compile, and read what the compiler planned.

    The total is that of the compiler's own report on its placement of arrays. The temporaries of
    `memory_analysis()` are not used: for TPU programs that get donated arguments they are too many
    (13.4 GiB for 8.4 in an update of 7B; jaxlib 0.10.2, libtpu 0.0.42.1; see docs/memory.md).

    Raises:
      jax.errors.JaxRuntimeError: the compiler refuses.
      RuntimeError: it wrote no report.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        program = lowered.compile(compiler_options=options)
        planned = _planned(Path(folder))
    found: Any = program.memory_analysis()
    return program, Memory(
        arguments=found.argument_size_in_bytes,
        outputs=found.output_size_in_bytes,
        aliased=found.alias_size_in_bytes,
        planned=planned,
        program=found.generated_code_size_in_bytes,
    )


def _planned(folder: Path) -> int:
    """The total of the report on the device's own memory (color 0) in what the compiler dumped."""
    for report in folder.rglob("*memory-usage-report.txt"):
        if match := _TOTAL.match(report.read_text()):
            return int(match[1])
    raise RuntimeError("the compiler wrote no report on its memory; has XLA changed its format?")


def bytes_on_chip(tree: Any) -> int:
    """Bytes of placed arrays (or `jax.ShapeDtypeStruct`s) on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def aliases(text: str) -> int:
    """How many arguments give their place to an output, by the header of the HLO `text`."""
    header = text.partition("\n")[0]
    return len(re.findall(r"(?:may|must)-alias", header))


def is_reused(donated: Any, text: str, aliased: int) -> bool:
    """Whether every donated array gives its place to an output.

    Single numbers do not count: those that a program does not read are not passed to it, such as
    the place-holders in the state of Adafactor.

    Args:
      donated: placed arrays (or `jax.ShapeDtypeStruct`s).
      text: HLO of the compiled program.
      aliased: bytes that it reuses on a chip.
    """
    arrays = [leaf for leaf in jax.tree.leaves(donated) if math.prod(leaf.shape) > 1]
    return aliases(text) >= len(arrays) and aliased >= bytes_on_chip(arrays)


def buffers(text: str) -> Iterator[Buffer]:
    """Arrays that the instructions of the HLO `text` make; of a tuple, each part."""
    for line in text.splitlines():
        match = _INSTRUCTION.match(line)
        if match is None or match["op"] in ("parameter", "get-tuple-element", "tuple", "bitcast"):
            continue
        origin = _ORIGIN.search(line)
        for shape in _SHAPE.finditer(match["shapes"]):
            axes = tuple(int(axis) for axis in shape["axes"].split(",") if axis)
            yield Buffer(match["op"], origin[1] if origin else "", shape["type"], axes)


def largest(found: Iterable[Buffer], collective: str) -> Buffer | None:
    """The largest array that a collective such as `all-gather` makes, at once or begun earlier."""
    made = (b for b in found if b.op in (collective, f"{collective}-start"))
    return max(made, key=lambda buffer: buffer.size, default=None)


def largest_vocabulary_block(
    found: Iterable[Buffer], vocabulary: set[int], widths: set[int], rows: int
) -> Buffer | None:
    """The largest array of `rows` rows or more over a vocabulary axis: logits that nobody streams.

    Args:
      found: the program's arrays.
      vocabulary: sizes of the vocabulary on a chip: whole, and its share.
      widths: of the model on a chip, likewise. A vocabulary by one of these is taken for a table,
        so just as many rows of logits, in a single axis, are not found.
      rows: how many are too many.
    """

    def is_logits(buffer: Buffer) -> bool:
        others = list(buffer.shape)
        axis = next((size for size in others if size in vocabulary), None)
        if axis is None:
            return False
        others.remove(axis)
        is_table = [size for size in others if size > 1] in ([width] for width in widths)
        return math.prod(others) >= rows and not is_table

    return max(filter(is_logits, found), key=lambda buffer: buffer.size, default=None)
