"""A data set turned into ArrayRecord files through a TensorFlow Datasets builder, part by part.

What is written, and how it is read, is in `jaxqa.data.prepared`. A part is a folder that appears
whole or not at all; a killed run is run again, finished parts are kept, a cut one starts again.
TensorFlow is not needed: the images stay the encoded bytes that they are.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxqa.data import discovery, images, own, prepared, registry
from jaxqa.data.discovery import Found
from jaxqa.data.records import OWN, DatasetInfo, ImageSource, LabelledImage
from jaxqa.data.stored import TFDS_SPLIT
from jaxqa.errors import UserError
from jaxqa.files import atomic_directory, check_free_space, read_json, write_json

Progress = Callable[[str, int, int], None]
"""Called with part, images done and images in all."""

_WHOLE = "whole"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preparation:
    """What was written.

    Attributes:
        folder: The prepared data set's folder.
        parts: Part -> images in it.
        kept: Parts that an earlier run had finished.
        left_out: Name and reason of every image that is missing or unreadable.
    """

    folder: Path
    parts: dict[str, int]
    kept: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]


def prepare(
    name: str, root: Path, output: Path, *, progress: Progress = lambda *_: None
) -> Preparation:
    """Write `output`/NAME from the data set at `root`; go on where a killed run stopped.

    Raises:
        UserError: the data set cannot be read, `output` holds another one, or the disk is full.
    """
    info = registry.dataset_info(name)
    if own.is_own(info.name):
        raise UserError(f"{name}: give the table a name of the registry (#as=NAME) to prepare it")
    source = discovery.find_dataset(info, name, root)
    if source.layout is None:
        raise UserError(f"{source.folder}: {info.name} is prepared already; give the original data")
    registry.check_labels(info, source.folder, source.labels.rows)
    rows, notes = _with_all_splits(info, source)
    folder = output / info.name
    parts = _parts(info, source, rows)
    missing = {part: folder / part for part in parts if not (folder / part).exists()}
    _check_space(output, source, [row for part in missing for _, row in parts[part]])
    done = {part: _Part(folder / part, source, members) for part, members in parts.items()}
    for part, writer in done.items():
        writer.write(lambda count, total, part=part: progress(part, count, total))
    result = Preparation(
        folder=folder,
        parts={part: writer.count() for part, writer in done.items()},
        kept=tuple(part for part in parts if part not in missing),
        left_out=tuple(item for writer in done.values() for item in writer.left_out()),
    )
    _write_manifest(info, source, result, notes)
    return result


def _write_manifest(info: DatasetInfo, source: Found, made: Preparation, notes: list[str]) -> None:
    assert source.layout is not None  # `prepare` refused it
    manifest = {
        "format": prepared.FORMAT,
        "name": info.name,
        "source": str(source.folder),
        "layout": source.layout.name,
        "parts": made.parts,
        "left_out": [list(item) for item in made.left_out],
        "notes": [*source.labels.notes, *notes],
    }
    temporary = made.folder / f".{prepared.MANIFEST}.tmp"
    write_json(temporary, manifest)
    temporary.replace(made.folder / prepared.MANIFEST)


def _with_all_splits(info: DatasetInfo, source: Found) -> tuple[list[LabelledImage], list[str]]:
    """Rows that know their part in every split, so that the lists are not needed any more."""
    rows, notes = source.labels.rows, []
    parts: list[dict[str, str]] = [dict(row.parts) for row in rows]
    for scheme in registry.split_names(info, rows):
        try:
            assigned = registry.assign(info, source, scheme)
        except UserError as error:
            notes.append(f"split {scheme} is not available in the prepared set: {error}")
            continue
        for known, part in zip(parts, assigned, strict=True):
            known |= {} if part is None else {scheme: part}
    return [dataclasses.replace(r, parts=p) for r, p in zip(rows, parts, strict=True)], notes


def _parts(
    info: DatasetInfo, source: Found, rows: Sequence[LabelledImage]
) -> dict[str, list[tuple[int, LabelledImage]]]:
    """Part of the data set's own split -> numbered rows; one part where it has none."""
    if not rows:
        raise UserError(f"{source.folder}: {info.name} is empty: its label file has no rows")
    parts: dict[str, list[tuple[int, LabelledImage]]] = {}
    for number, row in enumerate(rows):
        parts.setdefault(row.parts.get(OWN, _WHOLE), []).append((number, row))
    return parts


def _check_space(output: Path, source: Found, rows: Sequence[LabelledImage]) -> None:
    """UserError unless there is room for the records, and once more while they are written."""
    found = (file for row in rows for file in source.images(row))
    sizes = (file.stat().st_size for file in found if isinstance(file, Path))
    output.mkdir(parents=True, exist_ok=True)
    check_free_space(output, 2 * sum(sizes))


class _Part:
    """One part: written once, all at once."""

    def __init__(
        self, folder: Path, source: Found, rows: Sequence[tuple[int, LabelledImage]]
    ) -> None:
        self._folder = folder
        self._source = source
        self._rows = rows

    def count(self) -> int:
        """Images in the finished part."""
        return read_json(self._folder / prepared.PART)["count"]

    def left_out(self) -> list[tuple[str, str]]:
        """Name and reason of the images that are not in the finished part."""
        return [
            (name, reason) for name, reason in read_json(self._folder / prepared.PART)["left_out"]
        ]

    def write(self, progress: Callable[[int, int], None]) -> None:
        """Write the part, unless it is there."""
        fingerprint = self._fingerprint()
        if self._folder.exists():
            self._check_same(fingerprint)
            return
        _sweep(self._folder)
        with atomic_directory(self._folder) as temporary:
            lines: list[str] = []
            left_out: list[tuple[str, str]] = []
            examples = self._examples(lines, left_out, progress)
            _build(temporary, examples)
            (temporary / prepared.LABELS).write_text("".join(f"{line}\n" for line in lines))
            _check_order(prepared.builder_folder(temporary), lines)
            description = {
                "fingerprint": fingerprint,
                "count": len(lines),
                "left_out": [list(item) for item in left_out],
            }
            write_json(temporary / prepared.PART, description)

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for number, row in self._rows:
            digest.update(prepared.as_line(row, number, []).encode())
        return digest.hexdigest()

    def _check_same(self, fingerprint: str) -> None:
        path = self._folder / prepared.PART
        if not path.is_file() or read_json(path).get("fingerprint") != fingerprint:
            raise UserError(
                f"{self._folder}: holds something else, or was prepared from other labels; delete "
                "it or choose another --output"
            )

    def _examples(
        self,
        lines: list[str],
        left_out: list[tuple[str, str]],
        progress: Callable[[int, int], None],
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Records for the builder; an image that cannot be read costs itself only."""
        for done, (number, row) in enumerate(self._rows, start=1):
            try:
                encoded = [self._encoded(file) for file in self._source.images(row)]
                sizes = [_whole_size(data, row.name) for data in encoded]
            except UserError as error:
                left_out.append((row.name, str(error).removeprefix(f"{row.name}: ")))
            else:
                lines.append(prepared.as_line(row, number, sizes))
                yield len(lines) - 1, {"name": row.name, "images": encoded}
            progress(done, len(self._rows))
        if not lines:
            raise UserError(
                f"{self._source.folder}: none of {len(self._rows)} images can be read, first "
                f"{': '.join(left_out[0])}"
            )

    def _encoded(self, file: ImageSource | None) -> bytes:
        if file is None:
            homes = ", ".join(str(home) for home in self._source.homes)
            raise UserError(f"the image file is missing; looked in {homes}")
        if isinstance(file, bytes):
            return file
        try:
            return file.read_bytes()
        except OSError as error:
            raise UserError(f"{file}: cannot read the image file: {error.strerror}") from error


def _sweep(folder: Path) -> None:
    """Remove what killed processes of this machine left beside a part (see `atomic_directory`)."""
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):
        process = left.name.split(".")[-2]
        if process.isdecimal() and not _is_alive(int(process)):
            shutil.rmtree(left, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # asks, sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True


def _whole_size(data: bytes, name: str) -> tuple[int, int]:
    """Height and width of an image that decodes to its end: headers of cut files look whole."""
    height, width, _ = images.decode(data, name=name).shape
    return height, width


class Images(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Encoded images by name, in the order in which they are given."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # nothing is downloaded: there are no checksums beside the code

    def __init__(self, examples: Iterator[tuple[int, dict[str, Any]]], data_dir: str):
        """Take the examples, once, and the folder."""
        self._examples = examples
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        encoded = tfds.features.Tensor(shape=(), dtype=np.object_)  # bytes
        features = {"name": tfds.features.Text(), "images": tfds.features.Sequence(encoded)}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {TFDS_SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from self._examples


def _build(folder: Path, examples: Iterator[tuple[int, dict[str, Any]]]) -> None:
    tfds.disable_progress_bar()  # progress is reported by image
    with contextlib.redirect_stdout(io.StringIO()):  # it announces folders that will be renamed
        builder = Images(examples, str(folder))
        builder.download_and_prepare(download_dir=str(folder / "downloads"))
    shutil.rmtree(folder / "downloads", ignore_errors=True)


def _check_order(folder: Path, lines: Sequence[str]) -> None:
    """UserError unless the records are those of the lines, looked at here and there."""
    builder: Any = tfds.builder_from_directory(folder)
    records = builder.as_data_source(TFDS_SPLIT)
    if len(records) != len(lines):
        raise UserError(f"{folder}: {len(records)} records, expected {len(lines)}; try again")
    for place in {0, len(lines) // 2, len(lines) - 1}:
        name = records[place]["name"].decode()
        if f'"name": {prepared.as_json(name)}' not in lines[place]:
            raise UserError(f"{folder}: record {place} is {name}, expected {lines[place]}")
