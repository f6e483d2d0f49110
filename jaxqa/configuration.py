"""Frozen dataclasses <-> `ml_collections.ConfigDict`, with errors that name what is valid.

A component declares its options once, as a frozen dataclass with defaults. A config file composes
those into a ConfigDict, so that `--config.grpo.beta=0.0` works; the program turns it back into
dataclasses at the door and never sees a ConfigDict again.
"""

import ast
import contextlib
import dataclasses
import importlib.util
import inspect
import re
import traceback
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import ml_collections

from jaxqa.errors import UserError

T = TypeVar("T")

# What a mistake in a config file, which is a Python program, can raise.
_FILE_ERRORS = (
    SyntaxError,
    ImportError,
    NameError,
    AttributeError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    OSError,
)


def to_dict(value: Any) -> Any:
    """Nested plain containers of a (tree of) dataclass: dicts, tuples and leaves."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_dict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(to_dict(item) for item in value)
    return value


def to_config_dict(sections: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """ConfigDict of named dataclasses and leaves, locked against unknown keys, in their order."""
    return _in_order(to_dict(sections)).lock()


def _in_order(value: Any) -> Any:
    """Mappings as ConfigDicts that keep their order, which a ConfigDict would sort away."""
    if not isinstance(value, Mapping):
        return value
    items = {key: _in_order(item) for key, item in value.items()}
    return ml_collections.ConfigDict(items, sort_keys=False)


def from_dict(kind: type[T], values: Mapping[str, Any], *, at: str) -> T:
    """Build dataclass `kind` from `values`; `at` is the dotted place named in errors.

    Raises:
      UserError: an unknown key (the valid ones are listed), a missing one, or a wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    if unknown := sorted(set(values) - set(fields)):
        raise UserError(
            f"{at}: unknown key {', '.join(map(repr, unknown))}; valid keys: {', '.join(fields)}"
        )
    required = (
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )
    if missing := sorted(set(required) - set(values)):
        raise UserError(f"{at}: missing key {', '.join(map(repr, missing))}")
    built = {name: _convert(hints[name], value, f"{at}.{name}") for name, value in values.items()}
    try:
        return kind(**built)
    except ValueError as error:
        raise UserError(f"{at}: {error}") from error


def _convert(hint: Any, value: Any, at: str) -> Any:
    """Check `value` against the type `hint`, turning mappings into dataclasses."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(typing.cast(type, hint), value, at=at)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, at)
    if origin is Literal:
        if value not in arguments:
            raise UserError(
                f"{at}: got {value!r}; expected one of {', '.join(map(repr, arguments))}"
            )
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return _convert_tuple(arguments, value, at)
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return {key: _convert(arguments[1], item, f"{at}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint):
        if not (isinstance(value, bool) and hint is not bool):  # bool is an int; not here
            return value
    raise UserError(f"{at}: got {value!r} ({type(value).__name__}); expected {_name(hint)}")


def _convert_union(options: tuple[Any, ...], value: Any, at: str) -> Any:
    if type(value) in options:  # an int among float | int stays one
        return value
    kinds = [option for option in options if option is not type(None)]
    kinds = [option for option in kinds if not _is_another(option, value)] or kinds
    for option in kinds[:-1]:
        try:
            return _convert(option, value, at)
        except UserError:
            continue
    return _convert(kinds[-1], value, at)


def _is_another(option: Any, value: Any) -> bool:
    """Whether a Literal field of dataclass `option`, such as its `name`, says that it is not it."""
    if not (dataclasses.is_dataclass(option) and isinstance(value, Mapping)):
        return False
    hints = typing.get_type_hints(option)
    return any(
        typing.get_origin(hint) is Literal and value.get(key) not in typing.get_args(hint)
        for key, hint in hints.items()
        if key in value
    )


def _convert_tuple(arguments: tuple[Any, ...], value: Iterable[Any], at: str) -> tuple[Any, ...]:
    items = tuple(value)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_convert(arguments[0], item, f"{at}[{i}]") for i, item in enumerate(items))
    if len(arguments) != len(items):
        raise UserError(f"{at}: got {len(items)} values; expected {len(arguments)}")
    pairs = zip(arguments, items, strict=True)
    return tuple(_convert(kind, item, f"{at}[{i}]") for i, (kind, item) in enumerate(pairs))


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def load_config_file(spec: str) -> ml_collections.ConfigDict:
    """ConfigDict of `FILE.py` or `FILE.py:mode`, by that file's `get_config(mode)`.

    Raises:
      UserError: no such file or mode, or the file has a mistake; its line is named.
    """
    name, _, mode = spec.partition(":")
    path = Path(name)
    if not path.is_file():
        raise UserError(f"--config: no file {name!r}; expected FILE.py or FILE.py:mode")
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(
            f"--config: {name!r} is not a Python file; expected FILE.py or FILE.py:mode"
        )
    module = importlib.util.module_from_spec(module_spec)
    with _explain_file_errors(spec, module):
        module_spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"--config: {name!r} defines no get_config(mode)")
        config = module.get_config(mode or None)
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(
            f"--config={spec}: get_config returned {type(config).__name__}; expected a ConfigDict, "
            "which make_config makes"
        )
    return config


@contextlib.contextmanager
def _explain_file_errors(spec: str, module: types.ModuleType) -> Iterator[None]:
    """Turn a mistake in a config file into a UserError that names the line and what is valid."""
    try:
        yield
    except _FILE_ERRORS as error:
        where, message = f"--config={spec}", str(error)
        if (line := _line_of(error, str(module.__file__))) is not None:
            where += f", line {line}"
        if isinstance(error, TypeError):
            message = _explain_type_error(error, module)
        elif not isinstance(error, ValueError):  # those are written for users already
            message = f"{type(error).__name__}: {message}"
        raise UserError(f"{where}: {message}") from error


def _line_of(error: BaseException, file: str) -> int | None:
    """The last line of `file` that had a part in the error."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return lines[-1] if lines else None


def _explain_type_error(error: TypeError, module: types.ModuleType) -> str:
    """Name the valid keys or the field of a wrong type, where it was a dataclass that refused."""
    pattern = r"(\w+)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'"
    if match := re.match(pattern, str(error)):
        owner, key = match.groups()
        if callable(made := getattr(module, owner, None)):
            valid = ", ".join(inspect.signature(made).parameters)
            return f"{owner}: unknown key {key!r}; valid keys: {valid}"
    for frame, _ in traceback.walk_tb(error.__traceback__):
        made = frame.f_locals.get("self")
        if frame.f_code.co_name == "__post_init__" and dataclasses.is_dataclass(made):
            try:
                check_types(made, at=type(made).__name__)
            except UserError as reason:
                return str(reason)
    return f"TypeError: {error}"


def check_types(made: Any, *, at: str) -> None:
    """Raise UserError unless every field of a dataclass has the type that it declares."""
    hints = typing.get_type_hints(type(made))
    for field in dataclasses.fields(made):
        _convert(hints[field.name], getattr(made, field.name), f"{at}.{field.name}")


def apply_override(config: ml_collections.ConfigDict, key: str, text: str) -> None:
    """Set `config.<key>` to the value written in `text`, e.g. `grpo.steps`, `10`.

    Raises:
      UserError: no such key (the valid ones at that level are listed), or a value whose type
        differs from the one it replaces.
    """
    *parents, leaf = key.split(".")
    node: Any = config
    for depth, name in enumerate([*parents, leaf]):
        if not isinstance(node, ml_collections.ConfigDict) or name not in node:
            valid = sorted(node.keys()) if isinstance(node, ml_collections.ConfigDict) else []
            place = ".".join(["config", *parents[:depth]])
            known = f"valid keys: {', '.join(valid)}" if valid else "it is a single value"
            raise UserError(f"--config.{key}: {place} has no key {name!r}; {known}")
        if depth < len(parents):
            node = node[name]
    old = node[leaf]
    if isinstance(old, ml_collections.ConfigDict) and text != "None":
        raise UserError(
            f"--config.{key}: is a section; set one of {', '.join(sorted(old.keys()))}, "
            "or leave the section out with None"
        )
    value = _parse_literal(text, old)
    if not _same_kind(old, value):
        raise UserError(f"--config.{key}: got {text!r}; expected {_describe(old)}, such as {old!r}")
    with node.ignore_type():
        node[leaf] = value


def _parse_literal(text: str, old: Any) -> Any:
    if isinstance(old, bool) and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if isinstance(old, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    if isinstance(old, tuple) and isinstance(value, list):
        return tuple(value)
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def _same_kind(old: Any, value: Any) -> bool:
    return old is None or value is None or type(old) is type(value)


def _describe(value: Any) -> str:
    return {
        "int": "an integer",
        "float": "a number",
        "bool": "true or false",
        "tuple": "a tuple",
    }.get(type(value).__name__, f"a {type(value).__name__}")
