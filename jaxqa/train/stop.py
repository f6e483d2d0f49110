"""SIGTERM, SIGINT and SIGHUP: ask a run to stop at the next safe point."""

import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType


class Stopped(Exception):
    """The run stopped because it was asked to; what it had done is saved."""


def stop_signals() -> list[signal.Signals]:
    """The signals that ask for a stop."""
    signals = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under `nohup`
        signals.append(signal.SIGHUP)
    return signals


class StopRequest:
    """Context manager that turns SIGTERM (and the first Ctrl-C) into a request.

    So does a terminal that goes away, unless `nohup` has said that it does not matter. A second
    Ctrl-C interrupts at once.
    """

    def __init__(self):
        self.requested = False
        self._looked = time.monotonic()
        self._any_of: Callable[[bool], bool] = bool
        self._previous: dict[int, signal.Handlers | object] = {}

    def __enter__(self) -> "StopRequest":
        """Install the handlers."""
        for number in stop_signals():
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Put the earlier handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

    def look(self) -> bool:
        """Whether a stop was requested. Work that goes on looks after each step or block."""
        self._looked = time.monotonic()
        return self.requested

    def unseen_for(self) -> float:
        """Seconds since anybody looked: how long the step that is under way has taken."""
        return time.monotonic() - self._looked

    def share(self, any_of: Callable[[bool], bool]) -> None:
        """From now on `check` obeys a request to any process; `any_of` asks them all."""
        self._any_of = any_of

    def leave(self, stage: str, step: int) -> None:
        """Raise `Stopped`, saying where."""
        raise Stopped(f"stopped on request in stage {stage} after step {step}")

    def check_own(self, work: str) -> None:
        """`check` where the other processes wait: only a request to this one counts."""
        if self.look():
            raise Stopped(f"stopped on request during {work}")

    def check(self, work: str) -> None:
        """Raise `Stopped` if asked to; for places where `work` leaves nothing half-done.

        All processes of a run call it equally often.
        """
        if self._any_of(self.look()):
            raise Stopped(f"stopped on request during {work}")
