"""The language model of one checkpoint with the vision tower of another (RALI, table 1)."""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from jaxqa import tree
from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl.config import Qwen2_5_VLConfig
from jaxqa.models.qwen2_5_vl.hf_config import read_config
from jaxqa.models.qwen2_5_vl.weights import load_model_directory
from jaxqa.typing import Params


def joined_config(language_from: str | Path, vision_from: str | Path) -> Qwen2_5_VLConfig:
    """The architecture of both parts; the towers may differ where they do not meet.

    Raises:
      UserError: no model in one of the directories, or a tower whose tokens have another width than
        the language model's.
    """
    language, vision = read_config(language_from), read_config(vision_from).vision
    if vision.out_hidden_size != language.text.hidden_size:
        raise UserError(
            f"{vision_from}: its vision tower gives tokens of width {vision.out_hidden_size}, and "
            f"the language model of {language_from} takes {language.text.hidden_size}; take both "
            "from models of one size"
        )
    return dataclasses.replace(language, vision=vision)


def load_joined(
    language_from: str | Path, vision_from: str | Path, *, dtype: str | None = None
) -> tuple[Qwen2_5_VLConfig, Params]:
    """Config and parameters: the vision tower with its merger, and everything else.

    One model and one vision tower are in memory at the most.

    Args:
      language_from: model directory, Hugging Face or jaxqa.
      vision_from: another one.
      dtype: as for `load_model_directory`.

    Raises:
      UserError: see `joined_config` and `load_model_directory`; or the two are stored in different
        types and `dtype` is None.
    """
    config = joined_config(language_from, vision_from)
    vision = tree.split(load_model_directory(vision_from, dtype=dtype)[1], _is_vision)[0]
    language = tree.split(load_model_directory(language_from, dtype=dtype)[1], _is_vision)[1]
    types = [_dtypes(part) for part in (vision, language)]
    if types[0] != types[1]:
        raise UserError(
            f"the vision tower of {vision_from} is stored as {', '.join(sorted(types[0]))} and the "
            f"language model of {language_from} as {', '.join(sorted(types[1]))}; choose one type "
            "with --dtype"
        )
    return config, tree.join(language, vision)


def _is_vision(path: str) -> bool:
    """As `parts.holds("vision")`."""
    return path.startswith("visual/")


def _dtypes(params: Params) -> set[str]:
    return {str(np.dtype(leaf.dtype)) for leaf in jax.tree.leaves(params)}
