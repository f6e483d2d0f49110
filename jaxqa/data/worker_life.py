"""What keeps loader workers from outliving the process that started them.

Grain's workers wait for a stop event that a killed parent never sends, so each worker watches its
parent. (Linux's parent-death signal will not do: it is sent when the starting *thread* ends.)
"""

import multiprocessing
import os
import signal
import threading
from multiprocessing import connection, util

PATIENCE_SECONDS = 30.0
"""How long a worker that got SIGTERM goes on, so that its parent can save and close."""

FLUSH_SECONDS = 0.2
"""How long a worker that was told to stop may go on sending what it has built."""


def tie_to_parent(worker_index: int, worker_count: int) -> None:
    """Make this worker end soon when told to, and when its parent ends; call it in the worker.

    Terminals and schedulers signal the whole process group. The parent decides what to do then:
    SIGINT is ignored here, and SIGTERM ends the worker only after `PATIENCE_SECONDS`.
    """
    del worker_index, worker_count
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("tie_to_parent runs in a worker process; this one has no parent")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave_later)
    watch = threading.Thread(target=_leave_with, args=(parent.sentinel,), daemon=True)
    watch.start()
    # A process waits at its end until its queues are flushed, which the parent no longer reads;
    # Grain would kill it after 25 s.
    util.Finalize(None, _leave_after, args=(FLUSH_SECONDS, 0), exitpriority=100)


def _leave_with(sentinel: int) -> None:
    connection.wait([sentinel])  # ready when the parent is gone, however it went
    os._exit(1)


def _leave_later(signal_number: int, frame: object) -> None:
    del signal_number, frame
    _leave_after(PATIENCE_SECONDS, 1)


def _leave_after(seconds: float, status: int) -> None:
    timer = threading.Timer(seconds, os._exit, args=(status,))
    timer.daemon = True
    timer.start()
