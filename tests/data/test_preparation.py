"""Prepared data sets: read like the originals, whole after a kill, honest about what they lack."""

import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from layout_files import write_csv, write_image, write_images, write_json, write_json_lines
from PIL import Image

from jaxqa.data import encoding, images, preparation, prepared, registry
from jaxqa.errors import UserError


def _tad(home, *, train=5, test=3):
    for part, count in (("train", train), ("test", test)):
        names = [f"{part}{i}.png" for i in range(count)]
        rows = [[name, 2 + i % 8] for i, name in enumerate(names)]
        write_csv(home / "merge" / f"{part}.csv", ["image", "score"], rows)
        write_images(home / "TAD66K", names)
    return home


def _same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        for field in ("example_id", "score", "dataset", "task", "prompt", "rationale"):
            assert getattr(a, field) == getattr(b, field)
        assert (a.metadata, a.answer_labels) == (b.metadata, b.answer_labels)
        pairs = zip((a.image, *a.extra_images), (b.image, *b.extra_images), strict=True)
        for x, y in pairs:
            assert x.read_bytes() == y.read_bytes()
            np.testing.assert_array_equal(images.decode(x), images.decode(y))


def test_prepared_reads_like_the_original(tmp_path):
    root, output = _tad(tmp_path / "tad66k"), tmp_path / "out"
    made = preparation.prepare("tad66k", root, output)
    assert made.parts == {"train": 5, "test": 3} and not made.left_out and not made.kept
    for split in ("all", "train", "test", "official", "seeded505-3/train"):
        _same(
            registry.read_dataset("tad66k", root, split),
            registry.read_dataset("tad66k", output, split),
        )
    assert len(registry.read_dataset("tad66k", output / "tad66k", "all")) == 8
    assert "tensorflow" not in sys.modules


def test_images_of_a_prepared_set_travel_to_workers(tmp_path):
    root = _tad(tmp_path / "tad66k")
    write_image(root / "TAD66K" / "train3.png", side=7)
    preparation.prepare("tad66k", root, tmp_path / "out")
    example = registry.read_dataset("tad66k", tmp_path / "out", "train")[3]
    image = pickle.loads(pickle.dumps(example.image))
    assert image.read_bytes() == (root / "TAD66K" / "train3.png").read_bytes()
    assert encoding.read_image_size(image, name="x") == (7, 7) == images.read_size(image)
    assert "record 3 (train3.png)" in encoding.image_name(example)


def test_order_of_the_label_file_survives_parts(tmp_path):
    """The rows of an interleaved label file come back in its order, whatever part they are in."""
    rows = [
        {"image": f"{i}.png", "gt_score": 5, "split": ("train", "test")[i % 2]} for i in range(6)
    ]
    write_json(tmp_path / "evalmi50k.json", rows)
    write_images(tmp_path, [row["image"] for row in rows])
    preparation.prepare("evalmi50k", tmp_path, tmp_path / "out")
    found = registry.read_dataset("evalmi50k", tmp_path / "out", "all")
    assert [e.image.name for e in found] == [row["image"] for row in rows]


def test_comparisons_keep_their_three_images(tmp_path):
    names = ["o.png", "a.png", "b.png"]
    row = dict(zip(("ref_image", "ImageA", "ImageB"), names, strict=True), result="Image A")
    write_json_lines(tmp_path / "train_comparison.jsonl", [row])
    write_images(tmp_path, names)
    preparation.prepare("qinsight_comparison", tmp_path, tmp_path / "out")
    _same(
        registry.read_dataset("qinsight_comparison", tmp_path, "all"),
        registry.read_dataset("qinsight_comparison", tmp_path / "out", "all"),
    )


def test_named_splits_are_kept_without_their_lists(tmp_path):
    names = [f"{i:05d}.jpg" for i in range(1, 5)]
    rows = [[name, 50] for name in names]
    write_csv(tmp_path / "mos.csv", ["Image name", "MOS"], rows)
    write_images(tmp_path / "TestImage", names)
    others = [{"image": f"x{i}.jpg"} for i in range(2222)]
    listed = [{"image": name} for name in names[2:]]
    write_json(tmp_path / "splits" / "test_spaq.json", [*others, *listed])
    preparation.prepare("spaq", tmp_path, tmp_path / "out")
    test = registry.read_dataset("spaq", tmp_path / "out", "qalign/test")
    assert [e.image.name for e in test] == names[2:]


def test_missing_and_unreadable_images_cost_themselves_only(tmp_path):
    root = _tad(tmp_path / "tad66k")
    (root / "TAD66K" / "train1.png").write_bytes(b"no image")
    (root / "TAD66K" / "train2.png").unlink()
    cut = write_image(root / "TAD66K" / "test0.png", side=40)
    cut.write_bytes(cut.read_bytes()[:-900])  # the header is whole
    made = preparation.prepare("tad66k", root, tmp_path / "out")
    assert made.parts == {"train": 3, "test": 2}
    assert [name for name, _ in made.left_out] == ["train1.png", "train2.png", "test0.png"]
    reasons = [reason for _, reason in made.left_out]
    assert reasons[0].startswith("no image found")
    assert reasons[1] == f"the image file is missing; looked in {root / 'TAD66K'}, {root}"
    assert reasons[2].startswith("cannot decode the image")
    found = registry.read_dataset("tad66k", tmp_path / "out", "train")
    assert [e.image.name for e in found] == ["train0.png", "train3.png", "train4.png"]
    assert [e.image.read_bytes() for e in found] == [
        (root / "TAD66K" / e.image.name).read_bytes() for e in found
    ]


def test_finished_parts_are_kept_and_a_cut_one_starts_again(tmp_path):
    root, output = _tad(tmp_path / "tad66k"), tmp_path / "out"

    class Killed(BaseException):
        pass

    def stop(part, done, total):
        if part == "test" and done == 2:
            raise Killed

    with pytest.raises(Killed):
        preparation.prepare("tad66k", root, output, progress=stop)
    assert not (output / "tad66k" / "test").exists()
    with pytest.raises(UserError, match="tad66k is not prepared to the end; run the same"):
        registry.read_dataset("tad66k", output, "train")
    before = os.stat(output / "tad66k" / "train" / prepared.LABELS).st_mtime_ns
    seen = []
    made = preparation.prepare("tad66k", root, output, progress=lambda *call: seen.append(call))
    assert made.kept == ("train",) and {part for part, *_ in seen} == {"test"}
    assert seen[-1] == ("test", 3, 3)
    assert os.stat(output / "tad66k" / "train" / prepared.LABELS).st_mtime_ns == before
    _same(
        registry.read_dataset("tad66k", root, "all"),
        registry.read_dataset("tad66k", output, "all"),
    )


_SLOW = """
import sys, time
from pathlib import Path
from jaxqa.data import preparation
def slowly(part, done, total):
    print(part, done, file=sys.stderr, flush=True)
    time.sleep(0.2 if part == "test" else 0)
preparation.prepare("tad66k", Path(sys.argv[1]), Path(sys.argv[2]), progress=slowly)
"""


def test_a_killed_process_leaves_no_half_data_set(tmp_path):
    root, output = _tad(tmp_path / "tad66k", test=30), tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW, str(root), str(output)], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("test 2"):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert sorted(path.name for path in (output / "tad66k").iterdir() if path.name[0] != ".") == [
        "train"
    ]
    started = time.monotonic()
    made = preparation.prepare("tad66k", root, output)
    assert made.kept == ("train",) and made.parts == {"train": 5, "test": 30}
    assert time.monotonic() - started < 20
    left = [path.name for path in (output / "tad66k").iterdir()]
    assert sorted(left) == ["dataset.json", "test", "train"]


def test_other_labels_in_the_way_are_not_mixed_in(tmp_path):
    root, output = _tad(tmp_path / "tad66k"), tmp_path / "out"
    preparation.prepare("tad66k", root, output)
    write_csv(root / "merge" / "train.csv", ["image", "score"], [["train0.png", 9]])
    with pytest.raises(UserError, match="train: holds something else, or was prepared from other"):
        preparation.prepare("tad66k", root, output)


@pytest.mark.parametrize("name", ["tad66k", "kadid10k"])
def test_what_cannot_be_prepared(tmp_path, name):
    root, output = _tad(tmp_path / "tad66k"), tmp_path / "out"
    preparation.prepare("tad66k", root, output)
    message = "is prepared already" if name == "tad66k" else "found none of its label files"
    with pytest.raises(UserError, match=message):
        preparation.prepare(name, output, tmp_path / "again")
    with pytest.raises(UserError, match=r"give the table a name of the registry \(#as=NAME\)"):
        preparation.prepare("file:x.csv#range=1..5", root, output)
    manifest = output / "tad66k" / prepared.MANIFEST
    manifest.write_text(manifest.read_text().replace('"train": 5', '"train": 6'))
    with pytest.raises(UserError, match="5 rows of tad66k, expected 6; prepare it again"):
        registry.read_dataset("tad66k", output, "all")
    with pytest.raises(UserError, match="holds the prepared data set tad66k, not kadid10k"):
        registry.read_dataset("kadid10k", output / "tad66k", "all")


def test_the_users_list_of_a_known_data_set(tmp_path):
    path = write_csv(tmp_path / "l.csv", ["image", "score"], [["a.png", 50]])
    write_images(tmp_path, ["a.png"])
    preparation.prepare(f"file:{path}#as=koniq10k", tmp_path, tmp_path / "out")
    (example,) = registry.read_dataset("koniq10k", tmp_path / "out", "all")
    assert (example.score, example.dataset) == (50, "koniq10k")


def test_damaged_records_are_said(tmp_path):
    root, output = _tad(tmp_path / "tad66k"), tmp_path / "out"
    preparation.prepare("tad66k", root, output)
    example = registry.read_dataset("tad66k", output, "test")[0]
    folder = prepared.builder_folder(output / "tad66k" / "test")
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(UserError, match="cannot read the prepared image.*prepare the data set aga"):
        images.decode(example.image)


def test_upright_size_of_a_turned_photograph_is_kept(tmp_path):
    picture = Image.new("RGB", (6, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    picture.save(tmp_path / "images" / "1_1.jpg", exif=exif)
    write_json(tmp_path / "test.json", [{"image": "1_1.jpg", "gt_score": 5}])
    preparation.prepare("artimuse10k", tmp_path, tmp_path / "out")
    (example,) = registry.read_dataset("artimuse10k", tmp_path / "out", "test")
    assert example.image.size == (6, 3) == images.decode(example.image).shape[:2]
