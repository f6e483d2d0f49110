"""AVA, TAD66K, FLICKR-AES, PARA, AADB and ArtiMuse-10K in their own layouts."""

import json
import math
import re

import numpy as np
import pytest
from layout_files import write_csv, write_images, write_json, write_lines

from jaxqa.data import checking, readers, registry
from jaxqa.errors import UserError
from jaxqa.reasoning import keywords
from jaxqa.reasoning.fast_slow import remarks


def _ava_line(index, image, votes):
    return " ".join(map(str, [index, image, *votes, 1, 22, 1396]))


_VOTES = {953619: (0, 1, 5, 17, 38, 36, 15, 6, 5, 1), 953958: (10, 7, 15, 26, 26, 21, 10, 8, 1, 2)}


def test_ava_mean_and_deviation_of_the_votes(tmp_path):
    home = tmp_path / "AVA"
    write_lines(home / "AVA.txt", [_ava_line(i, n, v) for i, (n, v) in enumerate(_VOTES.items())])
    write_images(home / "image", [f"{n}.jpg" for n in _VOTES])
    for example, votes in zip(
        registry.read_dataset("ava", tmp_path, "all"), _VOTES.values(), strict=True
    ):
        given = np.repeat(np.arange(1, 11), votes)
        assert example.score == pytest.approx(given.mean())
        assert example.metadata["label_std"] == pytest.approx(given.std())


def test_ava_official_test_is_what_exists_of_the_list(tmp_path):
    """20,000 ids are listed and 19,930 have images; rows without an image are left out."""
    ids = [*range(1000, 21000)]
    lines = [_ava_line(i, n, _VOTES[953619]) for i, n in enumerate([7, *ids[:5], 8])]
    write_lines(tmp_path / "AVA.txt", lines)
    write_lines(tmp_path / "aesthetics_image_lists" / "generic_test.jpgl", map(str, ids))
    write_images(tmp_path / "images", ["7.jpg", "1000.jpg", "1003.jpg", "8.jpg"])
    test = registry.read_dataset("ava", tmp_path, "official/test")
    assert [e.image.name for e in test] == ["1000.jpg", "1003.jpg"]
    train = registry.read_dataset("ava", tmp_path, "train")
    assert [e.image.name for e in train] == ["7.jpg", "8.jpg"]
    for image in (tmp_path / "images").iterdir():
        image.unlink()
    with pytest.raises(UserError, match="7 of 7 image files of ava are missing"):
        registry.read_dataset("ava", tmp_path, "all")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 953619 0 1 2", "5 values, expected 15 separated by blanks"),
        (_ava_line(1, 5, (0,) * 10), "expected at least one vote"),
        (_ava_line(1, 5, ("x",) * 10), "votes_1 is 'x', expected a finite number"),
    ],
)
def test_ava_lines_that_make_no_sense(tmp_path, line, message):
    write_lines(tmp_path / "AVA.txt", [line])
    with pytest.raises(UserError, match=rf"AVA\.txt, line 1: .*{message}"):
        registry.read_dataset("ava", tmp_path, "all")


def test_ava_of_pyiqa_has_parts_as_numbers(tmp_path):
    rows = [[f"{n}.jpg", 5.1, n % 3] for n in (300, 301, 302)]
    header = ["img_name", "MOS", "official_split"]
    write_csv(tmp_path / "meta_info" / "meta_info_AVADataset.csv", header, rows)
    write_images(tmp_path / "AVA_dataset" / "ava_images", [row[0] for row in rows])
    for part, name in (("train", "300.jpg"), ("validation", "301.jpg"), ("test", "302.jpg")):
        (example,) = registry.read_dataset("ava", tmp_path, part)
        assert example.image.name == name


def test_tad66k(tmp_path):
    home = tmp_path / "TAD66K"
    write_csv(home / "dataset/merge/train.csv", ["image", "score"], [["ab12@N05.jpg", 4.5]])
    write_csv(home / "dataset/merge/test.csv", ["image", "score"], [["hs_yin152947873.jpg", 9.28]])
    write_images(home / "TAD66K", ["ab12@N05.jpg", "hs_yin152947873.jpg"])
    (train,) = registry.read_dataset("tad66k", tmp_path, "train")
    (test,) = registry.read_dataset("tad66k", tmp_path, "official")
    assert (train.score, test.score, test.task) == (4.5, 9.28, "aesthetics")


def test_flickr_aes_lines_that_begin_with_a_blank(tmp_path):
    home = tmp_path / "FLICKR-AES"
    names = [f"farm1_{i}_x.jpg" for i in range(20)]
    write_lines(
        home / "FLICKR-AES_image_score.txt",
        [f"{' ' * (i % 2)}{name} {0.2 + i / 25:.2f}" for i, name in enumerate(names)],
    )
    write_images(home / "40K", names)
    examples = registry.read_dataset("flickr_aes", tmp_path, "all")
    assert [e.image.name for e in examples] == names
    assert examples[3].score == 0.32
    parts = [
        registry.read_dataset("flickr_aes", tmp_path, f"aes_r1/{p}") for p in ("train", "test")
    ]
    assert [len(part) for part in parts] == [18, 2]
    again = registry.read_dataset("flickr_aes", tmp_path, "aes_r1")
    assert [e.image.name for e in again] == [e.image.name for e in parts[1]]
    listed = [*names[:3], *(f"other_{i}.jpg" for i in range(4734))]
    write_json(home / "splits" / "FLICKR-AES.json", [{"image": n, "gt_score": 0} for n in listed])
    assert len(registry.read_dataset("flickr_aes", tmp_path, "test")) == 3
    assert len(registry.read_dataset("flickr_aes", tmp_path, "tatar/train")) == 17


def test_para_columns_by_name(tmp_path):
    home = tmp_path / "PARA"
    levels = [f"aestheticScore_{level / 10}" for level in range(10, 55, 5)]
    header = ["imageName", "sessionId", "semantic", *levels]
    header += ["aestheticScore_mean", "aestheticScore_std", "qualityScore_mean", "qualityScore_std"]
    for part, name, score in (("Train", "iaa_pub1_.jpg", 3.1), ("Test", "iaa_pub2_.jpg", 1.16)):
        row = [name, "session3", "animal", *[0] * 9, score, 0.4, 2.5, 0.3]
        write_csv(home / "annotation" / f"PARA-Giaa{part}.csv", header, [row])
        write_images(home / "imgs" / "session3", [name])
    (test,) = registry.read_dataset("para", tmp_path, "test")
    assert (test.score, test.metadata["label_std"]) == (1.16, 0.4)
    assert test.metadata["qualityScore_mean"] == "2.5"
    assert test.image == home / "imgs" / "session3" / "iaa_pub2_.jpg"
    assert len(registry.read_dataset("para", tmp_path, "train")) == 1


def test_aadb_with_its_misspelt_attribute(tmp_path):
    home = tmp_path / "AADB"
    lists = home / "imgListFiles_label"
    files = {"Train": "farm1_a.jpg", "Validation": "farm1_b.jpg", "TestNew": "farm1_c.jpg"}
    for part, name in files.items():
        write_lines(lists / f"imgList{part}Regression_score.txt", [f"{name} 0.65"])
        write_lines(lists / f"imgList{part}Regression_BalacingElements.txt", [f"{name} -0.2"])
        write_lines(lists / f"imgList{part}Regression_DoF.txt", [f"{name} 0.4"])
    write_lines(lists / "imgListTestRegression_score.txt", ["old_test.jpg 0.1"])
    write_images(home / "datasetImages_originalSize", ["farm1_a.jpg", "farm1_b.jpg"])
    write_images(home / "AADB_newtest_originalSize", ["farm1_c.jpg"])
    for part, name in zip(("train", "validation", "test"), files.values(), strict=True):
        (example,) = registry.read_dataset("aadb", tmp_path, part)
        assert (example.image.name, example.score) == (name, 0.65)
        attributes = {k: v for k, v in example.metadata.items() if k != "reference"}
        assert attributes == {"balancing_elements": -0.2, "depth_of_field": 0.4}
    (lists / "imgListTestNewRegression_score.txt").unlink()
    write_images(home / "datasetImages_originalSize", ["old_test.jpg"])
    (example,) = registry.read_dataset("aadb", tmp_path, "test")
    assert example.image.name == "old_test.jpg"


def test_artimuse(tmp_path):
    write_json(tmp_path / "train_iaa.json", [{"image": "18_7.jpg", "gt_score": 0.0}])
    write_json(tmp_path / "IAA/ArtiMuse-10K.json", [{"image": "0_263.jpg", "gt_score": 9.78}])
    write_images(tmp_path / "images", ["18_7.jpg", "0_263.jpg"])
    (train,) = registry.read_dataset("artimuse10k", tmp_path, "train")
    (test,) = registry.read_dataset("artimuse10k", tmp_path, "test")
    assert (train.score, test.score) == (0.0, 9.78)
    assert (train.metadata["category"], test.metadata["category"]) == (18, 0)
    assert "aesthetic_attributes" not in train.metadata


def remark(image, attribute, text, *, aspect="aespect"):
    asked = f"<image>\nPlease evaluate the aesthetic quality of this image from the {aspect} of "
    said = [{"from": "human", "value": asked + attribute}, {"from": "gpt", "value": text}]
    return json.dumps({"image": f"some/folder/{image}", "conversations": said})


def artimuse(folder, *lines):
    write_json(folder / "train_iaa.json", [{"image": "18_7.jpg", "gt_score": 5.0}])
    write_lines(folder / "ArtiMuse-10K_text.jsonl", lines)
    write_images(folder / "images", ["18_7.jpg"])


def test_remarks_of_artimuse_are_joined_by_file_name(tmp_path):
    artimuse(
        tmp_path,
        remark("18_7.jpg", "Composition & Structure", "Too much sky."),
        remark("18_7.jpg", "Emotion & Viewer Response.", " Calm.\n", aspect="aspect"),
        remark("18_7.jpg", "Comprehensive Evaluation?", "Fair."),
        remark("18_7.jpg", "Composition & Design", "Too much sky, after all."),
        remark("0_1.jpg", "Overall Gestalt", "Of an image that no list has."),
    )
    (example,) = registry.read_dataset("artimuse10k", tmp_path, "train")
    assert example.metadata["aesthetic_attributes"] == {
        "composition_structure": "Too much sky, after all.",  # of two about one, the last
        "emotion_viewer_response": "Calm.",
        "overall_evaluation": "Fair.",
    }
    facts = "\n".join(checking.check("artimuse10k", tmp_path).facts)
    assert "experts' remarks on 1 of 1 images, from ArtiMuse-10K_text.jsonl" in facts
    told = remarks(example.metadata["aesthetic_attributes"]).splitlines()
    assert told[0] == "composition structure: Too much sky, after all." and len(told) == 3


def test_artimuse_merged_with_its_remarks(tmp_path):
    attributes = {"overall_gestalt": "One whole."}
    row = {"image": "18_7.jpg", "gt_score": 5.0, "aesthetic_attributes": attributes}
    write_json(tmp_path / "train_iaa.json", [row])
    write_images(tmp_path / "images", ["18_7.jpg"])
    (example,) = registry.read_dataset("artimuse10k", tmp_path, "train")
    assert example.metadata["aesthetic_attributes"] == attributes
    own = f"file:{tmp_path / 'train_iaa.json'}#range=0..10,task=aesthetics"
    (example,) = registry.read_dataset(own, tmp_path, "all")
    assert example.metadata["aesthetic_attributes"] == attributes


def test_every_attribute_of_artimuse_is_one_that_narratives_tell():
    assert set(readers.artimuse.ATTRIBUTES.values()) == set(keywords.ATTRIBUTES)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (remark("18_7.jpg", "Charm", "Some."), "line 1: unknown attribute 'Charm'; expected Comp"),
        (json.dumps({"image": "18_7.jpg"}), "line 1: expected conversations, a question and an"),
        (json.dumps({"conversations": []}), "line 1: expected an object with text image"),
        (remark("18_7.jpg", "x", "y").replace("from the", "of the"), "expected a question about"),
        ('{"image": "18_7', "line 1: not valid JSON"),
    ],
)
def test_damaged_remarks_of_artimuse(tmp_path, line, message):
    artimuse(tmp_path, line)
    with pytest.raises(UserError, match=re.escape(message)):
        registry.read_dataset("artimuse10k", tmp_path, "train")


@pytest.mark.parametrize(
    ("name", "file", "score"),
    [
        ("ava", "benchmark/VR/IAA/AVA.json", 5.13),
        ("tad66k", "benchmark/VR/IAA/TAD66K.json", 6.2),
        ("flickr_aes", "benchmark/VR/IAA/FLICKR-AES.json", 0.6),
        ("koniq10k", "benchmark/VR/IQA/KonIQ-10K.json", 68.7),
        ("spaq", "benchmark/VR/IQA/SPAQ.json", 4.0),
        ("kadid10k", "benchmark/VR/IQA/KADID.json", 1.03),
    ],
)
def test_lists_of_tatar(tmp_path, name, file, score):
    image = "I03_01_01.png" if name == "kadid10k" else "953980.jpg"
    write_json(tmp_path / file, [{"image": image, "gt_score": score}])
    write_images(tmp_path / "images", [image])
    (example,) = registry.read_dataset(name, tmp_path, "tatar/test")
    assert math.isclose(example.score, score) and example.image.name == image
