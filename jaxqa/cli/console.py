"""The console of a run that may outlive it: a terminal, an ssh or a `tee` goes before the end."""

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import TextIO

_Stream = TextIO | io.TextIOWrapper  # tests stand in for a console with the latter


class _Lasting(io.FileIO):
    """A file whose writes do nothing where they would fail."""

    def write(self, data, /) -> int | None:
        try:
            return super().write(data)
        except OSError:  # EIO of a terminal, EPIPE of a pipe, ENOSPC of a log on a full disk
            return memoryview(data).nbytes


@contextlib.contextmanager
def lasting_console() -> Iterator[None]:
    """Let what is printed during the block get lost, and not end it, when nothing takes it."""
    out, err = _lasting(sys.stdout), _lasting(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield
        finally:
            out.flush()
            err.flush()


def _lasting(stream: _Stream) -> _Stream:
    try:
        descriptor = stream.fileno()
    except (AttributeError, OSError):  # none at all (None), or a stand-in in memory
        return stream
    with contextlib.suppress(OSError):
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(descriptor, "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=True,
    )
