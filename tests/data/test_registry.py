"""`read_dataset` on small data sets in KADID-10k's layout, and the registry's own facts."""

import dataclasses
import hashlib
import pickle

import pytest

from jaxqa.data import readers, registry
from jaxqa.data.records import PARTS, stable_id
from jaxqa.data.splits import ReferenceSplit
from jaxqa.errors import UserError


def _make(root, *, references, splits=None, types=(1, 10), score="3.0"):
    """A data set with two images per reference; the image files are empty, nobody opens them."""
    (root / "images").mkdir(parents=True)
    lines = ["dist_img,ref_img,dmos,var"]
    for reference in references:
        for kind in types:
            name = f"{reference}_{kind:02d}_03.png"
            (root / "images" / name).touch()
            lines.append(f"{name},{reference}.png,{score},0.1")
    (root / "dmos.csv").write_text("\n".join(lines) + "\n")
    if splits is not None:
        rows = [f"{reference}.png,{part}" for reference, part in splits.items()]
        (root / "splits.csv").write_text("\n".join(["ref_img,split", *rows]) + "\n")
    return root


_ALL_KADID = [f"I{number:02d}" for number in range(1, 82)]


@pytest.fixture(scope="module")
def kadid_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    _make(root / "kadid10k", references=_ALL_KADID)
    return root


def _references(examples):
    return {example.metadata["reference"] for example in examples}


@pytest.mark.parametrize(
    ("name", "sizes", "tests"),
    [
        ("qalign", (57, 8, 16), range(66, 82)),
        ("tatar", (57, 8, 16), (3, 12, 13, 16, 22, 26, 29, 37, 41, 45, 48, 50, 51, 57, 63, 66)),
        (
            "visualquality_r1",
            (49, 16, 16),
            (19, 29, 30, 34, 37, 38, 43, 50, 64, 71, 72, 73, 74, 78, 80, 81),
        ),
    ],
)
def test_named_splits_part_the_references(kadid_root, name, sizes, tests):
    parts = {
        part: registry.read_dataset("kadid10k", kadid_root, f"{name}/{part}") for part in PARTS
    }
    found = [_references(parts[part]) for part in PARTS]
    assert tuple(len(references) for references in found) == sizes
    assert set.union(*found) == set(_ALL_KADID)
    assert found[2] == {f"I{number:02d}" for number in tests}
    both = registry.read_dataset("kadid10k", kadid_root, f"{name}/train+validation")
    assert _references(both) == found[0] | found[1]
    assert len(both) + len(parts["test"]) == 2 * 81


def test_published_test_sets_overlap_as_known():
    splits = registry.DATASETS["kadid10k"].splits
    tatar, qalign, visual = (splits[n].test for n in ("tatar", "qalign", "visualquality_r1"))
    assert [125 * len(a & b) for a, b in ((tatar, qalign), (tatar, visual), (qalign, visual))] == [
        125,
        375,
        875,
    ]


def test_examples_say_where_they_come_from(kadid_root):
    example = registry.read_dataset("kadid10k", kadid_root, "all")[1]
    assert example.image == kadid_root / "kadid10k" / "images" / "I01_10_03.png"
    assert (example.score, example.dataset, example.task) == (3.0, "kadid10k", "quality")
    assert example.metadata["distortion"] == "jpeg"
    assert pickle.loads(pickle.dumps(example)) == example
    with pytest.raises(dataclasses.FrozenInstanceError):
        example.score = 4.0


def test_ids_depend_on_the_names_alone(tmp_path, kadid_root):
    every = {
        example.image.name: example.example_id
        for example in registry.read_dataset("kadid10k", kadid_root, "all")
    }
    assert len(set(every.values())) == len(every) == 162
    assert all(0 <= number < 2**63 for number in every.values())
    moved = _make(tmp_path / "elsewhere", references=["I81", "I07"])
    for example in registry.read_dataset("kadid10k", moved, "all"):
        assert example.example_id == every[example.image.name]
    digest = hashlib.blake2b(b"kadid10k/I01_01_03.png", digest_size=8).digest()
    assert every["I01_01_03.png"] == int.from_bytes(digest, "big") // 2
    assert stable_id("jaxqa_demo", "I01_01_03.png") != every["I01_01_03.png"]


def test_demo_data_use_their_own_split_file(tmp_path):
    splits = {"I001": "train", "I002": "validation", "I003": "test", "I004": "train"}
    root = _make(tmp_path / "jaxqa_demo", references=splits, splits=splits, types=(1, 8))
    for part in PARTS:
        examples = registry.read_dataset("jaxqa_demo", root, part)
        wanted = {reference for reference, value in splits.items() if value == part}
        assert _references(examples) == wanted
    assert len(registry.read_dataset("jaxqa_demo", tmp_path, "all")) == 8
    names = [example.metadata["distortion"] for example in examples]
    assert names == ["jpeg", "pixelation"]


def test_labels_of_the_demo_are_called_synthetic():
    info = registry.dataset_info("jaxqa_demo")
    assert info.synthetic and "synthetic" in info.label_name
    assert not registry.dataset_info("kadid10k").synthetic


@pytest.mark.parametrize("info", registry.DATASETS.values(), ids=lambda info: info.name)
def test_registry_rows_are_complete(info):
    assert all(layout.reader in readers.READERS for layout in info.layouts)
    low, high = info.label_range
    assert low < high
    assert all((info.licence, info.citation, info.homepage, info.label_name, info.task))
    for split in info.splits.values():
        assert split.source
        if isinstance(split, ReferenceSplit):
            assert split.test and split.validation and not split.test & split.validation


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("test", "no split file of its own .splits.csv.; named splits: qalign, tatar, visual"),
        ("koniq/test", "unknown split 'koniq/test' of kadid10k; expected all, named splits: qal"),
        ("qalign/testing", "PART is one of train, validation, test, train.validation"),
        ("", "unknown split ''"),
        ("/test", "unknown split '/test'"),
    ],
)
def test_unknown_splits_list_the_known(kadid_root, split, message):
    with pytest.raises(UserError, match=message):
        registry.read_dataset("kadid10k", kadid_root, split)


def test_unknown_data_set_lists_the_known(tmp_path):
    with pytest.raises(
        UserError,
        match="unknown data set 'kadid'; known are koniq10k, .*jaxqa_demo_comparison, and",
    ):
        registry.read_dataset("kadid", tmp_path, "all")


def test_missing_folder_says_where_it_looked(tmp_path):
    with pytest.raises(
        UserError,
        match=r"none of its label files; there is no folder .*nowhere/kadid10k, .*dmos\.csv",
    ):
        registry.read_dataset("kadid10k", tmp_path / "nowhere", "all")


def test_empty_data_set_and_empty_part(tmp_path):
    empty = _make(tmp_path / "empty", references=[])
    with pytest.raises(UserError, match="kadid10k is empty: its label file has no rows"):
        registry.read_dataset("kadid10k", empty, "all")
    single = _make(tmp_path / "single", references=["I81"])
    with pytest.raises(UserError, match="no images in split 'qalign/train'"):
        registry.read_dataset("kadid10k", single, "qalign/train")


@pytest.mark.parametrize("score", ["0.99", "5.01", "75"])
def test_labels_outside_the_range_are_refused(tmp_path, score):
    root = _make(tmp_path / "data", references=["I01"], score=score)
    with pytest.raises(UserError, match=rf"2 of 2 labels are outside .* 1\.0 to 5\.0, .*{score}"):
        registry.read_dataset("kadid10k", root, "all")


def test_missing_images_are_counted_and_named(tmp_path):
    root = _make(tmp_path / "data", references=["I01", "I02", "I66"])
    for name in ("I01_01_03", "I01_10_03", "I02_01_03", "I02_10_03"):
        (root / "images" / f"{name}.png").unlink()
    with pytest.raises(
        UserError,
        match=r"4 of 6 image files of kadid10k are missing: "
        r"I01_01_03\.png, I01_10_03\.png, I02_01_03\.png, \.\.\.; looked in .*/data/images; unpack",
    ):
        registry.read_dataset("kadid10k", root, "all")
    assert len(registry.read_dataset("kadid10k", root, "qalign/test")) == 2


def test_missing_image_folder(tmp_path):
    root = _make(tmp_path / "data", references=["I01"])
    for file in (root / "images").iterdir():
        file.unlink()
    (root / "images").rmdir()
    with pytest.raises(
        UserError, match="2 of 2 image files of kadid10k are missing: .*looked in .*images"
    ):
        registry.read_dataset("kadid10k", root, "all")
