"""What a pipeline is, and how many of its conversations are led at once.

A pipeline leads one conversation per image: a generator that yields what it wants asked, receives
the reply, and returns the outcome. Conversations advance together, so that an endpoint sees as many
requests at once as it may and the policy sees whole blocks; outcomes are written in the order of
the images, whatever order the answers come in.
"""

import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from jaxqa.data.records import Example
from jaxqa.data.source import Source
from jaxqa.reasoning.expert import Check, Expert, Reply, Request
from jaxqa.sampling.config import SamplingConfig

Role = Literal["expert", "judge"]

UNLABELLED = "unlabelled"
"""Group of images that lack what a pipeline needs; reason for which they are dropped."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """An image to write about, and the source with the prompt under which it is asked about."""

    example: Example
    source: Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
    """A request, and who shall answer it."""

    request: Request
    role: Role = "expert"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one image.

    Attributes:
      rationales: texts that are kept, without tags and without the score.
      dropped: reason -> number of texts that were dropped for it.
      reason: why the image has no text; None where it has one.
      detail: more of that reason, for whoever reads the file.
      notes: what else is worth keeping, such as a judge's marks.
    """

    rationales: tuple[str, ...] = ()
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    reason: str | None = None
    detail: str = ""
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


Steps = Generator[Ask, Reply, Outcome]


@runtime_checkable
class Pipeline(Protocol):
    """One way of writing rationales; also the section of the config with its options."""

    def write(self, item: Item, sampling: SamplingConfig) -> Steps:
        """The conversation about one image."""
        ...

    def lacks(self, item: Item) -> str | None:
        """What an image lacks to be asked about, or None."""
        ...

    def group(self, item: Item) -> str:
        """What the audit counts an image that lacks nothing under, and quotas hold for."""
        ...

    def quotas(self) -> Mapping[str, int]:
        """Group -> how many images of it are wanted; empty: all there are."""
        ...


def group_of(pipeline: Pipeline, item: Item) -> str:
    """The group of any image; `UNLABELLED` where it lacks something."""
    return pipeline.group(item) if pipeline.lacks(item) is None else UNLABELLED


def unasked(pipeline: Pipeline, item: Item, sampling: SamplingConfig) -> Outcome | None:
    """What becomes of an image about which nothing can be asked; None of others."""
    if (problem := pipeline.lacks(item)) is not None:
        return Outcome(reason=UNLABELLED, detail=problem)
    conversation = pipeline.write(item, sampling)
    try:
        next(conversation)
    except StopIteration as end:
        return end.value
    conversation.close()
    return None


def converse(
    conversations: Sequence[Steps], experts: Mapping[Role, Expert], check: Check
) -> list[Outcome]:
    """Lead all conversations to their end, in rounds."""
    outcomes: list[Outcome] = [Outcome()] * len(conversations)
    waiting: dict[int, Ask] = {}

    def advance(number: int, step: Callable[[], Ask]) -> None:
        try:
            waiting[number] = step()
        except StopIteration as end:
            outcomes[number] = end.value

    for number, conversation in enumerate(conversations):
        advance(number, conversation.__next__)
    while waiting:
        asked, waiting = waiting, {}
        for role in experts:
            numbers = [number for number, ask in asked.items() if ask.role == role]
            if not numbers:
                continue
            replies = experts[role].ask([asked[number].request for number in numbers], check)
            for number, reply in zip(numbers, replies, strict=True):
                send = conversations[number].send
                advance(number, lambda send=send, reply=reply: send(reply))
    return outcomes


def take(
    items: Iterable[Item], pipeline: Pipeline, *, size: int, kept: Mapping[str, int]
) -> Iterator[list[Item]]:
    """Batches of at most `size` items that never ask for more of a group than its quota lacks.

    `kept` is looked at anew for each batch: how many images of a group have been kept so far.
    Images that lack something are handed on whatever the quotas: they cost nothing and are counted.
    """
    quotas = pipeline.quotas()
    left = list(items)
    while left:
        batch: list[Item] = []
        later: list[Item] = []
        room = {group: quota - kept.get(group, 0) for group, quota in quotas.items()}
        for position, item in enumerate(left):
            if len(batch) == size:
                later += left[position:]
                break
            group = group_of(pipeline, item)
            if quotas and group != UNLABELLED and room.get(group, 0) <= 0:
                if kept.get(group, 0) < quotas.get(group, 0):
                    later.append(item)  # the batch may fall short of what it promises
                continue
            room[group] = room.get(group, 0) - 1
            batch.append(item)
        if batch:
            yield batch
        left = later
