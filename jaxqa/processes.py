"""What the processes of one run tell each other: votes, values, and errors that stop them all.

A run on several hosts is one program in as many processes (`jax.distributed`), all of which must
call the same compiled programs in the same order. So whatever decides what is called next has to
be known to all of them. With one process everything here returns at once.

Values travel as JSON in arrays over the devices' own network. All processes have to call these
functions equally often and in the same order.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxqa.errors import UserError
from jaxqa.typing import Int

_LEAST_BYTES = 1024
"""Messages are padded to a power of two of at least this, so that few sizes are compiled."""


def count() -> int:
    """How many processes work on this run."""
    return jax.process_count()


def is_first() -> bool:
    """Whether this is the process that writes the run's files and talks to people."""
    return jax.process_index() == 0


def exchange(value: Any) -> list[Any]:
    """The JSON values of all processes, in their order."""
    if count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([len(data)], np.int32)).ravel()
    room = max(_LEAST_BYTES, 1 << int(sizes.max() - 1).bit_length())
    found = multihost_utils.process_allgather(np.pad(data, (0, room - len(data))))
    return [
        json.loads(row[:size].tobytes())
        for row, size in zip(np.asarray(found, np.uint8), sizes, strict=True)
    ]


def exchange_rows(values: Sequence[Any], rows: Int[np.ndarray, "b"]) -> list[Any]:
    """The JSON values of all rows of a global batch, in order, from those of each process's rows.

    Args:
      values: one for each of this process's rows.
      rows: their numbers in the global batch; processes may share rows.
    """
    if count() == 1:
        return list(values)
    pairs = zip(rows.tolist(), values, strict=True)
    found = {row: value for part in exchange(list(pairs)) for row, value in part}
    return [found[row] for row in sorted(found)]


def gather_parts(part: np.ndarray) -> np.ndarray:
    """The arrays of all processes, each of the same shape, one below the other."""
    if count() == 1:
        return part
    return np.concatenate(multihost_utils.process_allgather(part))


def any_of(flag: bool) -> bool:
    """Whether the flag is set in at least one process; waits for all of them."""
    if count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array([flag], np.int32)).any())


class Votes:
    """A question to all processes, again and again, whose answer none of them waits for."""

    def __init__(self):
        """Nobody has voted yet."""
        self._cast: jax.Array | None = None

    def cast(self, flag: bool) -> bool:
        """Vote; whether any process said yes the last time (or does now, if there is only one)."""
        if count() == 1:
            return flag
        before, self._cast = self._cast, _spread(flag)
        return before is not None and bool(jax.device_get(before))


def _spread(flag: bool) -> jax.Array:
    """Start to compute whether any process has set the flag; bool [], on every device."""
    mesh = Mesh(np.asarray(jax.devices()), ("all",))
    flags = jax.make_array_from_callback(
        (jax.device_count(),), NamedSharding(mesh, P("all")), lambda _: np.array([flag])
    )
    return _any(flags, NamedSharding(mesh, P()))


@functools.partial(jax.jit, static_argnums=1)
def _any(flags: jax.Array, placement: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(flags.any(), placement)


def from_first(make: Callable[[], Any]) -> Any:
    """The JSON value that `make` gives in the first process, in all of them.

    Raises:
      UserError: `make` raised one there.
    """
    if count() == 1:
        return make()
    value = None
    with together():
        value = make() if is_first() else None
    return exchange(value)[0]


def first_does(action: Callable[[], Any]) -> None:
    """Let the first process do something, and wait for it.

    Raises:
      UserError: `action` raised one.
    """
    with together():
        if is_first():
            action()


@contextlib.contextmanager
def together() -> Iterator[None]:
    """All processes leave the block, or all raise the UserError that some of them met in it.

    The block itself must not let the processes talk to each other.
    """
    if count() == 1:
        yield
        return
    problem = None
    try:
        yield
    except UserError as error:
        problem = str(error)
    problems = exchange(problem)
    hosts = [number for number, found in enumerate(problems) if found is not None]
    if not hosts:
        return
    if len(hosts) == len(problems) and len(set(problems)) == 1:
        raise UserError(problems[0])
    raise UserError(f"process {hosts[0]} of {count()}: {problems[hosts[0]]}")
