"""Which images are evaluated, and how a model is asked about them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxqa.data import registry
from jaxqa.data.prompts import TEMPLATES, PromptTemplate, get_template
from jaxqa.data.records import DatasetInfo, Example
from jaxqa.data.scales import LabelRange
from jaxqa.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """The labelled images of one split.

    Attributes:
      title: `dataset:split`, as tables call it.
      info: the registry's row.
      examples: images with a label, each once.
      template: what is asked; its range is that of the answers.
      labels: which label range the prompt's range stands for.
    """

    title: str
    info: DatasetInfo
    examples: Sequence[Example]
    template: PromptTemplate
    labels: LabelRange = "label"


def parse_prompts(texts: Sequence[str]) -> dict[str, PromptTemplate]:
    """Task -> template; "" for those not named. Each text is `NAME` or `TASK=NAME`.

    Raises:
      UserError: an unknown prompt or task, or one that asks for no score.
    """
    prompts: dict[str, PromptTemplate] = {}
    tasks = {template.task for template in TEMPLATES.values() if template.low is not None}
    for text in texts:
        task, equals, name = text.rpartition("=")
        if equals and task not in tasks:
            raise UserError(
                f"--prompt={text}: unknown task {task!r}; expected {', '.join(sorted(tasks))}"
            )
        template = get_template(name)
        if template.low is None:
            raise UserError(f"--prompt={text}: prompt {name!r} asks for no score")
        prompts[task] = template
    return prompts


def select(
    text: str,
    root: Path,
    prompts: Mapping[str, PromptTemplate],
    *,
    labels: LabelRange = "label",
    limit: int = 0,
) -> Selection:
    """Read the images of `NAME[:SPLIT]`.

    Without a split: the data set's own test part, or the whole of a set that is used so.

    Args:
      root: the data set's folder, or the one that holds it.
      prompts: from `parse_prompts`.
      labels: see `Selection`.
      limit: the first so many images only; 0 takes all.

    Raises:
      UserError: unknown names, missing files, no labelled image, or no prompt for its task.
    """
    name, split = registry.parse_selection(text)
    info = registry.dataset_info(name)
    template = prompts.get(info.task) or prompts.get("")
    if template is None:
        raise UserError(f"{name} rates {info.task}: add --prompt={info.task}=NAME")
    split = split or ("whole" if "whole" in info.splits else "test")
    examples = [e for e in registry.read_dataset(name, root, split) if e.score is not None]
    if not examples:
        raise UserError(f"{name}:{split}: no image has a score; expected labels to compare with")
    if len({example.example_id for example in examples}) != len(examples):
        raise UserError(f"{name}:{split}: two images have one name; expected each once")
    return Selection(
        title=f"{name}:{split}",
        info=info,
        examples=examples[:limit] if limit else examples,
        template=template,
        labels=labels,
    )
