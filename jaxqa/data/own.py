"""Data sets that are a table of the user's: `file:PATH#range=LOW..HIGH,task=TASK,...`.

    file:labels.csv#range=0..100
    file:/data/faces.parquet#range=1..5,task=aesthetics
    file:test_koniq.json#as=koniq10k
    file:pairs.json#task=comparison

The range is declared, never taken from the values. `as=NAME` takes range, direction, task and name
from the registry: the table lists images of that data set. `direction=lower` says that lower is
better. What the table may look like: `jaxqa.data.readers.own_table`.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from jaxqa.data.layouts import Columns, Layout, label_file
from jaxqa.data.records import UNSCORED, DatasetInfo
from jaxqa.errors import UserError
from jaxqa.rewards.labels import TASKS

PREFIX = "file:"

_RANGE = re.compile(r"(-?[\d.]+)\.\.(-?[\d.]+)", re.ASCII)
_OPTIONS = ("range", "task", "direction", "as")


def is_own(name: str) -> bool:
    """Whether a data set's name is that of the user's table."""
    return name.startswith(PREFIX)


def own_info(name: str, known: Mapping[str, DatasetInfo]) -> DatasetInfo:
    """The facts that a name declares.

    Raises:
        UserError: no range, or a malformed or unknown option.
    """
    path, options = _parse(name)
    layout = Layout(
        name="own table",
        reader="own",
        files=label_file(path.name),
        images=("", "images"),
        columns=Columns(),
    )
    if "as" in options:
        if len(options) > 1 or options["as"] not in known:
            raise UserError(
                f"{name}: expected as=NAME alone, NAME one of {', '.join(known)}; its range, task "
                "and direction are those of the registry"
            )
        return dataclasses.replace(
            known[options["as"]], layouts=(layout,), folders=(), tolerated_missing=0
        )
    task = _choice(name, options, "task", TASKS, default="quality")
    direction = _choice(name, options, "direction", ("higher", "lower"), default="higher")
    return DatasetInfo(
        name=name,
        task=task,
        label_name="score",
        label_range=_range(name, options.get("range"), task),
        higher_is_better=direction == "higher",
        licence="the user's own",
        citation="the user's own",
        homepage=str(path),
        layouts=(layout,),
    )


def own_folder(name: str, root: Path) -> Path:
    """Folder of the table: as the path says, from the data root or from the working directory.

    Raises:
        UserError: there is no such file.
    """
    path, _ = _parse(name)
    for candidate in (root / path, path):
        if candidate.is_file():
            return candidate.parent
    raise UserError(f"{name}: found neither {root / path} nor {path.absolute()}")


def _parse(name: str) -> tuple[Path, dict[str, str]]:
    text, _, rest = name.removeprefix(PREFIX).partition("#")
    options: dict[str, str] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if key not in _OPTIONS or not equals or not value:
            raise UserError(
                f"{name}: unknown option {item!r}; expected {'=..., '.join(_OPTIONS)}=..., "
                "for example #range=1..5,task=aesthetics"
            )
        options[key] = value
    if not text:
        raise UserError(f"{name}: expected a path after {PREFIX}")
    return Path(text), options


def _choice(
    name: str, options: Mapping[str, str], key: str, words: tuple[str, ...], *, default: str
) -> str:
    value = options.get(key, default)
    if value not in words:
        raise UserError(f"{name}: {key} is {value!r}, expected one of {', '.join(words)}")
    return value


def _range(name: str, text: str | None, task: str) -> tuple[float, float]:
    if text is None and task in UNSCORED:
        return (0.0, 1.0)  # there is no score: a formality
    match = _RANGE.fullmatch(text or "")
    try:
        low, high = (float(group) for group in match.groups()) if match else (0.0, 0.0)
    except ValueError:
        low = high = 0.0
    if not low < high:
        raise UserError(
            f"{name}: range is {text!r}; declare the lowest and highest possible score, for "
            "example file:labels.csv#range=1..5"
        )
    return low, high
