"""Small files read with bounds, directories written whole or not at all."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxqa.errors import UserError

MAX_JSON_BYTES = 64 * 2**20
"""Far above any index or tokenizer file; a larger "JSON" is a mistake or an attack."""

_SAMPLED_BYTES = 65536


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      UserError: the file is missing, unreadable, too large, not JSON, or not an object.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise UserError(f"{path}: larger than {MAX_JSON_BYTES} bytes, too large for JSON")
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}; restore the file") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write indented JSON with a final newline, keys in the order given."""
    Path(path).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def check_writable_target(path: str | os.PathLike[str]) -> None:
    """Raise UserError unless `path` is free or an empty directory."""
    path = Path(path)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(f"output {path} exists and is not a directory; choose another path")
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"output directory {path} is not empty; choose another or empty it first")


def check_free_space(directory: Path, needed: int) -> None:
    """Raise UserError if the disk of an existing `directory` has fewer than `needed` bytes free."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise UserError(
            f"cannot write {needed / 1e9:.3g} GB below {directory}: {free / 1e9:.3g} GB are free; "
            "make room or choose another disk"
        )


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new directory beside `path` that takes its name when the block ends without an error.

    After a failure nothing is left; after a kill only a hidden `.NAME.PID.tmp` directory is.

    Raises:
      UserError: `path` is taken, or the disk refuses (read-only, full, no permission).
    """
    path = Path(path)
    check_writable_target(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)  # of an earlier process with this number
        temporary.mkdir()
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; check free space and permissions"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def holding(directory: Path) -> Iterator[None]:
    """Wait until no other process holds an existing `directory`, and hold it for the block.

    Advisory: it parts those who ask. A file system without locks parts nobody.
    """
    handle = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def weights_digest(directory: Path) -> str:
    """A digest of the sizes and of samples of all weight files: another training, another digest.

    Reading 70 GB to find out whether they are the same would take longer than many evaluations.
    """
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(directory)} {size}\n".encode())
        with path.open("rb") as file:
            for place in (0, size // 3, 2 * size // 3, max(0, size - _SAMPLED_BYTES)):
                file.seek(place)
                digest.update(file.read(_SAMPLED_BYTES))
    return digest.hexdigest()
