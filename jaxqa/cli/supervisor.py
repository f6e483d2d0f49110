"""The parent of a training process: says in one line why it died, and starts it again if asked.

A process whose peers are gone cannot be saved from inside: JAX ends it from a thread of its own,
after pages of log. So the training runs in a child. The parent passes signals on, keeps what
the child writes to stderr about its end, tells a lost peer from the child's own death, and starts
the child again, which goes on at the last checkpoint. It imports no JAX.

The child writes a byte per second into a pipe. If nothing comes for long (it is stopped, or
swapped out), the parent ends it, so that a hung process ends like a dead one.
"""

import collections
import contextlib
import faulthandler
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from jaxqa.train.stop import stop_signals

LOST_STATUS = 4
"""The run ended because one of its processes did, not because of anything in the config."""

UNFINISHED_STATUS = 75
"""The run was asked to stop, and whoever asked is to start it again (EX_TEMPFAIL of sysexits.h)."""

FINAL = (0, 2, 3, UNFINISHED_STATUS)
"""Statuses that end the parent, too: done or stopped, the user's error, diverged, stopped."""

_TAIL_LINES = 1000
_LONGEST_DELAY = 60.0
_NOISE = re.compile(r"[EFWI]\d{4} |\[Gloo\]|\*\*\* |PC: @|\s+@ +0x|external/|I0000 |E0000 |W0000 ")
_LOST = re.compile(
    r"JAX distributed service detected|heartbeat|coordination service|CoordinationService"
    r"|[Gg]loo.*(closed|reset|refused|timed? ?out)|Connection (closed by peer|reset by peer)"
)
_TASK = re.compile(r"[Tt]ask:? ?(\d+)")
_LAST_WORDS = ("Traceback (", "Fatal Python error")


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """How a child is watched.

    Attributes:
      restarts: how often it is started again.
      silence: seconds without a sign of life after which it counts as hung; its peers, too, need
        this long to notice that it is gone.
      log: where the end of its stderr is kept when it dies.
      name: what to call it.
      processes: how many there are; None if only the child can know.
    """

    restarts: int
    silence: float
    log: Path
    name: str
    processes: int | None


def supervise(command: Sequence[str], supervision: Supervision) -> int:
    """Run `command` (which gets `--child=DESCRIPTOR`) to its end; the exit status."""
    for attempt in range(supervision.restarts + 1):
        with _Child(command) as child:
            status = child.watch(supervision.silence)
        if status in FINAL or child.was_told:
            child.show_rest()
            return status if status >= 0 else 128 - status
        cause, is_peer = _cause(child, status, supervision)
        if not is_peer:
            child.show_rest()
        left = supervision.restarts - attempt
        kept = _keep(child, supervision.log)
        if not left:
            _say(
                f"error: {cause}; this process ends. The last checkpoint is kept: run the same "
                f"command again on every host to go on (--restarts=N does so by itself){kept}"
            )
            return LOST_STATUS
        # A dead child's peers wait for its heartbeat; a new one must not come before they gave up.
        delay = min(2.0**attempt, _LONGEST_DELAY) + (0.0 if is_peer else supervision.silence)
        _say(
            f"{cause}; going on from the last checkpoint in {delay:.0f} s "
            f"({left} restart{'s' * (left > 1)} left){kept}"
        )
        time.sleep(delay)
    raise AssertionError("the last attempt returns")


def show_life(descriptor: int, *, stuck: Callable[[], str | None] = lambda: None) -> None:
    """Tell the parent that this process lives; stop as on SIGTERM when the parent is gone.

    Args:
      descriptor: the parent's pipe.
      stuck: says in what way this process does not get on, if so. Then it shows where its threads
        are and no more life, so that the parent ends it as one that hangs.
    """
    os.set_inheritable(descriptor, False)

    def beat() -> None:
        try:
            while (words := stuck()) is None:
                os.write(descriptor, b".")
                time.sleep(1.0)
            print(f"{words}; its threads:", file=sys.stderr, flush=True)
            faulthandler.dump_traceback(all_threads=True)
        except BrokenPipeError:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=beat, daemon=True).start()


class _Child:
    """One attempt: a process, its signs of life, and what it wrote to stderr."""

    def __init__(self, command: Sequence[str]):
        self.was_told = False
        self.is_hung = False
        self.tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        self._held: list[str] = []
        self._stack = contextlib.ExitStack()
        self._command = command
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "_Child":
        # Before the child starts: a signal that came in between would end the parent alone.
        self._stack.enter_context(_handling(self._pass_on))
        reading, writing = os.pipe()
        self._life = reading
        # In a session of its own: a Ctrl-C of the terminal reaches it once, through the parent.
        self._process = subprocess.Popen(
            [*self._command, f"--child={writing}"],
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            pass_fds=(writing,),
            start_new_session=True,
        )
        os.close(writing)
        if self.was_told:
            self._process.send_signal(signal.SIGTERM)
        assert self._process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stderr,))
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._stack.close()
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._reader.join(timeout=5.0)  # a grandchild may hold the pipe
        if self._process.stderr is not None and not self._reader.is_alive():
            self._process.stderr.close()
        os.close(self._life)

    def watch(self, silence: float) -> int:
        """Wait for the end; kill the child if it shows no life for `silence` seconds."""
        assert self._process is not None
        while True:
            ready, _, _ = select.select([self._life], [], [], silence)
            if not ready:
                self.is_hung = True
                self._process.kill()
                return self._process.wait()
            if not os.read(self._life, 4096):
                return self._process.wait()  # the pipe is closed: it has ended, or is about to

    def show_rest(self) -> None:
        """Print what was held back."""
        sys.stderr.writelines(self._held)
        self._held.clear()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.was_told = True
        if number == signal.SIGHUP:  # a terminal or an ssh that went away: time to save
            number = signal.SIGTERM
        if self._process is not None:  # else it is told as soon as it is there
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _read(self, stream: Iterable[str]) -> None:
        """Show what people wrote for people; hold back tracebacks, and drop logs of libraries."""
        for line in stream:
            self.tail.append(line)
            if self._held or line.startswith(_LAST_WORDS) or _LOST.search(line):
                self._held.append(line)
            elif not _NOISE.match(line):
                sys.stderr.write(line)
                sys.stderr.flush()


@contextlib.contextmanager
def _handling(handler: signal.Handlers | object) -> Iterator[None]:
    """Give the signals that ask for a stop to `handler` for the block."""
    before = {number: signal.signal(number, handler) for number in stop_signals()}  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _cause(child: _Child, status: int, supervision: Supervision) -> tuple[str, bool]:
    """Why a child died, and whether another process is to blame."""
    name, many = supervision.name, supervision.processes
    others = f" of {many}" if many else ""
    if child.is_hung:
        return f"{name} hung: no sign of life for {supervision.silence:.0f} s", False
    text = "".join(child.tail)
    if status == -signal.SIGKILL:
        return f"{name} was killed (by the system, if it ran out of memory)", False
    if status == LOST_STATUS or _LOST.search(text):
        tasks = {int(found) for found in _TASK.findall(text)} or set(range(many or 0))
        peers = [str(task) for task in sorted(tasks) if f"process {task}" != name]
        if len(peers) > 1:
            peers = []
        who = f"process {', '.join(peers)}{others}" if peers else "another process of this run"
        return f"{who} died or hung (seen by {name})", True
    if status < 0:
        return f"{name} was ended by {signal.Signals(-status).name}", False
    return f"{name} failed with status {status}", False


def _keep(child: _Child, log: Path) -> str:
    """Write the end of stderr to `log`, if its folder is there; how to say so."""
    if not child.tail or not log.parent.is_dir():
        return ""
    with contextlib.suppress(OSError):
        log.write_text("".join(child.tail))
        return f"; its last words: {log}"
    return ""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
