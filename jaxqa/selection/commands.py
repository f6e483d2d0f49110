"""A program that makes images, started for each."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from jaxqa.errors import UserError
from jaxqa.selection.generators import GenerationError, Request

_FIELD = re.compile(r"\{(prompt|output|seed|n|image)\}")
_ERROR_BYTES = 4096


class Command:
    """A program that is started for each image.

    The template is cut into arguments first and filled in afterwards, so nothing in a prompt can
    become another argument. `{prompt}`, `{output}`, `{seed}`, `{n}` (the candidate's number) and
    `{image}` (the best image so far, of editors) may stand anywhere in an argument.
    """

    def __init__(
        self, template: str, *, timeout: float = 600.0, shell: bool = False, edits: bool = False
    ):
        """Take a template.

        Args:
          template: the command; it needs {prompt} and {output}.
          timeout: seconds after which it, and all that it started, is killed.
          shell: run it by `/bin/sh`. Fields become positional parameters, so that a prompt is
            never read as code; write them without quotes.
          edits: whether it starts from an image, {image}.

        Raises:
          UserError: a field is missing, or one that is not there to be filled in.
        """
        found = set(_FIELD.findall(template))
        needed = {"prompt", "output"} | ({"image"} if edits else set())
        if not needed <= found:
            missing = ", ".join(f"{{{name}}}" for name in sorted(needed - found))
            raise UserError(f"command {template!r} lacks {missing}")
        if "image" in found and not edits:
            raise UserError(
                f"command {template!r} uses {{image}}, but there is none in the first round; give "
                "it as the editor"
            )
        if not timeout > 0:
            raise UserError(f"timeout is {timeout}; expected seconds above 0")
        try:
            self._arguments = [template] if shell else shlex.split(template)
        except ValueError as error:
            raise UserError(f"command {template!r}: {error}; close the quotes") from error
        self._shell, self._timeout, self._running = shell, timeout, _Running()
        self.description = f"{'shell' if shell else 'command'}={template}"

    def make(self, request: Request, output: Path) -> None:
        """Start the command; see `Generator`."""
        fields = {
            "prompt": request.prompt.replace("\0", " "),
            "output": str(output),
            "seed": str(request.seed),
            "n": str(request.number),
            "image": str(request.image or ""),
        }
        if self._shell:
            places = {name: place for place, name in enumerate(fields, start=1)}
            script = _FIELD.sub(lambda found: f'"${places[found[1]]}"', self._arguments[0])
            arguments = ["/bin/sh", "-c", script, "jaxqa", *fields.values()]
        else:
            arguments = [_FIELD.sub(lambda found: fields[found[1]], a) for a in self._arguments]
        _run(arguments, self._timeout, self._running)
        if not output.exists():
            raise GenerationError(f"the command succeeded, but wrote no {{output}} ({output.name})")

    def cancel(self) -> None:
        """Kill what runs in other threads, and start nothing more; see `Generator`."""
        self._running.end()


class _Running:
    """Processes that have not ended, in all threads."""

    def __init__(self):
        self._lock, self._ended = threading.Lock(), False
        self._processes: set[subprocess.Popen[bytes]] = set()

    def start(self, arguments: Sequence[str], written: BinaryIO) -> subprocess.Popen[bytes]:
        with self._lock:  # so that none begins unseen while `end` kills the others
            if self._ended:
                raise GenerationError("the run was stopped")
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that what it starts is killed with it
            )
            self._processes.add(process)
            return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._processes.discard(process)
        _kill(process)

    def end(self) -> None:
        with self._lock:
            self._ended = True
            for process in self._processes:
                _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _run(arguments: Sequence[str], timeout: float, running: _Running) -> None:
    """Run a program to its end; what it writes is kept only to say why it failed."""
    with tempfile.TemporaryFile() as written:
        try:
            process = running.start(arguments, written)
        except (OSError, ValueError) as error:
            raise GenerationError(f"cannot start {arguments[0]}: {error}") from error
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise GenerationError(f"not done after {timeout:g} s") from error
        finally:
            running.kill(process)  # whatever it left running, too
            process.wait()
        if status != 0:
            raise GenerationError(f"exit status {status}{_last_line(written)}")


def _last_line(written: BinaryIO) -> str:
    """The end of what a program wrote, one line."""
    size = written.seek(0, os.SEEK_END)
    written.seek(max(0, size - _ERROR_BYTES))
    lines = [line.strip() for line in written.read().decode("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line]
    return f": {lines[-1][:300]}" if lines else ""
