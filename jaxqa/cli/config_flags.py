"""`--config=FILE.py[:mode]` with `--config.KEY=VALUE ...`, as the doors that take a run know it."""

from collections.abc import Sequence

import ml_collections

from jaxqa import configuration
from jaxqa.errors import UserError


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments `--config.KEY=VALUE`, and the others."""
    return (
        [a for a in arguments if a.startswith("--config.")],
        [a for a in arguments if not a.startswith("--config.")],
    )


def load_config(place: str, overrides: Sequence[str]) -> ml_collections.ConfigDict:
    """The config of a file, overridden.

    Raises:
      UserError: a bad file, an unknown key or a value of a wrong type.
    """
    config = configuration.load_config_file(place)
    for argument in overrides:
        key, equals, value = argument.removeprefix("--config.").partition("=")
        if not equals:
            raise UserError(f"{argument}: expected {argument}=VALUE")
        configuration.apply_override(config, key, value)
    return config
