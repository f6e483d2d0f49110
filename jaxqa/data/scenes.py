"""Real photographs that are already on the machine: found in installed packages, never downloaded.

A *scene* is one picture somebody took. Colour photographs serve for training, validation and
test; grey and scientific pictures ("auxiliary") only for training. Train, validation and test
never share a scene: `split_scenes` deals whole scenes.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from jaxqa.errors import UserError

Split = Literal["train", "validation", "test"]

MAX_SIDE = 768
"""Longest side of a loaded scene in pixels."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One picture on disk and what may be done with it."""

    name: str
    path: Path
    kind: Literal["photograph", "auxiliary"]
    source: str
    licence: str


@dataclass(frozen=True, kw_only=True)
class _Entry:
    name: str
    package: str
    file: str
    kind: Literal["photograph", "auxiliary"]
    licence: str


def _photographs(package: str, folder: str, licences: dict[str, str]) -> list[_Entry]:
    return [
        _Entry(
            name=Path(file).stem,
            package=package,
            file=f"{folder}/{file}",
            kind="photograph",
            licence=licence,
        )
        for file, licence in licences.items()
    ]


_PACKAGED = (
    *_photographs(
        "skimage",
        "data",
        {
            "astronaut.png": "public domain (NASA)",
            "chelsea.png": "CC0-1.0",
            "coffee.png": "CC0-1.0",
            "rocket.jpg": "public domain (SpaceX)",
            "motorcycle_left.png": "Middlebury Stereo 2014, as shipped in scikit-image",
        },
    ),
    *_photographs(
        "sklearn",
        "datasets/images",
        {
            "china.jpg": "CC-BY-2.0 (danielbuechele)",
            "flower.jpg": "CC-BY-2.0 (vultilion)",
        },
    ),
    *_photographs(
        "matplotlib",
        "mpl-data/sample_data",
        {"grace_hopper.jpg": "public domain (US Navy), as shipped in matplotlib"},
    ),
    *(
        _Entry(name=Path(file).stem, package="skimage", file=f"data/{file}", kind="auxiliary",
               licence=licence)
        for file, licence in {
            "brick.png": "CC0-1.0",
            "camera.png": "CC0-1.0",
            "coins.png": "no known restrictions",
            "grass.png": "CC0-1.0",
            "gravel.png": "CC0-1.0",
            "hubble_deep_field.jpg": "public domain (NASA)",
            "ihc.png": "no known restrictions",
            "moon.png": "public domain (NASA)",
            "retina.jpg": "CC0-1.0",
        }.items()
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Wallpapers:
    """Photographs of one Debian package: files are `folder`/NAME`tail`."""

    package: str
    folder: str
    tail: str
    licence: str
    names: tuple[str, ...]


_WALLPAPERS = (
    _Wallpapers(
        package="lomiri-wallpapers",
        folder="usr/share/backgrounds",
        tail=".jpg",
        licence="CC-BY-4.0, CC-BY-SA or CC0-1.0: see /usr/share/doc/lomiri-wallpapers-*/copyright",
        names=(
            "Bridge_by_Sander_Klootwijk",
            "Dragonfly_by_Bolly",
            "Kleiber_by_Lukas_Baubkus",
            "Picture_0B_by_freespace",
            "Picture_1A_by_freespace",
            "Wine_by_Jakkub_Mede",
            "aitzgorri_by_Aitzol_Berasategi",
            "free_by_Peter_Nerlich",
            "friends_by_Aitzol_Berasategi",
            "greentock_by_Peter_Nerlich",
            "life_by_Aitzol_Berasategi",
            "picosdeeuropa_by_Aitzol_Berasategi",
            "seeding_by_Clements_Engelhardt",
            "sunset_by_Aitzol_Berasategi",
        ),
    ),
    _Wallpapers(
        package="mate-backgrounds",
        folder="usr/share/backgrounds/mate/nature",
        tail=".jpg",
        licence="GPL-2+",
        names=(
            "Aqua", "Blinds", "Dune", "FreshFlower", "Garden", "GreenMeadow", "LadyBird",
            "RainDrops", "Storm", "TwoWings", "Wood", "YellowFlower",
        ),
    ),
    _Wallpapers(
        package="plasma-workspace-wallpapers",
        folder="usr/share/wallpapers",
        tail="/contents/images/2560x1600.jpg",
        licence="GPL-2+",
        names=(
            "BytheWater", "ColdRipple", "ColorfulCups", "DarkestHour", "EveningGlow",
            "FallenLeaf", "Grey", "Kite", "OneStandsOut", "Path", "summer_1am",
        ),
    ),
)  # fmt: skip
"""Photographs only: the packages' renders, paintings and patterns are left out."""


def wallpaper_scenes(root: Path = Path("/")) -> list[Scene]:
    """Return the photographs of Debian's wallpaper packages that are installed under `root`."""
    scenes = []
    for package in _WALLPAPERS:
        for name in package.names:
            path = root / package.folder / f"{name}{package.tail}"
            if path.is_file():
                scenes.append(
                    Scene(
                        name=name,
                        path=path,
                        kind="photograph",
                        source=f"{package.package}/{name}",
                        licence=package.licence,
                    )
                )
    return scenes


def find_scenes(*, wallpapers: bool) -> list[Scene]:
    """Return all scenes on this machine, in a stable order.

    Raises:
        UserError: fewer than four photographs are installed.
    """
    found = packaged_scenes() + (wallpaper_scenes() if wallpapers else [])
    photographs = sum(scene.kind == "photograph" for scene in found)
    if photographs < 4:
        raise UserError(
            f"found {photographs} photographs in the installed scikit-image, scikit-learn and "
            "matplotlib, expected at least 4; install these packages again"
        )
    return found


def _package_root(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent


def packaged_scenes() -> list[Scene]:
    """Return the pictures inside the installed scikit-image, scikit-learn and matplotlib."""
    scenes = []
    for entry in _PACKAGED:
        root = _package_root(entry.package)
        if root is not None and (root / entry.file).is_file():
            scenes.append(
                Scene(
                    name=entry.name,
                    path=root / entry.file,
                    kind=entry.kind,
                    source=f"{entry.package}/{entry.file}",
                    licence=entry.licence,
                )
            )
    return scenes


def load_scene(scene: Scene) -> np.ndarray:
    """Read a scene as uint8 [H W 3]; grey pictures get three equal channels.

    Pictures with a side beyond 768 are shrunk to it by averaging, which also takes away the
    traces of their own compression.
    """
    try:
        with Image.open(scene.path) as image:
            if max(image.size) > 2 * MAX_SIDE:
                image.draft("RGB", (2 * MAX_SIDE, 2 * MAX_SIDE))  # JPEG: decode at lower size
            picture = image.convert("RGB")
    except OSError as error:
        raise UserError(f"scene {scene.name}: cannot read {scene.path} ({error})") from error
    if max(picture.size) > MAX_SIDE:
        scale = MAX_SIDE / max(picture.size)
        size = (round(picture.width * scale), round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.BOX)
    return np.asarray(picture)


def split_scenes(
    photographs: Sequence[Scene], *, fold: int, num_folds: int, num_validation: int
) -> dict[str, Split]:
    """Deal photographs into splits; over all folds every one is tested exactly once.

    Photographs are taken in the order of their names. Those at places `fold`, `fold + num_folds`,
    ... are the test split; the first `num_validation` of the next fold's are the validation split.
    """
    names = sorted(scene.name for scene in photographs)
    if not 2 <= num_folds <= len(names):
        raise UserError(f"num_folds must be 2 to {len(names)} (photographs), found {num_folds}")
    if not 0 <= fold < num_folds:
        raise UserError(f"fold must be 0 to {num_folds - 1}, found {fold}")
    test = set(names[fold::num_folds])
    validation = set(names[(fold + 1) % num_folds :: num_folds][:num_validation])
    if not validation or len(test) + len(validation) >= len(names):
        raise UserError(
            f"{len(names)} photographs in {num_folds} folds with {num_validation} for validation "
            "leave a split empty; use fewer validation scenes or other folds"
        )
    return {
        name: "test" if name in test else "validation" if name in validation else "train"
        for name in names
    }
