"""Named prompts: what the model is asked about an image, and what it should have answered."""

from jaxqa.data.prompts import (
    aes_r1,
    concise,
    omniquality_r,
    q_insight,
    ract,
    tatar,
    visualquality_r1,
)
from jaxqa.data.prompts.template import END_OF_TURN as END_OF_TURN
from jaxqa.data.prompts.template import PromptTemplate
from jaxqa.errors import UserError

_SYSTEMS = (q_insight, visualquality_r1, aes_r1, tatar, omniquality_r, ract, concise)

TEMPLATES: dict[str, PromptTemplate] = {t.name: t for s in _SYSTEMS for t in s.TEMPLATES}
"""By name; `concise` ones are short, for models that train on a laptop."""


def get_template(name: str) -> PromptTemplate:
    """The prompt called `name`.

    Raises:
        UserError: there is none; the message lists those that there are.
    """
    if name not in TEMPLATES:
        raise UserError(f"unknown prompt {name!r}; expected one of {', '.join(TEMPLATES)}")
    return TEMPLATES[name]
