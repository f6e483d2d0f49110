"""`check`: every fact it reports and every trap that it must see."""

import re

import pytest
from layout_files import write_csv, write_image, write_images, write_json, write_lines

from jaxqa.data import checking, preparation, registry
from jaxqa.errors import UserError


def _check(name, root, **options):
    report = checking.check(name, root, **options)
    return "\n".join(report.facts), "\n".join(report.problems)


def _kadid(root, *, rows, turned=False):
    """`rows` are (reference, type, level); labels fall with the level, or rise if `turned`."""
    lines = []
    for reference, kind, level in rows:
        score = 1 + 0.7 * (level if turned else 5 - level)
        name = f"I{reference:02d}_{kind:02d}_{level:02d}.png"
        lines.append([name, f"I{reference:02d}.png", score, 0.1])
    write_csv(root / "dmos.csv", ["dist_img", "ref_img", "dmos", "var"], lines)
    write_images(root / "images", [line[0] for line in lines])


_ALL_LEVELS = [(r, k, level) for r in (1, 66) for k in (1, 10) for level in (1, 3, 5)]


def test_facts_of_a_healthy_set(tmp_path):
    _kadid(tmp_path, rows=_ALL_LEVELS)
    write_images(tmp_path / "images", ["I01.png", "I66.png"])
    seen = []
    facts, problems = _check(
        "kadid10k", tmp_path, progress=lambda done, total: seen.append((done, total))
    )
    assert f"kadid10k: 12 labelled images in {tmp_path} (layout official)" in facts
    assert "range 1 to 5, higher is better; found 1 to 3.8, mean 2.4" in facts
    assert "deviation of the raters: 12 images (square root of the column var)" in facts
    assert "12 readable image files, from 4x4 to 4x4 pixels" in facts
    assert re.search(r"2 image files without a label, in \S+/images: I01.png, I66.png", facts)
    assert "split qalign: train 6, test 6; test list SHA-256" in facts
    assert "known trap: var is a variance" in facts
    assert seen[-1] == (12, 12)
    assert "12 labelled images, the published data set has 10125" in problems
    assert "split qalign: 6 images in test, published are 2000" in problems
    assert "direction" not in problems and "leaks" not in problems


def test_labels_that_go_the_wrong_way(tmp_path):
    _kadid(tmp_path, rows=_ALL_LEVELS, turned=True)
    _, problems = _check("kadid10k", tmp_path, decode=False)
    assert "direction: labels go from 1.7 at the weakest distortion to 4.5" in problems


def test_missing_broken_and_doubled_images(tmp_path):
    _kadid(tmp_path, rows=_ALL_LEVELS)
    folder = tmp_path / "images"
    (folder / "I01_01_01.png").unlink()
    (folder / "I01_01_03.png").write_bytes(b"\x89PNG cut")
    same = (folder / "I01_10_01.png").read_bytes()
    (folder / "I66_10_01.png").write_bytes(same)
    (folder / "I01_10_03.png").write_bytes(same)
    facts, problems = _check("kadid10k", tmp_path)
    assert "1 of 12 labelled images are missing: I01_01_01.png" in problems
    assert "1 images cannot be read: " in problems and "I01_01_03.png" in problems
    assert "1 images are there more than once, byte for byte: I01_10_01.png = I01_10_03" in problems
    assert "1 of them with different labels" in problems
    assert "split qalign leaks: 1 pictures lie in several parts, for example that of I01_10_01" in (
        problems
    )
    assert "10 readable image files" in facts


def test_cut_images_are_found_by_decoding_only(tmp_path):
    _kadid(tmp_path, rows=_ALL_LEVELS[:1])
    path = write_image(tmp_path / "images" / "I01_01_01.png", side=64)
    path.write_bytes(path.read_bytes()[:2000])
    assert "cannot be read" in _check("kadid10k", tmp_path)[1]
    assert "cannot be read" not in _check("kadid10k", tmp_path, decode=False)[1]


def test_references_in_two_parts(tmp_path):
    rows = [
        {"image": "a.png", "gt_score": 4, "split": "train", "reference": "r"},
        {"image": "b.png", "gt_score": 2, "split": "test", "reference": "r"},
    ]
    header = list(rows[0])
    header[1] = "score"
    path = write_csv(tmp_path / "l.csv", header, [list(row.values()) for row in rows])
    write_images(tmp_path, ["a.png", "b.png"])
    _, problems = _check(f"file:{path}#range=1..5", tmp_path)
    assert "split official leaks: 1 reference images lie in several parts, for example" in problems


def test_labels_outside_the_range_are_reported_not_raised(tmp_path):
    write_json(tmp_path / "test.json", [{"image": "1_1.jpg", "gt_score": 11}])
    write_images(tmp_path / "images", ["1_1.jpg"])
    _, problems = _check("artimuse10k", tmp_path)
    assert "1 of 1 labels are outside artimuse10k's range 0.0 to 10.0" in problems
    assert "another scale?" in problems


def test_another_scale_is_suspected(tmp_path):
    write_lines(tmp_path / "mos_with_names.txt", ["8.9 I01_01_1.bmp"])
    write_images(tmp_path / "distorted_images", ["I01_01_1.bmp"])
    _, problems = _check("tid2013", tmp_path)
    assert (
        "labels from 8.9 to 8.9, those of the published data set are 0.2424 to 7.2143" in problems
    )


def test_what_readers_did_is_said(tmp_path):
    names = ["t1.bmp", "3.bmp"]
    lines = [f"{name} 50.0 20" for name in names]
    write_lines(tmp_path / "LIVEC_mos.txt", lines)
    write_images(tmp_path / "Images", names)
    facts, problems = _check("livec", tmp_path)
    assert "1 rows left out: training images t1.bmp to t7.bmp" in facts
    assert re.search(r"1 image files without a label, in \S+: t1.bmp", facts)
    assert "published data set has" not in problems  # another's list need not be whole


def test_lists_that_are_not_there_are_said(tmp_path):
    write_csv(tmp_path / "mos.csv", ["Image name", "MOS"], [["00001.jpg", 50]])
    write_images(tmp_path / "TestImage", ["00001.jpg"])
    facts, _ = _check("spaq", tmp_path)
    assert "split qalign: not available: " in facts and "no list of images found" in facts


def test_images_that_are_known_to_be_missing_are_no_problem(tmp_path):
    votes = "0 0 0 0 9 0 0 0 0 0"
    write_lines(tmp_path / "AVA.txt", [f"{i} {i} {votes} 1 2 3" for i in (1, 2)])
    write_images(tmp_path / "image", ["2.jpg"])
    facts, problems = _check("ava", tmp_path)
    assert "1 of 2 labelled images are missing: 1.jpg; looked in" in facts
    assert "missing" not in problems


def test_tasks_without_scores(tmp_path):
    rows = [{"image": f"{i}.png", "distortion_class": "blur", "severity": "slight"} for i in "ab"]
    write_json(tmp_path / "train_dist.json", rows)
    write_images(tmp_path, ["a.png", "b.png"])
    facts, problems = _check("qinsight_degradation", tmp_path)
    assert "no score" in facts and "answers: blur, slight 2" in facts and not problems


def test_a_label_file_without_rows_is_one_problem(tmp_path):
    write_csv(tmp_path / "dmos.csv", ["dist_img", "ref_img", "dmos", "var"], [])
    report = checking.check("kadid10k", tmp_path)
    assert report.problems == (f"{tmp_path}/dmos.csv: no rows; expected a line for every image",)
    assert report.facts[1:] == ("label: dmos (quality), range 1 to 5, higher is better",)


@pytest.mark.parametrize("name", ["own.csv", "own.json", "own.txt"])
def test_an_own_table_without_rows(tmp_path, name):
    content = {"own.csv": "image,score\n", "own.json": "[]", "own.txt": "\n"}
    (tmp_path / name).write_text(content[name])
    facts, problems = _check(f"file:{name}#range=1..5", tmp_path)
    assert problems == f"{tmp_path / name}: no rows; expected a line for every image"
    assert "answers" not in facts


def test_an_empty_table(tmp_path):
    (tmp_path / "own.csv").write_text("")
    with pytest.raises(UserError, match=r"own\.csv: the file is empty; expected a line of columns"):
        checking.check("file:own.csv#range=1..5", tmp_path)


def test_images_one_level_too_deep_are_found_and_said(tmp_path):
    _kadid(tmp_path, rows=_ALL_LEVELS)
    (tmp_path / "images").rename(tmp_path / "moved")
    (tmp_path / "images").mkdir()
    (tmp_path / "moved").rename(tmp_path / "images" / "images")
    _, problems = _check("kadid10k", tmp_path)
    assert (
        f"looked in {tmp_path}/images; I01_01_01.png lies in {tmp_path}/images/images: move the "
        f"images to {tmp_path}/images"
    ) in problems


def test_prepared_sets_are_checked_alike(tmp_path):
    _kadid(tmp_path / "kadid10k", rows=_ALL_LEVELS)
    preparation.prepare("kadid10k", tmp_path, tmp_path / "out")
    facts, _ = _check("kadid10k", tmp_path / "out")
    assert "(prepared)" in facts and "12 readable image files" in facts
    assert "split tatar: train 6, test 6" in facts


def test_a_set_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(UserError, match="found none of its label files"):
        checking.check("kadid10k", tmp_path)


@pytest.mark.parametrize("info", registry.DATASETS.values(), ids=lambda info: info.name)
def test_every_trap_is_written_down(info):
    if not info.synthetic:
        assert info.notes and info.licence and info.citation
