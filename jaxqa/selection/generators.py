"""Making images from a text and a seed, whatever makes them.

An image is made from its own request alone, also where several are made in one call, so that a run
can go on anywhere. What cannot be made is a `GenerationError`: the candidate counts as failed, and
the others go on.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
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


@runtime_checkable
class BatchGenerator(Protocol):
    """A generator that makes several images in one call; see `Generator`."""

    @property
    def at_once(self) -> int:
        """How many, at most."""
        ...

    def make_several(self, requests: Sequence[Request], outputs: Sequence[Path]) -> None:
        """Write an image for each request to its output; GenerationError if it cannot make all."""
        ...


def produce(generator: Generator, request: Request, output: Path) -> None:
    """Make one image whole or not at all: it is decoded before it takes its name.

    Raises:
      GenerationError: there is none.
    """
    with _whole([output]) as temporary:
        generator.make(request, temporary[0])


def produce_several(
    generator: Generator, requests: Sequence[Request], outputs: Sequence[Path]
) -> list[GenerationError | None]:
    """Make images, in one call if the generator can; what went wrong with each, if anything.

    Where a call for several fails, each is made alone: one that cannot be made, or a device with
    too little memory for all, costs no other image.
    """
    if len(requests) > 1 and isinstance(generator, BatchGenerator):
        with contextlib.suppress(GenerationError):
            with _whole(outputs) as temporary:
                generator.make_several(requests, temporary)
            return [None] * len(requests)
    found: list[GenerationError | None] = []
    for request, output in zip(requests, outputs, strict=True):
        try:
            produce(generator, request, output)
        except GenerationError as error:
            found.append(error)
        else:
            found.append(None)
    return found


@contextlib.contextmanager
def _whole(outputs: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield temporary names; what was written there takes the outputs' names once all decode."""
    temporary = [path.with_name(f".{path.stem}.tmp{path.suffix}") for path in outputs]
    for path in outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        for path in temporary:
            images.decode(path, name="the image that was made")
        for path, output in zip(temporary, outputs, strict=True):
            os.replace(path, output)
    except UserError as error:
        raise GenerationError(str(error)) from error
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)
