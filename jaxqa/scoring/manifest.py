"""How a model directory remembers what it was trained to be asked: `jaxqa.json`.

A directory without one, such as any from the Hugging Face Hub, is asked the default questions.
"""

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxqa.data.prompts import TEMPLATES, PromptTemplate
from jaxqa.errors import UserError
from jaxqa.files import read_json

FILE_NAME = "jaxqa.json"
FORMAT_VERSION = 1

DEFAULT_TEMPLATES = {
    "quality": TEMPLATES["q_insight"],
    "aesthetics": TEMPLATES["aes_r1"],
    "alignment": TEMPLATES["omniquality_alignment"],
    "comparison": TEMPLATES["q_insight_comparison"],
}
"""Questions for a model that does not say how it wants to be asked."""

_FORMAT, _PROMPTS, _LENGTH = "format", "prompts", "max_new_tokens"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a model is asked, and how.

    Attributes:
      templates: task -> prompt; the prompt's range is the range of the scores.
      max_new_tokens: longest answer; one that is cut off counts as unparsed.
    """

    templates: Mapping[str, PromptTemplate]
    max_new_tokens: int = 512

    def __post_init__(self):
        if not self.templates or self.max_new_tokens < 1:
            raise ValueError(
                f"{len(self.templates)} prompts and max_new_tokens {self.max_new_tokens}; "
                "expected at least one prompt and one token"
            )
        for task, template in self.templates.items():
            if template.task != task:
                raise ValueError(f"prompt {template.name!r} asks about {template.task}, not {task}")


def manifest_values(manifest: Manifest) -> dict[str, Any]:
    """What stands in the file."""
    prompts = {task: _stored(template) for task, template in manifest.templates.items()}
    return {_FORMAT: FORMAT_VERSION, _LENGTH: manifest.max_new_tokens, _PROMPTS: prompts}


def read_manifest(directory: Path) -> Manifest:
    """The directory's manifest; the default one where it has none.

    Raises:
      UserError: `jaxqa.json` is damaged, or of a later version.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        return Manifest(templates=DEFAULT_TEMPLATES)
    values = read_json(path)
    if values.get(_FORMAT) != FORMAT_VERSION:
        raise UserError(
            f"{path}: {_FORMAT} is {values.get(_FORMAT)!r}, expected {FORMAT_VERSION}; install the "
            "version of jaxqa that wrote it"
        )
    prompts, length = values.get(_PROMPTS), values.get(_LENGTH)
    if not isinstance(prompts, dict) or type(length) is not int:
        raise UserError(f"{path}: expected {_PROMPTS} by task and a whole number {_LENGTH}")
    try:
        return Manifest(
            templates={task: _template(task, fields) for task, fields in prompts.items()},
            max_new_tokens=length,
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}; export the model again, or delete the file") from error


def _stored(template: PromptTemplate) -> dict[str, Any]:
    """The prompt's fields, as far as they are not the default."""
    return {
        field.name: value
        for field in dataclasses.fields(template)
        if (value := getattr(template, field.name)) != field.default and field.name != "task"
    }


_KINDS = {
    "name": str,
    "system": str,
    "question": str,
    "answer": str,
    "low": int | float,
    "high": int | float,
    "think": bool,
}
_ANSWERS = typing.get_args(PromptTemplate.__annotations__["answer"])


def _template(task: str, fields: Any) -> PromptTemplate:
    if not isinstance(fields, dict):
        raise ValueError(f"prompt of {task}: expected an object, found {fields!r}")
    for name, value in fields.items():
        kind = _KINDS.get(name)
        if kind is None or not isinstance(value, kind):
            raise ValueError(f"prompt of {task}: {name} is {value!r}, which is not known")
    if fields.get("answer") not in _ANSWERS:
        raise ValueError(f"prompt of {task}: answer is {fields.get('answer')!r}, not {_ANSWERS}")
    return PromptTemplate(task=task, **fields)
