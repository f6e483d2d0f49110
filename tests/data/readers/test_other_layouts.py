"""Images made from text, restored images, degradations and comparisons in their own layouts."""

import io

import numpy as np
import pyarrow as pa
import pytest
from layout_files import write_csv, write_images, write_json, write_json_lines, write_lines
from PIL import Image
from pyarrow import parquet

from jaxqa.data import registry
from jaxqa.errors import UserError

_AGIQA_HEADER = ["name", "prompt", "adj1", "adj2", "style", "mos_quality", "std_quality"]
_AGIQA_HEADER += ["mos_align", "std_align"]
_AGIQA_ROW = ["xl2.2_normal_017.jpg", "a cat, on a mat", "", "", "anime", 2.25, 0.4, 3.5, 0.9]


def test_agiqa_quality_and_alignment_are_two_data_sets(tmp_path):
    write_csv(tmp_path / "AGIQA-3K" / "data.csv", _AGIQA_HEADER, [_AGIQA_ROW])
    write_images(tmp_path / "AGIQA-3K", [_AGIQA_ROW[0]])
    (quality,) = registry.read_dataset("agiqa3k", tmp_path, "whole")
    (alignment,) = registry.read_dataset("agiqa3k_alignment", tmp_path, "whole")
    assert (quality.score, quality.metadata["label_std"], quality.task) == (2.25, 0.4, "quality")
    assert (alignment.score, alignment.metadata["label_std"]) == (3.5, 0.9)
    assert alignment.task == "alignment" and alignment.prompt == "a cat, on a mat"
    assert quality.example_id != alignment.example_id


def test_agiqa_splits_of_qalign(tmp_path):
    names = [f"sd1.5_normal_{number:04d}.jpg" for number in range(2982)]
    kept = names[:2] + names[-2:]
    rows = [[n, "p", "", "", "", 2.5, 0.1, 3.0, 0.1] for n in kept]
    header = ["name", "prompt", "adj1", "adj2", "style", "mos_quality", "std_quality"]
    write_csv(tmp_path / "data.csv", [*header, "mos_align", "std_align"], rows)
    write_images(tmp_path, kept)
    home = tmp_path / "playground/data/ft/agiqa3k"
    for part, chosen in (("train", names[:-597]), ("test", names[-597:])):
        items = [{"img_path": f"agiqa3k/{n}", "gt_score": "2.5"} for n in chosen]
        write_json(home / f"{part}_split_3.json", items)
    for part, expected in (("train", kept[:2]), ("test", kept[2:])):
        found = registry.read_dataset("agiqa3k", tmp_path, f"qalign3/{part}")
        assert [e.image.name for e in found] == expected
    with pytest.raises(UserError, match=r"Q-Align's split 4.* put .*test_split_4\.json"):
        registry.read_dataset("agiqa3k", tmp_path, "qalign4/test")
    write_json(home / "train_split_3.json", [{"img_path": n} for n in names[:-598]])
    with pytest.raises(UserError, match="name 2981 images together, expected 2982"):
        registry.read_dataset("agiqa3k", tmp_path, "qalign3/test")


def test_agiqa_labels_as_text_and_times_a_hundred(tmp_path):
    qalign, vq = tmp_path / "qalign", tmp_path / "vq"
    row = {"image": "agi/xl_1.jpg", "gt_score": "2.25"}
    write_json(qalign / "playground/data/test_jsons/agi.json", [row])
    write_lines(vq / "test_data_label" / "AGIQA-3K.txt", [f"xl_1.jpg {2.25 * 22.278} 8.9"])
    for root in (qalign, vq):
        write_images(root / "images", ["xl_1.jpg"])
        (example,) = registry.read_dataset("agiqa3k", root, "all")
        assert example.score == pytest.approx(2.25)
    assert example.metadata["label_std"] == pytest.approx(8.9 / 22.278)


def test_evalmuse_mean_of_ratings_and_withheld_labels(tmp_path):
    home = tmp_path / "EvalMuse"
    row = {
        "prompt_id": "00110",
        "prompt": "a red cube",
        "type": "real",
        "img_path": "SDXL-Turbo/00110.png",
        "total_score": [4, 3, 4],
        "element_score": {"red (color)": [1, 1, 0]},
        "promt_meaningless": 0,
        "split_confidence": 2,
        "attribute_confidence": [2],
        "fidelity_label": 1,
    }
    other = {**row, "img_path": "SD3/00110.png", "total_score": [1, 2, 1]}
    write_json(home / "train_list.json", [row, other])
    write_json(home / "test.json", [{"prompt_id": "1", "prompt": "x", "img_path": "SD3/1.png"}])
    write_images(home / "images", ["SDXL-Turbo/00110.png", "SD3/00110.png"])
    examples = registry.read_dataset("evalmuse40k", tmp_path, "train")
    assert [e.score for e in examples] == pytest.approx([11 / 3, 4 / 3])
    assert len({e.example_id for e in examples}) == 2  # one file name in two folders
    assert examples[0].prompt == "a red cube"
    assert examples[0].metadata["element_score"] == {"red (color)": [1, 1, 0]}
    with pytest.raises(UserError, match="no images in split 'test'"):
        registry.read_dataset("evalmuse40k", tmp_path, "test")


def test_evalmuse_holds_out_prompts_for_omniquality_r(tmp_path):
    home = tmp_path / "EvalMuse"
    rows = [
        {"prompt_id": f"{i:05d}", "prompt": f"p {i}", "img_path": f"{model}/{i:05d}.png"}
        | {"total_score": [3, 4]}
        for i in range(20)
        for model in ("SD3", "SDXL")
    ]
    write_json(home / "train_list.json", rows)
    write_images(home / "images", [row["img_path"] for row in rows])
    parts = {
        part: registry.read_dataset("evalmuse40k", tmp_path, f"omniquality_r/{part}")
        for part in ("train", "test")
    }
    assert {part: len(found) for part, found in parts.items()} == {"train": 36, "test": 4}
    assert not {e.prompt for e in parts["train"]} & {e.prompt for e in parts["test"]}


def test_unknown_layout_takes_the_common_json(tmp_path):
    rows = [{"image": "flux/1.png", "gt_score": 62.0, "prompt": "a kitchen", "std": 8}]
    write_json(tmp_path / "EvalMi-50K" / "evalmi50k.json", rows)
    write_images(tmp_path / "EvalMi-50K" / "images", ["flux/1.png"])
    (example,) = registry.read_dataset("evalmi50k", tmp_path, "all")
    assert (example.score, example.prompt, example.task) == (62.0, "a kitchen", "alignment")
    assert "not known" in registry.dataset_info("evalmi50k").notes[0]


def _genai(root, prompts):
    value = {
        f"{i:05d}": {"prompt": f"prompt {i}", "models": {"DALLE_3": [5, 5, 4], "SDXL_Base": [1]}}
        for i in range(prompts)
    }
    write_json(root / "genai_image.json", value)


def test_genai_bench_variants_are_two_names(tmp_path):
    home = tmp_path / "GenAI-Image-527"
    _genai(home, 1)
    write_images(home, ["DALLE_3/00000.jpeg", "SDXL_Base/00000.jpeg"])
    examples = registry.read_dataset("genai_bench_527", tmp_path, "whole")
    assert [e.score for e in examples] == pytest.approx([14 / 3, 1])
    assert [e.metadata["model"] for e in examples] == ["DALLE_3", "SDXL_Base"]
    assert {e.dataset for e in examples} == {"genai_bench_527"} and examples[0].prompt == "prompt 0"
    _genai(tmp_path / "other", 1600)
    with pytest.raises(UserError, match="this is genai_bench_1600, not genai_bench_527"):
        registry.read_dataset("genai_bench_527", tmp_path / "other", "all")


def _png(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((3, 5, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_genai_bench_parquet_holds_the_images(tmp_path):
    row = {
        "Index": 0,
        "Prompt": "two dogs",
        "DALLE_3": {"bytes": _png(9), "path": None},
        "DALLE_3_HumanRating": "[5, 5, 4]",
    }
    (tmp_path / "data").mkdir()
    table = pa.Table.from_pylist([row])
    parquet.write_table(table, tmp_path / "data" / "train-00000-of-00001.parquet")
    (example,) = registry.read_dataset("genai_bench_1600", tmp_path, "all")
    assert example.image == _png(9) and example.score == pytest.approx(14 / 3)
    (tmp_path / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(UserError, match="cannot read the Parquet file"):
        registry.read_dataset("genai_bench_1600", tmp_path, "all")


def test_t2i_compbench_scores_and_samples(tmp_path):
    names = ["a green bench_000000.png", "a red_ball_000001.png"]
    scores = [{"question_id": i, "answer": f"0.{i + 1}900"} for i in range(2)]
    write_json(tmp_path / "examples" / "annotation_blip" / "vqa_result.json", scores)
    write_images(tmp_path / "examples" / "samples", names)
    examples = registry.read_dataset("t2i_compbench", tmp_path, "all")
    assert [e.score for e in examples] == [0.19, 0.29]
    assert [e.prompt for e in examples] == ["a green bench", "a red_ball"]


@pytest.mark.parametrize(
    ("name", "file", "score"),
    [
        ("deblurring", "Deblur", 2.5),
        ("dehazing", "dehaze", 1.0),
        ("super_resolution", "SRIQA-Bench", 77.0),
    ],
)
def test_restored_images(tmp_path, name, file, score):
    write_lines(tmp_path / f"{file}_mos.txt", [f"ref_7.png out_7.png {score}"])
    write_images(tmp_path / file, ["out_7.png"])
    (example,) = registry.read_dataset(name, tmp_path, "visualquality_r1/test")
    assert (example.score, example.metadata["reference"]) == (score, "ref_7")


def test_degradations(tmp_path):
    rows = [
        {"image": "refA_sd_brief/0001.png", "distortion_class": "blur", "severity": "serious"},
        {"image": "refA_sd_brief/0002.png", "distortion_class": "null", "severity": None},
    ]
    write_json(tmp_path / "train_dist.json", rows)
    write_images(tmp_path / "refA_sd_brief", ["0001.png", "0002.png"])
    examples = registry.read_dataset("qinsight_degradation", tmp_path, "all")
    assert [e.answer_labels for e in examples] == [
        {"distortion_class": "blur", "severity": "serious"},
        {"distortion_class": "null", "severity": "null"},
    ]
    assert {e.task for e in examples} == {"degradation"} and examples[0].score is None
    rows[0]["severity"] = "dreadful"
    write_json(tmp_path / "train_dist.json", rows)
    with pytest.raises(UserError, match="severity is 'dreadful', expected one of slight, moderate"):
        registry.read_dataset("qinsight_degradation", tmp_path, "all")


def test_comparisons(tmp_path):
    names = ["Original/o1.png", "03/o1_03.png", "05/o1_05.png"]
    row = dict(zip(("ref_image", "ImageA", "ImageB"), names, strict=True), result="Image B")
    write_json(tmp_path / "train_comparison.json", [row])
    write_images(tmp_path, names)
    (example,) = registry.read_dataset("qinsight_comparison", tmp_path, "all")
    files = [example.image, *example.extra_images]
    assert [str(file.relative_to(tmp_path)) for file in files] == names
    assert example.answer_labels == {"choice": "Image B"} and example.task == "comparison"
    (tmp_path / names[2]).unlink()
    with pytest.raises(UserError, match=r"1 of 1 image files .*Original/o1\.png.03/o1_03\.png"):
        registry.read_dataset("qinsight_comparison", tmp_path, "all")


def test_degradations_as_json_lines(tmp_path):
    rows = [{"image": "a.png", "distortion_class": "noise", "severity": "slight"}]
    write_json_lines(tmp_path / "train_dist.jsonl", rows)
    write_images(tmp_path, ["a.png"])
    assert len(registry.read_dataset("qinsight_degradation", tmp_path, "all")) == 1
