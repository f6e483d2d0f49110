"""One data set as found on disk: its labels and how to get at its images."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxqa.data import own, places, prepared, readers
from jaxqa.data.layouts import Layout
from jaxqa.data.records import DatasetInfo, ImageSource, LabelledImage, Labels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """A data set that was found.

    Attributes:
        folder: Its folder.
        layout: The arrangement of its files; None where it is prepared.
        labels: All its rows.
        images: The images of a row; None for each that is missing.
        homes: Folders in which images are looked for.
    """

    folder: Path
    layout: Layout | None
    labels: Labels
    images: Callable[[LabelledImage], Sequence[ImageSource | None]]
    homes: Sequence[Path]


def find_dataset(info: DatasetInfo, name: str, root: Path) -> Found:
    """Find a data set and read its labels.

    Raises:
        UserError: it is not there, or its files are not what they should be.
    """
    if own.is_own(name):
        place = places.Place(folder=own.own_folder(name, root), layout=info.layouts[0])
        return _from_files(place, extra=root, own_files=True)
    folder = prepared.find(info.name, root)
    if folder is not None:
        return Found(
            folder=folder,
            layout=None,
            labels=prepared.read_labels(info.name, folder),
            images=lambda row: row.encoded,
            homes=[folder],
        )
    return _from_files(places.find(info, root))


def _from_files(
    place: places.Place, *, extra: Path | None = None, own_files: bool = False
) -> Found:
    labels = readers.READERS[place.layout.reader](place.folder, place.layout)
    files = places.ImageFiles(place, extra=extra, own=own_files)

    def images(row: LabelledImage) -> tuple[ImageSource | None, ...]:
        return row.encoded or files.find(row)

    labels = Labels(rows=labels.rows, notes=(*labels.notes, *place.layout.notes))
    return Found(
        folder=place.folder,
        layout=place.layout,
        labels=labels,
        images=images,
        homes=files.homes,
    )
