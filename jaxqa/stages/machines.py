"""Machines that are not there: the devices of a named topology, and what a chip holds."""

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

from jaxqa.errors import UserError

INSTALL = "pip install 'jaxqa[tpu]'"


@dataclass(frozen=True, kw_only=True)
class Chip:
    """Memory of one chip, in GiB.

    Attributes:
      memory: as the maker gives it.
      reserved: what its runtime keeps for itself, so that programs cannot have it. libtpu 0.0.42
        names those of v5e and v6e when a program does not fit; v5p's is assumed.
    """

    memory: float
    reserved: float

    @property
    def usable(self) -> float:
        """What programs may take."""
        return self.memory - self.reserved


CHIPS = {
    "v5e": Chip(memory=16.0, reserved=0.25),
    "v5p": Chip(memory=95.0, reserved=0.26),
    "v6e": Chip(memory=32.0, reserved=0.75),
}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A slice of chips to compile for.

    Attributes:
      name: as given.
      devices: its devices, one a chip; those of a TPU can compile and not run.
      usable: GiB that programs may take on a chip; None on a CPU, which has no such limit.
    """

    name: str
    devices: Sequence[Any]
    usable: float | None


def find_machine(name: str) -> Machine:
    """The machine called `name`: `v5e:8x8`, `v5p:2x2x1`, `v6e:2x4`, or `cpu:8`.

    A TPU needs libtpu, not a TPU. `cpu:N` takes N virtual devices, which must not be fewer.

    Raises:
      UserError: no such machine, or libtpu is not installed.
    """
    kind, _, shape = name.partition(":")
    if kind == "cpu" and shape.isdecimal() and int(shape):
        return Machine(name=name, devices=_cpus(int(shape)), usable=None)
    if kind not in CHIPS or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise UserError(
            f"--topology: got {name!r}; expected one of {', '.join(CHIPS)} with a shape, such as "
            "v5e:8x8, v5p:2x2x1 or v6e:2x4, or cpu:N"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"--topology={name} needs the TPU compiler, not a TPU: {INSTALL}")
    try:
        found = topologies.get_topology_desc(name, platform="tpu")
    except (jax.errors.JaxRuntimeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--topology: there is no {name} ({reason}); for {kind} take a shape that the cloud "
            "sells, such as v5e:4x4, v5p:2x2x1, v5p:4x4x4 or v6e:2x4"
        ) from error
    return Machine(name=name, devices=found.devices, usable=CHIPS[kind].usable)


def _cpus(count: int) -> Sequence[Any]:
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UserError(
            f"--topology=cpu:{count}: found {len(devices)} virtual devices; ask for fewer"
        )
    return devices[:count]
