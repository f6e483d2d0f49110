"""Pickles from the network, read without running anything that they name.

Admitted are None, booleans, numbers, text, bytes, lists, tuples, dicts, and NumPy arrays and
scalars of numbers and text. NumPy's own constructors are never called: arrays are rebuilt here
from their bytes, after their shape and type were checked. Everything else is refused by name.
"""

import io
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxqa.errors import UserError

_KIND = re.compile(r"[<>|=]?([biufUS])([0-9]{1,4})")
_MAX_DEPTH = 16
_MAX_VALUES = 100_000
_SIMPLE = (bool, int, float, str, bytes, np.ndarray, np.generic)

# What a damaged or hostile stream can end in, in the reader written in Python.
_DAMAGE = (
    pickle.UnpicklingError,
    *(EOFError, ValueError, TypeError, LookupError, AttributeError),
    *(OverflowError, MemoryError, RecursionError, NotImplementedError, ImportError),
)


def loads(data: bytes) -> Any:
    """The value in a pickle.

    Raises:
      UserError: it is damaged, or names anything that is not admitted.
    """
    try:
        return _Finished().plain(_Reader(io.BytesIO(data)).load(), 0)
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"the pickle cannot be read: {reason}") from error


class _Type:
    """A NumPy type before it is checked."""

    def __init__(self, kind: Any, *_: Any):
        match = _KIND.fullmatch(kind) if isinstance(kind, str) else None
        if match is None:
            raise pickle.UnpicklingError("only NumPy arrays of numbers and text are admitted")
        self.kind, self.size, self.order = match.group(1), int(match.group(2)), "<"

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "=") or state[2:5] != (None, None, None):
            raise pickle.UnpicklingError("only plain NumPy types are admitted")
        self.order = "<" if order in "|=" else order

    def made(self) -> np.dtype:
        return np.dtype(f"{self.order}{self.kind}{self.size}")


class _Array:
    """A NumPy array before it is checked."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        self.value = _array(data, kind, shape, "F" if fortran else "C")


def _array(data: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(kind, _Type) or not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError("only NumPy arrays of numbers and text are admitted")
    sizes = tuple(int(size) for size in shape)
    wanted = math.prod(sizes) * kind.made().itemsize
    if len(sizes) > 8 or min(sizes, default=0) < 0 or wanted != len(data):
        raise pickle.UnpicklingError(f"an array of shape {sizes} and {len(data)} bytes")
    return np.frombuffer(bytes(data), kind.made()).reshape(sizes, order=order)


def _reconstruct(cls: Any, shape: Any, kind: Any) -> _Array:
    del shape, kind
    if cls is not _Array:
        raise pickle.UnpicklingError("only NumPy's own arrays are admitted")
    return _Array()


def _scalar(kind: Any, data: Any) -> Any:
    return _array(data, kind, (), "C")[()]


def _encode(text: Any, encoding: Any) -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError("only bytes are admitted")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    return b""


class _Call:
    """A function without attributes, so that a pickle cannot change any."""

    __slots__ = ("__call",)

    def __init__(self, call: Callable[..., Any]):
        object.__setattr__(self, "_Call__call", call)

    def __call__(self, *arguments: Any) -> Any:
        return self.__call(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"it sets {name} where nothing can be set")


_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _Call(_encode),  # how protocols 0 to 2 write bytes
    ("__builtin__", "bytes"): _Call(_empty_bytes),
    ("builtins", "bytes"): _Call(_empty_bytes),
    **{(module, "_reconstruct"): _Call(_reconstruct) for module in _MULTIARRAY},
    **{(module, "scalar"): _Call(_scalar) for module in _MULTIARRAY},
    **{(module, "_frombuffer"): _Call(_array) for module in _NUMERIC},
}


class _Reader(pickle._Unpickler):  # type: ignore[name-defined]
    """In Python: the C reader allocates as much as a hostile index says."""

    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for."""
        found = _ADMITTED.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not admitted")
        return found


class _Finished:
    """Puts arrays in their places; one list that stands in many places counts as often."""

    def __init__(self) -> None:
        self._left = _MAX_VALUES

    def plain(self, value: Any, depth: int) -> Any:
        """The value; UnpicklingError for what is too deep, too much or not admitted."""
        self._left -= 1
        if depth > _MAX_DEPTH or self._left < 0:
            raise pickle.UnpicklingError(
                f"nested more than {_MAX_DEPTH} deep, or more than {_MAX_VALUES} values"
            )
        if isinstance(value, _Array):
            if value.value is None:
                raise pickle.UnpicklingError("an array without content")
            return value.value
        if type(value) is dict:
            items = value.items()
            return {self.plain(k, depth + 1): self.plain(v, depth + 1) for k, v in items}
        if type(value) in (list, tuple):
            return type(value)(self.plain(item, depth + 1) for item in value)
        if value is None or isinstance(value, _SIMPLE):
            return value
        raise pickle.UnpicklingError(f"a {type(value).__name__} is not admitted")
