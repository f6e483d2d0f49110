"""Split rules: seeded ones, lists of others, and what may not be mixed."""

import dataclasses
import json

import pytest

from jaxqa.data import name_lists, splits
from jaxqa.errors import UserError


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    reference: str | None = None
    parts: dict = dataclasses.field(default_factory=dict)


ROWS = [Row(f"I{r:02d}_{i}.png", f"I{r:02d}") for r in range(1, 21) for i in range(3)]


def _by_part(rows, parts):
    found = {}
    for row, part in zip(rows, parts, strict=True):
        found.setdefault(part, []).append(row)
    return found


@pytest.mark.parametrize("seed", [0, 1, 123])
def test_seeded_parts_keep_references_together(tmp_path, seed):
    split = splits.parse_seeded(f"seeded622-{seed}")
    parts = _by_part(ROWS, split.assign(ROWS, tmp_path))
    references = {part: {row.reference for row in rows} for part, rows in parts.items()}
    assert {part: len(found) for part, found in references.items()} == {
        "train": 12,
        "validation": 4,
        "test": 4,
    }
    assert len(set.union(*references.values())) == 20


def test_seeded_parts_depend_on_names_and_seed_alone(tmp_path):
    split, other = splits.parse_seeded("seeded802-1"), splits.parse_seeded("seeded802-2")
    assigned = split.assign(ROWS, tmp_path)
    backwards = split.assign(ROWS[::-1], tmp_path / "elsewhere")[::-1]
    assert assigned == backwards != other.assign(ROWS, tmp_path)
    # Written down once: no machine and no version may draw otherwise.
    test = sorted({r.reference for r, p in zip(ROWS, assigned, strict=True) if p == "test"})
    assert test == ["I05", "I09", "I17", "I18"]


def test_seeded_parts_without_references_go_by_image(tmp_path):
    rows = [Row(f"{i}.jpg") for i in range(10)]
    parts = splits.parse_seeded("seeded901-7").assign(rows, tmp_path)
    assert sorted(parts) == ["test"] + ["train"] * 9


@pytest.mark.parametrize("name", ["seeded", "seeded80-1", "seeded802", "seeded802-x", "802-1"])
def test_other_names_are_no_seeded_split(name):
    assert splits.parse_seeded(name) is None


def test_tenths_must_add_up():
    with pytest.raises(UserError, match="tenths, so they must add up to 10"):
        splits.parse_seeded("seeded803-1")


def _list_split(**options):
    names = splits.NameList(files=("test.txt",), **options)
    return splits.ListSplit(lists={"test": names}, rest="train", source="somebody's list")


def test_lists_are_matched_whatever_folder_and_ending(tmp_path):
    (tmp_path / "test.txt").write_text("KADID/images/I01_0.bmp\nI02_1\n")
    parts = _list_split(count=2).assign(ROWS[:6], tmp_path)
    assert parts == ["test", "train", "train", "train", "test", "train"]


def test_lists_may_lie_in_the_splits_folder(tmp_path):
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "test.txt").write_text("I01_0.png\n")
    assert "test" in _list_split().assign(ROWS, tmp_path)
    assert "test" in _list_split().assign(ROWS, tmp_path / "dataset")


def test_a_list_of_another_length_or_content_is_refused(tmp_path):
    (tmp_path / "test.txt").write_text("I01_0.png\nI01_1.png\n")
    with pytest.raises(UserError, match=r"test\.txt: 2 different names, expected 3 .somebody's"):
        _list_split(count=3).assign(ROWS, tmp_path)
    digest = name_lists.digest({"I01_0.png", "I01_1.png"})
    assert "test" in _list_split(count=2, sha256=digest).assign(ROWS, tmp_path)
    with pytest.raises(UserError, match=f"SHA-256 {digest}, expected {'0' * 64}"):
        _list_split(sha256="0" * 64).assign(ROWS, tmp_path)


def test_a_list_that_is_not_there_names_the_places(tmp_path):
    with pytest.raises(
        UserError, match=r"no list of images found; put test\.txt into one of .*/splits"
    ):
        _list_split().assign(ROWS, tmp_path)


def test_two_lists_may_not_share_a_name(tmp_path):
    (tmp_path / "test.txt").write_text("I01_0.png\n")
    (tmp_path / "train.txt").write_text("I01_0.png\nI01_1.png\n")
    lists = {part: splits.NameList(files=(f"{part}.txt",)) for part in ("train", "test")}
    split = splits.ListSplit(lists=lists, source="somebody")
    with pytest.raises(UserError, match="somebody: I01_0 is in train and test"):
        split.assign(ROWS, tmp_path)


def test_lists_that_name_too_few_images_together_are_refused(tmp_path):
    lists = {part: splits.NameList(files=(f"{part}.txt",)) for part in ("train", "test")}
    split = splits.ListSplit(lists=lists, source="somebody", total=3)
    (tmp_path / "test.txt").write_text("I01_0.png\n")
    assert split.assign(ROWS, tmp_path)[0] == "test"  # the other list is not there
    (tmp_path / "train.txt").write_text("I01_1.png\nI02_0.png\n")
    assert "train" in split.assign(ROWS, tmp_path)
    (tmp_path / "train.txt").write_text("I01_1.png\n")
    with pytest.raises(UserError, match="name 2 images together, expected 3"):
        split.assign(ROWS, tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("l.txt", "a/x.jpg 3.5\ny.jpg\n"),
        ("l.csv", "image,score\nx.jpg,1\ny.jpg,2\n"),
        ("l.csv", "number,img_name\n1,x.jpg\n2,y.jpg\n"),
        ("l.json", json.dumps(["x.jpg", "y.jpg"])),
        ("l.json", json.dumps([{"image": "a/x.jpg"}, {"img_path": "b/y.jpg"}])),
        ("l.json", json.dumps({"train": ["z.jpg"], "test": ["x.jpg", "y.jpg"]})),
        ("l.jsonl", '{"image": ["x.jpg"]}\n{"image": "y.jpg"}\n'),
        ("l.jpgl", "x\ny\n"),
    ],
)
def test_forms_of_lists(tmp_path, file, content):
    (tmp_path / file).write_text(content)
    names = name_lists.read_names(tmp_path / file)
    assert {name_lists.stem(name) for name in names} == {"x", "y"}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("l.txt", "\n", "no names found"),
        ("l.json", "{}", "expected a JSON list of names"),
        ("l.json", "[1]", "expected names, or objects with one of image"),
        ("l.json", '[{"score": 1}]', "expected names, or objects with one of image"),
        ("l.json", "[", "not valid JSON"),
    ],
)
def test_lists_that_make_no_sense(tmp_path, file, content, message):
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=message):
        name_lists.read_names(tmp_path / file)


def test_stems_keep_dots_that_are_no_ending():
    assert name_lists.stem("dst_imgs/awgn/1600.AWGN.1.png") == "1600.AWGN.1"
    assert name_lists.stem(r"a\b\I01.v2") == "I01.v2"


def test_own_split_needs_one(tmp_path):
    split = splits.OwnSplit(source="a paper", without=frozenset({"I01_0"}))
    with pytest.raises(UserError, match="assign no split of their own: a paper"):
        split.assign(ROWS, tmp_path)
    rows = [Row("I01_0.png", parts={"official": "test"}), Row("b", parts={"official": "train"})]
    assert split.assign(rows, tmp_path) == [None, "train"]
