"""Where a data set's files are: its folder below the data root, and its images in the folder."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from jaxqa.data import nearby, prepared
from jaxqa.data.layouts import Layout
from jaxqa.data.readers import plain
from jaxqa.data.records import DatasetInfo, LabelledImage
from jaxqa.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where a data set was found.

    Attributes:
        folder: Its folder.
        layout: The arrangement that its files have.
    """

    folder: Path
    layout: Layout


def find(info: DatasetInfo, root: Path) -> Place:
    """The data set's folder: `root/NAME`, one of its usual folders below `root`, or `root`.

    Raises:
        UserError: none of them, with what was looked for and, one level off, where it is; or
            several.
    """
    named = [root / name for name in (info.name, *info.folders)]
    found = _different([place for folder in named if (place := _recognise(info, folder))])
    if len(found) > 1:
        places = " and ".join(str(place.folder) for place in found)
        raise UserError(f"{info.name}: two data sets with one name: {places}; keep one of them")
    place = found[0] if found else _recognise(info, root)
    if place is None:
        raise UserError(_not_found(info, root))
    return place


def _recognise(info: DatasetInfo, folder: Path) -> Place | None:
    for layout in info.layouts:
        if plain.present(folder, layout):
            return Place(folder=folder, layout=layout)
    return None


def _different(places: list[Place]) -> list[Place]:
    """Without second names of one folder (links, or a disk that ignores case)."""
    kept: list[Place] = []
    for place in places:
        if not any(os.path.samefile(place.folder, other.folder) for other in kept):
            kept.append(place)
    return kept


def _not_found(info: DatasetInfo, root: Path) -> str:
    files = {layout.name: layout.files[0].paths[0] for layout in reversed(info.layouts)}
    looked = ", ".join(f"{file} ({name})" for name, file in reversed(files.items()))
    places = ", ".join(str(root / name) for name in (info.name, *info.folders))
    elsewhere = _elsewhere(info, root)
    if elsewhere is not None:
        where = "deeper" if root in elsewhere.parents else "higher"
        hint = f"it lies {where}, in {elsewhere}: give that folder as the data root"
    elif not root.is_dir():
        hint = f"there is no folder {root}: put the data set there or give another data root"
    else:
        hint = f"put the data set there or give another data root ({info.homepage})"
    return (
        f"{info.name}: found none of its label files; {hint}; looked in {places} and {root} for "
        f"{looked} (all layouts: `jaxqa data list {info.name}`)"
    )


def _elsewhere(info: DatasetInfo, root: Path) -> Path | None:
    """The data set's folder, as its authors give it or prepared, where it is near the root."""
    for folder in nearby.around(root):
        for home in (folder, *(folder / name for name in (info.name, *info.folders))):
            if _recognise(info, home) is not None or prepared.is_one(info.name, home):
                return home
    return None


class ImageFiles:
    """The image files of a data set, found by name whatever the case of its letters."""

    def __init__(self, place: Place, *, extra: Path | None = None, own: bool = False):
        """Look below `place` and `extra`; `own` files may also lie at absolute paths."""
        self._homes = [
            (place.folder, PurePosixPath(images).parts) for images in place.layout.images
        ] + ([] if extra is None else [(extra, ())])
        self._own = own
        self._listings: dict[Path, dict[str, str]] = {}

    @property
    def homes(self) -> list[Path]:
        """The folders that images are looked for in: those that are there, else all."""
        homes = [folder.joinpath(*images) for folder, images in self._homes]
        return [home for home in homes if home.is_dir()] or homes

    def find(self, row: LabelledImage) -> tuple[Path | None, ...]:
        """The path of each of a row's files; None where there is none.

        Raises:
            UserError: a name that leads out of the data set's folder.
        """
        return tuple(self._find(file) for file in row.files)

    def _find(self, file: str) -> Path | None:
        path = PurePosixPath(file)
        if self._own and path.is_absolute():
            return Path(file) if Path(file).is_file() else None
        if path.is_absolute() or (".." in path.parts and not self._own):
            raise UserError(f"image {file!r} lies outside the data set's folder; expected a name")
        for relative in dict.fromkeys((path.parts, path.parts[-1:])):
            for folder, images in self._homes:
                found = self._below(folder, (*images, *relative))
                if found is not None:
                    return found
        return None

    def _below(self, folder: Path, parts: Sequence[str]) -> Path | None:
        for part in parts:
            if part == "..":
                folder = folder / part
                continue
            listing = self._listing(folder)
            name = part if part in listing else listing.get(part.casefold() + "/")
            if name is None:
                return None
            folder = folder / name
        return folder if self._listing(folder.parent).get(folder.name) == "file" else None

    def _listing(self, folder: Path) -> dict[str, str]:
        """Name -> "file" or "folder", and casefolded name + "/" -> name, of a folder's entries."""
        if folder not in self._listings:
            listing: dict[str, str] = {}
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        listing[entry.name] = "file" if entry.is_file() else "folder"
                        listing.setdefault(entry.name.casefold() + "/", entry.name)
            except OSError:
                pass  # no such folder, or not to be read: nothing is found in it
            self._listings[folder] = listing
        return self._listings[folder]
