"""Whatever a user can get wrong ends in one clear line, status 2 and nothing half-written."""

import csv
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxqa import configuration, files, tree
from jaxqa.cli import convert, generate, train
from jaxqa.cli.errors import run_door
from jaxqa.data.tokenizer import build_demo_tokenizer
from jaxqa.models.qwen2_5_vl import weights
from jaxqa.models.qwen2_5_vl.config import PRESETS
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.models.qwen2_5_vl.preprocess import ImageConfig
from jaxqa.stages.config import parse_config
from jaxqa.stages.workdir import open_workdir

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "tests" / "stages" / "tiny_run.py"
GREY = np.random.default_rng(0).integers(0, 256, (56, 56), np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """15 training, 5 validation and 5 test images in KADID-10k's layout."""
    root = tmp_path_factory.mktemp("data")
    (root / "images").mkdir()
    rows, parts, rationales = [], [], []
    for number, part in enumerate(("train", "train", "train", "validation", "test"), 1):
        parts.append((f"I{number:02d}.png", part))
        for level in range(1, 6):
            name = f"I{number:02d}_01_{level:02d}.png"
            Image.fromarray(GREY).save(root / "images" / name)
            rows.append((name, f"I{number:02d}.png", 5 - 0.7 * level, 0.1))
            rationales.append({"dist_img": name, "rationale": "mild blur"})
    write_table(root / "dmos.csv", ("dist_img", "ref_img", "dmos", "var"), rows)
    write_table(root / "splits.csv", ("ref_img", "split"), parts)
    (root / "rationales.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rationales))
    return root


def write_table(path: Path, header: tuple[str, ...], rows: list[tuple]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory in two shards, with tokenizer and processor."""
    root = tmp_path_factory.mktemp("model")
    tokenizer = build_demo_tokenizer(["a photograph with strong blur, score 3.25"] * 3, 300)
    tokenizer.save(root / "tokenizer")
    names = ("image", "video", "vision_start", "vision_end", "eos", "pad")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    tiny = PRESETS["tiny"]
    config = tiny.__class__(vision=tiny.vision, text=tiny.text, bos_token_id=1, **ids)
    rng = np.random.default_rng(1)
    abstract = tree.flatten(Qwen2_5_VL(config=config).abstract_params())
    flat = {k: 0.1 * rng.standard_normal(v.shape, np.float32) for k, v in abstract.items()}
    weights.save_pretrained(
        root / "model",
        config,
        tree.unflatten(flat),
        source_dir=root / "tokenizer",
        image_config=ImageConfig(max_pixels=56 * 56),
        max_shard_bytes=2 * 10**6,
    )
    return root / "model"


def refusal(capsys: pytest.CaptureFixture, door, *flags: object) -> str:
    """What the door says; it must be one line on stderr, with status 2."""
    assert door.main([str(flag) for flag in flags]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("error: ") and "Traceback" not in captured.err
    return captured.err


def content(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


# Config: found out before there is a work directory.


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.stepz=3", "config has no key 'stepz'; valid keys: control, data, evalu"),
        ("--config.sft.stepz=3", "config.sft has no key 'stepz'; valid keys: accumulator,"),
        ("--config.sft=3", "is a section; set one of accumulator, batch_size,"),
        ("--config.sft.steps=many", "got 'many'; expected an integer, such as"),
        ("--config.sft.steps=1.5", "got '1.5'; expected an integer"),
        ("--config.sft.evaluate=maybe", "got 'maybe'; expected true or false"),
        ("--config.sft.steps", "expected --config.sft.steps=VALUE"),
        ("--config.sft.steps=0", "config.sft: steps must be at least 1, got 0"),
        ("--config.sft.micro_batches=3", "batch_size 4 does not divide by micro_batches 3"),
        ("--config.sft.kind=stf", "config.sft: kind is 'stf'; expected one of warmup, sft, grpo"),
        ("--config.data=None", "config.data: got None (NoneType); expected DataConfig"),
        ("--config.data.workers=-1", "workers and cache_mb must not be negative"),
        ("--config.data.images.max_pixels=1", "expected 0 < min_pixels <= max_pixels"),
        ("--config.data.buckets.window_counts=()", "expected one of each per bucket"),
        ("--config.model.compute_dtype=float8", "expected one of 'float32', 'bfloat16'"),
        ("--config.model.path=x", "give either path, or both vision and text"),
        ("--config.model.text.mrope_section=(-4,6,6)", "must be three counts that add up"),
        ("--config.model.vision.num_heads=3", "hidden_size is 32; it must be a multiple"),
        ("--config.grpo.rewards.gaussian.options.sigma=-1.0", "sigma is -1.0, expected a finite"),
        ("--config.grpo.sampling.num_samples=1", "a group needs at least 2 answers"),
        ("--config.stages=('warmup','stf')", "no section 'stf'; valid names: warmup, sft, grpo"),
        ("--config.stages=()", "name each stage once, at least one"),
        ("--config.seed=-1", "config.seed: got -1; expected 0 to 2147483647"),
        ("--confg.seed=1", "unknown argument '--confg.seed=1'; expected --config, --workdir or"),
    ],
)
def test_a_bad_option(capsys, data, tmp_path, flag, message):
    said = refusal(capsys, train, f"--config={CONFIG}:{data}", f"--workdir={tmp_path / 'w'}", flag)
    assert message in said
    assert not list(tmp_path.iterdir())


IMPORTS = (
    "from jaxqa.stages.config import make_config\n"
    "from jaxqa.stages.sections import SftStage, WarmupStage\n"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(mode:\n", "line 1: SyntaxError"),
        ("\nimport no_such_module\n", "line 2: ModuleNotFoundError: No module named"),
        ("def get_config(mode):\n    return 1 / 0\n", "line 2: ZeroDivisionError"),
        (
            "def get_config(mode):\n    raise ValueError('no mode x; expected a')\n",
            "no mode x; exp",
        ),
        ("def get_config(mode):\n    return {}\n", "returned dict; expected a ConfigDict"),
        ("options = 3\n", "defines no get_config(mode)"),
    ],
)
def test_a_config_file_with_a_mistake(capsys, tmp_path, text, message):
    (tmp_path / "c.py").write_text(text)
    said = refusal(capsys, train, f"--config={tmp_path / 'c.py'}:x", f"--workdir={tmp_path / 'w'}")
    assert "--config" in said and message in said
    assert os.listdir(tmp_path) == ["c.py"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("missing.py", "no file 'missing.py'; expected FILE.py or FILE.py:mode"),
        (f"{ROOT}/configs/demo.py:fast", "no mode 'fast'; expected one of full, smoke"),
        (f"{ROOT}/pyproject.toml", "is not a Python file"),
    ],
)
def test_no_such_config(capsys, tmp_path, spec, message):
    assert message in refusal(capsys, train, f"--config={spec}", f"--workdir={tmp_path / 'w'}")
    assert not list(tmp_path.iterdir())


def launch(*flags: object) -> str:
    """What `launchers/train.py` says as a process of its own."""
    command = [sys.executable, ROOT / "launchers" / "train.py", *flags]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    return done.stderr


def test_the_launcher_explains_wrong_fields_of_a_config_file(tmp_path):
    # As a process of its own: the tests' type checker would be faster than the program.
    for call, message in {
        "SftStage(steps='many', batch_size=2)": "line 4: SftStage.steps: got 'many' (str); expec",
        "SftStage(stepz=3, batch_size=2)": "line 4: SftStage: unknown key 'stepz'; valid keys: ba",
        "make_config(sead=0)": "line 4: make_config: unknown key 'sead'; valid keys: stages, mo",
    }.items():
        (tmp_path / "c.py").write_text(f"{IMPORTS}def get_config(mode):\n    return {call}\n")
        assert message in launch(f"--config={tmp_path / 'c.py'}", f"--workdir={tmp_path / 'w'}")
    assert os.listdir(tmp_path) == ["c.py"]


# Data, model and devices: found out before the first stage.


def run(capsys, data: Path, workdir: Path, *flags: str) -> str:
    """The refusal of a run that must not have begun: no config, no checkpoint, no log."""
    said = refusal(
        capsys,
        train,
        f"--config={CONFIG}:{data}",
        f"--workdir={workdir}",
        "--config.data.workers=0",
        *flags,
    )
    assert [path.name for path in workdir.rglob("*")] in ([], [".lock"])
    return said


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.data.root=/nowhere", "put the data set there or give another data root"),
        (
            "--config.data.sources.demo.dataset=kadid11k",
            "unknown data set 'kadid11k'; known are koniq10k",
        ),
        (
            "--config.data.sources.demo.split=x",
            "config.data.sources.demo: unknown split 'x/train' of jaxqa_demo; expected all",
        ),
        ("--config.data.sources.demo.template=x", "unknown prompt 'x'; expected one of q_insight,"),
        ("--config.data.sources.demo.weight=0.0", "every weight is 0, so there is nothing to"),
        ("--config.data.sources.demo.evaluate=False", "evaluate is False everywhere"),
        ("--config.sft.sources=('x',)", "config.sft.sources: 'x' cannot be trained on; sources"),
        (
            "--config.data.buckets.prompt_lengths=(20,)",
            "has 49 tokens and 1 image windows; the largest bucket holds 20 and 1: prompts are "
            "never truncated, so use larger buckets",
        ),
        ("--config.data.buckets.completion_lengths=(3,)", "targets are never truncated"),
        ("--config.grpo.batch_size=16", "stage grpo: the data set has 15 examples and a batch has"),
        ("--config.sft.label_fraction=0.0001", "stage sft: the data set has 0 examples"),
        ("--config.mesh.data=9", "9 x 1 x 1 devices wanted, 8 found; make the mesh smaller"),
        ("--config.mesh.data=3", "config.warmup is 4; expected a multiple of the 3 devices"),
        ("--config.evaluation.max_new_tokens=999", "more than the 256 positions of the model"),
        ("--config.model.text.vocab_size=100", "vocab_size is 100; expected at least 270"),
        ("--config.model.vision.out_hidden_size=64", "it must equal text.hidden_size (32)"),
        ("--config.model.vision.hidden_size=512", "a 14 px patch has 196 cosine bases"),
        ("--config.model.vision.patch_size=28", "a warm-up needs patches of 14 x 14 RGB pixels"),
    ],
)
def test_parts_that_do_not_fit(capsys, data, tmp_path, flag, message):
    assert message in run(capsys, data, tmp_path / "w", flag)


def no_labels(root: Path) -> None:
    (root / "rationales.jsonl").unlink()
    write_table(root / "dmos.csv", ("dist_img", "ref_img", "dmos", "var"), [])


def no_images(root: Path) -> None:
    shutil.rmtree(root / "images")


def one_missing_image(root: Path) -> None:
    (root / "images" / "I02_01_03.png").unlink()


def no_image_at_all(root: Path) -> None:
    (root / "images" / "I02_01_03.png").write_bytes(b"These are not the pixels you look for.")


def long_image(root: Path) -> None:
    Image.new("L", (30_000, 100)).save(root / "images" / "I02_01_03.png")


def label_out_of_range(root: Path) -> None:
    path = root / "dmos.csv"
    path.write_text(path.read_text().replace("4.3", "43.0"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_labels, "jaxqa_demo is empty: its label file has no rows"),
        (no_images, "15 of 15 image files of jaxqa_demo are missing: I01_01_01.png"),
        (one_missing_image, "1 of 15 image files of jaxqa_demo are missing: I02_01_03.png"),
        (no_image_at_all, "I02_01_03.png: no image found; expected a complete file in one of"),
        (long_image, "aspect ratio over 200: the image is 30000 x 100 pixels"),
        (label_out_of_range, "5 of 25 labels are outside jaxqa_demo's range 1.0 to 5.0"),
    ],
)
def test_bad_data(capsys, data, tmp_path, damage, message):
    root = shutil.copytree(data, tmp_path / "data")
    damage(root)
    before = content(root)
    assert message in run(capsys, root, tmp_path / "w")
    assert content(root) == before


def test_an_image_cut_short_is_found_when_its_batch_is_read(capsys, data, tmp_path):
    root = shutil.copytree(data, tmp_path / "data")
    for path in (root / "images").iterdir():
        path.write_bytes(path.read_bytes()[:-200])
    said = refusal(
        capsys,
        train,
        f"--config={CONFIG}:{root}",
        f"--workdir={tmp_path / 'w'}",
        "--config.data.workers=0",
    )
    assert "cannot decode the image" in said and "expected a complete file" in said
    assert not list((tmp_path / "w" / "checkpoints" / "warmup").iterdir())


# Model directories, through two doors.


def missing_shard(directory: Path) -> None:
    sorted(directory.glob("*.safetensors"))[1].unlink()


def cut_shard(directory: Path) -> None:
    path = sorted(directory.glob("*.safetensors"))[0]
    path.write_bytes(path.read_bytes()[:-1000])


def other_architecture(directory: Path) -> None:
    values = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(values | {"model_type": "llava"}))


def other_size(directory: Path) -> None:
    values = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(values | {"intermediate_size": 360}))


def no_tokenizer(directory: Path) -> None:
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (directory / name).unlink()


def cut_tokenizer(directory: Path) -> None:
    path = directory / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:-1000])


def cut_config(directory: Path) -> None:
    path = directory / "config.json"
    path.write_bytes(path.read_bytes()[:-10])


DAMAGES = [
    (missing_shard, "missing model-00002-of-"),
    (cut_shard, "is damaged or cut off"),
    (other_architecture, "model_type is 'llava', expected 'qwen2_5_vl'"),
    (other_size, "up_proj.weight is [352, 128], expected [360, 128]"),
    (no_tokenizer, "holds no tokenizer: expected tokenizer.json, or vocab.json and merges.txt"),
    (cut_tokenizer, "tokenizer"),
    (cut_config, "config.json is not valid JSON"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_damaged_model(capsys, model, data, tmp_path, damage, message):
    directory = shutil.copytree(model, tmp_path / "model")
    damage(directory)
    before = content(directory)
    assert message in refusal(capsys, generate, f"--model={directory}", "--prompt=Hello")
    parts = (f"path={directory}", "vision=None", "text=None", "vision_filters=random")
    flags = [f"--config.model.{part}" for part in parts]
    # The model's tokenizer knows few words, so prompts are long.
    flags += ["--config.data.buckets.prompt_lengths=(160,)", "--config.stages=('warmup',)"]
    assert message in run(capsys, data, tmp_path / "w", *flags)
    assert content(directory) == before


# Images, through `generate`.


def answer(capsys, model: Path, image: Path) -> str:
    flags = ["--prompt=How sharp?", "--max_new_tokens=4", "--temperature=0", "--json"]
    assert generate.main([f"--model={model}", f"--image={image}", *flags]) == 0
    return capsys.readouterr().out


def test_odd_images_are_answered_like_the_plain_one(capsys, model, tmp_path):
    plain = Image.fromarray(GREY)
    rgb = plain.convert("RGB")
    plain.save(tmp_path / "plain.png")
    rgb.convert("CMYK").save(tmp_path / "cmyk.tif")
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "16_bit.png")
    negative = Image.fromarray(255 - GREY)
    plain.save(tmp_path / "animated.gif", save_all=True, append_images=[negative])
    turned = rgb.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown a quarter turn clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    expected = answer(capsys, model, tmp_path / "plain.png")
    for name in ("cmyk.tif", "16_bit.png", "animated.gif", "turned.png"):
        assert answer(capsys, model, tmp_path / name) == expected, name
    turned.save(tmp_path / "no_exif.png")
    negative.save(tmp_path / "negative.png")
    for name in ("no_exif.png", "negative.png"):
        assert answer(capsys, model, tmp_path / name) != expected, name
    Image.new("RGB", (1, 1), "red").save(tmp_path / "pixel.png")
    assert json.loads(answer(capsys, model, tmp_path / "pixel.png"))["completions"]


def test_a_wide_image_is_answered(capsys, model, tmp_path):
    Image.new("L", (30_000, 200)).save(tmp_path / "wide.png")
    assert json.loads(answer(capsys, model, tmp_path / "wide.png"))["completions"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text.png", "text.png: no image found; expected a complete file in one of"),
        ("empty.png", "empty.png: the image file is empty"),
        ("cut.png", "cut.png: cannot decode the image"),
        ("missing.png", "missing.png: cannot read the image file: No such file or directory"),
        (".", "not a regular file; give the path of an image file"),
        ("wide.png", "aspect ratio over 200: the image is 30000 x 100 pixels"),
    ],
)
def test_no_image(capsys, model, tmp_path, name, message):
    (tmp_path / "text.png").write_text("a picture says more than a thousand words")
    (tmp_path / "empty.png").touch()
    Image.fromarray(GREY).save(tmp_path / "cut.png")
    os.truncate(tmp_path / "cut.png", 900)
    Image.new("L", (30_000, 100)).save(tmp_path / "wide.png")
    flags = (f"--model={model}", f"--image={tmp_path / name}", "--prompt=How sharp?")
    assert message in refusal(capsys, generate, *flags)


# Work directories.


def test_a_work_directory_where_none_can_be(capsys, data, tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "w"):
        flags = (f"--config={CONFIG}:{data}", f"--workdir={path}")
        said = refusal(capsys, train, *flags)
        assert f"work directory {path} cannot be written" in said
        assert "choose another --workdir" in said
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_read_only_work_directory(capsys, data, tmp_path, monkeypatch, number):
    real = os.open

    def refuse(path, flags, *arguments, **options):
        if flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(tmp_path)):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, flags, *arguments, **options)

    (tmp_path / "w").mkdir()
    monkeypatch.setattr(os, "open", refuse)
    said = run(capsys, data, tmp_path / "w")
    assert f"cannot be written: {os.strerror(number)}; choose another --workdir" in said


def test_a_full_disk(capsys, data, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    said = refusal(capsys, train, f"--config={CONFIG}:{data}", f"--workdir={tmp_path / 'a' / 'w'}")
    assert "1 MiB free, at least 256 MiB needed; free some space or choose another" in said
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_while_the_demo_data_are_made(capsys, tmp_path, monkeypatch):
    saved, real = [], Image.Image.save

    def save(self, path, *kind, **options):
        if not isinstance(path, Path):  # a picture that is compressed in memory
            return real(self, path, *kind, **options)
        if len(saved) >= 5:  # of two threads that save
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        saved.append(Path(path).write_bytes(b"pixels"))

    monkeypatch.setattr(Image.Image, "save", save)
    flags = (f"--config={ROOT / 'configs/demo.py'}:smoke", f"--workdir={tmp_path / 'w'}")
    said = refusal(capsys, train, *flags)
    assert f"cannot write the demo data set to {tmp_path / 'w' / 'data'}: No space left" in said
    assert os.listdir(tmp_path / "w") == [".lock"]


def test_a_disk_that_fills_anywhere_else(capsys):
    for number in (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES):

        def door(argv, number=number):
            raise OSError(number, os.strerror(number), "run/report.html")

        assert run_door(door, []) == 2
        assert f"error: run/report.html: {os.strerror(number)}; " in capsys.readouterr().err

    def broken(argv):
        raise FileNotFoundError(errno.ENOENT, "a bug of ours", "x")

    with pytest.raises(FileNotFoundError):
        run_door(broken, [])


def test_a_work_directory_of_another_config(capsys, data, tmp_path):
    spec, workdir = f"{CONFIG}:{data}", tmp_path / "w"
    config = parse_config(configuration.load_config_file(spec))
    with open_workdir(workdir, config) as work:
        work.claim(config)
        flags = (f"--config={spec}", f"--workdir={workdir}")
        assert f"work directory {workdir} is in use by another run" in refusal(
            capsys, train, *flags
        )
    before = content(workdir)
    said = refusal(capsys, train, *flags, "--config.sft.steps=7", "--config.seed=3")
    assert "written by another config; they differ in sections.sft.steps (" in said
    assert " before, 7 now), seed (0 before, 3 now); use the same options to go on" in said
    assert content(workdir) == before
    for other in ('{"stages": 3}', '{"stages": [{"name": "sft"}]}', "{}"):
        (workdir / "summary.json").write_text(other)
        assert "summary.json is not the summary of a run" in refusal(capsys, train, *flags)
        assert (workdir / "summary.json").read_text() == other
    (workdir / "config.json").write_text("{")
    assert "config.json is not valid JSON" in refusal(capsys, train, *flags)


def test_an_output_that_cannot_be_written(capsys, model, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    flags = (f"--input={model}", "--format=hf")
    said = refusal(capsys, convert, *flags, f"--output={tmp_path / 'file' / 'out'}")
    assert "cannot write" in said and "check free space and permissions" in said
    assert "is not a directory; choose another path" in refusal(
        capsys, convert, *flags, f"--output={tmp_path / 'file'}"
    )
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage._replace(free=10**6))
    said = refusal(capsys, convert, *flags, f"--output={tmp_path / 'out'}")
    assert "0.001 GB are free; make room or choose another disk" in said
    assert os.listdir(tmp_path) == ["file"]
