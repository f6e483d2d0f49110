import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxqa.cli import generate
from jaxqa.data.tokenizer import Tokenizer, build_demo_tokenizer, load_tokenizer
from jaxqa.models.qwen2_5_vl import weights
from jaxqa.models.qwen2_5_vl.config import PRESETS
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL

LAUNCHER = Path(__file__).parents[2] / "launchers" / "generate.py"
CORPUS = ["a photograph with strong blur and some noise, score 3.25"] * 3


def make_model(directory: Path, tokenizer: Tokenizer) -> Path:
    names = ("image", "video", "vision_start", "vision_end", "eos", "pad")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    tiny = PRESETS["tiny"]
    text = dataclasses.replace(tiny.text, vocab_size=tokenizer.vocab_size)
    config = dataclasses.replace(
        tiny, text=text, bos_token_id=tokenizer.pad_token_id, initializer_range=0.2, **ids
    )
    params = jax.jit(Qwen2_5_VL(config=config).init)(jax.random.key(1))
    tokenizer.save(directory / "source")
    weights.save_pretrained(directory / "model", config, params, source_dir=directory / "source")
    return directory / "model"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = build_demo_tokenizer(CORPUS, 300)
    return make_model(tmp_path_factory.mktemp("generate"), tokenizer)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    path = tmp_path_factory.mktemp("images") / "noise.png"
    Image.fromarray(pixels).save(path)
    return path


def run(capsys: pytest.CaptureFixture, *flags: str) -> str:
    assert generate.main(flags) == 0
    return capsys.readouterr().out


def test_json_holds_every_sample(capsys: pytest.CaptureFixture, model: Path, image: Path):
    flags = [f"--model={model}", f"--image={image}", "--prompt=How sharp?", "--json"]
    flags += ["--max_new_tokens=6", "--num_samples=3", "--temperature=1.2", "--top_p=0.9"]
    output = run(capsys, *flags, "--seed=4")
    completions = json.loads(output)["completions"]
    assert len(completions) == 3
    tokenizer = load_tokenizer(model)
    for completion in completions:
        assert completion.keys() == {"text", "token_ids", "logprobs"}
        assert completion["text"] == tokenizer.decode(completion["token_ids"])
        assert 1 <= len(completion["token_ids"]) == len(completion["logprobs"]) <= 6
        assert max(completion["logprobs"]) <= 0
    assert len({tuple(completion["token_ids"]) for completion in completions}) > 1
    assert run(capsys, *flags, "--seed=4") == output
    assert run(capsys, *flags, "--seed=5") != output


def two_images(model: Path, image: Path) -> list[str]:
    flags = [f"--model={model}", "--image", str(image), str(image), "--prompt=Which is sharper?"]
    return [*flags, "--system=Answer briefly.", "--max_new_tokens=5", "--temperature=0"]


def test_text_with_two_images_and_a_system_prompt(
    capsys: pytest.CaptureFixture, model: Path, image: Path
):
    text = run(capsys, *two_images(model, image))
    record = json.loads(run(capsys, *two_images(model, image), "--json"))["completions"][0]
    assert text == record["text"] + "\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--temperature=-1"], "temperature is -1.0; expected 0 (greedy) or more"),
        (["--seed=-1"], "seed is -1; expected an integer in [0, 2**32)"),
        (["--image=missing.png"], "missing.png"),
        (["--max_new_tokens=5000"], "has room for 4096 in all"),
        (["--prompt=<|image_pad|>"], "1 image placeholders and 0 images"),
        (["--model=nowhere"], "nowhere"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture, model: Path, flags: list[str], message: str
):
    assert generate.main([f"--model={model}", "--prompt=Hello", *flags]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_broken_weights_are_reported(
    capsys: pytest.CaptureFixture, model: Path, image: Path, tmp_path: Path
):
    config, params = weights.load_model_directory(model)
    broken = jax.tree.map(lambda leaf: leaf * np.float32("nan"), params)
    weights.save_pretrained(tmp_path / "broken", config, broken, source_dir=model)
    flags = two_images(tmp_path / "broken", image)  # compiled by the test above
    assert generate.main(flags) == 2
    assert "probabilities that are not numbers" in capsys.readouterr().err


def test_the_launcher_ends_with_the_door_status():
    flags = ["--model=nowhere", "--prompt=Hello"]
    result = subprocess.run(
        [sys.executable, str(LAUNCHER), *flags], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
