"""KonIQ-10k, SPAQ, LIVE-Challenge and BID in their own layouts."""

import numpy as np
import pytest
import scipy.io
from layout_files import write_csv, write_images, write_json, write_lines

from jaxqa.data import registry
from jaxqa.errors import UserError

_KONIQ_SHARES = {
    "10004473376.jpg": (0, 0, 0.2, 0.8, 0),
    "121123359.jpg": (0.1, 0.4, 0.5, 0, 0),
    "2836089223.jpg": (0, 0, 0.6, 0.4, 0),
}
_KONIQ_ZSCORE = {"10004473376.jpg": 77.38, "121123359.jpg": 30.5, "2836089223.jpg": 60.1}
_KONIQ_SET = {"10004473376.jpg": "training", "121123359.jpg": "test", "2836089223.jpg": "test"}


def _likert(name):
    return sum(i * share for i, share in enumerate(_KONIQ_SHARES[name], start=1))


def _koniq(root, *, table, images="1024x768", mos=None):
    """The official files; `table` is "sets" (MOS is the z-score) or "scores" (MOS is Likert)."""
    write_images(root / images, _KONIQ_SHARES)
    shares = ["c1", "c2", "c3", "c4", "c5"]
    if table == "sets":
        header = ["image_name", *shares, "c_total", "MOS", "SD", "set"]
        rows = [
            [name, *_KONIQ_SHARES[name], 100, (mos or _KONIQ_ZSCORE)[name], 0.5, _KONIQ_SET[name]]
            for name in _KONIQ_SHARES
        ]
        write_csv(root / "koniq10k_distributions_sets.csv", header, rows)
    else:
        header = ["image_name", *shares, "c_total", "MOS", "SD", "MOS_zscore"]
        rows = [
            [name, *_KONIQ_SHARES[name], 100, _likert(name), 0.5, _KONIQ_ZSCORE[name]]
            for name in _KONIQ_SHARES
        ]
        write_csv(root / "koniq10k_scores_and_distributions.csv", header, rows)


@pytest.mark.parametrize("table", ["sets", "scores"])
def test_koniq_label_is_the_zscore_whatever_the_column_mos_means(tmp_path, table):
    _koniq(tmp_path / "koniq10k", table=table)
    examples = registry.read_dataset("koniq10k", tmp_path, "all")
    assert {e.image.name: e.score for e in examples} == _KONIQ_ZSCORE
    assert all(e.metadata["label_std"] == pytest.approx(0.5 * 27.82) for e in examples)
    likert = registry.read_dataset("koniq10k_likert", tmp_path, "all")
    assert [e.score for e in likert] == pytest.approx([_likert(n) for n in _KONIQ_SHARES])
    assert all(e.metadata["label_std"] == 0.5 for e in likert)
    assert {e.example_id for e in likert}.isdisjoint(e.example_id for e in examples)


def test_koniq_without_shares_tells_the_scale_by_its_size(tmp_path):
    for name, values in (("z", (70, 30)), ("likert", (3.5, 2.5))):
        root = tmp_path / name
        write_images(root / "512x384", ["a.jpg", "b.jpg"])
        rows = [[f"{x}.jpg", value, 0.5] for x, value in zip("ab", values, strict=True)]
        write_csv(root / "koniq10k_distributions_sets.csv", ["image_name", "MOS", "SD"], rows)
    assert [e.score for e in registry.read_dataset("koniq10k", tmp_path / "z", "all")] == [70, 30]
    with pytest.raises(UserError, match="MOS is the Likert mean.*use the data set koniq10k_likert"):
        registry.read_dataset("koniq10k", tmp_path / "likert", "all")
    likert = registry.read_dataset("koniq10k_likert", tmp_path / "likert", "all")
    assert [e.score for e in likert] == [3.5, 2.5]
    with pytest.raises(UserError, match="no Likert mean.*c1 to c5 are absent"):
        registry.read_dataset("koniq10k_likert", tmp_path / "z", "all")


def test_koniq_table_of_two_minds_is_refused(tmp_path):
    mixed = {**{name: _likert(name) for name in _KONIQ_SHARES}, "121123359.jpg": 30.5}
    _koniq(tmp_path, table="sets", mos=mixed)
    with pytest.raises(UserError, match="mean of c1 to c5 in some rows and not in others"):
        registry.read_dataset("koniq10k", tmp_path, "all")


def test_koniq_list_of_visualquality_r1_goes_back_to_the_z_score(tmp_path):
    write_images(tmp_path / "KonIQ-10k" / "512x384", ["a.jpg", "b.jpg"])
    file = tmp_path / "KonIQ-10k" / "KONIQ-10K" / "KONIQ-10K_mos.txt"
    write_lines(file, ["a.jpg 1.0 0.5", "b.jpg 5.0 0.5"])
    found = registry.read_dataset("koniq10k", tmp_path, "visualquality_r1")
    assert [e.score for e in found] == pytest.approx([3.9118, 88.389])
    assert [e.metadata["label_std"] for e in found] == pytest.approx([0.5 * 84.4772 / 4] * 2)


def test_koniq_splits(tmp_path):
    _koniq(tmp_path / "KonIQ-10k", table="sets")

    def names(split):
        return [e.image.name for e in registry.read_dataset("koniq10k", tmp_path, split)]

    assert names("train") == names("official/train") == ["10004473376.jpg"]
    assert names("test") == names("tatar") == ["121123359.jpg", "2836089223.jpg"]
    assert names("qalign/test") == names("deqa") == ["2836089223.jpg"]  # five are missing there
    assert len(names("visualquality_r1")) == 3
    assert names("qalign/train") == ["10004473376.jpg"]
    listed = [f"{i}.jpg" for i in range(7045)]
    train = tmp_path / "KonIQ-10k" / "splits" / "train_koniq.json"
    write_json(train, [{"image": f"koniq/{name}"} for name in [*listed, "10004473376.jpg"]])
    assert names("qalign/train") == ["10004473376.jpg"]
    write_json(train, [{"image": f"koniq/{name}"} for name in [*listed, "x.jpg"]])
    with pytest.raises(UserError, match=r"no images in split 'qalign/train'"):
        names("qalign/train")
    write_json(train, [{"image": name} for name in listed])
    with pytest.raises(UserError, match=r"train_koniq\.json: 7045 different names, expected 7046"):
        names("qalign/train")


def test_koniq_of_pyiqa_has_a_deviation_in_another_scale(tmp_path):
    header = ["img_name", "mos", "std", "split", "c1"]
    rows = [["a.jpg", 70.0, 0.5, "training", 0], ["b.jpg", 30.0, 0.6, "test", 0]]
    write_csv(tmp_path / "meta_info" / "meta_info_KonIQ10kDataset.csv", header, rows)
    write_images(tmp_path / "512x384", ["a.jpg", "b.jpg"])
    (train,) = registry.read_dataset("koniq10k", tmp_path, "train")
    assert (train.score, train.metadata["label_std"]) == (70.0, pytest.approx(0.5 * 27.82))
    assert len(registry.read_dataset("koniq10k", tmp_path, "official/test")) == 1


def test_koniq_scores_alone_have_no_official_split(tmp_path):
    _koniq(tmp_path, table="scores")
    with pytest.raises(UserError, match="no split file of its own; named splits: qalign"):
        registry.read_dataset("koniq10k", tmp_path, "test")
    with pytest.raises(UserError, match="the files assign no split of their own: Q-Align"):
        registry.read_dataset("koniq10k", tmp_path, "qalign/test")


def test_koniq_takes_the_larger_images_where_both_are_there(tmp_path):
    _koniq(tmp_path, table="sets", images="512x384")
    _koniq(tmp_path, table="sets", images="1024x768")
    examples = registry.read_dataset("koniq10k", tmp_path, "all")
    assert {e.image.parent.name for e in examples} == {"1024x768"}


_SPAQ_HEADER = ("Image name", "MOS", "Brightness", "Colorfulness", "Contrast", "Noisiness")


def _spaq_rows(count):
    return [[f"{i:05d}.jpg", 10 + i, 50, 51, 52, 53] for i in range(1, count + 1)]


def test_spaq_as_csv_and_its_test_list(tmp_path):
    home = tmp_path / "SPAQ"
    write_csv(
        home / "Annotations" / "MOS and Image attribute scores.csv", _SPAQ_HEADER, _spaq_rows(4)
    )
    write_images(home / "TestImage", [f"{i:05d}.jpg" for i in range(1, 5)])
    examples = registry.read_dataset("spaq", tmp_path, "all")
    assert [e.score for e in examples] == [11, 12, 13, 14]
    assert examples[0].metadata["Noisiness"] == "53"
    with pytest.raises(UserError, match="Q-Align's 2,224 test images.*no list of images found"):
        registry.read_dataset("spaq", tmp_path, "qalign/test")
    names = [f"{i:05d}.jpg" for i in range(3, 3 + 2224)]
    write_json(home / "splits" / "test_spaq.json", [{"img_path": f"spaq/{n}"} for n in names])
    for split in ("qalign", "tatar/test", "deqa"):
        assert [e.score for e in registry.read_dataset("spaq", tmp_path, split)] == [13, 14]
    train = registry.read_dataset("spaq", tmp_path, "qalign/train")
    assert [e.score for e in train] == [11, 12]


def test_spaq_workbook(tmp_path):
    openpyxl = pytest.importorskip("openpyxl", reason="reads the official Excel files")
    book = openpyxl.Workbook()
    for row in (_SPAQ_HEADER, *_spaq_rows(2)):
        book.active.append(list(row))
    (tmp_path / "Annotations").mkdir()
    book.save(tmp_path / "Annotations" / "MOS and Image attribute scores.xlsx")
    write_images(tmp_path / "TestImage", ["00001.jpg", "00002.jpg"])
    examples = registry.read_dataset("spaq", tmp_path, "all")
    assert [(e.image.name, e.score) for e in examples] == [("00001.jpg", 11), ("00002.jpg", 12)]
    (tmp_path / "Annotations" / "MOS and Image attribute scores.xlsx").write_bytes(b"PK no zip")
    with pytest.raises(UserError, match="cannot read the workbook"):
        registry.read_dataset("spaq", tmp_path, "all")


def test_workbook_without_openpyxl_says_how_to_convert(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "MOS and Image attribute scores.xlsx").touch()
    with pytest.raises(UserError, match=r"pip install openpyxl, or save the sheet as CSV.*\.csv"):
        registry.read_dataset("spaq", tmp_path, "all")


_LIVEC_NAMES = [*(f"t{i}.bmp" for i in range(1, 8)), "3.bmp", "100.bmp", "533.JPG", "1024.JPG"]


def _livec(root, *, names=_LIVEC_NAMES, count=None):
    cells = np.empty((len(names), 1), object)
    for i, name in enumerate(names):
        cells[i, 0] = name
    count = len(names) if count is None else count
    data = root / "Data"
    data.mkdir(parents=True)
    scipy.io.savemat(data / "AllImages_release.mat", {"AllImages_release": cells})
    scipy.io.savemat(data / "AllMOS_release.mat", {"AllMOS_release": 10.5 + np.arange(count)[None]})
    scipy.io.savemat(
        data / "AllStdDev_release.mat", {"AllStdDev_release": np.full((1, count), 19.25)}
    )


def test_livec_without_its_training_images_and_whatever_the_case(tmp_path):
    root = tmp_path / "ChallengeDB_release"
    _livec(root)
    write_images(root / "Images", ["3.bmp", "100.bmp", "533.jpg", "1024.JPG"])
    write_images(root / "Images" / "trainingImages", ["t1.bmp"])
    examples = registry.read_dataset("livec", tmp_path, "all")
    assert [e.score for e in examples] == [17.5, 18.5, 19.5, 20.5]
    assert [e.image.name for e in examples] == ["3.bmp", "100.bmp", "533.jpg", "1024.JPG"]
    assert examples[0].metadata["label_std"] == 19.25
    assert len(registry.read_dataset("livec", tmp_path, "whole/test")) == 4


def test_livec_files_that_do_not_fit_together(tmp_path):
    _livec(tmp_path / "short", count=5)
    with pytest.raises(UserError, match="11 names, 5 means and 5 deviations"):
        registry.read_dataset("livec", tmp_path / "short", "all")
    _livec(tmp_path / "order", names=["3.bmp", "t1.bmp"])
    with pytest.raises(UserError, match="training images stand elsewhere"):
        registry.read_dataset("livec", tmp_path / "order", "all")
    (tmp_path / "order" / "Data" / "AllImages_release.mat").write_bytes(b"no MATLAB file")
    with pytest.raises(UserError, match="not a MATLAB file"):
        registry.read_dataset("livec", tmp_path / "order", "all")
    (tmp_path / "short" / "Data" / "AllMOS_release.mat").unlink()
    with pytest.raises(UserError, match=r"AllMOS_release\.mat: cannot read the file"):
        registry.read_dataset("livec", tmp_path / "short", "all")


@pytest.mark.parametrize("kind", ["qalign", "visualquality_r1"])
def test_livec_lists_of_others_contain_the_training_images(tmp_path, kind):
    write_images(tmp_path / "Images", _LIVEC_NAMES)
    if kind == "qalign":
        rows = [{"image": f"livec/{name}", "gt_score": 50.0} for name in _LIVEC_NAMES]
        write_json(tmp_path / "playground/data/test_jsons/livec.json", rows)
    else:
        write_lines(tmp_path / "LIVEC_mos.txt", [f"{name} 50.0 20" for name in _LIVEC_NAMES])
    examples = registry.read_dataset("livec", tmp_path, "all")
    assert [e.image.name for e in examples] == _LIVEC_NAMES[7:]


def test_bid_in_both_forms(tmp_path):
    for name in ("csv", "text"):
        write_images(tmp_path / name / "ImageDatabase", ["DatabaseImage0001.JPG"])
    write_csv(
        tmp_path / "csv" / "DatabaseGrades.csv",
        ["image", "score"],
        [["DatabaseImage0001.JPG", 3.25]],
    )
    write_lines(tmp_path / "text" / "BID_mos.txt", ["DatabaseImage0001.JPG 65"])
    for name in ("csv", "text"):
        (example,) = registry.read_dataset("bid", tmp_path / name, "all")
        assert example.score == pytest.approx(3.25)
