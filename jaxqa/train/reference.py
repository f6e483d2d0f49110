"""The frozen policy from which a KL penalty counts: what is kept of it, and where."""

from collections.abc import Callable
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from jaxqa.errors import UserError
from jaxqa.typing import Params

Reference = Literal["start", "base"] | Callable[[], Params]
"""The policy that a stage starts from, the same without its adapters, or what reads another."""

Placement = Literal["device", "host"]
"""Where a reference waits between its uses: on the devices, or in the host's memory."""

_HOST = "pinned_host"


def check_placement(placement: Placement, mesh: Mesh, *, name: str) -> None:
    """Raise UserError, calling the option `name`, unless the devices can reach such memory."""
    device = mesh.devices.flat[0]
    kinds = sorted(memory.kind for memory in device.addressable_memories())
    if placement == "host" and _HOST not in kinds:
        raise UserError(
            f"{name} is 'host', which needs memory of the kind {_HOST}; {device.device_kind} has "
            f"{', '.join(kinds)}; set it to 'device'"
        )


class Frozen:
    """Parameters that wait in one place and are used on the devices."""

    def __init__(self, params: Params, placement: Placement):
        """Take `params`, which nobody else may donate."""
        self._places = jax.tree.map(lambda leaf: leaf.sharding, params)
        self._on_host = placement == "host"
        if self._on_host:
            places = jax.tree.map(lambda place: place.with_memory_kind(_HOST), self._places)
            params = jax.device_put(params, places)
        self.kept = params

    def on_devices(self) -> Any:
        """The parameters where they are computed with; a copy for this use where they are not."""
        return jax.device_put(self.kept, self._places) if self._on_host else self.kept
