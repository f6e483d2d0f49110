"""Where data sets are looked for: folders one level off, two at once, names that lead astray."""

import pytest
from layout_files import write_csv, write_images, write_json, write_lines

from jaxqa.data import preparation, registry
from jaxqa.errors import UserError


def _tad(home):
    write_csv(home / "merge" / "train.csv", ["image", "score"], [["a.jpg", 5]])
    write_csv(home / "merge" / "test.csv", ["image", "score"], [["b.jpg", 6]])
    write_images(home / "TAD66K", ["a.jpg", "b.jpg"])


@pytest.mark.parametrize("folder", ["tad66k", "TAD66K", "."])
def test_folder_by_name_or_as_root(tmp_path, folder):
    _tad(tmp_path / folder)
    assert len(registry.read_dataset("tad66k", tmp_path, "all")) == 2


def test_folder_too_deep_or_too_shallow_is_said(tmp_path):
    _tad(tmp_path / "downloads" / "tad")
    home = tmp_path / "downloads" / "tad"
    with pytest.raises(UserError, match=rf"it lies deeper, in {home}: give that folder"):
        registry.read_dataset("tad66k", tmp_path, "all")
    with pytest.raises(UserError, match=rf"it lies higher, in {home}: give that folder"):
        registry.read_dataset("tad66k", home / "TAD66K", "all")
    with pytest.raises(UserError, match=rf"there is no folder {tmp_path}/none"):
        registry.read_dataset("tad66k", tmp_path / "none", "all")


def test_a_folder_with_its_usual_name_two_levels_down_is_said(tmp_path):
    _tad(tmp_path / "a" / "b" / "TAD66K")
    home = tmp_path / "a" / "b" / "TAD66K"
    with pytest.raises(UserError, match=rf"it lies deeper, in {home}: give that folder"):
        registry.read_dataset("tad66k", tmp_path, "all")


def test_a_prepared_set_one_level_off_is_said(tmp_path):
    _tad(tmp_path / "original")
    preparation.prepare("tad66k", tmp_path / "original", tmp_path / "a" / "out")
    home = tmp_path / "a" / "out" / "tad66k"
    for root, word in ((tmp_path / "a", "deeper"), (home / "train", "higher")):
        with pytest.raises(UserError, match=rf"it lies {word}, in {home}: give that folder"):
            registry.read_dataset("tad66k", root, "all")


def test_a_strangers_manifest_is_no_hindrance(tmp_path):
    _tad(tmp_path)
    for content in ("[1]", "{", '{"format": "theirs"}'):
        (tmp_path / "dataset.json").write_text(content)
        assert len(registry.read_dataset("tad66k", tmp_path, "all")) == 2


def test_images_one_level_too_shallow_are_said(tmp_path):
    write_lines(tmp_path / "FLICKR-AES_image_score.txt", ["a.jpg 0.5"])
    write_images(tmp_path, ["a.jpg"])
    with pytest.raises(
        UserError,
        match=rf"looked in {tmp_path}/40K, .*; a\.jpg lies in {tmp_path}: move the images to "
        rf"{tmp_path}/40K$",
    ):
        registry.read_dataset("flickr_aes", tmp_path, "all")


def test_nothing_there_names_what_was_looked_for(tmp_path):
    with pytest.raises(
        UserError,
        match=r"found none of its label files; put the data set there or give another data root "
        r"\(https://github.*looked in .*/tad66k, .*/TAD66K and .*dataset/merge/train\.csv \(off",
    ):
        registry.read_dataset("tad66k", tmp_path, "all")


def test_two_data_sets_with_one_name(tmp_path):
    _tad(tmp_path / "tad66k")
    _tad(tmp_path / "TAD66K")
    with pytest.raises(UserError, match=r"two data sets with one name: .*tad66k and .*TAD66K"):
        registry.read_dataset("tad66k", tmp_path, "all")


def test_a_link_is_no_second_data_set(tmp_path):
    _tad(tmp_path / "TAD66K")
    (tmp_path / "tad66k").symlink_to(tmp_path / "TAD66K")
    assert len(registry.read_dataset("tad66k", tmp_path, "all")) == 2


def test_registry_names_are_unique():
    families = [info.name for family in registry._FAMILIES for info in family.INFOS]
    assert len(families) == len(set(families)) == len(registry.DATASETS)


@pytest.mark.parametrize("name", ["../b.jpg", "/etc/passwd", "x/../../b.jpg"])
def test_names_do_not_lead_out_of_the_folder(tmp_path, name):
    home = tmp_path / "TAD66K"
    _tad(home)
    write_images(tmp_path, ["b.jpg"])
    write_csv(home / "merge" / "test.csv", ["image", "score"], [[name, 6]])
    with pytest.raises(UserError, match="lies outside the data set's folder"):
        registry.read_dataset("tad66k", tmp_path, "all")


def test_empty_split_and_duplicated_names(tmp_path):
    _tad(tmp_path)
    with pytest.raises(
        UserError, match="no images in split 'validation': official has train 1, test 1"
    ):
        registry.read_dataset("tad66k", tmp_path, "validation")
    write_csv(tmp_path / "merge" / "test.csv", ["image", "score"], [["a.jpg", 6]])
    with pytest.raises(
        UserError, match=r"test\.csv, line 2: a\.jpg is listed twice, first in .*tr"
    ):
        registry.read_dataset("tad66k", tmp_path, "all")


def test_first_layout_found_is_read(tmp_path):
    _tad(tmp_path)
    write_json(tmp_path / "IAA" / "TAD66K.json", [{"image": "a.jpg", "gt_score": 1.5}])
    assert len(registry.read_dataset("tad66k", tmp_path, "all")) == 2


def test_image_folders_of_another_case(tmp_path):
    _tad(tmp_path)
    (tmp_path / "TAD66K").rename(tmp_path / "tad66K_")
    (tmp_path / "tad66K_").rename(tmp_path / "Images")
    assert len(registry.read_dataset("tad66k", tmp_path, "all")) == 2
