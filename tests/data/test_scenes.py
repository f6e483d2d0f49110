from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxqa.data import scenes
from jaxqa.errors import UserError


def _scene(name, path=Path("/nowhere.png")):
    return scenes.Scene(name=name, path=path, kind="photograph", source="test", licence="none")


def test_installed_packages_hold_photographs():
    found = scenes.packaged_scenes()
    photographs = {scene.name for scene in found if scene.kind == "photograph"}
    assert {"astronaut", "chelsea", "coffee", "rocket", "china", "flower"} <= photographs
    assert all(scene.licence and scene.source for scene in found)
    assert len({scene.name for scene in found}) == len(found)


@pytest.mark.parametrize("name", ["chelsea", "grace_hopper", "camera", "retina"])
def test_scenes_load_as_rgb_of_bounded_size(name):
    scene = next(scene for scene in scenes.packaged_scenes() if scene.name == name)
    picture = scenes.load_scene(scene)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert max(picture.shape) <= scenes.MAX_SIDE
    with Image.open(scene.path) as image:
        assert abs(picture.shape[1] / picture.shape[0] - image.width / image.height) < 0.01
    if name == "camera":  # grey
        assert (picture[..., 0] == picture[..., 2]).all()


def test_wallpapers_are_found_where_debian_puts_them(tmp_path):
    assert scenes.wallpaper_scenes(tmp_path) == []
    places = {
        "Dune": "usr/share/backgrounds/mate/nature/Dune.jpg",
        "Path": "usr/share/wallpapers/Path/contents/images/2560x1600.jpg",
        "Wine_by_Jakkub_Mede": "usr/share/backgrounds/Wine_by_Jakkub_Mede.jpg",
    }
    for place in [*places.values(), "usr/share/backgrounds/a_render.jpg"]:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2000, 1000), "red").save(tmp_path / place)
    found = scenes.wallpaper_scenes(tmp_path)
    assert {scene.name: str(scene.path.relative_to(tmp_path)) for scene in found} == places
    assert scenes.load_scene(found[0]).shape == (384, 768, 3)


def test_damaged_scene_is_named(tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"not a picture")
    with pytest.raises(UserError, match="broken"):
        scenes.load_scene(_scene("broken", path))


@pytest.mark.parametrize(
    "num_scenes, num_folds, num_validation", [(8, 4, 1), (8, 4, 2), (45, 4, 5)]
)
def test_every_photograph_is_tested_once_over_the_folds(num_scenes, num_folds, num_validation):
    photographs = [_scene(f"s{i:02d}") for i in range(num_scenes)]
    tested = []
    for fold in range(num_folds):
        splits = scenes.split_scenes(
            photographs, fold=fold, num_folds=num_folds, num_validation=num_validation
        )
        assert set(splits) == {scene.name for scene in photographs}
        parts = list(splits.values())
        assert parts.count("validation") == num_validation and parts.count("train") > 0
        tested += [name for name, part in splits.items() if part == "test"]
    assert sorted(tested) == sorted(scene.name for scene in photographs)


def test_splits_do_not_depend_on_the_order_of_scenes():
    photographs = [_scene(name) for name in "gbfacdeh"]
    options = {"fold": 1, "num_folds": 4, "num_validation": 1}
    forwards = scenes.split_scenes(photographs, **options)
    assert forwards == scenes.split_scenes(photographs[::-1], **options)


@pytest.mark.parametrize(
    "fold, num_folds, num_validation, message",
    [
        (4, 4, 1, "fold must be 0 to 3"),
        (0, 9, 1, "num_folds"),
        (0, 2, 4, "empty"),
        (0, 4, 0, "empty"),
    ],
)
def test_impossible_splits_are_refused(fold, num_folds, num_validation, message):
    photographs = [_scene(name) for name in "abcdefgh"]
    with pytest.raises(UserError, match=message):
        scenes.split_scenes(
            photographs, fold=fold, num_folds=num_folds, num_validation=num_validation
        )
