"""The convert door: both directions, everything that travels along, one line per mistake."""

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
from jaxqa.models.qwen2_5_vl import hf_config, weights
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
