"""The convert door: both directions, everything that travels along, one line per mistake."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxqa import tree
from jaxqa.cli import convert
from jaxqa.data.tokenizer import build_demo_tokenizer, load_tokenizer
from jaxqa.files import weights_digest
from jaxqa.models import safetensors_io
from jaxqa.models.qwen2_5_vl import hf_config, hf_export, weights
from jaxqa.models.qwen2_5_vl.config import PRESETS
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.models.qwen2_5_vl.preprocess import ImageConfig

CONFIG = PRESETS["tiny"]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A Hugging Face directory with tokenizer, processor and bfloat16 weights."""
    root = tmp_path_factory.mktemp("convert")
    tokenizer = build_demo_tokenizer(["a photograph with strong blur", "noise 1 2 3"], 300)
    tokenizer.save(root / "tokenizer")
    (root / "tokenizer" / "LICENSE").write_text("Apache-2.0")
    abstract = tree.flatten(Qwen2_5_VL(config=CONFIG).abstract_params())
    rng = np.random.default_rng(0)
    flat = {path: rng.standard_normal(leaf.shape, np.float32) for path, leaf in abstract.items()}
    weights.save_pretrained(
        root / "hf",
        CONFIG,
        tree.unflatten(flat),
        dtype="bfloat16",
        source_dir=root / "tokenizer",
        image_config=ImageConfig(min_pixels=28 * 28, max_pixels=112 * 112),
    )
    return root / "hf"


def files(directory):
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.is_file()}


def tensors(directory):
    """Name -> type, shape and bytes of every stored tensor."""
    found = safetensors_io.open_directory(directory)
    return {
        n: (t.spec, t.read(tuple(map(slice, t.spec.shape))).tobytes()) for n, t in found.items()
    }


def run(**flags) -> int:
    return convert.main([f"--{name}={value}" for name, value in flags.items()])


def test_there_and_back_changes_no_byte_of_any_file(source, tmp_path):
    assert run(input=source, output=tmp_path / "jaxqa", format="jaxqa") == 0
    assert run(input=tmp_path / "jaxqa", output=tmp_path / "hf", format="hf") == 0
    assert files(tmp_path / "hf") == files(source)
    assert json.loads((tmp_path / "jaxqa/config.json").read_text())["jaxqa_format"] == 1
    assert not list((tmp_path / "jaxqa").glob("*.safetensors"))


def test_both_formats_load_alike(source, tmp_path):
    run(input=source, output=tmp_path / "jaxqa", format="jaxqa")
    for dtype in (None, "float32"):
        expected_config, expected = weights.load_model_directory(source, dtype=dtype)
        config, params = weights.load_model_directory(tmp_path / "jaxqa", dtype=dtype)
        assert config == expected_config == CONFIG
        jax.tree.map(np.testing.assert_array_equal, params, expected)
        dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(params)}
        assert dtypes == {dtype or "bfloat16"}


def test_jaxqa_directory_is_restored_onto_a_mesh(source, tmp_path):
    run(input=source, output=tmp_path / "jaxqa", format="jaxqa")
    everywhere = jax.sharding.NamedSharding(
        jax.make_mesh((8,), ("x",)), jax.sharding.PartitionSpec()
    )
    params = weights.load_model_directory(tmp_path / "jaxqa", shardings=everywhere)[1]
    assert all(leaf.sharding == everywhere for leaf in jax.tree.leaves(params))


def test_everything_else_travels_along(source, tmp_path):
    run(input=source, output=tmp_path / "out", format="jaxqa", dtype="float32")
    tokenizer = load_tokenizer(tmp_path / "out")
    text = "blur 12 <|image_pad|>"
    assert tokenizer.encode(text) == load_tokenizer(source).encode(text)
    assert tokenizer.render_chat([{"role": "user", "content": "x"}])
    images = hf_config.read_image_config(tmp_path / "out")
    assert (images.min_pixels, images.max_pixels) == (28 * 28, 112 * 112)
    assert (tmp_path / "out" / "LICENSE").read_text() == "Apache-2.0"
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == "float32"


@pytest.mark.torch
def test_transformers_loads_processor_and_tokenizer(source):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    assert tokenizer("<|image_pad|>")["input_ids"] == [load_tokenizer(source).image_token_id]
    images = transformers.AutoImageProcessor.from_pretrained(source)
    picture = np.zeros((640, 480, 3), np.uint8)
    rows, columns = images(images=[picture], return_tensors="np")["image_grid_thw"][0][1:]
    assert 0 < rows * columns * 14 * 14 <= 112 * 112


@pytest.fixture(scope="module")
def other(source, tmp_path_factory):
    """A model with another vision tower, of one block more, and other pixel bounds."""
    vision = dataclasses.replace(CONFIG.vision, depth=CONFIG.vision.depth + 1)
    config = dataclasses.replace(CONFIG, vision=vision)
    abstract = tree.flatten(Qwen2_5_VL(config=config).abstract_params())
    rng = np.random.default_rng(1)
    flat = {path: rng.standard_normal(leaf.shape, np.float32) for path, leaf in abstract.items()}
    place = tmp_path_factory.mktemp("other") / "hf"
    images = ImageConfig(min_pixels=28 * 28, max_pixels=84 * 84)
    weights.save_pretrained(
        place, config, tree.unflatten(flat), dtype="bfloat16", image_config=images
    )
    return place


def test_surgery_takes_every_bit_of_either_part(source, other, tmp_path):
    first, second, back = (tmp_path / name for name in ("first", "second", "back"))
    assert run(input=source, vision_from=other, output=first, format="hf") == 0
    # The other way round, from and to the other format, in both places.
    for path, name in ((source, "a"), (other, "b")):
        run(input=path, output=tmp_path / name, format="jaxqa")
    joined = {"input": tmp_path / "b", "vision_from": tmp_path / "a"}
    assert run(**joined, output=second, format="jaxqa") == 0
    assert run(input=second, output=back, format="hf") == 0
    stored = {path: tensors(path) for path in (source, other, first, back)}
    for made, language, vision in ((first, source, other), (back, other, source)):
        for name, content in stored[made].items():
            part = vision if name.startswith("visual.") else language
            assert content == stored[part][name], name
        count = sum(name.startswith("visual.") for name in stored[made])
        assert count == sum(name.startswith("visual.") for name in stored[vision])
        depth = hf_config.read_config(vision).vision.depth
        assert hf_config.read_config(made).vision.depth == depth
        assert hf_config.read_image_config(made) == hf_config.read_image_config(vision)
    assert load_tokenizer(first).encode("blur 12") == load_tokenizer(source).encode("blur 12")
    origin = json.loads((first / "provenance.json").read_text())
    assert origin["language_model"]["path"] == str(source)
    assert origin["vision_tower"] == {"path": str(other), "weights": weights_digest(other)}
    assert (second / "provenance.json").read_bytes() == (back / "provenance.json").read_bytes()


def test_surgery_with_itself_changes_no_byte(source, tmp_path):
    assert run(input=source, vision_from=source, output=tmp_path / "same", format="hf") == 0
    found = files(tmp_path / "same")
    del found["provenance.json"]
    assert found == files(source)


def test_parts_that_do_not_fit_are_refused(source, other, tmp_path, capsys):
    output = tmp_path / "out"
    run(input=other, output=tmp_path / "float", format="hf", dtype="float32")
    capsys.readouterr()
    assert run(input=source, vision_from=tmp_path / "float", output=output, format="hf") == 2
    assert "is stored as float32 and the language model" in capsys.readouterr().err
    wide = dataclasses.replace(CONFIG.vision, out_hidden_size=2 * CONFIG.vision.out_hidden_size)
    text = dataclasses.replace(CONFIG.text, hidden_size=256, mrope_section=(8, 12, 12))
    values = hf_export.model_config(
        dataclasses.replace(CONFIG, vision=wide, text=text), dtype="bfloat16"
    )
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide" / "config.json").write_text(json.dumps(values))
    assert run(input=source, vision_from=tmp_path / "wide", output=output, format="hf") == 2
    assert "take both from models of one size" in capsys.readouterr().err
    assert run(input=source, vision_from=tmp_path / "no", output=output, format="hf") == 2
    assert "no does not exist" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"input": "nowhere", "format": "hf"}, "nowhere does not exist"),
        ({"output": "{source}", "format": "hf"}, "not empty"),
        ({"input": "{empty}", "format": "jaxqa"}, "config.json"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(source, tmp_path, capsys, flags, message):
    (tmp_path / "empty").mkdir()
    before = files(source)
    flags = {"input": source, "output": tmp_path / "out"} | {
        key: value.format(source=source, empty=tmp_path / "empty") for key, value in flags.items()
    }
    assert run(**flags) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("error: ") and message in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    assert files(source) == before


def test_unknown_format_is_refused(source, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        run(input=source, output=tmp_path / "out", format="onnx")
    assert caught.value.code == 2
    assert "choose from" in capsys.readouterr().err


def test_launcher_reports_a_cut_file_without_traceback(source, tmp_path):
    cut = tmp_path / "cut"
    cut.mkdir()
    for name, content in files(source).items():
        (cut / name).write_bytes(content[:-7] if name.endswith(".safetensors") else content)
    command = [sys.executable, ROOT / "launchers/convert.py", "--format=hf"]
    done = subprocess.run(
        [*command, f"--input={cut}", f"--output={tmp_path / 'out'}"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1
    assert "model.safetensors is damaged or cut off" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["cut"]
