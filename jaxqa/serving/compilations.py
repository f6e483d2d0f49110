"""How many programs this process has compiled: after the start it should be none."""

import functools

import jax.monitoring

_EVENT = "/jax/core/compile/backend_compile_duration"


class Compilations:
    """Counts from now on."""

    def __init__(self) -> None:
        """Begin at zero."""
        self._before = _total()[0]

    @property
    def count(self) -> int:
        """Programs since then."""
        return _total()[0] - self._before


@functools.cache
def _total() -> list[int]:
    """The one number of this process; JAX calls the listener from the thread that compiles."""
    total = [0]

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == _EVENT:
            total[0] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    return total
