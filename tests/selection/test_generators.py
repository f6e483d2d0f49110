"""Commands, functions and pipelines that make images."""

import dataclasses
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from judge_stand_in import lighten, paint, write_picture
from PIL import Image

from jaxqa.errors import UserError
from jaxqa.selection import python_generators
from jaxqa.selection.commands import Command
from jaxqa.selection.generators import (
    GenerationError,
    Request,
    produce,
    produce_several,
)
from jaxqa.selection.python_generators import Function, Pipeline

HOSTILE = "$(touch pwned) `touch pwned`; touch pwned | \"'\n -rf * {output} {seed} é \\"
ECHO = (
    "import sys, json; from PIL import Image; "
    "Image.new('RGB', (4, 4)).save(sys.argv[1]); "
    "open(sys.argv[1] + '.json', 'w').write(json.dumps(sys.argv[1:]))"
)


def request(**fields):
    return Request(**{"prompt": "a cat", "seed": 7, "number": 3, **fields})


@pytest.mark.parametrize("shell", [False, True])
def test_nothing_in_a_prompt_becomes_code(tmp_path, monkeypatch, shell):
    import json

    monkeypatch.chdir(tmp_path)
    template = f'{sys.executable} -c "{ECHO}" {{output}} {{prompt}} --seed={{seed}} {{n}} {{image}}'
    command = Command(template, shell=shell, edits=True)
    output = tmp_path / "out put.png"
    command.make(request(prompt=HOSTILE, image=Path("a b.png")), output)
    written = json.loads(Path(f"{output}.json").read_text())
    assert written == [str(output), HOSTILE, "--seed=7", "3", "a b.png"]
    assert not (tmp_path / "pwned").exists()


def test_a_shell_may_redirect(tmp_path):
    write_picture(tmp_path / "a.png", 9)
    command = Command(f"cat '{tmp_path}/a.png' > {{output}} && : {{prompt}}", shell=True)
    command.make(request(prompt=HOSTILE), tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("false {prompt} {output}", "exit status 1"),
        ("sh -c 'echo one; echo the reason >&2; exit 3' {prompt} {output}", "3: the reason"),
        ("true {prompt} {output}", "wrote no {output}"),
        ("no-such-program {prompt} {output}", "cannot start no-such-program"),
    ],
)
def test_commands_that_fail(tmp_path, template, message):
    with pytest.raises(GenerationError, match=message):
        Command(template).make(request(), tmp_path / "out.png")


def test_a_command_that_takes_too_long_is_killed_with_its_children(tmp_path):
    mark = tmp_path / "mark"
    script = f"(sleep 2; touch {mark}) & sleep 60"
    command = Command(f"sh -c '{script}' {{prompt}} {{output}}", timeout=0.3)
    begun = time.monotonic()
    with pytest.raises(GenerationError, match="not done after 0.3 s"):
        command.make(request(), tmp_path / "out.png")
    assert time.monotonic() - begun < 10
    time.sleep(2.2)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("template", "edits", "message"),
    [
        ("make {output}", False, "lacks {prompt}"),
        ("make {prompt}", False, "lacks {output}"),
        ("make {prompt} {output}", True, "lacks {image}"),
        ("make {prompt} {output} {image}", False, "none in the first round"),
        ("make '{prompt} {output}", False, "close the quotes"),
    ],
)
def test_templates_that_cannot_be_meant(template, edits, message):
    with pytest.raises(UserError, match=message):
        Command(template, edits=edits)


def test_functions_take_what_they_name(tmp_path):
    output = tmp_path / "out.png"
    Function(paint).make(request(), output)
    assert Image.open(output).getpixel((0, 0)) == paint("a cat", 7).getpixel((0, 0))
    start = write_picture(tmp_path / "start.png", 101)
    Function(lighten, edits=True).make(request(image=start), output)
    assert Image.open(output).getpixel((0, 0)) == (178, 178, 178)
    seen = {}

    def writes(prompt, output, **rest):
        seen.update(rest)
        shutil.copy(start, output)

    Function(writes).make(request(), output)
    assert seen == {"seed": 7, "n": 3, "image": None}
    assert output.read_bytes() == start.read_bytes()
    floats = np.full((3, 4, 5), 0.5, np.float32)  # channels first, as tensors are
    Function(lambda prompt: floats).make(request(), output)
    assert np.asarray(Image.open(output)).shape == (4, 5, 3)


def fails(error):
    def function(prompt):
        raise error

    return function


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (fails(RuntimeError("out of memory")), "RuntimeError: out of memory"),
        (lambda prompt: None, "wrote no output"),
        (lambda prompt: np.full((4, 4, 3), 9.0), "expected values from 0 to 1"),
        (lambda prompt: b"no image", "no image found"),
        (lambda prompt: 3, "is a int"),
    ],
)
def test_functions_that_fail(tmp_path, function, message):
    with pytest.raises(GenerationError, match=message):
        produce(Function(function), request(), tmp_path / "out.png")
    assert not list(tmp_path.iterdir())


def test_bugs_of_functions_are_not_hidden(tmp_path):
    with pytest.raises(KeyError):
        produce(Function(fails(KeyError("x"))), request(), tmp_path / "out.png")


def test_functions_that_cannot_be_called():
    with pytest.raises(UserError, match="parameters text; expected prompt"):
        Function(lambda text: None)
    with pytest.raises(UserError, match="parameters prompt; expected image, prompt"):
        Function(lambda prompt: None, edits=True)
    for text, message in [
        ("judge_stand_in", "expected MODULE:FUNCTION"),
        ("judge_stand_in:nobody", "nobody"),
        ("no_such_module:f", "No module"),
        ("judge_stand_in:RANGES", "is a dict"),
    ]:
        with pytest.raises(UserError, match=message):
            python_generators.load_function(text)
    assert python_generators.load_function("judge_stand_in:paint").description == (
        "callable=judge_stand_in:paint"
    )


def test_an_image_takes_its_name_when_it_is_whole(tmp_path):
    output = tmp_path / "new" / "00003.png"

    def half(prompt, output):
        assert output.suffix == ".png" and output.name != "00003.png"
        output.write_bytes(b"\x89PNG\r\n\x1a\n half")

    with pytest.raises(GenerationError, match="the image that was made: "):
        produce(Function(half), request(), output)
    assert list(output.parent.iterdir()) == []
    produce(Function(paint), request(), output)
    assert list(output.parent.iterdir()) == [output]


class StandInPipeline:
    """Called as a diffusers pipeline is."""

    def __init__(self):
        self.calls = []

    def __call__(self, prompt, generator, num_images_per_prompt, **options):
        import torch

        self.calls.append((prompt, num_images_per_prompt, options))
        generators = generator if isinstance(generator, list) else [generator]
        prompts = prompt if isinstance(prompt, list) else [prompt] * num_images_per_prompt
        assert (
            len(generators)
            == len(prompts)
            == num_images_per_prompt * (len(prompt) if isinstance(prompt, list) else 1)
        )
        if "impossible" in prompts:
            raise torch.OutOfMemoryError("too many")
        noise = [torch.rand((4, 4, 3), generator=g).numpy() for g in generators]
        return SimpleNamespace(
            images=[Image.fromarray((each * 255).astype(np.uint8)) for each in noise]
        )


@pytest.mark.torch
def test_pipelines_are_called_as_diffusers_does(tmp_path):
    pytest.importorskip("torch", reason="needs torch")
    pipeline = StandInPipeline()
    maker = Pipeline(pipeline, options={"num_inference_steps": 2})
    paths = [tmp_path / f"{n}.png" for n in range(3)]
    for path, seed in zip(paths, (5, 5, 6), strict=True):
        maker.make(request(seed=seed), path)
    same, again, other = (path.read_bytes() for path in paths)
    assert same == again != other
    assert pipeline.calls[0] == ("a cat", 1, {"num_inference_steps": 2})
    start = write_picture(tmp_path / "start.png", 101)
    Pipeline(pipeline, edits=True).make(request(image=start), paths[0])
    assert pipeline.calls[-1][2]["image"].getpixel((0, 0)) == (101, 101, 101)
    assert Pipeline(pipeline).description == "diffusers=StandInPipeline()"


@pytest.mark.torch
def test_several_images_in_one_call_of_a_pipeline(tmp_path):
    """Each is the image that its request alone gives; one that fails costs no other."""
    pytest.importorskip("torch", reason="needs torch")
    prompts = ["a cat"] * 3 + ["a dog", "impossible", "a cat"]
    asked = [Request(prompt=p, seed=n, number=n) for n, p in enumerate(prompts)]

    def make(name, pipeline, requests, **options):
        maker = Pipeline(pipeline, **options)
        outputs = [tmp_path / name / f"{r.number}.png" for r in requests]
        errors = produce_several(maker, requests, outputs)
        made = [None if e else path.read_bytes() for e, path in zip(errors, outputs, strict=True)]
        return made, [str(error) for error in errors if error]

    alone, why = make("alone", StandInPipeline(), asked)
    assert [made is None for made in alone] == [n == 4 for n in range(6)]
    assert why == ["OutOfMemoryError: too many"]
    together = StandInPipeline()
    assert make("together", together, asked, at_once=6) == (alone, why)
    assert len(together.calls) == 7  # one for all, which fails, and one each
    options = {"negative_prompt": "blur", "num_inference_steps": 2}
    for requests, call in (
        (asked[:3], ("a cat", 3, options)),
        (asked[2:4], (["a cat", "a dog"], 1, {**options, "negative_prompt": ["blur"] * 2})),
    ):
        pipeline = StandInPipeline()
        made, _ = make("some", pipeline, requests, at_once=3, options=options)
        assert made == [alone[r.number] for r in requests] and pipeline.calls == [call]
    starts = [write_picture(tmp_path / f"{level}.png", level) for level in (10, 200)]
    for images, wanted in ((starts, [10, 200]), (starts[:1] * 2, 10)):
        editor = StandInPipeline()
        edits = [dataclasses.replace(asked[n], image=image) for n, image in enumerate(images)]
        make("edited", editor, edits, edits=True, at_once=2)
        (given,) = [options["image"] for _, _, options in editor.calls]
        levels = [i.getpixel((0, 0))[0] for i in (given if isinstance(given, list) else [given])]
        assert levels == (wanted if isinstance(wanted, list) else [wanted])
    with pytest.raises(UserError, match="0 images in a call of a pipeline"):
        Pipeline(together, at_once=0)


def test_without_diffusers_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match="diffusers is not installed: `pip install 'jaxqa"):
        python_generators.load_pipeline("x")


def tiny_stable_diffusion(diffusers, folder):
    """A random pipeline from text to 8 x 8 pixels, saved the way published ones are."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = [chr(code) + end for end in ("", "</w>") for code in range(33, 127)]
    vocabulary = {name: n for n, name in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    last = len(vocabulary) - 1
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    ids = {"bos_token_id": last - 1, "eos_token_id": last, "pad_token_id": last}
    text = CLIPTextConfig(
        vocab_size=last + 1, num_attention_heads=2, max_position_embeddings=16, **sizes, **ids
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, norm_num_groups=4,
        block_out_channels=(8, 16), cross_attention_dim=16, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=8,
        down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
    )  # fmt: skip
    diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16),
        unet=unet,
        scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.filterwarnings("default")  # those of diffusers are its own
def test_a_real_pipeline(tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers")
    folder = tiny_stable_diffusion(diffusers, tmp_path / "pipeline")
    load = python_generators.load_pipeline
    maker = load(folder, options={"num_inference_steps": 2})
    asked = [("a cat", 1), ("a cat", 1), ("a cat", 2), ("a dog", 1)]
    made = []
    for number, (prompt, seed) in enumerate(asked):
        path = tmp_path / f"{number}.png"
        produce(maker, Request(prompt=prompt, seed=seed, number=number), path)
        made.append(path.read_bytes())
    assert made[0] == made[1] and len(set(made)) == 3
    asked = [Request(prompt=p, seed=s, number=n) for n, (p, s) in enumerate(asked)]
    several = load(folder, options={"num_inference_steps": 2, "negative_prompt": "bad"}, at_once=4)
    single = load(folder, options={"num_inference_steps": 2, "negative_prompt": "bad"})
    for requests in (asked, asked[:3]):  # two prompts, and one
        paths = [tmp_path / f"{len(requests)}_{r.number}.png" for r in requests]
        several.make_several(requests, paths)  # in one call, or it raises
        for each, path in zip(requests, paths, strict=True):
            produce(single, each, tmp_path / "alone.png")
            pixels, alone = (np.asarray(Image.open(p), int) for p in (path, tmp_path / "alone.png"))
            assert np.abs(pixels - alone).max() <= 1 and alone.std() > 3
    editor = load(folder, options={"num_inference_steps": 4, "strength": 0.5}, edits=True)
    edited = []
    for name in ("0.png", "2.png"):
        path = tmp_path / f"edited_{name}"
        produce(editor, request(image=tmp_path / name), path)
        edited.append(path.read_bytes())
    assert edited[0] != edited[1]  # what it starts from counts
    both = [request(image=tmp_path / name) for name in ("0.png", "2.png")]
    editor.make_several(both, [tmp_path / "x.png", tmp_path / "y.png"])
    for name, alone in zip("xy", ("0", "2"), strict=True):
        pixels, wanted = (
            np.asarray(Image.open(tmp_path / f"{stem}.png"), int)
            for stem in (name, f"edited_{alone}")
        )
        assert np.abs(pixels - wanted).max() <= 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pipeline of diffusers"):
        load(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="is not a folder"):
        load("some/hub-name")
