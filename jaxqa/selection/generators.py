"""Making one image from a text and a seed, whatever makes it.

A generator makes one image at a time, so that an image does not depend on its neighbours and a run
can go on anywhere. What it cannot make is a `GenerationError`: the candidate counts as failed, and
the others go on.
"""

import dataclasses
import os
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxqa.data import images
from jaxqa.errors import UserError


class GenerationError(Exception):
    """One image could not be made."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One image to make.

    Attributes:
      prompt: what it shall show.
      seed: names the random draws.
      number: of the candidate, among those of its prompt.
      image: the image to start from, of generators that edit.
    """

    prompt: str
    seed: int
    number: int
    image: Path | None = None


@runtime_checkable
class Generator(Protocol):
    """Makes images."""

    @property
    def description(self) -> str:
        """What a run's settings remember of it; equal ones make equal images."""
        ...

    def make(self, request: Request, output: Path) -> None:
        """Write one image to `output`, a PNG; GenerationError where that fails.

        Called in several threads at a time only where the run was told so (`Makers.jobs`).
        """
        ...

    def cancel(self) -> None:
        """Give up what other threads make, where that can be done; nothing is asked any more."""
        ...


def produce(generator: Generator, request: Request, output: Path) -> None:
    """Make one image whole or not at all: it is decoded before it takes its name.

    Raises:
      GenerationError: there is none.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.stem}.tmp{output.suffix}")
    try:
        generator.make(request, temporary)
        images.decode(temporary, name="the image that was made")
        os.replace(temporary, output)
    except UserError as error:
        raise GenerationError(str(error)) from error
    finally:
        temporary.unlink(missing_ok=True)
