"""KADID-10k, PIPAL, CSIQ and TID2013 in their own layouts and those of other projects."""

import math

import pytest
from layout_files import write_csv, write_images, write_json, write_lines

from jaxqa.data import registry
from jaxqa.data.records import stable_id
from jaxqa.errors import UserError

_KADID = {"I01_01_01.png": (4.57, 0.496), "I66_10_05.png": (1.5, 0.25)}


def _kadid_official(root):
    rows = [[n, f"{n[:3]}.png", s, v] for n, (s, v) in _KADID.items()]
    write_csv(root / "dmos.csv", ["dist_img", "ref_img", "dmos", "var"], rows)


def _kadid_pyiqa(root):
    rows = [[f"{n[:3]}.png", n, s, v, "train"] for n, (s, v) in _KADID.items()]
    header = ["ref_name", "dist_name", "dmos", "std", "ratio802_seed123_split_01"]
    write_csv(root / "meta_info_KADID10kDataset.csv", header, rows)


def _kadid_visualquality_r1(root):
    lines = [f"{n[:3]}.png {n} {s} {math.sqrt(v)}" for n, (s, v) in _KADID.items()]
    write_lines(root / "KADID-10K" / "KADID-10K_mos.txt", lines)


def _kadid_deqa(root):
    rows = [
        {"id": f"{n}->{s}", "image": f"KADID10K/images/{n}", "gt_score": s, "std": math.sqrt(v)}
        for n, (s, v) in _KADID.items()
    ]
    write_json(root / "KADID10K/metas/train_kadid_8k.json", rows[:1])
    write_json(root / "KADID10K/metas/test_kadid_2k.json", rows[1:])


def _kadid_qalign(root):
    """The list's last revision has the label in the id and nowhere else."""
    talk = [{"from": "gpt", "value": "The quality of the image is fair."}]
    rows = [
        {"id": f"{n}->{s}", "image": f"kadid10k/{n}", "conversations": talk}
        for n, (s, _) in _KADID.items()
    ]
    write_json(root / "playground/data/test_jsons/test_kadid.json", rows)


_KADID_FORMS = {
    "qalign": _kadid_qalign,
    "official": _kadid_official,
    "pyiqa": _kadid_pyiqa,
    "visualquality_r1": _kadid_visualquality_r1,
    "deqa": _kadid_deqa,
}


@pytest.mark.parametrize("form", _KADID_FORMS)
def test_kadid_is_the_same_in_every_form(tmp_path, form):
    """One id, one label, one deviation: var is a variance, also where pyiqa calls it std."""
    _KADID_FORMS[form](tmp_path)
    home = tmp_path / "KADID10K" if form == "deqa" else tmp_path
    write_images(home / "images", ["I01.png", *_KADID])
    examples = registry.read_dataset("kadid10k", tmp_path, "all")
    assert [(e.image.name, e.score) for e in examples] == [(n, s) for n, (s, _) in _KADID.items()]
    if form not in ("deqa", "qalign"):
        deviations = [e.metadata["label_std"] for e in examples]
        assert deviations == pytest.approx([math.sqrt(v) for _, v in _KADID.values()])
    assert [e.metadata["reference"] for e in examples] == ["I01", "I66"]
    assert examples[1].metadata["distortion"] == "jpeg"
    assert [e.example_id for e in examples] == [stable_id("kadid10k", name) for name in _KADID]
    test = registry.read_dataset("kadid10k", tmp_path, "qalign/test")
    assert test[-1].image.name == "I66_10_05.png" and len(test) == 1 + (form == "qalign")


def test_splits_that_the_files_assign(tmp_path):
    _kadid_deqa(tmp_path / "deqa")
    _kadid_pyiqa(tmp_path / "pyiqa")
    for home in ("deqa/KADID10K", "pyiqa"):
        write_images(tmp_path / home / "images", _KADID)
    (example,) = registry.read_dataset("kadid10k", tmp_path / "deqa", "deqa/train")
    assert example.image.name == "I01_01_01.png"
    split = "ratio802_seed123_split_01/train"
    assert len(registry.read_dataset("kadid10k", tmp_path / "pyiqa", split)) == 2
    with pytest.raises(UserError, match="no images in split 'ratio802_seed123_split_01/test'"):
        registry.read_dataset("kadid10k", tmp_path / "pyiqa", "ratio802_seed123_split_01/test")


@pytest.mark.parametrize(
    ("labels", "images"),
    [
        ("Train_Label", "Train_Dist"),
        ("Train_Label", "Dist_Imgs"),
        ("training/MOS_Scores_train", "training/Distortion/Distortion_3"),
        ("Train_Label", "Distortion_4"),
    ],
)
def test_pipal_layouts(tmp_path, labels, images):
    home = tmp_path / "PIPAL"
    write_lines(home / labels / "A0001.txt", ["A0001_00_00.bmp,1520.0648"])
    write_lines(home / labels / "A0002.txt", ["A0002_06_26.bmp,916.71", "A0002_00_01.bmp,1835.99"])
    write_images(home / images, ["A0001_00_00.bmp", "A0002_06_26.bmp", "A0002_00_01.bmp"])
    examples = registry.read_dataset("pipal", tmp_path, "all")
    assert [e.score for e in examples] == [1520.0648, 916.71, 1835.99]
    assert [e.metadata["reference"] for e in examples] == ["A0001", "A0002", "A0002"]
    assert examples[1].metadata["distortion_type"] == 6


def test_pipal_rescaled_labels_become_elo_again(tmp_path):
    low, high = 916.71, 1835.99
    elo = {"A0001_00_00.bmp": 1520.0648, "A0002_00_00.bmp": low, "A0003_00_00.bmp": high}
    rows = [{"image": n, "gt_score": 1 + 4 * (e - low) / (high - low)} for n, e in elo.items()]
    write_json(tmp_path / "benchmark/VR/IQA/PIPAL.json", rows)
    write_images(tmp_path / "images", elo)
    examples = registry.read_dataset("pipal", tmp_path, "tatar/test")
    assert [e.score for e in examples] == pytest.approx(list(elo.values()))


def test_pipal_list_of_visualquality_r1_holds_elo(tmp_path):
    write_images(tmp_path / "Train_Dist", ["A0001_00_00.bmp"])
    file = tmp_path / "PIPAL_mos.txt"
    write_lines(file, ["A0001.bmp A0001_00_00.bmp 1520.0648"])
    (found,) = registry.read_dataset("pipal", tmp_path, "visualquality_r1")
    assert (found.score, found.metadata["reference"]) == (1520.0648, "A0001")
    write_lines(file, ["A0001.bmp A0001_00_00.bmp 3.5"])  # a scale that is not known to jaxqa
    with pytest.raises(UserError, match=r"3\.5"):
        registry.read_dataset("pipal", tmp_path, "visualquality_r1")


def test_pipal_split_from_the_list_of_others(tmp_path):
    names = [f"A{r:04d}_00_{i:02d}.bmp" for r in range(1, 47) for i in range(101)][:4641]
    write_lines(tmp_path / "Train_Label" / "A0001.txt", [f"{n},1000" for n in names[-2:]])
    write_images(tmp_path / "Train_Dist", names[-2:])
    write_json(tmp_path / "splits" / "test_pipal_5k.json", [{"image": n} for n in names[:4640]])
    (test,) = registry.read_dataset("pipal", tmp_path, "deqa/test")
    (train,) = registry.read_dataset("pipal", tmp_path, "tatar/train")
    assert (test.image.name, train.image.name) == (names[4639], names[4640])


_CSIQ = [
    # file as it lies on the disk, dst_type, level, deviation, DMOS
    ("AWGN/1600.AWGN.1.png", "noise", 1, 0.05, 0.062),
    ("blur/1600.BLUR.5.png", "blur", 5, 0.09, 0.75),
    ("jpeg2000/1600.jpeg2000.3.png", "jpeg 2000", 3, 0.1, 0.4),
    ("JPEG/family.JPEG.2.png", "jpeg", 2, 0.1, 0.25),
]


def _csiq_images(root):
    write_images(root / "src_imgs", ["1600.png", "family.png"])
    write_images(root / "dst_imgs", [row[0] for row in _CSIQ])


def _csiq_sheet():
    yield ("image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos")
    for file, kind, level, std, dmos in _CSIQ:
        image = file.split("/")[1].split(".")[0]
        yield (int(image) if image.isdigit() else image, 1, kind, level, std, dmos)


def _csiq_csv(root):
    header, *rows = _csiq_sheet()
    write_csv(root / "csiq.DMOS.csv", header, rows)


def _csiq_text(root):
    write_lines(root / "csiq_label.txt", [f"{f.split('/')[1]} {d}" for f, *_, d in _CSIQ])


def _csiq_workbook(root):
    openpyxl = pytest.importorskip("openpyxl", reason="reads the official Excel files")
    book = openpyxl.Workbook()
    book.active.title = "summary"
    sheet = book.create_sheet("all_by_image")
    for row in (("CSIQ",), (), ("ratings",), *_csiq_sheet()):
        sheet.append(list(row))
    book.save(root / "csiq.DMOS.xlsx")


@pytest.mark.parametrize("form", [_csiq_csv, _csiq_text, _csiq_workbook])
def test_csiq_dmos_is_turned_round(tmp_path, form):
    _csiq_images(tmp_path)
    form(tmp_path)
    examples = registry.read_dataset("csiq", tmp_path, "whole/test")
    assert [e.score for e in examples] == pytest.approx([1 - row[4] for row in _CSIQ])
    assert [str(e.image.relative_to(tmp_path / "dst_imgs")) for e in examples] == [
        row[0] for row in _CSIQ
    ]
    assert [e.metadata["distortion_level"] for e in examples] == [1, 5, 3, 2]
    assert [e.metadata["reference"] for e in examples] == ["1600", "1600", "1600", "FAMILY"]
    if form is not _csiq_text:
        assert examples[0].metadata["label_std"] == pytest.approx(0.05)
    assert registry.dataset_info("csiq").higher_is_better


def test_csiq_list_of_qalign_is_turned_round_too(tmp_path):
    _csiq_images(tmp_path)
    write_json(tmp_path / "csiq.json", [{"img_path": "csiq/1600.AWGN.1.png", "gt_score": "0.062"}])
    (example,) = registry.read_dataset("csiq", tmp_path, "all")
    assert example.score == pytest.approx(0.938)


def test_csiq_unknown_distortion(tmp_path):
    header, row, *_ = _csiq_sheet()
    write_csv(tmp_path / "csiq.DMOS.csv", header, [[*row[:2], "smoke", *row[3:]]])
    with pytest.raises(UserError, match="dst_type is 'smoke', expected one of noise, blur"):
        registry.read_dataset("csiq", tmp_path, "all")


def test_tid_names_of_mixed_case(tmp_path):
    home = tmp_path / "TID2013"
    write_lines(home / "mos_with_names.txt", ["5.51429 I01_01_1.bmp", "2.2 i25_24_5.bmp"])
    write_images(home / "distorted_images", ["i01_01_1.bmp", "I25_24_5.BMP"])
    examples = registry.read_dataset("tid2013", tmp_path, "all")
    assert [e.score for e in examples] == [5.51429, 2.2]
    assert [e.image.name for e in examples] == ["i01_01_1.bmp", "I25_24_5.BMP"]
    assert [e.metadata["reference"] for e in examples] == ["I01", "I25"]
    parts = {
        part: registry.read_dataset("tid2013", tmp_path, f"seeded505-1/{part}")
        for part in ("train", "test")
    }
    assert all(len(examples) == 1 for examples in parts.values())
