"""A corrupt image costs that image, not the run; and a run says what its data cost it."""

import io
import json

import numpy as np
import pytest
import tiny_run
from rich.console import Console

from jaxqa.errors import UserError
from jaxqa.stages import progress, run
from jaxqa.stages.config import parse_config


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])  # the header is whole


def config_of(root):
    config = tiny_run.get_config(str(root))
    config.data.workers = 0
    config.sft.update(steps=8, evaluate=False)
    config.grpo.update(steps=4, evaluate=False)
    config.warmup.update(steps=2, evaluate=False)
    return config


def trained(root, place, **changes):
    """What the run says, and its lines of metrics."""
    config = config_of(root)
    config.update(changes)
    console = Console(file=io.StringIO(), width=400)
    run.run(parse_config(config), place, console)
    lines = (place / "metrics.jsonl").read_text().splitlines()
    return console.file.getvalue(), [json.loads(line) for line in lines]


@pytest.mark.slow
def test_a_run_goes_on_without_an_image_that_was_cut_short(tmp_path, monkeypatch):
    monkeypatch.setattr(progress.DataWaits, "share", lambda self: {progress.WAITING: 0.43})
    monkeypatch.setattr(
        progress, "advise", lambda console, name, waited, seconds: said.append(name)
    )
    said = []
    root = tiny_run.write_dataset(tmp_path / "data")
    path = sorted((root / "images").glob("*.png"))[0]
    cut(path)
    text, lines = trained(root, tmp_path / "run")
    assert said == ["warmup", "sft", "grpo"]
    assert "waits for data  43%" in text
    for name in ("sft", "grpo"):
        assert f"{name}: images that could not be read: 1" in text
        met = [line for line in lines if line["stage"] == name and "images_unreadable" in line]
        assert met and all(line["images_unreadable"] == 1 for line in met)
        assert all(np.isfinite(line["loss"]) for line in lines if line["stage"] == name)
    assert f"{path.name}: cannot decode the image" in text
    rollouts = (tmp_path / "run" / "rollouts" / "grpo.jsonl").read_text().splitlines()
    kept = {row["example_id"]: row["kept"] for row in map(json.loads, rollouts)}
    assert list(kept.values()).count(False) == 1


def test_a_run_whose_images_are_mostly_cut_stops(tmp_path):
    root = tiny_run.write_dataset(tmp_path / "data")
    for path in sorted((root / "images").glob("*.png"))[5:]:
        cut(path)
    with pytest.raises(UserError, match="images cannot be read, more than half of all; the last"):
        trained(root, tmp_path / "run", stages=("sft",))
