"""Collectives of a compiled program, read from its text."""

import dataclasses
import re
from collections.abc import Iterator

import numpy as np


@dataclasses.dataclass(frozen=True)
class Collective:
    """One instruction.

    Attributes:
      kind: `all-gather`, `all-reduce`, `reduce-scatter` or `all-to-all`.
      dtype, shape: of one of its results; an instruction with several is several of these.
      groups: devices that take part together.
      name: of the operation that it comes from.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    name: str

    def spans(self, mesh, axis: str) -> bool:
        """Whether devices that differ along a mesh axis take part together."""
        place = list(mesh.axis_names).index(axis)
        devices = np.arange(mesh.size).reshape(mesh.devices.shape)
        coordinate = {device: index[place] for index, device in np.ndenumerate(devices)}
        return any(len({coordinate[device] for device in group}) > 1 for group in self.groups)


_INSTRUCTION = re.compile(
    r" = (?P<shapes>.*?) (?P<kind>all-gather|all-reduce|reduce-scatter|all-to-all)(?:-start)?\("
)
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


def collectives(text: str) -> Iterator[Collective]:
    """All-gathers, all-reduces, reduce-scatters and all-to-alls of a compiled program's text."""
    for line in text.splitlines():
        if found := _INSTRUCTION.search(line):
            name = re.search(r'op_name="([^"]*)"', line)
            for dtype, shape in _SHAPE.findall(found["shapes"]):
                sizes = tuple(int(size) for size in shape.split(",") if size)
                yield Collective(
                    found["kind"], dtype, sizes, _groups(line), name[1] if name else ""
                )


def _groups(line: str) -> tuple[tuple[int, ...], ...]:
    text = line.split("replica_groups=")[1]
    if text.startswith("{{"):
        listed = text[1 : text.index("}}") + 1]
        return tuple(_numbers(group) for group in re.findall(r"\{([\d,]+)\}", listed))
    if text.startswith("mesh"):
        found = re.match(r"mesh\[([^\]]*)\](?:, device_ids=\(([^\s]+)\))? \{([^}]*)\}", text)
        assert found, text
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
        names, together = list(sizes), re.findall(r"'(\w+)'(?!:)", found[3])
        devices = _devices(found[2] or f"[{np.prod(list(sizes.values()))}]")
        order = [names.index(name) for name in names if name not in together]
        order += [names.index(name) for name in together]
        devices = devices.reshape(list(sizes.values())).transpose(order)
        return _rows(devices.reshape(-1, np.prod([sizes[name] for name in together])))
    shape, _, devices = text.split(", ")[0].partition("<=")
    return _rows(_devices(devices).reshape(_numbers(shape[1:-1])))


def _devices(text: str) -> np.ndarray:
    """`[2,4]T(1,0)`: the numbers from 0, in that shape, with its axes in that order."""
    shape, _, order = text.partition("T")
    numbers = _numbers(shape.strip("[]"))
    devices = np.arange(np.prod(numbers)).reshape(numbers)
    return devices.transpose(_numbers(order.strip("()"))) if order else devices


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _rows(array: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in array.tolist())
